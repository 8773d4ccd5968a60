# SPDX-License-Identifier: MIT
"""What the engine and `_stream` use of `_packed`."""

from ._csrc cimport fl_kernels, fl_lstm
from ._variants cimport Variant


cdef struct Packing:
    const fl_kernels *simd
    bint is_f64
    Py_ssize_t H, I, P, L, item
    const char *w_ih        # (4H,I), (4H,P)
    const char *w_hh
    char *kept_ih           # their copies, which are packed, or NULL: they themselves
    char *kept_hh
    char *panels
    char *x_columns
    char *h_columns


cdef class Weights:
    cdef readonly object spec
    cdef readonly dict arrays  # name -> contiguous array or None; copies where they are kept
    cdef const fl_kernels *simd  # NULL: the BLAS step, nothing is packed
    cdef Py_ssize_t L
    cdef bint is_f64
    cdef object panels, b_panel, x_columns, h_columns
    cdef object peephole_panel, m_panels, m_columns  # None without peepholes, a projection
    cdef object spare  # memory for the columns, or None
    cdef fl_lstm q       # what a call starts from: where all this is, the rest 0
    cdef Variant variant
    cdef int take(self, dict arrays, bint copy, bint pack) except -1
    cdef Packing packing(self, dict given) except *
    cdef int pack(self, dict given) except -1
    cdef int pack_peepholes(self) except -1
    cdef int describe(self) except -1
    cdef int pack_transposed(self) except -1
    cdef int prepare_backward(self, Py_ssize_t rows, bint add) except -1
    cdef bint fits(self, dict arrays) except -1
    cdef bint matches(self, dict arrays) except -1


cdef class KeptWeights:
    cdef object spec
    cdef bint frozen
    cdef Weights packed, unpacked
    cdef Weights get(self, dict arrays, dict masks, Py_ssize_t T, Py_ssize_t B)
    cdef Weights as_they_are(self, dict arrays)


cdef Weights weights_once(dict arrays, dict masks, spec, Py_ssize_t T, Py_ssize_t B)
