/* SPDX-License-Identifier: MIT */
/* Weights in the order in which the kernels read them, and their gradients back.
 *
 *     w (4H,K), rows in the order i f g o       panels[u][k][gate][lane]: what gate `gate` of unit
 *                                               u * VL + lane takes from input k
 *     columns[v][u][gate][lane][nv][VL]:        the transposed: what h or x number
 *                                               v * GROUP + ... takes back from that gate
 *
 * Lanes beyond H hold zeros. K is H for the recurrent weights, I for the input weights. */

/* Numbers in a piece of 16 bytes; piece l of the gathered rows[j] comes from row l * PIECE + j. */
#undef PIECE
#define PIECE ((int)(16 / sizeof(REAL)))
#if defined(ISA_AVX512) && REAL_BITS == 32
/* 4 numbers each from p, p + step, p + 2 step, p + 3 step */
FL_INLINE V FN(gather_pieces)(const REAL *p, ptrdiff_t step) {
    V a = _mm512_castps128_ps512(_mm_loadu_ps(p));
    a = _mm512_mask_broadcast_f32x4(a, 0x00f0, _mm_loadu_ps(p + step));
    a = _mm512_mask_broadcast_f32x4(a, 0x0f00, _mm_loadu_ps(p + 2 * step));
    return _mm512_mask_broadcast_f32x4(a, 0xf000, _mm_loadu_ps(p + 3 * step));
}

/* The 4 x 4 numbers in each quarter of four vectors, transposed */
FL_INLINE void FN(transpose_pieces)(V a[4]) {
    const V l0 = _mm512_unpacklo_ps(a[0], a[1]), h0 = _mm512_unpackhi_ps(a[0], a[1]);
    const V l1 = _mm512_unpacklo_ps(a[2], a[3]), h1 = _mm512_unpackhi_ps(a[2], a[3]);
    a[0] = _mm512_shuffle_ps(l0, l1, 0x44), a[1] = _mm512_shuffle_ps(l0, l1, 0xee);
    a[2] = _mm512_shuffle_ps(h0, h1, 0x44), a[3] = _mm512_shuffle_ps(h0, h1, 0xee);
}
#elif defined(ISA_AVX512)
FL_INLINE V FN(gather_pieces)(const REAL *p, ptrdiff_t step) {
    V a = _mm512_castpd128_pd512(_mm_loadu_pd(p));
    a = _mm512_mask_broadcast_f64x2(a, 0x0c, _mm_loadu_pd(p + step));
    a = _mm512_mask_broadcast_f64x2(a, 0x30, _mm_loadu_pd(p + 2 * step));
    return _mm512_mask_broadcast_f64x2(a, 0xc0, _mm_loadu_pd(p + 3 * step));
}

FL_INLINE void FN(transpose_pieces)(V a[2]) {
    const V low = _mm512_unpacklo_pd(a[0], a[1]);
    a[1] = _mm512_unpackhi_pd(a[0], a[1]), a[0] = low;
}
#elif defined(ISA_AVX2) && REAL_BITS == 32
/* 4 numbers each from p, p + step */
FL_INLINE V FN(gather_pieces)(const REAL *p, ptrdiff_t step) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + step), 1);
}

FL_INLINE void FN(transpose_pieces)(V a[4]) {
    const V l0 = _mm256_unpacklo_ps(a[0], a[1]), h0 = _mm256_unpackhi_ps(a[0], a[1]);
    const V l1 = _mm256_unpacklo_ps(a[2], a[3]), h1 = _mm256_unpackhi_ps(a[2], a[3]);
    a[0] = _mm256_shuffle_ps(l0, l1, 0x44), a[1] = _mm256_shuffle_ps(l0, l1, 0xee);
    a[2] = _mm256_shuffle_ps(h0, h1, 0x44), a[3] = _mm256_shuffle_ps(h0, h1, 0xee);
}
#elif defined(ISA_AVX2)
FL_INLINE V FN(gather_pieces)(const REAL *p, ptrdiff_t step) {
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)), _mm_loadu_pd(p + step), 1);
}

FL_INLINE void FN(transpose_pieces)(V a[2]) {
    const V low = _mm256_unpacklo_pd(a[0], a[1]);
    a[1] = _mm256_unpackhi_pd(a[0], a[1]), a[0] = low;
}
#else
/* The transposed of VL rows of VL numbers, in registers: log2(VL) rounds in which the vectors i and
 * i + s change halves of 2s lanes. Compilers without __builtin_shuffle go through memory. */
