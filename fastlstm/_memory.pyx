# SPDX-License-Identifier: MIT
"""Memory of the engine: arrays that start on a cache line, and what is no array."""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from numpy cimport (
    NPY_ARRAY_WRITEABLE, NPY_FLOAT64, NPY_UINT8, PyArray_CLEARFLAGS, PyArray_EMPTY, PyArray_FLAGS,
    PyArray_SimpleNewFromData, PyArray_TYPE, PyArray_ZEROS, import_array, ndarray, npy_intp,
    set_array_base,
)

import numpy as np

from ._arrays cimport address, view_of

__all__ = ["aligned", "fail_allocation", "lay_out"]

import_array()


cdef contiguous(a):
    """``a`` with its numbers in C order; None stays None."""
    return a if a is None or view_of(a).contiguous else np.ascontiguousarray(a)


cdef enum: MOST_DIMENSIONS = 64  # NumPy's own limit


cdef int put_sizes(tuple shape, npy_intp *sizes) except -1:
    """Write the shape to sizes (MOST_DIMENSIONS); returns how many dimensions it has."""
    cdef int k, n = len(shape)
    if n > MOST_DIMENSIONS:
        raise ValueError(f"an array has at most {MOST_DIMENSIONS} dimensions, got {n}")
    for k in range(n):
        sizes[k] = shape[k]
    return n


cdef empty(tuple shape, dtype, bint zeros=False):
    """``np.empty``, or ``np.zeros``, in a third of the time."""
    cdef npy_intp sizes[MOST_DIMENSIONS]
    cdef int n = put_sizes(shape, sizes), type = dtype.num
    return PyArray_ZEROS(n, sizes, type, 0) if zeros else PyArray_EMPTY(n, sizes, type, 0)


cdef ndarray over(ndarray base, void *start, tuple shape, int type):
    """A new array over the memory of another, which it keeps alive."""
    cdef npy_intp sizes[MOST_DIMENSIONS]
    cdef int n = put_sizes(shape, sizes)
    cdef ndarray a = PyArray_SimpleNewFromData(n, sizes, type, start)
    set_array_base(a, base)
    return a


cpdef aligned(tuple shape, dtype, bint zeros=False):
    """A new array of float32 or float64 that starts on a cache line."""
    cdef npy_intp size = dtype.itemsize, n
    for n in shape:
        size *= n
    size += 64
    raw = PyArray_ZEROS(1, &size, NPY_UINT8, 0) if zeros else PyArray_EMPTY(1, &size, NPY_UINT8, 0)
    cdef char *start = <char *>address(raw)
    return over(raw, start + (-<Py_ssize_t>start & 63), shape, dtype.num)


def lay_out(to, ndarray flat, list layout):
    """Enter the parts of a flat array of float32 or float64, views, by their names.

    Parameters
    ----------
    to : dict
    flat : ndarray (n,)
    layout : list of tuples (name, start, shape)

    Notes
    -----
    ``flat[start:stop].reshape(shape)`` takes three times as long.
    """
    cdef int type = PyArray_TYPE(flat)
    cdef Py_ssize_t start, itemsize = 8 if type == NPY_FLOAT64 else 4
    cdef ndarray a
    for name, start, shape in layout:
        a = over(flat, <char *>address(flat) + start * itemsize, shape, type)
        PyArray_CLEARFLAGS(a, NPY_ARRAY_WRITEABLE & ~PyArray_FLAGS(flat))
        to[name] = a


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
