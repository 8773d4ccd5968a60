# SPDX-License-Identifier: MIT
"""The steps on BLAS: any variant, any row, any projection, any platform.

The functions mirror csrc/step.inc.h, which has the same steps on packed weights. Here a row of
gates is i[H] f[H] g[H] o[H], and all rows and units of a step are done at once.
"""

from libc.string cimport memcpy, memset

from ._blas cimport gemm
from ._csrc cimport FL_PEEPHOLE_F, FL_PEEPHOLE_I, FL_PEEPHOLE_O, fl_lstm
from ._gates cimport gates_backward, gates_forward
from ._variants cimport (
    ROW_SCRATCH, Variant, add_product, mix, normalise, product_backward, squares, unmix,
    variant_backward, variant_forward,
)

ctypedef fused real:
    float
    double


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
    gemm(q.gemm, False, True, (t1 - t0) * q.B, 4 * q.H, q.I, <const real *>q.x + t0 * q.B * q.I,
         q.I, <const real *>q.w_ih, q.I, <real>0, gates_of(tag, q, t0), 4 * q.H)


cdef inline void step_forward(
    const real *tag, const fl_lstm *q, const Variant *v, Py_ssize_t t
) noexcept nogil:
    """Step t on its projection: gates, c, h, y."""
    cdef Py_ssize_t H = q.H, P = q.P, G = 4 * q.H, n = q.active[t], r
    cdef const real *h_prev = h_slot(tag, q, t + q.reverse)
    cdef const real *c_prev = c_slot(tag, q, t + q.reverse)
    cdef real *h = h_slot(tag, q, t + 1 - q.reverse)
    cdef real *c = c_slot(tag, q, t + 1 - q.reverse)
    cdef real *m = <real *>q.m + t % q.m_slots * q.B * H if q.w_proj != NULL else h
    cdef real *gates = gates_of(tag, q, t)
    if v.plain:
        gemm(q.gemm, False, True, n, G, P, h_prev, P, <const real *>q.w_hh, P, <real>1, gates, G)
        for r in range(n):
            gates_forward(H, v.sigmoid, v.tanh, gates + r * G, <const real *>q.b, c_prev + r * H,
                          c + r * H, m + r * H)
    else:
        add_recurrence(tag, q, v, t, n, h_prev, gates)
        variant_rows(tag, q, v, t, n, gates, c_prev, c, m)
    if q.w_proj != NULL:  # h[t] = W_proj m
        gemm(q.gemm, False, True, n, P, H, m, H, <const real *>q.w_proj, H, <real>0, h, P)
    if v.zoned_h:
        for r in range(n):
            mix(P, keeps(v.keeps_h, q, t, r, P), <real>v.keep_h, h_prev + r * P, h + r * P,
                h + r * P)
    for r in range(n):
        memcpy(<real *>q.y + t * q.y_t + r * q.y_b, h + r * P, P * sizeof(real))


cdef inline void step_backward(
    const real *tag, const fl_lstm *q, const Variant *v, Py_ssize_t t, real *scratch
) noexcept nogil:
    """dgates of step t in place of its gates, from dh and dc, which become those of t-1.

    scratch: as `backward_scratch` says.
    """
    cdef Py_ssize_t H = q.H, P = q.P, G = 4 * q.H, n = q.active[t], r, j
    cdef const real *c_prev = c_slot(tag, q, t + q.reverse)
    cdef const real *c = c_slot(tag, q, t + 1 - q.reverse)
    cdef real *gates = gates_of(tag, q, t)
    cdef real *dh = <real *>q.dh
    cdef real *dm = dh
    cdef real *rest = scratch + (ROW_SCRATCH + q.B) * H  # (B,P) zoneout: dh past the step
    cdef const real *dy
    if q.dy != NULL:  # y[t] is h[t]
        for r in range(n):
            dy = <const real *>q.dy + t * q.dy_t + r * q.dy_b
            for j in range(P):
                dh[r * P + j] += dy[j]
    if q.norms != NULL:
        for r in range(n):
            norms_of(tag, q, t, r)[0] = <real>squares(P, dh + r * P)
    if v.zoned_h:
        for r in range(n):
            unmix(P, keeps(v.keeps_h, q, t, r, P), <real>v.keep_h, dh + r * P, rest + r * P)
    if q.w_proj != NULL:  # h[t] = W_proj m
        memcpy(<real *>q.dh_all + t * q.B * P, dh, n * P * sizeof(real))
        dm = scratch + ROW_SCRATCH * H
        gemm(q.gemm, False, False, n, H, P, dh, P, <const real *>q.w_proj, H, <real>0, dm, H)
    if v.plain:
        for r in range(n):
            gates_backward(H, v.tanh, gates + r * G, c_prev + r * H, c + r * H, scratch,
                           dm + r * H, <real *>q.dc + r * H)
        gemm(q.gemm, False, False, n, P, G, gates, G, <const real *>q.w_hh, P, <real>0, dh, P)
        return
    variant_rows_backward(tag, q, v, t, n, gates, c_prev, c, dm, scratch)
    recurrence_backward(tag, q, v, t, n, gates, scratch)
    if v.drop_h != NULL:
        for j in range(n * P):
            dh[j] *= (<const real *>v.drop_h)[j]
    if v.zoned_h:
        for j in range(n * P):
            dh[j] += rest[j]


