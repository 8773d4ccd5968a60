/* SPDX-License-Identifier: MIT */
/* The gradients after the loop backward, from the dgates of all steps and rows.
 *
 *     dw_ih = dgates^T x     dw_hh = dgates^T h[t-1]     db = sum of dgates      dx = dgates W_ih
 *     dw_proj = dh^T m       dp_i = sum of da_i c[t-1]    dp_f likewise    dp_o = sum of da_o c[t]
 *
 * Every sum runs over the rows in the order in which the loop backward came to them, one chain of
 * additions for each number: so it can go on where the sum over later steps has ended (q->add), and
 * its bits do not depend on threads or on how time is cut. */

/* The products run on the tiles of the steps and not in BLAS: they take the panels of dgates as
 * they are, add db on the way, and keep the order of the terms. Beside SciPy's OpenBLAS on plain
 * matrices, one thread, dw and dx take of its time, float32 / float64 (Zen 3, 2026-11):
 *     50,64,512,512   0.96, 0.97 / 0.90, 0.95        50,16,128,128   0.93, 0.91 / 0.91, 0.88
 *     50,64,256,256   0.94, 0.93 / 0.92, 0.93        100,1,64,128    0.89, 0.72 / 0.94, 0.73 */

/* The weights of input i for gate g of the units of panel u: packed, or as they are. */
FL_INLINE V FN(weights_of_input)(const int packed, const fl_lstm *q, ptrdiff_t u, ptrdiff_t g,
                                 ptrdiff_t i) {
    if (packed) return V_LOAD((const REAL *)q->panels + u * PANEL(q) + i * GROUP + g * VL);
    REAL lanes[VL] = {0};
    for (ptrdiff_t l = 0; l < FL_MIN(VL, q->H - u * VL); l++)
        lanes[l] = ((const REAL *)q->w_ih)[(g * q->H + u * VL + l) * q->I + i];
    return V_LOAD(lanes);
}

/* dx where I is too small to fill a vector: for each input one sum over the gates in vectors of
 * gates. */
#undef FEW_INPUTS
#define FEW_INPUTS 4
FL_INLINE void FN(input_gradient_of_few)(const int packed, const fl_lstm *q, ptrdiff_t r0,
                                         ptrdiff_t r1) {
    const ptrdiff_t row = q->U * GROUP, I = q->I;
    for (ptrdiff_t r = r0; r < r1; r++)
        for (ptrdiff_t i = 0; i < I; i++) {
            const REAL *dgates = (const REAL *)q->gates + r * row;
            V sum[TILE_VECTORS];
            REAL lanes[VL], total = 0;
            FL_UNROLL for (int g = 0; g < 4; g++) sum[g] = V_SET1((REAL)0);
            for (ptrdiff_t u = 0; u < q->U; u++) {
                FL_UNROLL for (int g = 0; g < 4; g++) {
                    sum[g] = V_FMA(V_LOAD(dgates + u * GROUP + g * VL),
                                   FN(weights_of_input)(packed, q, u, g, i), sum[g]);
                }
            }
            V_STORE(lanes, V_ADD(V_ADD(sum[0], sum[1]), V_ADD(sum[2], sum[3])));
            for (int l = 0; l < VL; l++) total += lanes[l];
            ((REAL *)q->dx)[r * I + i] = total;
        }
}

/* Rows of n numbers that stay in L2 while all weights pass: 256 KiB, or six tiles. (2026-11, 2 MiB
 * of L2, rows of 8 KiB, parts of an FMA loop's speed: 36 rows 0.93, 64 0.89, 128 0.80, 256 0.68.)
 */
#undef L2_ROWS
#define L2_ROWS(n) FL_MAX(6 * TILE_ROWS, (1 << 18) / ((n) * (ptrdiff_t)sizeof(REAL)))

/* dx[t][b] := W_ih^T dgates[t][b] for the rows r0 <= r < r1 of all (T * B) */
static void FN(input_gradient)(const fl_lstm *q, ptrdiff_t r0, ptrdiff_t r1) {
    const ptrdiff_t row = q->U * GROUP;
    const REAL *columns = q->x_columns;
    if (q->I <= FEW_INPUTS) { /* in this order also where the weights are not packed */
        if (q->panels)
            FN(input_gradient_of_few)(1, q, r0, r1);
        else
            FN(input_gradient_of_few)(0, q, r0, r1);
        return;
    }
    if (!columns) {
        FN(product_unpacked)(q->H, r1 - r0, q->I, 0, q->I, (const REAL *)q->gates + r0 * row, row,
                             q->w_ih, (REAL *)q->dx + r0 * q->I, q->I);
        return;
    }
    const ptrdiff_t block = L2_ROWS(row);
    for (ptrdiff_t r = r0; r < r1; r += block, columns = q->x_columns)
        for (ptrdiff_t k = 0; k < q->I; k += GROUP) {
            const ptrdiff_t n = FL_MIN(GROUP, q->I - k);
            FN(product)(FL_MIN(block, r1 - r), n, row, (const REAL *)q->gates + r * row, row,
                        columns, NULL, NULL, (REAL *)q->dx + r * q->I + k, q->I);
            columns += row * ((n + VL - 1) / VL) * VL;
        }
}

