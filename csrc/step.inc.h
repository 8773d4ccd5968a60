/* SPDX-License-Identifier: MIT */
/* The steps: products on packed weights with the gate math on the accumulators.
 *
 *     forward    a = b + W_ih x[t] + W_hh h[t-1];  gates, c[t], m = gates_forward(a, c[t-1])
 *     backward   dh = W_hh^T dgates[t+1] + dy[t];  dgates[t] = gates_backward(dm, ...) in place
 *
 * m is h, and dm is dh; with a projection h[t] = W_proj m and dm = W_proj^T dh come between.
 *
 * Every function does a range of it: rows b0 <= b < b1 and panels u0 <= u < u1, so that threads can
 * share a step by rows or by units. Bits do not depend on the ranges. A projection needs all units
 * of its rows: its steps are shared by rows only. */

/* Row b of slot or step t in the buffers of fl_lstm. */
#ifndef FL_STEP_ROWS
#    define FL_STEP_ROWS
#    include <string.h>
/* Rows that are multiplied by x and h at once: their sums so far lie in a buffer, in L1. */
#    define SUM_ROWS 96
/* What stays of a tape in L2 until the backward pass comes to it */
#    ifndef FAR_BYTES /* the drivers' tapes are small: csrc/Makefile */
#        define FAR_BYTES (1 << 19)
#    endif
#    define GATES(q, t)  ((REAL *)(q)->gates + (t) % (q)->gate_slots * (q)->B * (q)->U * GROUP)
#    define H_SLOT(q, s) ((REAL *)(q)->h + (s) % (q)->state_slots * (q)->B * (q)->h_row)
#    define C_SLOT(q, s) ((REAL *)(q)->c + (s) % (q)->state_slots * (q)->B * (q)->U * VL)
#    define M_SLOT(q, t) ((REAL *)(q)->m + (t) % (q)->m_slots * (q)->B * (q)->U * VL)
#    define PEEPHOLES(q, u)                                                                        \
        (q->peephole_panel ? (const REAL *)(q)->peephole_panel + (u) * 3 * VL : NULL)
#endif

/* What step t reads and writes, from row 0 and unit 0 on: found once, as divisions take long. */
typedef struct {
    const REAL *h_prev, *c_prev;
    REAL *gates, *h, *c, *m, *y;
} FN(slots);

static inline FN(slots) FN(slots_of)(const fl_lstm *q, ptrdiff_t t) {
    return (FN(slots)){.h_prev = H_SLOT(q, t + q->reverse),
                       .c_prev = C_SLOT(q, t + q->reverse),
                       .gates = GATES(q, t),
                       .h = H_SLOT(q, t + 1 - q->reverse),
                       .c = C_SLOT(q, t + 1 - q->reverse),
                       .m = q->w_proj ? M_SLOT(q, t) : NULL,
                       .y = (REAL *)q->y + t * q->y_t};
}

/* gates[t][b] := b + W_ih x[t][b] for steps t0 <= t < t1 that lie side by side in gates */
static void FN(project)(const fl_lstm *q, ptrdiff_t t0, ptrdiff_t t1, ptrdiff_t b0, ptrdiff_t b1,
                        ptrdiff_t u0, ptrdiff_t u1) {
    const ptrdiff_t row = q->U * GROUP;
    /* All rows of all steps are one matrix; rows beyond their length keep their gates at 0. */
    const int whole = b0 == 0 && b1 == q->B && q->active[t1 - 1] == q->B;
    for (ptrdiff_t u = u0; u < u1; u++) {
        const REAL *panel = (const REAL *)q->panels + u * PANEL(q);
        const REAL *bias = (const REAL *)q->b_panel + u * GROUP;
        for (ptrdiff_t t = t0; t < t1; t += whole ? t1 - t0 : 1) {
            const ptrdiff_t rows = whole ? (t1 - t0) * q->B : FL_MIN(b1, q->active[t]) - b0;
            if (rows > 0)
                FN(product)(rows, GROUP, q->I, (const REAL *)q->x + (t * q->B + b0) * q->I, q->I,
                            panel, panel + PANEL(q), bias, GATES(q, t) + b0 * row + u * GROUP, row);
        }
    }
}

/* What is left of a step for one tile: gates, c, and h and y or m, from its accumulators: those of
 * mr rows of panel u, or with `along` of row b in mr panels from u. */
