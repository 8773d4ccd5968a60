# SPDX-License-Identifier: MIT
"""The steps on BLAS: any row, any projection, any platform.

The functions mirror csrc/step.inc.h, which has the same steps on packed weights. Here a row of
gates is i[H] f[H] g[H] o[H], and all rows and units of a step are done at once.
"""

from libc.string cimport memcpy, memset

from ._blas cimport gemm_f32_t, gemm_f64_t
from ._csrc cimport fl_lstm
from ._gates cimport fl_squash, gates_backward, gates_forward

ctypedef fused real:
    float
    double


cdef inline void gemm(
    const fl_lstm *q, bint trans_a, bint trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb,
    real beta, real *c, Py_ssize_t ldc,
) noexcept nogil:
    """C (m, n) := op(A) op(B) + beta C, row-major."""
    if real is float:
        (<gemm_f32_t>q.gemm)(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc)
    else:
        (<gemm_f64_t>q.gemm)(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc)


cdef inline real *gates_of(const real *tag, const fl_lstm *q, Py_ssize_t t) noexcept nogil:
    return <real *>q.gates + t % q.gate_slots * q.B * 4 * q.H


cdef inline real *h_slot(const real *tag, const fl_lstm *q, Py_ssize_t slot) noexcept nogil:
    return <real *>q.h + slot % q.state_slots * q.B * q.h_row


cdef inline real *c_slot(const real *tag, const fl_lstm *q, Py_ssize_t slot) noexcept nogil:
    return <real *>q.c + slot % q.state_slots * q.B * q.U * q.L


cdef inline void project(
    const real *tag, const fl_lstm *q, Py_ssize_t t0, Py_ssize_t t1
) noexcept nogil:
    """gates[t] := W_ih x[t] for the steps t0 <= t < t1."""
    gemm(q, False, True, (t1 - t0) * q.B, 4 * q.H, q.I, <const real *>q.x + t0 * q.B * q.I, q.I,
         <const real *>q.w_ih, q.I, <real>0, gates_of(tag, q, t0), 4 * q.H)


cdef inline void step_forward(
    const real *tag, const fl_lstm *q, Py_ssize_t t, fl_squash sigmoid_, fl_squash tanh_
) noexcept nogil:
    """Step t on its projection: gates, c, h, y."""
    cdef Py_ssize_t H = q.H, P = q.P, G = 4 * q.H, n = q.active[t], r
    cdef const real *h_prev = h_slot(tag, q, t + q.reverse)
    cdef const real *c_prev = c_slot(tag, q, t + q.reverse)
    cdef real *h = h_slot(tag, q, t + 1 - q.reverse)
    cdef real *c = c_slot(tag, q, t + 1 - q.reverse)
    cdef real *m = <real *>q.m + t % q.m_slots * q.B * H if q.w_proj != NULL else h
    cdef real *gates = gates_of(tag, q, t)
    gemm(q, False, True, n, G, P, h_prev, P, <const real *>q.w_hh, P, <real>1, gates, G)
    for r in range(n):
        gates_forward(H, sigmoid_, tanh_, gates + r * G, <const real *>q.b, c_prev + r * H,
                      c + r * H, m + r * H)
    if q.w_proj != NULL:  # h[t] = W_proj m
        gemm(q, False, True, n, P, H, m, H, <const real *>q.w_proj, H, <real>0, h, P)
    for r in range(n):
        memcpy(<real *>q.y + t * q.y_t + r * q.y_b, h + r * P, P * sizeof(real))


cdef inline void step_backward(
    const real *tag, const fl_lstm *q, Py_ssize_t t, real *scratch, fl_squash tanh_
) noexcept nogil:
    """dgates of step t in place of its gates, from dh and dc, which become those of t-1.

    scratch: H numbers, with a projection H + B H.
    """
    cdef Py_ssize_t H = q.H, P = q.P, G = 4 * q.H, n = q.active[t], r, j
    cdef const real *c_prev = c_slot(tag, q, t + q.reverse)
    cdef const real *c = c_slot(tag, q, t + 1 - q.reverse)
    cdef real *gates = gates_of(tag, q, t)
    cdef real *dh = <real *>q.dh
    cdef real *dm = dh
    cdef const real *dy
    if q.dy != NULL:  # y[t] is h[t]
        for r in range(n):
            dy = <const real *>q.dy + t * q.dy_t + r * q.dy_b
            for j in range(P):
                dh[r * P + j] += dy[j]
    if q.w_proj != NULL:  # h[t] = W_proj m
        memcpy(<real *>q.dh_all + t * q.B * P, dh, n * P * sizeof(real))
        dm = scratch + H
        gemm(q, False, False, n, H, P, dh, P, <const real *>q.w_proj, H, <real>0, dm, H)
    for r in range(n):
        gates_backward(H, tanh_, gates + r * G, c_prev + r * H, c + r * H, scratch, dm + r * H,
                       <real *>q.dc + r * H)
    gemm(q, False, False, n, P, G, gates, G, <const real *>q.w_hh, P, <real>0, dh, P)


cdef inline void sum_gradients(
    const real *tag, const fl_lstm *q, Py_ssize_t r0, Py_ssize_t r1
) noexcept nogil:
    """dx, dw_ih, dw_hh, db, dw_proj from the dgates of the rows r0 <= r < r1 of all (T * B).

    dx of these rows; what sums over rows is assigned for r0 = 0, else added to.
    """
    cdef Py_ssize_t n = r1 - r0, G = 4 * q.H, I = q.I, P = q.P, r, j
    cdef const real *dgates = <const real *>q.gates + r0 * G
    cdef const real *h_prev = h_slot(tag, q, q.reverse) + r0 * P
    cdef const real *x = <const real *>q.x + r0 * I
    cdef real *db = <real *>q.db
    cdef real sums = 0 if r0 == 0 else 1
    gemm(q, False, False, n, I, G, dgates, G, <const real *>q.w_ih, I, <real>0,
         <real *>q.dx + r0 * I, I)
    gemm(q, True, False, G, I, n, dgates, G, x, I, sums, <real *>q.dw_ih, I)
    gemm(q, True, False, G, P, n, dgates, G, h_prev, P, sums, <real *>q.dw_hh, P)
    if db != NULL:
        if r0 == 0:
            memset(db, 0, G * sizeof(real))
        for r in range(n):
            for j in range(G):
                db[j] += dgates[r * G + j]
    if q.w_proj != NULL:
        gemm(q, True, False, P, q.H, n, <const real *>q.dh_all + r0 * P, P,
             <const real *>q.m + r0 * q.H, q.H, sums, <real *>q.dw_proj, q.H)
