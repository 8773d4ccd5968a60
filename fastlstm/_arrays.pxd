# SPDX-License-Identifier: MIT
"""Where the numbers of an array are.

By NumPy's C API: the buffer protocol, which says the same, takes 0.5 us for a new array, and a call
of one step asks for a dozen.
"""

from numpy cimport (
    NPY_FLOAT64, PyArray_DATA, PyArray_DIMS, PyArray_IS_C_CONTIGUOUS, PyArray_NDIM,
    PyArray_STRIDES, PyArray_TYPE, ndarray,
)

cdef extern from *:
    """
    #undef I /* of complex.h, by NumPy's headers: here it is the input size */
    """


cdef struct View:  # of an array of float32 or float64, up to three dimensions
    char *data
    Py_ssize_t stride[3]  # in elements; of an axis of one element: anything
    bint contiguous


cdef inline View view_of(ndarray a) except *:
    """Where the array's numbers are. The array must stay alive in the caller's hands."""
    # PyArray_ITEMSIZE would need import_array() in every module that includes this.
    cdef Py_ssize_t itemsize = 8 if PyArray_TYPE(a) == NPY_FLOAT64 else 4
    cdef View view
    cdef int k
    view.data, view.contiguous = <char *>PyArray_DATA(a), PyArray_IS_C_CONTIGUOUS(a)
    for k in range(min(PyArray_NDIM(a), 3)):
        view.stride[k] = PyArray_STRIDES(a)[k] // itemsize
    return view


cdef inline void *address(ndarray a) except? NULL:
    """Where the array's numbers are; NULL for None."""
    return NULL if a is None else PyArray_DATA(a)


cdef inline bint alike(ndarray a, ndarray b) noexcept:
    """Whether two arrays have one dtype, both of native byte order, and one shape."""
    cdef int k
    if PyArray_TYPE(a) != PyArray_TYPE(b) or PyArray_NDIM(a) != PyArray_NDIM(b):
        return False
    for k in range(PyArray_NDIM(a)):
        if PyArray_DIMS(a)[k] != PyArray_DIMS(b)[k]:
            return False
    return True