FL_INLINE void FN(finish_forward)(const int variant, const int along, const int mr,
                                  const fl_lstm *q, FN(slots) at, ptrdiff_t b, ptrdiff_t u,
                                  V acc[][TILE_VECTORS]) {
    const ptrdiff_t row = q->U * GROUP, c_row = q->U * VL;
    const ptrdiff_t gates_step = along ? GROUP : row, c_step = along ? VL : c_row;
    const ptrdiff_t h_step = along ? VL : q->h_row, y_step = along ? VL : q->y_b;
    const int projected = variant && q->w_proj;
    const REAL *p = variant ? PEEPHOLES(q, u) : NULL;
    const REAL *c_prev = at.c_prev + b * c_row + u * VL;
    REAL *gates = at.gates + b * row + u * GROUP, *c_next = at.c + b * c_row + u * VL;
    REAL *h_next = at.h + b * q->h_row + u * VL, *y = at.y + b * q->y_b + u * VL;
    V c[TILE_ROWS], h[TILE_ROWS];
    FL_UNROLL for (int m = 0; m < mr; m++) c[m] = V_LOAD(c_prev + m * c_step);
    FN(gates_forward)(variant, mr, q, p, along ? 3 * VL : 0, acc, c, h);
    FL_UNROLL for (int m = 0; m < mr; m++) {
        const ptrdiff_t units = q->H - (along ? u + m : u) * VL;
        V_STORE(c_next + m * c_step, c[m]);
        if (projected) {
            V_STORE(at.m + b * c_row + u * VL + m * c_step, h[m]);
        } else {
            V_STORE(h_next + m * h_step, h[m]);
            if (units >= VL)
                V_STORE(y + m * y_step, h[m]);
            else
                V_STORE_PART(y + m * y_step, units, h[m]);
        }
        if (q->save)
            FL_UNROLL for (int g = 0; g < 4; g++)
                V_STORE(gates + m * gates_step + g * VL, acc[m][g]);
    }
}

/* h[t], y[t] := W_proj m for the rows b0 <= b < b1. */
static void FN(hidden_forward)(const fl_lstm *q, FN(slots) at, ptrdiff_t b0, ptrdiff_t b1) {
    REAL *h = at.h;
    const REAL *m = at.m + b0 * q->U * VL;
    for (ptrdiff_t k = 0; k < q->P; k += GROUP)
        FN(product)(b1 - b0, FL_MIN(GROUP, q->P - k), q->H, m, q->U * VL,
                    (const REAL *)q->m_panels + k * q->H, NULL, NULL, h + b0 * q->h_row + k,
                    q->h_row);
    for (ptrdiff_t b = b0; b < b1; b++)
        memcpy(at.y + b * q->y_b, h + b * q->h_row, (size_t)q->P * sizeof(REAL));
}

/* Whether the tape is more than L2 holds. Then what is read and written at the end of a tile is
 * fetched before: forward takes 0.9 to 0.97 of the time where several tapes share L3 (60,64,8,64,
 * 100,32,64,128), alone 1.0. Else that costs 1.04, forward and backward (20,32,8,32; Zen 3,
 * 2026-11). */
static inline int FN(tape_is_far)(const fl_lstm *q) {
    return q->gate_slots * q->B * q->U * GROUP * (ptrdiff_t)sizeof(REAL) > FAR_BYTES;
}

/* Fetch n vectors in each of some rows into L2, for a tile that needs them when its sums are
 * complete. */
FL_INLINE void FN(fetch)(ptrdiff_t rows, const void *p, ptrdiff_t row, const int n) {
    for (ptrdiff_t m = 0; m < rows; m++)
        FL_UNROLL for (int v = 0; v < n; v++)
            __builtin_prefetch((const REAL *)p + m * row + v * VL, 1, 2);
}

/* What finish_forward writes. */
FL_INLINE void FN(fetch_forward)(const fl_lstm *q, FN(slots) at, ptrdiff_t rows, ptrdiff_t b,
                                 ptrdiff_t u) {
    const ptrdiff_t c_row = q->U * VL;
    FN(fetch)(rows, at.c + b * c_row + u * VL, c_row, 1);
    FN(fetch)(rows, at.h + b * q->h_row + u * VL, q->h_row, 1);
    FN(fetch)(rows, at.y + b * q->y_b + u * VL, q->y_b, 1);
}

