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

/* Of mr rows, or mr panels of a row: gate: in a, out the activated gates; c: in c[t-1], out c[t];
 * m: out; p_step: from the peepholes of one to those of the next, 0 for rows. Gate by gate, all in
 * lockstep. */
FL_INLINE void FN(gates_forward)(const int variant, const int mr, const fl_lstm *q, const REAL *p,
                                 ptrdiff_t p_step, V gate[][TILE_VECTORS], V *c, V *m) {
    const V one = V_SET1((REAL)1);
    V x[TILE_ROWS];
#define EACH FL_UNROLL for (int k = 0; k < mr; k++)
    if (FL_SEES(I)) EACH gate[k][0] = V_FMA(V_LOAD(p + k * p_step), c[k], gate[k][0]);
    if (FL_SEES(F)) EACH gate[k][1] = V_FMA(V_LOAD(p + k * p_step + VL), c[k], gate[k][1]);
    EACH x[k] = gate[k][0];
    FN(v_sigmoid)(mr, x);
    EACH gate[k][0] = x[k];
    EACH x[k] = gate[k][1];
    if (!(variant && q->coupled))
        FN(v_sigmoid)(mr, x);
    else
        EACH x[k] = V_SUB(one, gate[k][0]);
    EACH gate[k][1] = x[k];
    EACH x[k] = gate[k][2];
    FN(v_tanh)(mr, x);
    EACH gate[k][2] = x[k];
    EACH c[k] = V_FMA(gate[k][1], c[k], V_MUL(gate[k][0], gate[k][2]));
    if (FL_CLIPS) {
        const V limit = V_SET1((REAL)q->cell_clip), minus = V_SET1(-(REAL)q->cell_clip);
        EACH c[k] = V_MAX(minus, V_MIN(limit, c[k]));
    }
    if (FL_SEES(O)) EACH gate[k][3] = V_FMA(V_LOAD(p + k * p_step + 2 * VL), c[k], gate[k][3]);
    EACH x[k] = gate[k][3];
    FN(v_sigmoid)(mr, x);
    EACH gate[k][3] = x[k];
    EACH x[k] = c[k];
    FN(v_tanh)(mr, x);
    EACH m[k] = V_MUL(gate[k][3], x[k]);
#undef EACH
}

/* gate: in the activated gates, out their gradients before activation; dc: in dL/dc[t] by the step
 * after, out dL/dc[t-1]; returns all of dL/dc[t]. */
FL_INLINE V FN(gates_backward)(const int variant, const fl_lstm *q, const REAL *p,
                               V gate[TILE_VECTORS], V c_prev, V c, V tanh_c, V dm, V *dc) {
    const V one = V_SET1((REAL)1), zero = V_SET1((REAL)0);
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
