/* SPDX-License-Identifier: MIT */
/* The steps: products on packed weights with the gate math on the accumulators.
 *
 *     forward    a = b + W_ih x[t] + W_hh h[t-1];  gates, c[t], h[t] = gates_forward(a, c[t-1])
 *     backward   dh = W_hh^T dgates[t+1] + dy[t];  dgates[t] = gates_backward(dh, ...) in place
 *     after it   dw = dgates^T [x | h[t-1]], db = sum of dgates, dx = dgates W_ih
 *
 * Every function does a range of it: rows b0 <= b < b1 and panels u0 <= u < u1, so that threads can
 * share a step by rows or by units. Bits do not depend on the ranges. */

/* Row b of slot or step t in the buffers of fl_lstm. */
#ifndef FL_STEP_ROWS
#    define FL_STEP_ROWS
#    define GATES(q, t)  ((REAL *)(q)->gates + (t) % (q)->gate_slots * (q)->B * (q)->U * GROUP)
#    define H_SLOT(q, s) ((REAL *)(q)->h + (s) % (q)->state_slots * (q)->B * (q)->h_row)
#    define C_SLOT(q, s) ((REAL *)(q)->c + (s) % (q)->state_slots * (q)->B * (q)->U * VL)
#endif

/* gates[t][b] := b + W_ih x[t][b] for steps t0 <= t < t1 that lie side by side in gates */
static void FN(project)(const fl_lstm *q, ptrdiff_t t0, ptrdiff_t t1, ptrdiff_t b0, ptrdiff_t b1,
                        ptrdiff_t u0, ptrdiff_t u1) {
    const ptrdiff_t row = q->U * GROUP;
    /* All rows of all steps are one matrix; rows beyond their length keep their gates at 0. */
    const int whole = b0 == 0 && b1 == q->B && q->active[t1 - 1] == q->B;
    for (ptrdiff_t u = u0; u < u1; u++) {
        const REAL *panel = (const REAL *)q->x_panels + u * q->I * GROUP;
        const REAL *bias = (const REAL *)q->b_panel + u * GROUP;
        for (ptrdiff_t t = t0; t < t1; t += whole ? t1 - t0 : 1) {
            const ptrdiff_t rows = whole ? (t1 - t0) * q->B : FL_MIN(b1, q->active[t]) - b0;
            if (rows > 0)
                FN(product)(rows, GROUP, q->I, (const REAL *)q->x + (t * q->B + b0) * q->I, q->I, 1,
                            panel, bias, GATES(q, t) + b0 * row + u * GROUP, row);
        }
    }
}

/* What is left of a step for one tile: gates, c, h, y from its accumulators. */
FL_INLINE void FN(finish_forward)(const int mr, const fl_lstm *q, ptrdiff_t t, ptrdiff_t b,
                                  ptrdiff_t u, V acc[][TILE_VECTORS]) {
    const ptrdiff_t units = FL_MIN(VL, q->H - u * VL), row = q->U * GROUP, c_row = q->U * VL;
    REAL *gates = GATES(q, t) + b * row + u * GROUP;
    const REAL *c_prev = C_SLOT(q, t + q->reverse) + b * c_row + u * VL;
    REAL *c_next = C_SLOT(q, t + 1 - q->reverse) + b * c_row + u * VL;
    REAL *h_next = H_SLOT(q, t + 1 - q->reverse) + b * q->h_row + u * VL;
    REAL *y = (REAL *)q->y + t * q->y_t + b * q->y_b + u * VL;
    FL_UNROLL for (int m = 0; m < mr; m++) {
        V c;
        const V h = FN(gates_forward)(acc[m], V_LOAD(c_prev + m * c_row), &c);
        V_STORE(c_next + m * c_row, c);
        V_STORE(h_next + m * q->h_row, h);
        if (units == VL)
            V_STORE(y + m * q->y_b, h);
        else
            V_STORE_PART(y + m * q->y_b, units, h);
        if (q->save)
            FL_UNROLL for (int g = 0; g < 4; g++) V_STORE(gates + m * row + g * VL, acc[m][g]);
    }
}