/* What finish_backward reads for panel u. */
FL_INLINE void FN(fetch_backward)(const fl_lstm *q, FN(slots) at, ptrdiff_t t, ptrdiff_t rows,
                                  ptrdiff_t b, ptrdiff_t u) {
    const ptrdiff_t row = q->U * GROUP, c_row = q->U * VL;
    FN(fetch)(rows, at.gates + b * row + u * GROUP, row, TILE_VECTORS);
    FN(fetch)(rows, at.c_prev + b * c_row + u * VL, c_row, 1);
    if (q->dy)
        FN(fetch)(rows, (const REAL *)q->dy + t * q->dy_t + b * q->dy_b + u * VL, q->dy_b, 1);
}

/* Of two rows or more, in slices of k, so that a slice of a panel stays in L1 for the tiles of all
 * rows. Not fused: the sums begin with the projection of x in the gates, and go on there from slice
 * to slice. */
FL_INLINE void FN(step_forward_as)(const int variant, const fl_lstm *q, FN(slots) at, ptrdiff_t t,
                                   int fused, ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t u0,
                                   ptrdiff_t u1) {
    const ptrdiff_t I = fused ? q->I : 0, K = I + q->P, row = q->U * GROUP;
    const FN(tiles) tiles = FN(tiles_of)(b1 - b0);
    const ptrdiff_t slices = tiles.n == 1 ? 1 : SLICES(K);
    const ptrdiff_t walk = (t + q->reverse + q->walk) % 2 ? -1 : 1;
    const REAL *x = (const REAL *)q->x + t * q->B * q->I;
    const int far = q->save && FN(tape_is_far)(q);
    const REAL *h_prev = at.h_prev, *tape = fused && far ? at.gates : NULL;
    _Alignas(64) REAL sums[SUM_ROWS * GROUP];
    for (ptrdiff_t j = u0; j < u1; j++) {
        const ptrdiff_t u = walk < 0 ? u1 - 1 - (j - u0) : j;
        const REAL *panel = (const REAL *)q->panels + u * PANEL(q) + (fused ? 0 : q->I * GROUP);
        const REAL *bias = (const REAL *)q->b_panel + u * GROUP;
        for (ptrdiff_t s = 0; s < slices; s++) {
            const ptrdiff_t k0 = K * s / slices, k1 = K * (s + 1) / slices;
            const ptrdiff_t x_n = FL_MAX(0, FL_MIN(I, k1) - k0), h0 = FL_MAX(0, k0 - I);
            const REAL *following = panel + k1 * GROUP;
            if (k1 == K) following = j + 1 == u1 ? panel : panel + walk * PANEL(q);
            for (ptrdiff_t i = 0; i < tiles.n; i++) {
                const ptrdiff_t b = b0 + FN(tile_start)(tiles, i);
                const ptrdiff_t b_end = b0 + FN(tile_start)(tiles, i + 1);
                const ptrdiff_t sum_row = fused ? GROUP : row;
                REAL *sum = fused ? sums + (b - b0) * GROUP : at.gates + b * row + u * GROUP;
                const FN(ahead) next = FN(ahead_of)(tiles, i, following, k1 - k0);
                const FN(ahead) next_h = {next.at + x_n * next.step, next.step};
                if (far && s == FL_MAX(0, slices - 2)) FN(fetch_forward)(q, at, b_end - b, b, u);
#define BODY(mr, nv)                                                                               \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    if (fused && s == 0)                                                                           \
        FN(fill_tile)(mr, nv, bias, acc);                                                          \
    else                                                                                           \
        FN(load_tile)(mr, nv, sum, sum_row, VL, acc);                                              \
    if (tape && k1 == K) FN(fetch)(mr, tape + b * row + u * GROUP, row, TILE_VECTORS);             \
    FN(accumulate_ahead)(mr, nv, x_n, x + b * q->I + k0, q->I, panel + k0 * GROUP, next, acc);     \
    FN(accumulate_ahead)(mr, nv, k1 - k0 - x_n, h_prev + b * q->h_row + h0, q->h_row,              \
                         panel + (k0 + x_n) * GROUP, next_h, acc);                                 \
    if (k1 < K)                                                                                    \
        FN(store_tile)(mr, nv, sum, sum_row, VL, acc);                                             \
    else                                                                                           \
        FN(finish_forward)(variant, 0, mr, q, at, b, u, acc);
                FL_TWO_ROWS(BODY, b_end - b, TILE_VECTORS)
#undef BODY
            }
        }
    }
}

