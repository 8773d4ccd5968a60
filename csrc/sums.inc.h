/* SPDX-License-Identifier: MIT */
/* The sums of a step for few rows: all of them before the gate math, not beside it.
 *
 *     forward    before + W_ih x + W_hh h       of n panels of units
 *     backward   W_hh^T dgates                  of n groups of four panels
 *
 * One row has a panel's four chains of FMAs, which take as long as reading the panel from L2 does,
 * and neither hides the other: so it takes n <= TILE_ROWS panels at once, in a function that has
 * all registers (FL_NOINLINE; n is a constant, for each of which compilers make their own). */

/* Numbers in a panel of weights */
#undef PANEL
#define PANEL(q) (((q)->I + (q)->P) * GROUP)

/* acc := b + W_ih x + W_hh h of mr rows for panel u, on weights as they are: for a single step,
 * before which packing, or looking whether the packed weights still hold, would take longer. */
FL_INLINE void FN(sum_unpacked)(const int mr, const fl_lstm *q, ptrdiff_t u, const REAL *x,
                                const REAL *h, V acc[][TILE_VECTORS]) {
    const ptrdiff_t I = q->I, P = q->P, H = q->H, units = FL_MIN(VL, H - u * VL);
    REAL bias[GROUP] = {0};
    for (ptrdiff_t g = 0; q->b && g < 4; g++)
        memcpy(bias + g * VL, (const REAL *)q->b + g * H + u * VL, (size_t)units * sizeof(REAL));
    FN(fill_tile)(mr, TILE_VECTORS, bias, acc);
    FN(accumulate_unpacked)(mr, units, I, x, I, (const REAL *)q->w_ih + u * VL * I, H * I, acc);
    FN(accumulate_unpacked)(mr, units, P, h, q->h_row, (const REAL *)q->w_hh + u * VL * P, H * P,
                            acc);
}

/* The same for one row, compiled once for all its callers */
static FL_NOINLINE void FN(sum_row_unpacked)(const fl_lstm *q, ptrdiff_t u, const REAL *x,
                                             const REAL *h, V acc[1][TILE_VECTORS]) {
    FN(sum_unpacked)(1, q, u, x, h, acc);
}

/* sums[m] := before + W_ih x + W_hh h of one row for n panels from u, the first I numbers of x. */
static FL_NOINLINE void FN(sum_row)(const int n, const fl_lstm *q, ptrdiff_t u, ptrdiff_t I,
                                    const REAL *x, const REAL *h, const REAL *before,
                                    V sums[][TILE_VECTORS]) {
    if (!q->panels) {
        for (int k = 0; k < n; k++) FN(sum_row_unpacked)(q, u + k, x, h, sums + k);
        return;
    }
    const ptrdiff_t apart = PANEL(q);
    const REAL *panels = (const REAL *)q->panels + u * apart;
#define BODY(mr, nv)                                                                               \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    FN(load_tile)(mr, nv, before + u * GROUP, GROUP, VL, acc);                                     \
    FN(accumulate_along)(mr, nv, I, x, panels, apart, acc);                                        \
    FN(accumulate_along)(mr, nv, q->P, h, panels + q->I * GROUP, apart, acc);                      \
    FL_UNROLL for (int m = 0; m < mr; m++) {                                                       \
        FL_UNROLL for (int v = 0; v < nv; v++) sums[m][v] = acc[m][v];                             \
    }
    FL_ROWS(BODY, n, TILE_VECTORS)
#undef BODY
}

/* sums[m] := W_hh^T dgates for n groups of four panels from group v, of one row. */
static FL_NOINLINE void FN(sum_row_backward)(const int n, const fl_lstm *q, ptrdiff_t v,
                                             const REAL *dgates, V sums[][TILE_VECTORS]) {
    const ptrdiff_t apart = q->U * GROUP * GROUP, whole = q->H / VL * GROUP, lanes = q->H % VL;
    const REAL *columns = (const REAL *)q->h_columns + v * apart;
#define BODY(mr, nv)                                                                               \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    FN(fill_tile)(mr, nv, NULL, acc);                                                              \
    FN(accumulate_along)(mr, nv, whole, dgates, columns, apart, acc);                              \
    for (ptrdiff_t k = whole; k < q->U * GROUP; k += VL)                                           \
        FN(accumulate_along)(mr, nv, lanes, dgates + k, columns + k * nv * VL, apart, acc);        \
    FL_UNROLL for (int m = 0; m < mr; m++) {                                                       \
        FL_UNROLL for (int j = 0; j < nv; j++) sums[m][j] = acc[m][j];                             \
    }
    FL_ROWS(BODY, n, TILE_VECTORS)
#undef BODY
}
