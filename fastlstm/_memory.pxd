# SPDX-License-Identifier: MIT
"""What the other modules use of `_memory`."""


cdef class Scratch:
    cdef char *start
    cdef Py_ssize_t size
    cdef char *take(self, Py_ssize_t size) except NULL


cpdef aligned(tuple shape, dtype, bint zeros=*)
cdef contiguous(a)
cdef empty(tuple shape, dtype, bint zeros=*)
cdef void *allocate(Py_ssize_t size, bint zeros, what) except NULL