/* The step for one row: several panels at a time, whose gate math goes in lockstep, since that of
 * one vector waits for itself. A step takes 0.7 of the time of panel by panel at H = 32, 0.8 at
 * H = 64, 0.9 at H = 128, in float64 0.65, 0.8, 0.9 (Zen 3, 2026-11). */
FL_INLINE void FN(step_forward_row)(const int variant, const fl_lstm *q, FN(slots) at, ptrdiff_t t,
                                    int fused, ptrdiff_t b, ptrdiff_t u0, ptrdiff_t u1) {
    const ptrdiff_t I = fused ? q->I : 0;
    const FN(tiles) groups = FN(tiles_of)(u1 - u0);
    const int backward = (t + q->reverse + q->walk) % 2;
    const REAL *x = (const REAL *)q->x + (t * q->B + b) * q->I;
    const REAL *h_prev = at.h_prev + b * q->h_row;
    const REAL *before = fused ? q->b_panel : at.gates + b * q->U * GROUP;
    for (ptrdiff_t j = 0; j < groups.n; j++) {
        const ptrdiff_t i = backward ? groups.n - 1 - j : j;
        const ptrdiff_t u = u0 + FN(tile_start)(groups, i);
        const ptrdiff_t u_end = u0 + FN(tile_start)(groups, i + 1);
#define BODY(mr, nv)                                                                               \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    FN(sum_row)(mr, q, u, I, x, h_prev, before, acc);                                              \
    FN(finish_forward)(variant, 1, mr, q, at, b, u, acc);
        FL_ROWS(BODY, u_end - u, TILE_VECTORS)
#undef BODY
    }
}

/* The step with x for 2 to TILE_ROWS rows, on weights as they are. */
static void FN(step_forward_unpacked)(const fl_lstm *q, FN(slots) at, ptrdiff_t t, ptrdiff_t b0,
                                      ptrdiff_t b1, ptrdiff_t u0, ptrdiff_t u1) {
    const REAL *x = (const REAL *)q->x + (t * q->B + b0) * q->I;
    const REAL *h_prev = at.h_prev + b0 * q->h_row;
    for (ptrdiff_t u = u0; u < u1; u++) {
#define BODY(mr, nv)                                                                               \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    FN(sum_unpacked)(mr, q, u, x, h_prev, acc);                                                    \
    FN(finish_forward)(1, 0, mr, q, at, b0, u, acc);
        FL_TWO_ROWS(BODY, b1 - b0, TILE_VECTORS)
#undef BODY
    }
}

/* Step t. The gates hold the projection of x, or fused: x is multiplied here. Odd steps walk the
 * panels backward: what the last step left in L2 is used first. As do calls (q->walk): 1,1,64,256
 * takes 0.82 of the time, 1,1,128,256 0.9, weights of L3's size 0.97 (Zen 3, 2026-11). */
static void FN(step_forward)(const fl_lstm *q, ptrdiff_t t, int fused, ptrdiff_t b0, ptrdiff_t b1,
                             ptrdiff_t u0, ptrdiff_t u1) {
    const ptrdiff_t parts = fused ? (b1 - b0 + SUM_ROWS - 1) / SUM_ROWS : 1;
    const FN(slots) at = FN(slots_of)(q, t);
    for (ptrdiff_t i = 0; i < parts; i++) {
        const ptrdiff_t b = b0 + (b1 - b0) * i / parts, b_end = b0 + (b1 - b0) * (i + 1) / parts;
        if (b_end - b == 1 && q->variant)
            FN(step_forward_row)(1, q, at, t, fused, b, u0, u1);
        else if (b_end - b == 1)
            FN(step_forward_row)(0, q, at, t, fused, b, u0, u1);
        else if (!q->panels)
            FN(step_forward_unpacked)(q, at, t, b, b_end, u0, u1);
        else if (q->variant)
            FN(step_forward_as)(1, q, at, t, fused, b, b_end, u0, u1);
        else
            FN(step_forward_as)(0, q, at, t, fused, b, b_end, u0, u1);
    }
    if (q->w_proj) FN(hidden_forward)(q, at, b0, b1);
}

