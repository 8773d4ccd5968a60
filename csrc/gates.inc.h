/* SPDX-License-Identifier: MIT */
/* The gate math on vectors: VL units of one row, in registers.
 *
 *     i f o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)
 *     c[t] = f c[t-1] + i g;  h[t] = o tanh(c[t])
 *
 * q[4] are the vectors of i f g o. */

/* q: in a, out the activated gates; returns h and sets *c */
FL_INLINE V FN(gates_forward)(V q[TILE_VECTORS], V c_prev, V *c) {
    q[0] = FN(v_sigmoid)(q[0]);
    q[1] = FN(v_sigmoid)(q[1]);
    q[2] = FN(v_tanh)(q[2]);
    q[3] = FN(v_sigmoid)(q[3]);
    *c = V_FMA(q[1], c_prev, V_MUL(q[0], q[2]));
    return V_MUL(q[3], FN(v_tanh)(*c));
}

/* q: in the activated gates, out their gradients before activation; dc: in dL/dc[t], out
 * dL/dc[t-1]. tanh(c) is computed again: one tanh is cheaper than H more numbers on the tape. */
FL_INLINE void FN(gates_backward)(V q[TILE_VECTORS], V c_prev, V c, V dh, V *dc) {
    const V one = V_SET1((REAL)1), tanh_c = FN(v_tanh)(c);
    const V i = q[0], f = q[1], g = q[2], o = q[3];
    const V dh_o = V_MUL(dh, o);
    const V dc_t = V_FMA(dh_o, V_FNMA(tanh_c, tanh_c, one), *dc); /* h = o tanh(c) */
    q[3] = V_MUL(V_MUL(dh_o, tanh_c), V_SUB(one, o));             /* o = sigmoid(a_o) */
    q[0] = V_MUL(V_MUL(V_MUL(dc_t, g), i), V_SUB(one, i));        /* c = f c[t-1] + i g */
    q[1] = V_MUL(V_MUL(V_MUL(dc_t, c_prev), f), V_SUB(one, f));
    q[2] = V_MUL(V_MUL(dc_t, i), V_FNMA(g, g, one));
    *dc = V_MUL(dc_t, f);
}
