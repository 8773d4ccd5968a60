# SPDX-License-Identifier: MIT
"""The row-major matrix product on SciPy's BLAS.

A module of its own, because importing SciPy's BLAS takes longer than all the rest: the engine
fetches `addresses` when it needs its first product, and inference on the step kernels never does.

BLAS is column-major: a row-major C = A B is the column-major C^T = B^T A^T, so the operands
change places and the transpositions stay. BLAS counts in 32-bit integers: a product with more
rows, or a longer sum, than they can count is split into pieces of `STEP`.
"""

from libc.stdint cimport uintptr_t
from scipy.linalg.cython_blas cimport dgemm, sgemm

cdef Py_ssize_t STEP = 1 << 30  # rows of C, or terms of the sum, in one call of BLAS


cdef inline void piece(
    bint trans_a, bint trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real beta, real *c, Py_ssize_t ldc,
) noexcept nogil:
    """`row_major` where every size fits BLAS' integers."""
    cdef char op_a = c'T' if trans_a else c'N'
    cdef char op_b = c'T' if trans_b else c'N'
    cdef int m_ = <int>m, n_ = <int>n, k_ = <int>k
    cdef int lda_ = <int>lda, ldb_ = <int>ldb, ldc_ = <int>ldc
    cdef real one = 1
    if real is float:
        sgemm(&op_b, &op_a, &n_, &m_, &k_, &one, <float *>b, &ldb_, <float *>a, &lda_,
              &beta, c, &ldc_)
    else:
        dgemm(&op_b, &op_a, &n_, &m_, &k_, &one, <double *>b, &ldb_, <double *>a, &lda_,
              &beta, c, &ldc_)


cdef void row_major(
    bint trans_a, bint trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real beta, real *c, Py_ssize_t ldc,
) noexcept nogil:
    """C (m, n) := op(A) op(B) + beta C; n and the leading dimensions below 2^31."""
    cdef Py_ssize_t i, j, rows, terms
    cdef real beta_k
    cdef const real *a_piece
    cdef const real *b_piece
    if m == 0 or n == 0:
        return
    if k == 0:  # the sum of nothing, which BLAS need not write
        for i in range(m):
            for j in range(n):
                c[i * ldc + j] = beta * c[i * ldc + j] if beta != 0 else <real>0
        return
    i = 0
    while i < m:
        rows = min(m - i, STEP)
        j = 0
        while j < k:
            terms = min(k - j, STEP)
            beta_k = beta if j == 0 else 1
            a_piece = &a[j * lda + i] if trans_a else &a[i * lda + j]
            b_piece = &b[j] if trans_b else &b[j * ldb]
            piece(trans_a, trans_b, rows, n, terms, a_piece, lda, b_piece, ldb, beta_k,
                  c + i * ldc, ldc)
            j += STEP
        i += STEP


def addresses():
    """The addresses of `row_major` for float32 and for float64, as integers."""
    cdef gemm_f32_t f32 = row_major[float]
    cdef gemm_f64_t f64 = row_major[double]
    return <uintptr_t>f32, <uintptr_t>f64