/* Step t. The gates hold the projection, or fused: x is multiplied here. Odd steps walk the panels
 * backward: what the last step left in L2 is used first. */
static void FN(step_forward)(const fl_lstm *q, ptrdiff_t t, int fused, ptrdiff_t b0, ptrdiff_t b1,
                             ptrdiff_t u0, ptrdiff_t u1) {
    const ptrdiff_t K = q->P, row = q->U * GROUP, tiles = FN(tile_count)(b1 - b0);
    const ptrdiff_t block = tiles == 1 ? K : K_BLOCK;
    const REAL *x = (const REAL *)q->x + t * q->B * q->I;
    const REAL *h_prev = H_SLOT(q, t + q->reverse);
    REAL *gates = GATES(q, t);
    for (ptrdiff_t j = u0; j < u1; j++) {
        const ptrdiff_t u = (t + q->reverse) % 2 ? u1 - 1 - (j - u0) : j;
        const REAL *x_panel = (const REAL *)q->x_panels + u * q->I * GROUP;
        const REAL *h_panel = (const REAL *)q->h_panels + u * K * GROUP;
        const REAL *bias = (const REAL *)q->b_panel + u * GROUP;
        for (ptrdiff_t k0 = 0; k0 < K; k0 += block) {
            const ptrdiff_t k_n = FL_MIN(block, K - k0);
            for (ptrdiff_t i = 0; i < tiles; i++) {
                const ptrdiff_t b = b0 + FN(tile_start)(b1 - b0, tiles, i);
                const ptrdiff_t b_end = b0 + FN(tile_start)(b1 - b0, tiles, i + 1);
                REAL *partial = gates + b * row + u * GROUP;
#define BODY(mr, nv)                                                                               \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    if (fused && k0 == 0) {                                                                        \
        FN(fill_tile)(mr, nv, bias, acc);                                                          \
        FN(accumulate)(mr, nv, q->I, x + b * q->I, q->I, 1, x_panel, acc);                         \
    } else {                                                                                       \
        FN(load_tile)(mr, nv, partial, row, VL, acc);                                              \
    }                                                                                              \
    FN(accumulate)(mr, nv, k_n, h_prev + b * q->h_row + k0, q->h_row, 1, h_panel + k0 * GROUP,     \
                   acc);                                                                           \
    if (k0 + k_n < K)                                                                              \
        FN(store_tile)(mr, nv, partial, row, VL, acc);                                             \
    else                                                                                           \
        FN(finish_forward)(mr, q, t, b, u, acc);
                FL_ROWS(BODY, b_end - b, TILE_VECTORS)
#undef BODY
            }
        }
    }
}

/* dgates of step t for one tile whose accumulators are dL/dh: nv vectors of units from panel u. */
FL_INLINE void FN(finish_backward)(const int mr, const int nv, const fl_lstm *q, ptrdiff_t t,
                                   ptrdiff_t b, ptrdiff_t u, V acc[][TILE_VECTORS]) {
    const ptrdiff_t row = q->U * GROUP, c_row = q->U * VL;
    FL_UNROLL for (int v = 0; v < nv; v++) {
        const ptrdiff_t at = (u + v) * VL, units = FL_MIN(VL, q->H - at);
        REAL *gates = GATES(q, t) + b * row + (u + v) * GROUP;
        const REAL *c_prev = C_SLOT(q, t + q->reverse) + b * c_row + at;
        const REAL *c_next = C_SLOT(q, t + 1 - q->reverse) + b * c_row + at;
        const REAL *dy = (const REAL *)q->dy + t * q->dy_t + b * q->dy_b + at;
        REAL *dc = (REAL *)q->dc + b * c_row + at;
        for (int m = 0; m < mr; m++) {
            V gate[TILE_VECTORS], dh = acc[m][v], dc_m = V_LOAD(dc + m * c_row);
            if (q->dy) /* y[t] is h[t] */
                dh = V_ADD(dh, units == VL ? V_LOAD(dy + m * q->dy_b)
                                           : V_LOAD_PART(dy + m * q->dy_b, units));
            FL_UNROLL for (int g = 0; g < 4; g++) gate[g] = V_LOAD(gates + m * row + g * VL);
            FN(gates_backward)(gate, V_LOAD(c_prev + m * c_row), V_LOAD(c_next + m * c_row), dh,
                               &dc_m);
            FL_UNROLL for (int g = 0; g < 4; g++) V_STORE(gates + m * row + g * VL, gate[g]);
            V_STORE(dc + m * c_row, dc_m);
        }
    }
}