/* The sum of the squares of the first n lanes. */
static inline REAL FN(square)(V a, ptrdiff_t n) {
    REAL lanes[VL], total = 0;
    V_STORE(lanes, a);
    for (ptrdiff_t l = 0; l < n; l++) total += lanes[l] * lanes[l];
    return total;
}

/* dgates of step t for one tile whose accumulators are dL/dh by the step after, or with a
 * projection dL/dm: nv vectors of units from panel u. */
FL_INLINE void FN(finish_backward)(const int variant, const int mr, const int nv, const fl_lstm *q,
                                   FN(slots) at, ptrdiff_t t, ptrdiff_t b, ptrdiff_t u,
                                   V acc[][TILE_VECTORS]) {
    const ptrdiff_t row = q->U * GROUP, c_row = q->U * VL;
    const int takes_dy = q->dy && !(variant && q->w_proj);
    FL_UNROLL for (int v = 0; v < nv; v++) {
        const ptrdiff_t unit = (u + v) * VL, units = FL_MIN(VL, q->H - unit);
        const REAL *p = variant ? PEEPHOLES(q, u + v) : NULL;
        REAL *gates = at.gates + b * row + (u + v) * GROUP;
        const REAL *c_prev = at.c_prev + b * c_row + unit, *c_next = at.c + b * c_row + unit;
        const REAL *dy = (const REAL *)q->dy + t * q->dy_t + b * q->dy_b + unit;
        REAL *dc = (REAL *)q->dc + b * c_row + unit;
        /* tanh(c) again: one tanh is cheaper than H more numbers on the tape */
        V tanh_c[TILE_ROWS];
        FL_UNROLL for (int m = 0; m < mr; m++) tanh_c[m] = V_LOAD(c_next + m * c_row);
        FN(v_tanh)(mr, tanh_c);
        for (int m = 0; m < mr; m++) {
            V gate[TILE_VECTORS], dh = acc[m][v], dc_m = V_LOAD(dc + m * c_row);
            if (takes_dy) /* y[t] is h[t] */
                dh = V_ADD(dh, units == VL ? V_LOAD(dy + m * q->dy_b)
                                           : V_LOAD_PART(dy + m * q->dy_b, units));
            FL_UNROLL for (int g = 0; g < 4; g++) gate[g] = V_LOAD(gates + m * row + g * VL);
            const V dc_t = FN(gates_backward)(variant, q, p, gate, V_LOAD(c_prev + m * c_row),
                                              V_LOAD(c_next + m * c_row), tanh_c[m], dh, &dc_m);
            FL_UNROLL for (int g = 0; g < 4; g++) V_STORE(gates + m * row + g * VL, gate[g]);
            V_STORE(dc + m * c_row, dc_m);
            if (variant && q->norms) {
                REAL *norms = (REAL *)q->norms + ((t * q->B + b + m) * q->U + u + v) * 2;
                norms[0] = FN(square)(dh, units);
                norms[1] = FN(square)(dc_t, units);
            }
        }
    }
}

/* The same for a variant, from panels u0 <= u < u1 of dL/dh or dL/dm in memory: a tile on its way
 * costs little beside the product that made it, and compilers take long over all tiles' variants.
 */
static void FN(finish_rows_backward)(const fl_lstm *q, ptrdiff_t t, ptrdiff_t b0, ptrdiff_t b1,
                                     ptrdiff_t u0, ptrdiff_t u1, const REAL *dm, ptrdiff_t dm_row) {
    const FN(slots) at = FN(slots_of)(q, t);
    for (ptrdiff_t b = b0; b < b1; b++)
        for (ptrdiff_t u = u0; u < u1; u++) {
            V acc[1][TILE_VECTORS] = {{V_LOAD(dm + b * dm_row + u * VL)}};
            FN(finish_backward)(1, 1, 1, q, at, t, b, u, acc);
        }
}