cdef inline Py_ssize_t backward_scratch(const fl_lstm *q) noexcept nogil:
    """Numbers that `step_backward` works in: for a row, dm, and what zoneout passes on."""
    return (ROW_SCRATCH + q.B) * q.H + q.B * q.P


cdef inline real *norms_of(
    const real *tag, const fl_lstm *q, Py_ssize_t t, Py_ssize_t r
) noexcept nogil:
    """Where the squares of dL/dh[t] and dL/dc[t] of a row go."""
    return <real *>q.norms + (t * q.B + r) * 2


# -- what only variants have -------------------------------------------------------------------

cdef inline const unsigned char *keeps(
    const unsigned char *mask, const fl_lstm *q, Py_ssize_t t, Py_ssize_t r, Py_ssize_t size
) noexcept nogil:
    """Row r of step t of a mask (T,B,size); NULL: none."""
    if mask == NULL:
        return NULL
    return mask + (t * q.B + r) * size


cdef inline const real *row_of(const real *a, Py_ssize_t r, Py_ssize_t size) noexcept nogil:
    """Row r of ``a`` (B,size); NULL: none."""
    if a == NULL:
        return NULL
    return a + r * size


cdef inline unsigned char *clipped_of(
    const fl_lstm *q, const Variant *v, Py_ssize_t t, Py_ssize_t r
) noexcept nogil:
    """Which arguments of the gates were clipped in row r of step t; NULL: there is no clip."""
    if v.clipped == NULL:
        return NULL
    return v.clipped + (t % v.slots * q.B + r) * 4 * q.H


cdef inline real *slot_of(
    const real *tag, const void *a, Py_ssize_t slots, Py_ssize_t t, Py_ssize_t size
) noexcept nogil:
    """Slot t of a buffer whose slots hold ``size`` numbers; NULL: none."""
    return NULL if a == NULL else <real *>a + t % slots * size


cdef inline void add_recurrence(
    const real *tag, const fl_lstm *q, const Variant *v, Py_ssize_t t, Py_ssize_t n,
    const real *h_prev, real *gates,
) noexcept nogil:
    """gates += W_hh h[t-1], with dropout, layer norm of both products, full gate recurrence."""
    cdef Py_ssize_t H = q.H, P = q.P, G = 4 * q.H, r, j
    cdef real *h_drop = slot_of(tag, v.h_drop, v.slots, t, q.B * P)
    cdef real *x_hat = slot_of(tag, v.x_hat, v.slots, t, q.B * G)
    cdef real *h_hat = slot_of(tag, v.h_hat, v.slots, t, q.B * G)
    cdef real *x_scale = slot_of(tag, v.x_scale, v.slots, t, q.B)
    cdef real *h_scale = slot_of(tag, v.h_scale, v.slots, t, q.B)
    cdef const real *ifo = slot_of(tag, v.ifo, v.ifo_slots, t + q.reverse, q.B * 3 * H)
    cdef const real *w_fgr = <const real *>v.w_fgr
    cdef const real *ln_x = <const real *>v.ln_x
    cdef const real *ln_h = <const real *>v.ln_h
    if h_drop != NULL:
        for j in range(n * P):
            h_drop[j] = (<const real *>v.drop_h)[j] * h_prev[j]
        h_prev = h_drop
    if ln_x == NULL:
        gemm(q.gemm, False, True, n, G, P, h_prev, P, <const real *>q.w_hh, P, <real>1, gates, G)
    else:
        memcpy(x_hat, gates, n * G * sizeof(real))
        gemm(q.gemm, False, True, n, G, P, h_prev, P, <const real *>q.w_hh, P, <real>0, h_hat, G)
        for r in range(n):
            x_scale[r] = normalise(4, H, v.live, x_hat + r * G)
            h_scale[r] = normalise(4, H, v.live, h_hat + r * G)
            for j in range(G):
                gates[r * G + j] = ln_x[j] * x_hat[r * G + j] + ln_h[j] * h_hat[r * G + j]
    if w_fgr != NULL:  # the rows of i f lie together in the gates, those of o apart
        gemm(q.gemm, False, True, n, 2 * H, 3 * H, ifo, 3 * H, w_fgr, 3 * H, <real>1, gates, G)
        gemm(q.gemm, False, True, n, H, 3 * H, ifo, 3 * H, w_fgr + 6 * H * H, 3 * H, <real>1,
             gates + 3 * H, G)