FL_INLINE void FN(transpose)(V rows[VL]) {
#    if defined(__GNUC__) && !defined(__clang__)
    typedef LANE_INT VI __attribute__((vector_size(sizeof(V))));
    FL_UNROLL_ALL for (int s = 1; s < VL; s *= 2) {
        VI low, high; /* lane l of a, or lane l - VL of b */
        FL_UNROLL_ALL for (int l = 0; l < VL; l++) {
            low[l] = l & s ? VL + l - s : l;
            high[l] = l & s ? VL + l : l + s;
        }
        FL_UNROLL_ALL for (int i = 0; i < VL; i++) {
            if (!(i & s)) {
                const V a = rows[i], b = rows[i + s];
                rows[i] = (V)__builtin_shuffle(a, b, low);
                rows[i + s] = (V)__builtin_shuffle(a, b, high);
            }
        }
    }
#    else
    REAL lanes[VL][VL], swapped[VL][VL];
    for (int i = 0; i < VL; i++) V_STORE(lanes[i], rows[i]);
    for (int i = 0; i < VL; i++)
        for (int l = 0; l < VL; l++) swapped[l][i] = lanes[i][l];
    for (int i = 0; i < VL; i++) rows[i] = V_LOAD(swapped[i]);
#    endif
}
#endif

/* to[k * to_row + r] := from[r * from_row + k] for r, k < VL */
FL_INLINE void FN(transpose_block)(const REAL *from, ptrdiff_t from_row, REAL *to,
                                   ptrdiff_t to_row) {
#if defined(ISA_NEON)
    V rows[VL];
    FL_UNROLL_ALL for (int r = 0; r < VL; r++) rows[r] = V_LOAD(from + r * from_row);
    FN(transpose)(rows);
    FL_UNROLL_ALL for (int j = 0; j < VL; j++) V_STORE(to + j * to_row, rows[j]);
#else
    /* The same pieces of the rows that are PIECE apart come into one register: half of the exchange
     * is done by loads, since few ports do shuffles. Left to the compiler, a whole step on weights
     * as they are takes 1.7 times as long with AVX-512, 6 times with AVX2. */
    for (int k = 0; k < VL; k += PIECE) {
        V rows[PIECE];
        FL_UNROLL for (int j = 0; j < PIECE; j++) rows[j] =
            FN(gather_pieces)(from + j * from_row + k, PIECE * from_row);
        FN(transpose_pieces)(rows);
        FL_UNROLL for (int j = 0; j < PIECE; j++) V_STORE(to + (k + j) * to_row, rows[j]);
    }
#endif
}

/* The same for r < n <= VL, k < m <= VL; `lanes` numbers of each row of `to`, zeros from n on */
static void FN(transpose_part)(ptrdiff_t n, ptrdiff_t m, const REAL *from, ptrdiff_t from_row,
                               REAL *to, ptrdiff_t to_row, ptrdiff_t lanes) {
    REAL block[VL * VL] = {0}, transposed[VL * VL];
    for (ptrdiff_t r = 0; r < n; r++) V_STORE(block + r * VL, V_LOAD_PART(from + r * from_row, m));
    FN(transpose_block)(block, VL, transposed, VL);
    for (ptrdiff_t k = 0; k < m; k++)
        V_STORE_PART(to + k * to_row, lanes, V_LOAD(transposed + k * VL));
}

/* to[k * to_row + r] := from[r * from_row + k] for r < n <= VL, k < K; zeros for n <= r < VL */
static void FN(rows_to_lanes)(ptrdiff_t n, ptrdiff_t K, const REAL *from, ptrdiff_t from_row,
                              REAL *to, ptrdiff_t to_row) {
    ptrdiff_t k = 0;
    for (; n == VL && k + VL <= K; k += VL)
        FN(transpose_block)(from + k, from_row, to + k * to_row, to_row);
    for (; k < K; k += VL)
        FN(transpose_part)(n, FL_MIN(VL, K - k), from + k, from_row, to + k * to_row, to_row, VL);
}

/* Steps of k that accumulate_unpacked packs at once: 16 KiB, which stay in L1. */
#undef K_SLICE
#define K_SLICE ((ptrdiff_t)(16384 / (GROUP * (ptrdiff_t)sizeof(REAL))))

#if defined(ISA_AVX512) || defined(ISA_AVX2)
/* acc[m][g] += sum over the k of a cache line of a[m * a_row + k] * w[g][lane * w_row + k] for two
 * gates, gate_step apart */