/* dh (rows b0 <= b < b1) := W_hh^T dgates[t_from], or what dh holds where t_from < 0;
 * then dgates of step t from it, or where t < 0 only dh. By groups v0 <= v < v1 of four panels. */
static void FN(step_backward)(const fl_lstm *q, ptrdiff_t t_from, ptrdiff_t t, ptrdiff_t b0,
                              ptrdiff_t b1, ptrdiff_t v0, ptrdiff_t v1) {
    const ptrdiff_t row = q->U * GROUP, tiles = FN(tile_count)(b1 - b0);
    if (t_from >= 0 && !q->h_columns) {
        FN(product_unpacked)(q->H, b1 - b0, q->P, v0 * GROUP, FL_MIN(v1 * GROUP, q->P),
                             GATES(q, t_from) + b0 * row, row, q->w_hh,
                             (REAL *)q->dh + b0 * q->h_row, q->h_row);
        if (t < 0) return;
        t_from = -1;
    }
    /* The sum runs over the lanes that hold units: whole panels, then what is left of the last. */
    const ptrdiff_t lanes = t_from < 0 ? 0 : q->H % VL, K = t_from < 0 ? 0 : q->H / VL * GROUP;
    const ptrdiff_t block = tiles == 1 ? FL_MAX(K, 1) : K_BLOCK;
    const REAL *dgates = t_from < 0 ? NULL : GATES(q, t_from);
    for (ptrdiff_t j = v0; j < v1; j++) {
        const ptrdiff_t v = t % 2 ? v1 - 1 - (j - v0) : j, u = v * TILE_VECTORS;
        const ptrdiff_t vectors = FL_MIN(TILE_VECTORS, q->U - u);
        const REAL *columns = (const REAL *)q->h_columns + v * row * GROUP;
        ptrdiff_t k0 = 0;
        do {
            const ptrdiff_t k_n = FL_MIN(block, K - k0);
            for (ptrdiff_t i = 0; i < tiles; i++) {
                const ptrdiff_t b = b0 + FN(tile_start)(b1 - b0, tiles, i);
                const ptrdiff_t b_end = b0 + FN(tile_start)(b1 - b0, tiles, i + 1);
                REAL *dh = (REAL *)q->dh + b * q->h_row + u * VL;
#define BODY(mr, nv)                                                                               \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    if (dgates && k0 == 0)                                                                         \
        FN(fill_tile)(mr, nv, NULL, acc);                                                          \
    else                                                                                           \
        FN(load_tile)(mr, nv, dh, q->h_row, VL, acc);                                              \
    FN(accumulate)(mr, nv, k_n, dgates + b * row + k0, row, 1, columns + k0 * nv * VL, acc);       \
    if (k0 + k_n == K && lanes)                                                                    \
        for (ptrdiff_t k = K; k < row; k += VL)                                                    \
            FN(accumulate)(mr, nv, lanes, dgates + b * row + k, row, 1, columns + k * nv * VL,     \
                           acc);                                                                   \
    if (k0 + k_n < K || t < 0)                                                                     \
        FN(store_tile)(mr, nv, dh, q->h_row, VL, acc);                                             \
    else                                                                                           \
        FN(finish_backward)(mr, nv, q, t, b, u, acc);
                FL_TILE(BODY, b_end - b, vectors)
#undef BODY
            }
            k0 += k_n;
        } while (k0 < K);
    }
}