/* Where the n-th term of the sums over all rows stands: the loop backward began with the last step,
 * reversed with the first. */
typedef struct {
    ptrdiff_t first, step;
} FN(order);

static inline FN(order) FN(order_of)(const fl_lstm *q) {
    if (q->reverse) return (FN(order)){0, 1};
    return (FN(order)){q->T * q->B - 1, -1};
}

/* The sums so far of a vector of units, which the next terms are added to. */
static inline V FN(so_far)(const fl_lstm *q, ptrdiff_t n0, const REAL *sum, ptrdiff_t units) {
    return n0 > 0 || q->add ? V_LOAD_PART(sum, units) : V_SET1((REAL)0);
}

/* slice (n,4,VL) := panel u of the terms n0, n0 + 1, ... of dgates, or NULL; db += their sum. */
static void FN(take_panel)(const fl_lstm *q, ptrdiff_t u, ptrdiff_t n0, ptrdiff_t n, REAL *slice) {
    const ptrdiff_t row = q->U * GROUP, units = FL_MIN(VL, q->H - u * VL);
    const FN(order) order = FN(order_of)(q);
    const REAL *dgates = (const REAL *)q->gates + (order.first + order.step * n0) * row + u * GROUP;
    REAL *db = q->db ? (REAL *)q->db + u * VL : NULL;
    V sum[TILE_VECTORS];
    FL_UNROLL for (int g = 0; g < 4; g++) {
        sum[g] = db ? FN(so_far)(q, n0, db + g * q->H, units) : V_SET1((REAL)0);
    }
    for (ptrdiff_t k = 0; k < n; k++) {
        FL_UNROLL for (int g = 0; g < 4; g++) {
            const V d = V_LOAD(dgates + k * order.step * row + g * VL);
            sum[g] = V_ADD(sum[g], d);
            if (slice) V_STORE(slice + (k * 4 + g) * VL, d);
        }
    }
    for (int g = 0; db && g < 4; g++) V_STORE_PART(db + g * q->H, units, sum[g]);
}

/* dw_peephole of panels u0 <= u < u1 and the gates that see c in its slot: i f c[t-1], o c[t] */
static void FN(peephole_gradient)(const fl_lstm *q, int gates, ptrdiff_t u0, ptrdiff_t u1) {
    static const int bits[] = {FL_PEEPHOLE_I, FL_PEEPHOLE_F, FL_PEEPHOLE_O}, at[] = {0, 1, 3};
    const ptrdiff_t N = q->T * q->B, row = q->U * GROUP, c_row = q->U * VL;
    const FN(order) order = FN(order_of)(q);
    for (ptrdiff_t u = u0; q->dw_peephole && u < u1; u++)
        for (int k = 0; k < 3; k++) {
            if (!(gates & bits[k])) continue;
            const ptrdiff_t slot = k == 2 ? 1 - q->reverse : q->reverse;
            const ptrdiff_t units = FL_MIN(VL, q->H - u * VL);
            const REAL *da = (const REAL *)q->gates + order.first * row + u * GROUP + at[k] * VL;
            const REAL *c = (const REAL *)q->c + (slot * q->B + order.first) * c_row + u * VL;
            REAL *dp = (REAL *)q->dw_peephole + k * q->H + u * VL;
            V sum = FN(so_far)(q, 0, dp, units);
            for (ptrdiff_t n = 0; n < N && (q->peepholes & bits[k]); n++)
                sum = V_FMA(V_LOAD(da + n * order.step * row), V_LOAD(c + n * order.step * c_row),
                            sum);
            V_STORE_PART(dp, units, sum);
        }
}

/* Terms that one pass over all panels takes. */
enum { FN(gradient_block) = 512 };

/* Scratch of weight_gradient, in numbers, for u1 - u0 panels. */
static ptrdiff_t FN(gradient_scratch)(const fl_lstm *q, ptrdiff_t u0, ptrdiff_t u1) {
    const ptrdiff_t kept = q->T * q->B <= FN(gradient_block) ? 1 : u1 - u0;
    const ptrdiff_t sums = kept * GROUP * (q->I + q->P) + (q->w_proj ? GROUP * q->P : 0);
    return FN(gradient_block) * (GROUP + q->I + q->P) + sums;
}

/* dw_proj (P,H) for the units of the groups of four panels that begin in u0 <= u < u1, from the
 * terms begin <= n < end. */