/* The step of the default cell; with t < 0 of every cell without a projection. */
static void FN(step_backward_default)(const fl_lstm *q, ptrdiff_t t_from, ptrdiff_t t, ptrdiff_t b0,
                                      ptrdiff_t b1, ptrdiff_t v0, ptrdiff_t v1) {
    const ptrdiff_t row = q->U * GROUP;
    const FN(tiles) tiles = FN(tiles_of)(b1 - b0);
    if (t_from >= 0 && !q->h_columns) {
        FN(product_unpacked)(q->H, b1 - b0, q->P, v0 * GROUP, FL_MIN(v1 * GROUP, q->P),
                             GATES(q, t_from) + b0 * row, row, q->w_hh,
                             (REAL *)q->dh + b0 * q->h_row, q->h_row);
        if (t < 0) return;
        t_from = -1;
    }
    /* The sum runs over the lanes that hold units: whole panels, then what is left of the last. */
    const ptrdiff_t lanes = t_from < 0 ? 0 : q->H % VL, K = t_from < 0 ? 0 : q->H / VL * GROUP;
    const ptrdiff_t slices = tiles.n == 1 || K == 0 ? 1 : SLICES(K), walk = t % 2 ? -1 : 1;
    const int far = FN(tape_is_far)(q);
    const REAL *dgates = t_from < 0 ? NULL : GATES(q, t_from);
    const FN(slots) at = FN(slots_of)(q, FL_MAX(0, t)); /* not used where t < 0 */
    for (ptrdiff_t j = v0; j < v1; j++) {
        const ptrdiff_t v = walk < 0 ? v1 - 1 - (j - v0) : j, u = v * TILE_VECTORS;
        const ptrdiff_t vectors = FL_MIN(TILE_VECTORS, q->U - u);
        const REAL *columns = (const REAL *)q->h_columns + v * row * GROUP;
        for (ptrdiff_t s = 0; s < slices; s++) {
            const ptrdiff_t k0 = K * s / slices, k1 = K * (s + 1) / slices;
            const REAL *following = columns + k1 * vectors * VL;
            if (k1 == K) following = j + 1 == v1 ? columns : columns + walk * row * GROUP;
            /* The last slices fetch a panel of the tape each, the first what is left for it. */
            const ptrdiff_t due = TILE_VECTORS - (slices - 1 - s);
            const ptrdiff_t u_fetch = s == 0 ? 0 : FL_MAX(0, due - 1);
            const ptrdiff_t u_fetched = t >= 0 && far ? FL_MIN(vectors, due) : 0;
            for (ptrdiff_t i = 0; i < tiles.n; i++) {
                const ptrdiff_t b = b0 + FN(tile_start)(tiles, i);
                const ptrdiff_t b_end = b0 + FN(tile_start)(tiles, i + 1);
                const FN(ahead) next = FN(ahead_of)(tiles, i, following, k1 - k0);
                REAL *dh = (REAL *)q->dh + b * q->h_row + u * VL;
                for (ptrdiff_t k = u_fetch; k < u_fetched; k++)
                    FN(fetch_backward)(q, at, t, b_end - b, b, u + k);
#define BODY(mr, nv)                                                                               \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    if (dgates && s == 0)                                                                          \
        FN(fill_tile)(mr, nv, NULL, acc);                                                          \
    else                                                                                           \
        FN(load_tile)(mr, nv, dh, q->h_row, VL, acc);                                              \
    FN(accumulate_ahead)(mr, nv, k1 - k0, dgates + b * row + k0, row, columns + k0 * nv * VL,      \
                         next, acc);                                                               \
    if (s == slices - 1 && lanes)                                                                  \
        for (ptrdiff_t k = K; k < row; k += VL)                                                    \
            FN(accumulate)(mr, nv, lanes, dgates + b * row + k, row, 1, columns + k * nv * VL,     \
                           acc);                                                                   \
    if (s < slices - 1 || t < 0)                                                                   \
        FN(store_tile)(mr, nv, dh, q->h_row, VL, acc);                                             \
    else                                                                                           \
        FN(finish_backward)(0, mr, nv, q, at, t, b, u, acc);
                FL_TILE(BODY, b_end - b, vectors)
#undef BODY
            }
        }
    }
}

/* The step of the default cell for one row: several groups of four panels at a time, as forward;
 * what is left of fewer panels as for more rows. */