/* dx where I is too small to fill a vector: for each input one sum over the gates in vectors of
 * gates, of which x_panels holds the weights. */
#undef FEW_INPUTS
#define FEW_INPUTS 4
static void FN(input_gradient_of_few)(const fl_lstm *q, ptrdiff_t r0, ptrdiff_t r1) {
    const ptrdiff_t row = q->U * GROUP, I = q->I;
    for (ptrdiff_t r = r0; r < r1; r++)
        for (ptrdiff_t i = 0; i < I; i++) {
            const REAL *dgates = (const REAL *)q->gates + r * row;
            const REAL *weights = (const REAL *)q->x_panels + i * GROUP;
            V sum[TILE_VECTORS];
            REAL lanes[VL], total = 0;
            FL_UNROLL for (int g = 0; g < 4; g++) sum[g] = V_SET1((REAL)0);
            for (ptrdiff_t u = 0; u < q->U; u++) {
                FL_UNROLL for (int g = 0; g < 4; g++) {
                    sum[g] = V_FMA(V_LOAD(dgates + u * GROUP + g * VL),
                                   V_LOAD(weights + u * I * GROUP + g * VL), sum[g]);
                }
            }
            V_STORE(lanes, V_ADD(V_ADD(sum[0], sum[1]), V_ADD(sum[2], sum[3])));
            for (int l = 0; l < VL; l++) total += lanes[l];
            ((REAL *)q->dx)[r * I + i] = total;
        }
}

/* dx[t][b] := W_ih^T dgates[t][b] for the rows r0 <= r < r1 of all (T * B) */
static void FN(input_gradient)(const fl_lstm *q, ptrdiff_t r0, ptrdiff_t r1) {
    const ptrdiff_t row = q->U * GROUP;
    const REAL *columns = q->x_columns;
    if (q->I <= FEW_INPUTS) {
        FN(input_gradient_of_few)(q, r0, r1);
        return;
    }
    if (!columns) {
        FN(product_unpacked)(q->H, r1 - r0, q->I, 0, q->I, (const REAL *)q->gates + r0 * row, row,
                             q->w_ih, (REAL *)q->dx + r0 * q->I, q->I);
        return;
    }
    for (ptrdiff_t k = 0; k < q->I; k += GROUP) {
        const ptrdiff_t n = FL_MIN(GROUP, q->I - k);
        FN(product)(r1 - r0, n, row, (const REAL *)q->gates + r0 * row, row, 1, columns, NULL,
                    (REAL *)q->dx + r0 * q->I + k, q->I);
        columns += row * ((n + VL - 1) / VL) * VL;
    }
}

/* db of panels u0 <= u < u1 := the sum of n rows of dgates. */
static void FN(bias_gradient)(const fl_lstm *q, ptrdiff_t n, ptrdiff_t u0, ptrdiff_t u1) {
    for (ptrdiff_t u = u0; q->db && u < u1; u++)
        for (ptrdiff_t g = 0; g < 4; g++) {
            const REAL *dgates = (const REAL *)q->gates + (u * 4 + g) * VL;
            V sum = V_SET1((REAL)0);
            for (ptrdiff_t k = 0; k < n; k++) sum = V_ADD(sum, V_LOAD(dgates + k * q->U * GROUP));
            V_STORE_PART((REAL *)q->db + g * q->H + u * VL, FL_MIN(VL, q->H - u * VL), sum);
        }
}

/* Rows of dgates that one pass of weight_gradient takes. */
enum { FN(gradient_block) = 512 };

