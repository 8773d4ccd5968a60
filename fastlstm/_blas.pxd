# SPDX-License-Identifier: MIT
"""The type of the row-major matrix product that `_blas` provides."""

# C (m, n) := op(A) op(B) + beta C; op(A) is (m, k), op(B) is (k, n), all row-major;
# lda, ldb, ldc are the distances between the rows of A, B, C as they are stored.
ctypedef void (*gemm_f32_t)(
    bint trans_a, bint trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const float *a, Py_ssize_t lda, const float *b, Py_ssize_t ldb,
    float beta, float *c, Py_ssize_t ldc) noexcept nogil

ctypedef void (*gemm_f64_t)(
    bint trans_a, bint trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const double *a, Py_ssize_t lda, const double *b, Py_ssize_t ldb,
    double beta, double *c, Py_ssize_t ldc) noexcept nogil