cdef inline void variant_rows(
    const real *tag, const fl_lstm *q, const Variant *v, Py_ssize_t t, Py_ssize_t n,
    real *gates, const real *c_prev, real *c, real *m,
) noexcept nogil:
    """The gate math of a step, and the gates for the step after it."""
    cdef Py_ssize_t H = q.H, G = 4 * q.H, r
    cdef real *c_new = slot_of(tag, v.c_new, v.slots, t, q.B * H) if v.zoned_c else c
    cdef real *ifo = slot_of(tag, v.ifo, v.ifo_slots, t + 1 - q.reverse, q.B * 3 * H)
    for r in range(n):
        variant_forward(
            q, v, gates + r * G, clipped_of(q, v, t, r), c_prev + r * H, c_new + r * H, c + r * H,
            keeps(v.keeps_c, q, t, r, H), row_of(<const real *>v.drop_g, r, H), m + r * H,
        )
        if ifo != NULL:
            memcpy(ifo + r * 3 * H, gates + r * G, 2 * H * sizeof(real))
            memcpy(ifo + (r * 3 + 2) * H, gates + r * G + 3 * H, H * sizeof(real))


cdef inline void variant_rows_backward(
    const real *tag, const fl_lstm *q, const Variant *v, Py_ssize_t t, Py_ssize_t n,
    real *gates, const real *c_prev, const real *c, const real *dm, real *scratch,
) noexcept nogil:
    cdef Py_ssize_t H = q.H, G = 4 * q.H, r
    if v.zoned_c:
        c = slot_of(tag, v.c_new, v.slots, t, q.B * H)
    for r in range(n):
        variant_backward(
            q, v, gates + r * G, clipped_of(q, v, t, r), c_prev + r * H, c + r * H,
            keeps(v.keeps_c, q, t, r, H), row_of(<const real *>v.drop_g, r, H),
            row_of(<const real *>v.difo, r, 3 * H), dm + r * H, <real *>q.dc + r * H, scratch,
            NULL if q.norms == NULL else norms_of(tag, q, t, r) + 1,
        )


cdef inline void recurrence_backward(
    const real *tag, const fl_lstm *q, const Variant *v, Py_ssize_t t, Py_ssize_t n,
    const real *gates, real *scratch,
) noexcept nogil:
    """dh and difo of the step before; with layer norm the gradients of both products."""
    cdef Py_ssize_t H = q.H, P = q.P, G = 4 * q.H, r
    cdef real *x_hat = slot_of(tag, v.x_hat, v.slots, t, q.B * G)
    cdef real *h_hat = slot_of(tag, v.h_hat, v.slots, t, q.B * G)
    cdef const real *x_scale = slot_of(tag, v.x_scale, v.slots, t, q.B)
    cdef const real *h_scale = slot_of(tag, v.h_scale, v.slots, t, q.B)
    cdef const real *w_fgr = <const real *>v.w_fgr
    cdef real *difo = <real *>v.difo
    if w_fgr != NULL:
        gemm(q.gemm, False, False, n, 3 * H, 2 * H, gates, G, w_fgr, 3 * H, <real>0, difo, 3 * H)
        gemm(q.gemm, False, False, n, 3 * H, H, gates + 3 * H, G, w_fgr + 6 * H * H, 3 * H,
             <real>1, difo, 3 * H)
    if v.ln_x != NULL:
        for r in range(n):
            product_backward(q, v, <const real *>v.ln_x, gates + r * G, x_scale[r],
                             x_hat + r * G, <real *>v.dln_x, scratch)
            product_backward(q, v, <const real *>v.ln_h, gates + r * G, h_scale[r],
                             h_hat + r * G, <real *>v.dln_h, scratch)
        gates = h_hat
    gemm(q.gemm, False, False, n, P, G, gates, G, <const real *>q.w_hh, P, <real>0, <real *>q.dh, P)


