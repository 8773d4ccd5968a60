# SPDX-License-Identifier: MIT
"""Where the numbers of an array are."""

from cpython.buffer cimport (
    PyBUF_STRIDES, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer,
)


cdef struct View:  # an array of up to three dimensions
    char *data
    Py_ssize_t itemsize
    Py_ssize_t stride[3]  # in elements
    bint contiguous


cdef inline View view_of(a) except *:
    """Where the array's numbers are. The array must stay alive in the caller's hands."""
    cdef Py_buffer buffer
    cdef View view
    cdef int k
    PyObject_GetBuffer(a, &buffer, PyBUF_STRIDES)
    view.data, view.itemsize = <char *>buffer.buf, buffer.itemsize
    view.contiguous = PyBuffer_IsContiguous(&buffer, b"C")
    for k in range(min(buffer.ndim, 3)):
        view.stride[k] = buffer.strides[k] // buffer.itemsize
    PyBuffer_Release(&buffer)
    return view


cdef inline void *address(a) except? NULL:
    """Where the array's numbers are; NULL for None."""
    return NULL if a is None else view_of(a).data
