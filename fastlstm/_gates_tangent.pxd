# SPDX-License-Identifier: MIT
"""The gate math of second derivatives: one row of the batch, forward and backward.

The tangent of ``q`` is ``tq``; `reference_second_order` has the same lines, `_gates` those that
they are tangents of. A row of gates is 4H numbers, the gates i f g o one after the other.
"""

from libc.math cimport fabs

from ._csrc cimport FL_PEEPHOLE_F, FL_PEEPHOLE_I, FL_PEEPHOLE_O, fl_lstm

ctypedef fused real:
    float
    double


cdef inline void clip_tangent(
    Py_ssize_t H, double cell_clip, const real *c, real *tc
) noexcept nogil:
    """No tangent, and no gradient, where c is clipped."""
    cdef Py_ssize_t j
    if cell_clip != 0:
        for j in range(H):
            if fabs(c[j]) >= <real>cell_clip:
                tc[j] = 0


cdef inline void peephole_jvp(
    Py_ssize_t H, real *ta, const real *p, const real *tp, const real *c, const real *tc
) noexcept nogil:
    """ta of a += p c."""
    cdef Py_ssize_t j
    for j in range(H):
        ta[j] += tp[j] * c[j] + p[j] * tc[j]


cdef inline void gates_jvp(
    const fl_lstm *q, const fl_lstm *v,  # the weights and their tangents
    const real *gates,    # (4H) activated
    const real *c_prev,   # (H)
    const real *c,        # (H)
    const real *s_c,      # (H) tanh(c)
    real *ta,             # (4H) in: the tangents before activation; out: of the gates
    const real *tc_prev,  # (H)
    real *tc,             # (H) out
    real *tm,             # (H) out: the tangent of o tanh(c)
) noexcept nogil:
    cdef Py_ssize_t H = q.H, j
    cdef const real *p = <const real *>q.w_peephole
    cdef const real *tp = <const real *>v.w_peephole
    cdef const real *tb = <const real *>v.b
    cdef real i, f, g, o
    if tb != NULL:
        for j in range(4 * H):
            ta[j] += tb[j]
    if q.peepholes & FL_PEEPHOLE_I:
        peephole_jvp(H, ta, p, tp, c_prev, tc_prev)
    if q.peepholes & FL_PEEPHOLE_F:
        peephole_jvp(H, ta + H, p + H, tp + H, c_prev, tc_prev)
    for j in range(H):
        i, f, g = gates[j], gates[H + j], gates[2 * H + j]
        ta[j] *= i * (1 - i)
        ta[H + j] = -ta[j] if q.coupled else ta[H + j] * f * (1 - f)
        ta[2 * H + j] *= 1 - g * g
        tc[j] = ta[H + j] * c_prev[j] + f * tc_prev[j] + ta[j] * g + i * ta[2 * H + j]
    clip_tangent(H, q.cell_clip, c, tc)
    if q.peepholes & FL_PEEPHOLE_O:
        peephole_jvp(H, ta + 3 * H, p + 2 * H, tp + 2 * H, c, tc)
    for j in range(H):
        o = gates[3 * H + j]
        ta[3 * H + j] *= o * (1 - o)
        tm[j] = ta[3 * H + j] * s_c[j] + o * (1 - s_c[j] * s_c[j]) * tc[j]


cdef inline void peephole_hvp(
    Py_ssize_t H, const real *da, const real *tda, const real *p, const real *tp, real *dc,
    real *tdc,
) noexcept nogil:
    """What da of a += p c sends to c."""
    cdef Py_ssize_t j
    for j in range(H):
        dc[j] += p[j] * da[j]
        tdc[j] += tp[j] * da[j] + p[j] * tda[j]


cdef inline void gates_hvp(
    const fl_lstm *q, const fl_lstm *v,
    const real *gates,    # (4H) and their tangents
    const real *tgates,
    const real *c_prev,   # (H) and its tangent
    const real *tc_prev,
    const real *c,        # (H) and its tangent
    const real *tc,
    const real *s_c,      # (H) tanh(c)
    const real *dm,       # (H) and its tangent
    const real *tdm,
    real *dc,             # (H) in: dL/dc[t] and its tangent; out: those of c[t-1]
    real *tdc,
    real *da,             # (4H) out: the gradients before activation, and their tangents
    real *tda,
) noexcept nogil:
    cdef Py_ssize_t H = q.H, j
    cdef const real *p = <const real *>q.w_peephole
    cdef const real *tp = <const real *>v.w_peephole
    cdef real i, f, g, o, ti, tf, tg, to, s, ts, slope, ds, tds, d, td, df, tdf
    for j in range(H):  # m = o tanh(c)
        o, to, s = gates[3 * H + j], tgates[3 * H + j], s_c[j]
        slope = 1 - s * s
        ts = slope * tc[j]
        d, td = dm[j] * s, tdm[j] * s + dm[j] * ts
        ds, tds = dm[j] * o, tdm[j] * o + dm[j] * to
        dc[j] += ds * slope
        tdc[j] += tds * slope - 2 * ds * s * ts
        da[3 * H + j] = d * o * (1 - o)
        tda[3 * H + j] = td * o * (1 - o) + d * (1 - 2 * o) * to
    if q.peepholes & FL_PEEPHOLE_O:
        peephole_hvp(H, da + 3 * H, tda + 3 * H, p + 2 * H, tp + 2 * H, dc, tdc)
    clip_tangent(H, q.cell_clip, c, dc)
    clip_tangent(H, q.cell_clip, c, tdc)
    for j in range(H):  # c = f c[t-1] + i g
        i, f, g = gates[j], gates[H + j], gates[2 * H + j]
        ti, tf, tg = tgates[j], tgates[H + j], tgates[2 * H + j]
        d, td = dc[j] * g, tdc[j] * g + dc[j] * tg
        df, tdf = dc[j] * c_prev[j], tdc[j] * c_prev[j] + dc[j] * tc_prev[j]
        if q.coupled:  # f = 1 - i
            d, td, df, tdf = d - df, td - tdf, 0, 0
        da[j] = d * i * (1 - i)
        tda[j] = td * i * (1 - i) + d * (1 - 2 * i) * ti
        da[H + j] = df * f * (1 - f)
        tda[H + j] = tdf * f * (1 - f) + df * (1 - 2 * f) * tf
        d, td = dc[j] * i, tdc[j] * i + dc[j] * ti
        da[2 * H + j] = d * (1 - g * g)
        tda[2 * H + j] = td * (1 - g * g) - 2 * d * g * tg
        tdc[j] = tdc[j] * f + dc[j] * tf
        dc[j] *= f
    if q.peepholes & FL_PEEPHOLE_I:
        peephole_hvp(H, da, tda, p, tp, dc, tdc)
    if q.peepholes & FL_PEEPHOLE_F:
        peephole_hvp(H, da + H, tda + H, p + H, tp + H, dc, tdc)
