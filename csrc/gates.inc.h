/* SPDX-License-Identifier: MIT */
/* The gate math on vectors: VL units of one row, in registers.
 *
 *     i f o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)
 *     c[t] = f c[t-1] + i g;  m = o tanh(c[t])
 *
 * and with q->variant, where q asks for it,
 *
 *     a_i += p_i c[t-1];  a_f += p_f c[t-1];  a_o += p_o c[t]       peepholes
 *     f = 1 - i                                                     coupled
 *     c[t] = min(max(c[t], -cell_clip), cell_clip)                  cell_clip
 *
 * gate[4] are the vectors of i f g o; p points to the peepholes [i f o][lane] of these units.
 * `variant` is a constant: the default cell is compiled without a look at q. */

#ifndef FL_SEES
#    define FL_SEES(gate) (variant && (q->peepholes & FL_PEEPHOLE_##gate))
#    define FL_CLIPS      (variant && q->cell_clip > 0)
#endif

/* gate: in a, out the activated gates; returns m and sets *c */
FL_INLINE V FN(gates_forward)(const int variant, const fl_lstm *q, const REAL *p,
                              V gate[TILE_VECTORS], V c_prev, V *c) {
    const V one = V_SET1((REAL)1);
    if (FL_SEES(I)) gate[0] = V_FMA(V_LOAD(p), c_prev, gate[0]);
    if (FL_SEES(F)) gate[1] = V_FMA(V_LOAD(p + VL), c_prev, gate[1]);
    gate[0] = FN(v_sigmoid)(gate[0]);
    gate[1] = variant && q->coupled ? V_SUB(one, gate[0]) : FN(v_sigmoid)(gate[1]);
    gate[2] = FN(v_tanh)(gate[2]);
    *c = V_FMA(gate[1], c_prev, V_MUL(gate[0], gate[2]));
    if (FL_CLIPS) {
        const V limit = V_SET1((REAL)q->cell_clip), minus = V_SET1(-(REAL)q->cell_clip);
        *c = V_MAX(minus, V_MIN(limit, *c));
    }
    if (FL_SEES(O)) gate[3] = V_FMA(V_LOAD(p + 2 * VL), *c, gate[3]);
    gate[3] = FN(v_sigmoid)(gate[3]);
    return V_MUL(gate[3], FN(v_tanh)(*c));
}

/* gate: in the activated gates, out their gradients before activation; dc: in dL/dc[t] by the step
 * after, out dL/dc[t-1]; returns all of dL/dc[t]. tanh(c) is computed again: one tanh is cheaper
 * than H more numbers on the tape. */
FL_INLINE V FN(gates_backward)(const int variant, const fl_lstm *q, const REAL *p,
                               V gate[TILE_VECTORS], V c_prev, V c, V dm, V *dc) {
    const V one = V_SET1((REAL)1), zero = V_SET1((REAL)0), tanh_c = FN(v_tanh)(c);
    const V i = gate[0], f = gate[1], g = gate[2], o = gate[3];
    const V dm_o = V_MUL(dm, o);
    V dc_t = V_FMA(dm_o, V_FNMA(tanh_c, tanh_c, one), *dc); /* m = o tanh(c) */
    gate[3] = V_MUL(V_MUL(dm_o, tanh_c), V_SUB(one, o));    /* o = sigmoid(a_o) */
    if (FL_SEES(O)) dc_t = V_FMA(V_LOAD(p + 2 * VL), gate[3], dc_t);
    const V dc_all = dc_t;
    if (FL_CLIPS) dc_t = V_ZERO_IF_GE(dc_t, V_ABS(c), V_SET1((REAL)q->cell_clip));
    const int coupled = variant && q->coupled; /* f = 1 - i: di -= df */
    const V dc_i = coupled ? V_SUB(g, c_prev) : g;
    gate[0] = V_MUL(V_MUL(V_MUL(dc_t, dc_i), i), V_SUB(one, i)); /* c = f c[t-1] + i g */
    gate[1] = coupled ? zero : V_MUL(V_MUL(V_MUL(dc_t, c_prev), f), V_SUB(one, f));
    gate[2] = V_MUL(V_MUL(dc_t, i), V_FNMA(g, g, one));
    *dc = V_MUL(dc_t, f);
    if (FL_SEES(I)) *dc = V_FMA(V_LOAD(p), gate[0], *dc);
    if (FL_SEES(F)) *dc = V_FMA(V_LOAD(p + VL), gate[1], *dc);
    return dc_all;
}
