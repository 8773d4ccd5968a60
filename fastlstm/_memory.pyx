# SPDX-License-Identifier: MIT
"""Memory of the engine: arrays that start on a cache line, and what is no array."""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc

import numpy as np

from ._arrays cimport address, view_of

__all__ = ["aligned", "fail_allocation"]


cdef contiguous(a):
    """``a`` with its numbers in C order; None stays None."""
    return a if a is None or view_of(a).contiguous else np.ascontiguousarray(a)


def aligned(shape, dtype, bint zeros=False):
    """A new array that starts on a cache line."""
    cdef Py_ssize_t size = dtype.itemsize, n
    for n in shape:
        size *= n
    raw = (np.zeros if zeros else np.empty)(size + 64, np.uint8)
    return np.ndarray(shape, dtype, raw, -<Py_ssize_t>address(raw) & 63)


cdef Py_ssize_t allocations_left = 0  # until the one that fails; 0: none does


def fail_allocation(Py_ssize_t n):
    """Let the n-th native allocation from now on fail, once; 0: none. For tests.

    Returns
    -------
    left : int
        Of the n before: how many were still to come; 0 = the failure came, or none was asked for.
    """
    global allocations_left
    left, allocations_left = allocations_left, n
    return left


cdef void *allocate(Py_ssize_t size, bint zeros, what) except NULL:
    """``size`` bytes for PyMem_RawFree. All native memory that is no array comes from here."""
    global allocations_left
    cdef void *memory = NULL
    cdef bint fails = allocations_left == 1
    if allocations_left > 0:
        allocations_left -= 1
    if not fails and size >= 0:
        memory = PyMem_RawCalloc(size, 1) if zeros else PyMem_RawMalloc(size)
    if memory == NULL:
        raise MemoryError(f"cannot allocate {size} bytes for {what}")
    return memory


cdef class Scratch:
    """Memory that a call needs only while it runs, kept for the next call."""

    def __dealloc__(self):
        PyMem_RawFree(self.start)

    cdef char *take(self, Py_ssize_t size) except NULL:
        """``size`` bytes that start on a cache line; what was taken before is gone."""
        if size + 64 > self.size:
            PyMem_RawFree(self.start)
            self.size = 0
            self.start = NULL
            self.start = <char *>allocate(size + 64, False, "scratch memory")
            self.size = size + 64
        return self.start + (-<Py_ssize_t>self.start & 63)