FL_INLINE void FN(accumulate_line)(const int mr, const REAL *a, ptrdiff_t a_row, const REAL *w,
                                   ptrdiff_t w_row, ptrdiff_t gate_step, V acc[][TILE_VECTORS]) {
    FL_UNROLL for (int k = 0; k < (int)(64 / sizeof(REAL)); k += PIECE) {
        FL_UNROLL for (int g = 0; g < 2; g++) {
            V p[PIECE];
            FL_UNROLL for (int j = 0; j < PIECE; j++) {
                p[j] = FN(gather_pieces)(w + g * gate_step + j * w_row + k, PIECE * w_row);
            }
            FN(transpose_pieces)(p);
            FL_UNROLL for (int j = 0; j < PIECE; j++) {
                FL_UNROLL for (int m = 0; m < mr; m++) {
                    acc[m][g] = V_FMA(V_SET1(a[m * a_row + k + j]), p[j], acc[m][g]);
                }
            }
        }
    }
}
#endif

/* acc[m][gate] += sum_k a[m * a_row + k] w[gate][unit][k] for `units` units whose rows of w (K
 * numbers each) lie one after the other, the next gate's gate_step numbers on: the sums of the
 * packed product, in its order. */
FL_INLINE void FN(accumulate_unpacked)(const int mr, ptrdiff_t units, ptrdiff_t K, const REAL *a,
                                       ptrdiff_t a_row, const REAL *w, ptrdiff_t gate_step,
                                       V acc[][TILE_VECTORS]) {
    REAL slice[K_SLICE * GROUP];
    ptrdiff_t k = 0;
#if defined(ISA_AVX512) || defined(ISA_AVX2)
    /* A cache line of each row at a time, whole, and two gates at a time: their chains of FMAs hide
     * each other's latency, and a processor fetches about as many rows ahead by itself. One row,
     * H = 256: a gate to its end takes 1.15 times as long with AVX-512, 1.2 times on a Zen 3, all
     * four 1.3 and 1.1, with prefetching 1.5 and 1.3 (2026-11). */
    const ptrdiff_t line = 64 / sizeof(REAL), whole = units == VL ? K / line * line : 0;
    FL_UNROLL for (int g = 0; g < 4; g += 2) {
        V two[TILE_ROWS][TILE_VECTORS]; /* on acc itself: 1.09 of the time (Zen 3) */
        FL_UNROLL for (int m = 0; m < mr; m++) two[m][0] = acc[m][g], two[m][1] = acc[m][g + 1];
        for (k = 0; k < whole; k += line)
            FN(accumulate_line)(mr, a + k, a_row, w + g * gate_step + k, K, gate_step, two);
        FL_UNROLL for (int m = 0; m < mr; m++) acc[m][g] = two[m][0], acc[m][g + 1] = two[m][1];
    }
#endif
    for (ptrdiff_t n; k < K; k += n) {
        n = FL_MIN(K_SLICE, K - k);
        for (ptrdiff_t g = 0; g < 4; g++)
            FN(rows_to_lanes)(units, n, w + g * gate_step + k, K, slice + g * VL, GROUP);
        FN(accumulate)(mr, 4, n, a + k, a_row, 1, slice, acc);
    }
}

/* to[r * to_row + k] := from[k * from_row + r] for r < n <= VL, k < K; the inverse */
static void FN(lanes_to_rows)(ptrdiff_t n, ptrdiff_t K, const REAL *from, ptrdiff_t from_row,
                              REAL *to, ptrdiff_t to_row) {
    ptrdiff_t k = 0;
    for (; n == VL && k + VL <= K; k += VL)
        FN(transpose_block)(from + k * from_row, from_row, to + k, to_row);
    for (ptrdiff_t part; k < K; k += part) {
        part = FL_MIN(VL, K - k);
        FN(transpose_part)(part, n, from + k * from_row, from_row, to + k, to_row, part);
    }
}

/* dst := panel u of w (4H,K): K * GROUP numbers */
static void FN(pack_panel)(ptrdiff_t H, ptrdiff_t K, ptrdiff_t u, const REAL *w, REAL *dst) {
    for (ptrdiff_t g = 0; g < 4; g++)
        FN(rows_to_lanes)(FL_MIN(VL, H - u * VL), K, w + (g * H + u * VL) * K, K, dst + g * VL,
                          GROUP);
}

/* dst := panels of w_ih (4H,I) over w_hh (4H,P): U * (I + P) * GROUP numbers, of which those of the
 * panels u0 <= u < u1 are written */
static void FN(pack_panels)(ptrdiff_t H, ptrdiff_t I, ptrdiff_t P, const void *w_ih,
                            const void *w_hh, void *dst, ptrdiff_t u0, ptrdiff_t u1) {
    for (ptrdiff_t u = u0; u < u1; u++) {
        REAL *panel = (REAL *)dst + u * (I + P) * GROUP;
        FN(pack_panel)(H, I, u, w_ih, panel);
        FN(pack_panel)(H, P, u, w_hh, panel + I * GROUP);
    }
}