static void FN(projection_gradient)(const fl_lstm *q, ptrdiff_t u0, ptrdiff_t u1, ptrdiff_t begin,
                                    ptrdiff_t end, REAL *slice, REAL *rows, REAL *sums) {
    const ptrdiff_t c_row = q->U * VL, block = FN(gradient_block), P = q->P;
    const FN(order) order = FN(order_of)(q);
    for (ptrdiff_t u = (u0 + 3) / 4 * 4; u < u1; u += TILE_VECTORS) {
        const ptrdiff_t lanes = FL_MIN(GROUP, c_row - u * VL);
        const ptrdiff_t units = FL_MIN(GROUP, q->H - u * VL);
        REAL *dw = (REAL *)q->dw_proj + u * VL;
        memset(sums, 0, (size_t)(P * GROUP) * sizeof(REAL));
        for (ptrdiff_t p = 0; (begin > 0 || q->add) && p < P; p++)
            memcpy(sums + p * GROUP, dw + p * q->H, (size_t)units * sizeof(REAL));
        for (ptrdiff_t n0 = begin; n0 < end; n0 += block) {
            const ptrdiff_t n = FL_MIN(block, end - n0), at = order.first + order.step * n0;
            FN(pack_rows)(P, n, (const REAL *)q->dh_all + at * q->h_row, order.step * q->h_row,
                          rows);
            memset(slice, 0, (size_t)(n * GROUP) * sizeof(REAL));
            for (ptrdiff_t k = 0; k < n; k++)
                memcpy(slice + k * GROUP,
                       (const REAL *)q->m + (at + k * order.step) * c_row + u * VL,
                       (size_t)lanes * sizeof(REAL));
            FN(product_transposed)(P, n, rows, slice, 0, sums, GROUP);
        }
        for (ptrdiff_t p = 0; p < P; p++)
            memcpy(dw + p * q->H, sums + p * GROUP, (size_t)units * sizeof(REAL));
    }
}

/* dw_ih, dw_hh, db, dw_proj of the units of panels u0 <= u < u1. The sums of dw_ih and dw_hh are
 * kept transposed, (K,4,VL) a panel, and put in order after the last block, while they are in L2.
 *
 * A call adds the terms begin <= n < end, whole blocks but for the last one, so that the caller can
 * look for signals in between; what is kept waits in scratch. Few rows come in one call. */
static void FN(weight_gradient)(const fl_lstm *q, ptrdiff_t u0, ptrdiff_t u1, ptrdiff_t begin,
                                ptrdiff_t end, void *scratch) {
    const ptrdiff_t N = q->T * q->B, row = q->U * GROUP, I = q->I, P = q->P, H = q->H;
    const ptrdiff_t block = FN(gradient_block);
    const FN(order) order = FN(order_of)(q);
    const REAL *h_prev = (const REAL *)q->h + (q->reverse * q->B + order.first) * q->h_row;
    const REAL *x = (const REAL *)q->x + order.first * I;
    if (!q->h_columns) { /* few rows */
        const REAL *dgates = (const REAL *)q->gates + order.first * row;
        FN(outer_product)(H, N, I, u0, u1, dgates, order.step * row, x, order.step * I, q->dw_ih);
        FN(outer_product)(H, N, P, u0, u1, dgates, order.step * row, h_prev, order.step * q->h_row,
                          q->dw_hh);
        for (ptrdiff_t u = u0; q->db && u < u1; u++) FN(take_panel)(q, u, 0, N, NULL);
        return;
    }
    REAL *slice = scratch, *x_rows = slice + block * GROUP, *h_rows = x_rows + block * I;
    REAL *sums = h_rows + block * P;
    for (ptrdiff_t n0 = begin; n0 < end; n0 += block) {
        const ptrdiff_t n = FL_MIN(block, N - n0), at = order.step * n0;
        FN(pack_rows)(I, n, x + at * I, order.step * I, x_rows);
        FN(pack_rows)(P, n, h_prev + at * q->h_row, order.step * q->h_row, h_rows);
        for (ptrdiff_t u = u0; u < u1; u++) {
            REAL *dw_x = sums + (N <= block ? 0 : (u - u0) * GROUP * (I + P));
            REAL *dw_h = dw_x + GROUP * I;
            if (n0 == 0 && q->add) {
                FN(pack_panel)(H, I, u, q->dw_ih, dw_x);
                FN(pack_panel)(H, P, u, q->dw_hh, dw_h);
            }
            FN(take_panel)(q, u, n0, n, slice);
            FN(product_transposed)(I, n, x_rows, slice, n0 == 0 && !q->add, dw_x, GROUP);
            FN(product_transposed)(P, n, h_rows, slice, n0 == 0 && !q->add, dw_h, GROUP);
            if (n0 + n == N) {
                FN(unpack_gradient)(H, I, u, dw_x, q->dw_ih);
                FN(unpack_gradient)(H, P, u, dw_h, q->dw_hh);
            }
        }
    }
    if (q->w_proj)
        FN(projection_gradient)(q, u0, u1, begin, end, slice, h_rows,
                                sums + (N <= block ? 1 : u1 - u0) * GROUP * (I + P));
}
