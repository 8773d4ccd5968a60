# SPDX-License-Identifier: MIT
"""The row-major matrix product that `_blas` provides, called by its address."""

ctypedef fused real:
    float
    double

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


cdef inline void gemm(
    const void *product, bint trans_a, bint trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real beta, real *c, Py_ssize_t ldc,
) noexcept nogil:
    """C (m, n) := op(A) op(B) + beta C by the product of this address, of the type of A."""
    if real is float:
        (<gemm_f32_t>product)(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc)
    else:
        (<gemm_f64_t>product)(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc)