/* dst := w_proj (P,H) for h = W_proj m, [up to 4 vectors of h][H]: H * (P rounded up to whole
 * vectors) numbers */
static void FN(pack_projection)(ptrdiff_t H, ptrdiff_t P, const void *w, void *dst) {
    for (ptrdiff_t p0 = 0; p0 < P; p0 += GROUP) {
        const ptrdiff_t nv = (FL_MIN(GROUP, P - p0) + VL - 1) / VL;
        for (ptrdiff_t v = 0; v < nv; v++) {
            const ptrdiff_t p = p0 + v * VL;
            FN(rows_to_lanes)(FL_MIN(VL, P - p), H, (const REAL *)w + p * H, H,
                              (REAL *)dst + p0 * H + v * VL, nv * VL);
        }
    }
}

/* dst := w_proj (P,H) for dm = W_proj^T dh, [up to 4 vectors of units][P]: P * U * VL numbers */
static void FN(pack_projection_columns)(ptrdiff_t H, ptrdiff_t P, const void *w_, void *dst) {
    const REAL *w = w_;
    REAL *to = dst;
    for (ptrdiff_t j = 0; j < H; j += GROUP)
        for (ptrdiff_t p = 0; p < P; p++)
            for (ptrdiff_t k = j; k < FL_MIN(j + GROUP, H); k += VL, to += VL)
                V_STORE(to,
                        k + VL <= H ? V_LOAD(w + p * H + k) : V_LOAD_PART(w + p * H + k, H - k));
}

/* dst[u][i f o][lane] := w (3,H) */
static void FN(pack_peepholes)(ptrdiff_t H, const void *w, void *dst) {
    for (ptrdiff_t u = 0; u < (H + VL - 1) / VL; u++)
        for (ptrdiff_t k = 0; k < 3; k++)
            V_STORE((REAL *)dst + (u * 3 + k) * VL,
                    V_LOAD_PART((const REAL *)w + k * H + u * VL, FL_MIN(VL, H - u * VL)));
}

/* The rows of the units of panel u in dw (4H,K) := dw_u (K,4,VL) */
static void FN(unpack_gradient)(ptrdiff_t H, ptrdiff_t K, ptrdiff_t u, const REAL *dw_u, REAL *dw) {
    for (ptrdiff_t g = 0; g < 4; g++)
        FN(lanes_to_rows)(FL_MIN(VL, H - u * VL), K, dw_u + g * VL, GROUP,
                          dw + (g * H + u * VL) * K, K);
}

/* dst := columns of w (4H,K): groups of up to four vectors of its columns, for all gates in the
 * order of a row of gates: U * GROUP * (K rounded up to whole vectors) numbers, of which those of
 * the groups v0 <= v < v1 are written */
static void FN(pack_columns)(ptrdiff_t H, ptrdiff_t K, const void *w_, void *dst, ptrdiff_t v0,
                             ptrdiff_t v1) {
    const REAL *w = w_;
    const ptrdiff_t U = (H + VL - 1) / VL;
    REAL *to = (REAL *)dst + v0 * U * GROUP * GROUP;
    for (ptrdiff_t k0 = v0 * GROUP; k0 < FL_MIN(K, v1 * GROUP); k0 += GROUP) {
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
 * product_transposed reads it from one end to the other. Whole vectors are written, whose lanes
 * beyond the tile the next k writes: storing parts takes ten times as long on a Zen 3. */
static void FN(pack_rows)(ptrdiff_t M, ptrdiff_t K, const REAL *src, ptrdiff_t src_row, REAL *dst) {
    const FN(tiles) tiles = FN(tiles_of)(M);
    for (ptrdiff_t i = 0; i < tiles.n; i++) {
        const ptrdiff_t r = FN(tile_start)(tiles, i), mr = FN(tile_start)(tiles, i + 1) - r;
        REAL *to = dst + r * K;
#if TILE_ROWS <= VL
        const ptrdiff_t whole = FL_MAX(0, K + 1 - (VL + mr - 1) / mr);
        for (ptrdiff_t k = 0; k < whole; k++, to += mr)
            V_STORE(to, V_LOAD_PART(src + k * src_row + r, mr));
        for (ptrdiff_t k = whole; k < K; k++, to += mr)
            V_STORE_PART(to, mr, V_LOAD_PART(src + k * src_row + r, mr));
#else
        for (ptrdiff_t k = 0; k < K; k++)
            for (ptrdiff_t m = 0; m < mr; m++) *to++ = src[k * src_row + r + m];
#endif
    }
}
