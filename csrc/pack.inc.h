/* SPDX-License-Identifier: MIT */
/* Weights in the order in which the kernels read them, and their gradients back.
 *
 *     w (4H,K), rows in the order i f g o       panels[u][k][gate][lane]: what gate `gate` of unit
 *                                               u * VL + lane takes from input k
 *     columns[v][u][gate][lane][nv][VL]:        the transposed: what h or x number
 *                                               v * GROUP + ... takes back from that gate
 *
 * Lanes beyond H hold zeros. K is H for the recurrent weights, I for the input weights. */

enum { FN(pack_block) = 16 }; /* k in a block: rows of w are read a cache line at a time */

/* dst := panels of w (4H,K): U * K * GROUP numbers */
static void FN(pack_panels)(ptrdiff_t H, ptrdiff_t K, const void *w_, void *dst_) {
    const REAL *w = w_;
    for (ptrdiff_t u = 0; u < (H + VL - 1) / VL; u++) {
        REAL *panel = (REAL *)dst_ + u * K * GROUP;
        const ptrdiff_t lanes = FL_MIN(VL, H - u * VL);
        for (ptrdiff_t k0 = 0; k0 < K; k0 += FN(pack_block)) {
            const ptrdiff_t k1 = FL_MIN(K, k0 + FN(pack_block));
            for (ptrdiff_t g = 0; g < 4; g++)
                for (ptrdiff_t l = 0; l < VL; l++) {
                    const REAL *row = w + (g * H + u * VL + FL_MIN(l, lanes - 1)) * K;
                    for (ptrdiff_t k = k0; k < k1; k++)
                        panel[k * GROUP + g * VL + l] = l < lanes ? row[k] : (REAL)0;
                }
        }
    }
}

/* The rows of the units of panels u0 <= u < u0 + width in dw (4H,K) := dw_t (K,width,4,VL) */
static void FN(unpack_gradient)(ptrdiff_t H, ptrdiff_t K, ptrdiff_t width, ptrdiff_t u0,
                                const REAL *dw_t, REAL *dw) {
    for (ptrdiff_t u = 0; u < width; u++) {
        const ptrdiff_t unit = (u0 + u) * VL, lanes = FL_MIN(VL, H - unit);
        for (ptrdiff_t k0 = 0; k0 < K; k0 += FN(pack_block)) {
            const ptrdiff_t k1 = FL_MIN(K, k0 + FN(pack_block));
            for (ptrdiff_t g = 0; g < 4; g++)
                for (ptrdiff_t l = 0; l < lanes; l++) {
                    REAL *row = dw + (g * H + unit + l) * K;
                    for (ptrdiff_t k = k0; k < k1; k++)
                        row[k] = dw_t[(k * width + u) * GROUP + g * VL + l];
                }
        }
    }
}

/* dst := columns of w (4H,K): groups of up to four vectors of its columns, for all gates in the
 * order of a row of gates: U * GROUP * (K rounded up to whole vectors) numbers */
static void FN(pack_columns)(ptrdiff_t H, ptrdiff_t K, const void *w_, void *dst_) {
    const REAL *w = w_;
    const ptrdiff_t U = (H + VL - 1) / VL;
    REAL *to = dst_;
    for (ptrdiff_t k0 = 0; k0 < K; k0 += GROUP) {
        const ptrdiff_t n = FL_MIN(GROUP, K - k0), nv = (n + VL - 1) / VL;
        for (ptrdiff_t u = 0; u < U; u++)
            for (ptrdiff_t g = 0; g < 4; g++)
                for (ptrdiff_t l = 0; l < VL; l++, to += nv * VL) {
                    const int padding = u * VL + l >= H;
                    const REAL *row = w + (g * H + u * VL + l) * K + k0;
                    for (ptrdiff_t v = 0; v < nv; v++) {
                        const ptrdiff_t rest = FL_MIN(VL, n - v * VL);
                        const V value = padding      ? V_SET1((REAL)0)
                                        : rest == VL ? V_LOAD(row + v * VL)
                                                     : V_LOAD_PART(row + v * VL, rest);
                        V_STORE(to + v * VL, value);
                    }
                }
    }
}

/* dst[u][gate][lane] := b (4H), or zeros where b is NULL */
static void FN(pack_bias)(ptrdiff_t H, const void *b_, void *dst_) {
    const REAL *b = b_;
    REAL *dst = dst_;
    const ptrdiff_t U = (H + VL - 1) / VL;
    for (ptrdiff_t u = 0; u < U; u++)
        for (ptrdiff_t g = 0; g < 4; g++)
            for (ptrdiff_t l = 0; l < VL; l++)
                *dst++ = b && u * VL + l < H ? b[g * H + u * VL + l] : (REAL)0;
}

/* dst := K rows of M numbers, in tiles of tile_start: dst[tile][k][row of the tile], so that
 * product_transposed reads it from one end to the other */
static void FN(pack_rows)(ptrdiff_t M, ptrdiff_t K, const REAL *src, ptrdiff_t src_row, REAL *dst) {
    const ptrdiff_t tiles = FN(tile_count)(M);
    for (ptrdiff_t i = 0; i < tiles; i++) {
        const ptrdiff_t r = FN(tile_start)(M, tiles, i), mr = FN(tile_start)(M, tiles, i + 1) - r;
        REAL *to = dst + r * K;
        for (ptrdiff_t k = 0; k < K; k++)
            for (ptrdiff_t m = 0; m < mr; m++) *to++ = src[k * src_row + r + m];
    }
}