/* Scratch of weight_gradient, in numbers, for u1 - u0 panels. */
static ptrdiff_t FN(gradient_scratch)(const fl_lstm *q, ptrdiff_t u0, ptrdiff_t u1) {
    const ptrdiff_t kept = q->T * q->B <= FN(gradient_block) ? 1 : u1 - u0;
    return FN(gradient_block) * (GROUP + q->I + q->P) + kept * GROUP * (q->I + q->P);
}

/* slice (n,4,VL) := panel u of n rows of dgates; db of the panel += their sum, from 0 if first. */
static void FN(take_panel)(const fl_lstm *q, ptrdiff_t u, ptrdiff_t n0, ptrdiff_t n, REAL *slice) {
    const ptrdiff_t row = q->U * GROUP, units = FL_MIN(VL, q->H - u * VL);
    const REAL *dgates = (const REAL *)q->gates + n0 * row + u * GROUP;
    V sum[TILE_VECTORS];
    FL_UNROLL for (int g = 0; g < 4; g++) sum[g] = V_SET1((REAL)0);
    for (ptrdiff_t k = 0; k < n; k++) {
        FL_UNROLL for (int g = 0; g < 4; g++) {
            const V d = V_LOAD(dgates + k * row + g * VL);
            sum[g] = V_ADD(sum[g], d);
            V_STORE(slice + (k * 4 + g) * VL, d);
        }
    }
    for (int g = 0; q->db && g < 4; g++) {
        REAL *db = (REAL *)q->db + g * q->H + u * VL;
        if (n0 > 0) sum[g] = V_ADD(V_LOAD_PART(db, units), sum[g]);
        V_STORE_PART(db, units, sum[g]);
    }
}

/* dw_ih, dw_hh, db of the units of panels u0 <= u < u1: dgates^T [x | h[t-1]] over all steps and
 * rows, in the order of the rows. The sums are kept transposed, (K,4,VL) a panel, and put in order
 * after the last block, while they are in L2. */
static void FN(weight_gradient)(const fl_lstm *q, ptrdiff_t u0, ptrdiff_t u1, void *scratch) {
    const ptrdiff_t N = q->T * q->B, row = q->U * GROUP, I = q->I, P = q->P;
    const ptrdiff_t block = FN(gradient_block);
    const REAL *h_prev = (const REAL *)q->h + q->reverse * q->B * q->h_row;
    if (!q->h_columns) {
        FN(outer_product)(q->H, N, I, u0, u1, q->gates, row, q->x, I, q->dw_ih);
        FN(outer_product)(q->H, N, P, u0, u1, q->gates, row, h_prev, q->h_row, q->dw_hh);
        FN(bias_gradient)(q, N, u0, u1);
        return;
    }
    REAL *slice = scratch, *x_rows = slice + block * GROUP, *h_rows = x_rows + block * I;
    REAL *sums = h_rows + block * P;
    for (ptrdiff_t n0 = 0; n0 < N; n0 += block) {
        const ptrdiff_t n = FL_MIN(block, N - n0);
        FN(pack_rows)(I, n, (const REAL *)q->x + n0 * I, I, x_rows);
        FN(pack_rows)(P, n, h_prev + n0 * q->h_row, q->h_row, h_rows);
        for (ptrdiff_t u = u0; u < u1; u++) {
            REAL *dw_x = sums + (N <= block ? 0 : (u - u0) * GROUP * (I + P));
            REAL *dw_h = dw_x + GROUP * I;
            FN(take_panel)(q, u, n0, n, slice);
            FN(product_transposed)(I, n, x_rows, slice, n0 == 0, dw_x, GROUP);
            FN(product_transposed)(P, n, h_rows, slice, n0 == 0, dw_h, GROUP);
            if (n0 + n == N) {
                FN(unpack_gradient)(q->H, I, u, dw_x, q->dw_ih);
                FN(unpack_gradient)(q->H, P, u, dw_h, q->dw_hh);
            }
        }
    }
}