# -- the weights' gradients --------------------------------------------------------------------

cdef inline void sum_gradients(
    const real *tag, const fl_lstm *q, const Variant *v, Py_ssize_t r0, Py_ssize_t r1
) noexcept nogil:
    """dx and the gradients of the weights from the dgates of the rows r0 <= r < r1 of all (T * B).

    dx of these rows; what sums over rows is assigned for r0 = 0 without q.add, else added to.
    """
    cdef Py_ssize_t n = r1 - r0, G = 4 * q.H, I = q.I, P = q.P, r, j
    cdef const real *dgates = <const real *>q.gates + r0 * G
    cdef const real *dgates_x = dgates
    cdef const real *dgates_h = dgates
    cdef const real *h_prev = h_slot(tag, q, q.reverse) + r0 * P
    cdef const real *x = <const real *>q.x + r0 * I
    cdef real *db = <real *>q.db
    cdef real sums = 1 if r0 > 0 or q.add else 0
    if v.ln_x != NULL:
        dgates_x, dgates_h = <const real *>v.x_hat + r0 * G, <const real *>v.h_hat + r0 * G
    if v.h_drop != NULL:
        h_prev = <const real *>v.h_drop + r0 * P
    gemm(q.gemm, False, False, n, I, G, dgates_x, G, <const real *>q.w_ih, I, <real>0,
         <real *>q.dx + r0 * I, I)
    gemm(q.gemm, True, False, G, I, n, dgates_x, G, x, I, sums, <real *>q.dw_ih, I)
    gemm(q.gemm, True, False, G, P, n, dgates_h, G, h_prev, P, sums, <real *>q.dw_hh, P)
    if db != NULL:
        if sums == 0:
            memset(db, 0, G * sizeof(real))
        for r in range(n):
            for j in range(G):
                db[j] += dgates[r * G + j]
    if q.w_proj != NULL:
        gemm(q.gemm, True, False, P, q.H, n, <const real *>q.dh_all + r0 * P, P,
             <const real *>q.m + r0 * q.H, q.H, sums, <real *>q.dw_proj, q.H)
    if q.dw_peephole != NULL:
        sum_peephole_gradients(tag, q, v, r0, r1, sums == 0)
    if v.dw_fgr != NULL:
        sum_fgr_gradients(tag, q, v, r0, n, sums)


cdef inline void sum_peephole_gradients(
    const real *tag, const fl_lstm *q, const Variant *v, Py_ssize_t r0, Py_ssize_t r1, bint first
) noexcept nogil:
    """dw_peephole: i and f saw c[t-1], o the new c[t]."""
    cdef Py_ssize_t H = q.H, r
    cdef const real *dgates = <const real *>q.gates
    cdef const real *c_prev = c_slot(tag, q, q.reverse)
    cdef const real *c_new = <const real *>v.c_new if v.zoned_c else c_slot(tag, q, 1 - q.reverse)
    cdef real *dp = <real *>q.dw_peephole
    if first:
        memset(dp, 0, 3 * H * sizeof(real))
    for r in range(r0, r1):
        if q.peepholes & FL_PEEPHOLE_I:
            add_product(H, dgates + 4 * r * H, c_prev + r * H, dp)
        if q.peepholes & FL_PEEPHOLE_F:
            add_product(H, dgates + (4 * r + 1) * H, c_prev + r * H, dp + H)
        if q.peepholes & FL_PEEPHOLE_O:
            add_product(H, dgates + (4 * r + 3) * H, c_new + r * H, dp + 2 * H)


cdef inline void sum_fgr_gradients(
    const real *tag, const fl_lstm *q, const Variant *v, Py_ssize_t r0, Py_ssize_t n, real sums
) noexcept nogil:
    """dw_fgr += da_ifo^T (i f o)[t-1]."""
    cdef Py_ssize_t H = q.H
    cdef const real *dgates = <const real *>q.gates + r0 * 4 * H
    cdef const real *ifo = <const real *>v.ifo + (q.reverse * q.B + r0) * 3 * H
    cdef real *dw = <real *>v.dw_fgr
    gemm(q.gemm, True, False, 2 * H, 3 * H, n, dgates, 4 * H, ifo, 3 * H, sums, dw, 3 * H)
    gemm(q.gemm, True, False, H, 3 * H, n, dgates + 3 * H, 4 * H, ifo, 3 * H, sums, dw + 6 * H * H,
         3 * H)
