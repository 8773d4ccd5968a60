# SPDX-License-Identifier: MIT
"""What `_stream`, `_second_order` and `_siblings` share with the engine."""

from ._csrc cimport fl_kernels, fl_lstm, fl_work
from ._gates cimport fl_squash
from ._loops cimport Job


cdef class Weights:
    cdef readonly object spec
    cdef readonly dict arrays  # name -> contiguous array or None; copies where they are kept
    cdef const fl_kernels *simd  # NULL: the BLAS step, nothing is packed
    cdef Py_ssize_t L
    cdef bint is_f64
    cdef object panels, b_panel, x_columns, h_columns
    cdef object peephole_panel, m_panels, m_columns  # None without peepholes, a projection
    cdef int pack(self) except -1
    cdef int pack_peepholes(self) except -1
    cdef int pack_transposed(self) except -1
    cdef bint readable_as_they_are(self)
    cdef bint matches(self, dict arrays) except -1


cdef class Scratch:
    cdef char *start
    cdef Py_ssize_t size
    cdef char *take(self, Py_ssize_t size) except NULL


cdef void *allocate(Py_ssize_t size, bint zeros, what) except NULL
cdef int describe(
    Job *job, fl_lstm *q, Weights weights, Py_ssize_t T, Py_ssize_t B, Py_ssize_t I
) except -1
cdef int units_team_size(const fl_lstm *q) noexcept nogil
cdef void run_together(int n, fl_work work, void *arg) noexcept nogil
cdef void *blas_gemm(bint is_f64) except NULL
cdef int interrupted(const Job *job) except -1
cdef fl_squash squash(bint is_f64, bint is_tanh) noexcept nogil