static void FN(step_backward_row)(const fl_lstm *q, ptrdiff_t t_from, ptrdiff_t t, ptrdiff_t b,
                                  ptrdiff_t v0, ptrdiff_t v1) {
    const FN(slots) at = FN(slots_of)(q, t);
    const REAL *dgates = GATES(q, t_from) + b * q->U * GROUP;
    const ptrdiff_t whole = FL_MAX(v0, FL_MIN(v1, q->U / TILE_VECTORS));
    const FN(tiles) tiles = FN(tiles_of)(whole - v0);
    for (ptrdiff_t j = 0; j < tiles.n; j++) {
        const ptrdiff_t i = t % 2 ? tiles.n - 1 - j : j;
        const ptrdiff_t v = v0 + FN(tile_start)(tiles, i);
        const ptrdiff_t v_end = v0 + FN(tile_start)(tiles, i + 1);
#define BODY(mr, nv)                                                                               \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    FN(sum_row_backward)(mr, q, v, dgates, acc);                                                   \
    for (int m = 0; m < mr; m++)                                                                   \
        FN(finish_backward)(0, 1, nv, q, at, t, b, (v + m) * TILE_VECTORS, acc + m);
        FL_ROWS(BODY, v_end - v, TILE_VECTORS)
#undef BODY
    }
    if (whole < v1) FN(step_backward_default)(q, t_from, t, b, b + 1, whole, v1);
}

/* The step with a projection, for all units of the rows: dh[t], kept in dh_all, lies between. */
static void FN(step_backward_projected)(const fl_lstm *q, ptrdiff_t t_from, ptrdiff_t t,
                                        ptrdiff_t b0, ptrdiff_t b1) {
    const ptrdiff_t row = q->U * GROUP, c_row = q->U * VL;
    REAL *dh_rows = (REAL *)q->dh + b0 * q->h_row, *dm = q->dm;
    const REAL *columns = q->h_columns;
    for (ptrdiff_t k = 0; t_from >= 0 && k < q->P; k += GROUP) {
        const ptrdiff_t n = FL_MIN(GROUP, q->P - k);
        FN(product)(b1 - b0, n, row, GATES(q, t_from) + b0 * row, row, columns, NULL, NULL,
                    dh_rows + k, q->h_row);
        columns += row * ((n + VL - 1) / VL) * VL;
    }
    if (t < 0) return;
    for (ptrdiff_t b = b0; b < b1; b++) {
        REAL *dh = (REAL *)q->dh + b * q->h_row;
        const REAL *dy = (const REAL *)q->dy + t * q->dy_t + b * q->dy_b;
        for (ptrdiff_t k = 0; q->dy && k < q->P; k++) dh[k] += dy[k]; /* y[t] is h[t] */
        memcpy((REAL *)q->dh_all + (t * q->B + b) * q->h_row, dh, (size_t)q->h_row * sizeof(REAL));
    }
    for (ptrdiff_t j = 0; j < c_row; j += GROUP)
        FN(product)(b1 - b0, FL_MIN(GROUP, c_row - j), q->P, dh_rows, q->h_row,
                    (const REAL *)q->m_columns + j * q->P, NULL, NULL, dm + b0 * c_row + j, c_row);
    FN(finish_rows_backward)(q, t, b0, b1, 0, q->U, dm, c_row);
}

/* dh (rows b0 <= b < b1) := W_hh^T dgates[t_from], or what dh holds where t_from < 0;
 * then dgates of step t from it, or where t < 0 only dh. By groups v0 <= v < v1 of four panels. */
static void FN(step_backward)(const fl_lstm *q, ptrdiff_t t_from, ptrdiff_t t, ptrdiff_t b0,
                              ptrdiff_t b1, ptrdiff_t v0, ptrdiff_t v1) {
    if (q->w_proj) {
        FN(step_backward_projected)(q, t_from, t, b0, b1);
    } else if (q->variant) {
        if (t_from >= 0) FN(step_backward_default)(q, t_from, -1, b0, b1, v0, v1);
        if (t >= 0)
            FN(finish_rows_backward)(q, t, b0, b1, v0 * 4, FL_MIN(v1 * 4, q->U), q->dh, q->h_row);
    } else if (b1 - b0 == 1 && t_from >= 0 && t >= 0 && q->h_columns) {
        FN(step_backward_row)(q, t_from, t, b0, v0, v1);
    } else {
        FN(step_backward_default)(q, t_from, t, b0, b1, v0, v1);
    }
}
