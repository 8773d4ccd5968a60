/* SPDX-License-Identifier: MIT */
/* The tile that every kernel is made of, and the plain products on it.
 *
 * A panel holds, for every k, nv <= 4 vectors of neighbouring columns: panel[k][nv][VL]. A tile is
 * mr rows times the nv vectors of a panel, and stays in registers while k runs:
 *
 *     acc[m][v] += sum over k of a[m][k] * panel[k][v]
 *
 * The sum over k is one chain of FMAs in the order of k, whatever mr, nv and the blocks of k are:
 * an element has the same bits in every tile, batch, block of time and thread. */

/* TILE_ROWS: of a full tile, whose accumulators, a row of the panel and a broadcast fill the
 * registers. FEW_ROWS: a tile of so many is bound by its loads. FETCH_AHEAD: bytes from its load to
 * what is fetched with it; 0 where a processor does that better itself. SLICE_BYTES of a panel stay
 * in L1 while the tiles of all rows pass over them, as the next slice comes (accumulate_ahead). */
#undef TILE_ROWS
#undef FEW_ROWS
#undef SLICE_BYTES
#undef FETCH_AHEAD
#undef FL_UNROLL_K
#if defined(ISA_AVX512)
#    define TILE_ROWS 6 /* 24 + 4 + 1 of 32 */
#    define FEW_ROWS  3
/* A step of 64 rows of K = 1024, and one of 32 rows of K = 2048, in parts of an FMA loop's speed,
 * one core with 2 MiB of L2: 16 KiB 0.86, 0.88; 32 KiB 0.88, 0.90; 64 KiB 0.86, 0.85; whole panels
 * 0.87, 0.81 (2026-11). */
#    define SLICE_BYTES 32768
#    define FETCH_AHEAD 0
#    define FL_UNROLL_K
#elif defined(ISA_AVX2)
#    define TILE_ROWS   3 /* 12 + 1 + 3 of 16 */
#    define FEW_ROWS    2
/* The same on a Zen 3, which has 32 KiB of L1: 16 KiB 0.88, 0.87; 24 KiB 0.88, 0.89; 32 KiB 0.87,
 * 0.86 (2026-11). */
#    define SLICE_BYTES 24576
/* A step of two rows on a Zen 3, where else the panel comes late from L3: H = 256 0.81 of the time,
 * H = 512 0.85, 0.90 in float64; 1 and 4 KiB as 2 (2026-11). One row does without: its panels are
 * several streams (accumulate_along). */
#    define FETCH_AHEAD 2048
/* Two k at a time: a loop's counting is 5 of its 25 instructions with 12 FMAs. A step of 32 rows,
 * H = 256, takes 0.93 of the time on a Zen 3 (2026-11). */
#    define FL_UNROLL_K _Pragma("GCC unroll 2")
#else
#    define TILE_ROWS   6 /* NEON: 24 + 4 + 1 of 32 */
#    define FEW_ROWS    3
#    define SLICE_BYTES 32768
#    define FETCH_AHEAD 0
#    define FL_UNROLL_K
#endif

#ifndef TILE_VECTORS
#    include <string.h>
#    define TILE_VECTORS 4
#    define LOCKSTEP     TILE_ROWS           /* vectors that activations take at once */
#    define GROUP        (TILE_VECTORS * VL) /* columns of a full panel: the gates of VL units */
#    ifndef FL_INLINE /* .ci/coverage.py: `static`, to count every function once */
#        define FL_INLINE static inline __attribute__((always_inline))
#    endif
#    define FL_NOINLINE __attribute__((noinline))
/* Rows of unpacked weights for each number of C that is loaded and stored: 4 of the VL that lie
 * together. 1,1,256,512: a tile in registers, which leaves each row after four vectors, takes 1.5
 * times as long, in float64 2.6 times (Zen 3, 2026-11). */
#    define ROWS_AT_ONCE        (VL < 4 ? VL : 4)
#    define OUTER_ROWS          8 /* of P in an outer product: their factors stay in registers */
#    define FL_UNROLL           _Pragma("GCC unroll 8")
#    define FL_UNROLL_ALL       _Pragma("GCC unroll 16")
#    define LANE_INT            FL_LANE_INT_(REAL_BITS)
#    define FL_LANE_INT_(bits)  FL_LANE_INT__(bits)
#    define FL_LANE_INT__(bits) int##bits##_t
#    define FL_MIN(a, b)        ((a) < (b) ? (a) : (b))
#    define FL_MAX(a, b)        ((a) > (b) ? (a) : (b))

/* BODY(mr, nv) with constants for these numbers: a tile has 1 to TILE_ROWS rows, 1 to TILE_VECTORS
 * vectors. The most of each is the default, so that there is no branch which no tile takes. */
#    define FL_CASE(BODY, mr, nv)                                                                  \
    case mr: {                                                                                     \
        BODY(mr, nv)                                                                               \
    } break;
#    define FL_ROWS_2_TO_3(BODY, nv)                                                               \
        FL_CASE(BODY, 2, nv)                                                                       \
    default: {                                                                                     \
        BODY(3, nv)                                                                                \
    }
#    define FL_CASES_2_TO_5(BODY, nv)                                                              \
        FL_CASE(BODY, 2, nv)                                                                       \
        FL_CASE(BODY, 3, nv)                                                                       \
        FL_CASE(BODY, 4, nv)                                                                       \
        FL_CASE(BODY, 5, nv)
#    define FL_ROWS_2_TO_6(BODY, nv)                                                               \
        FL_CASES_2_TO_5(BODY, nv)                                                                  \
    default: {                                                                                     \
        BODY(6, nv)                                                                                \
    }
#    define FL_ROWS(BODY, rows, nv)                                                                \
        switch (rows) { FL_CASE(BODY, 1, nv) FL_CAT2(FL_ROWS_2_TO, TILE_ROWS)(BODY, nv) }
#    define FL_TWO_ROWS(BODY, rows, nv) /* two or more */                                          \
        switch (rows) { FL_CAT2(FL_ROWS_2_TO, TILE_ROWS)(BODY, nv) }
#    define FL_OUTER(BODY, rows) /* up to OUTER_ROWS */                                            \
        switch (rows) {                                                                            \
            FL_CASE(BODY, 1, 1)                                                                    \
            FL_CASES_2_TO_5(BODY, 1)                                                               \
            FL_CASE(BODY, 6, 1)                                                                    \
            FL_CASE(BODY, 7, 1)                                                                    \
        default: {                                                                                 \
            BODY(OUTER_ROWS, 1)                                                                    \
        }                                                                                          \
        }
#    define FL_TILE(BODY, rows, vectors)                                                           \
        switch (vectors) {                                                                         \
        case 1: FL_ROWS(BODY, rows, 1) break;                                                      \
        case 2: FL_ROWS(BODY, rows, 2) break;                                                      \
        case 3: FL_ROWS(BODY, rows, 3) break;                                                      \
        default: FL_ROWS(BODY, rows, TILE_VECTORS)                                                 \
        }
#endif

/* Steps of k in a slice of a panel */
#undef K_BLOCK
#undef SLICES
#define K_BLOCK   ((ptrdiff_t)(SLICE_BYTES / (GROUP * sizeof(REAL))))
#define SLICES(K) (((K) + K_BLOCK - 1) / K_BLOCK) /* of nearly equal size; K > 0 */

/* n rows in as few tiles as there can be, of nearly equal size: 32 = 6+6+5+5+5+5, since a tile
 * of few rows wastes loads. Found once, as divisions take long. */
typedef struct {
    ptrdiff_t n, rows, larger; /* n tiles of so many rows, the first ones of one more */
    ptrdiff_t ahead;           /* bytes of the next slice that a tile fetches with every k */
} FN(tiles);

static inline FN(tiles) FN(tiles_of)(ptrdiff_t rows) {
    const ptrdiff_t n = FL_MAX(1, (rows + TILE_ROWS - 1) / TILE_ROWS);
    const ptrdiff_t bytes = GROUP * sizeof(REAL);
    return (FN(tiles)){rows > 0 ? n : 0, rows / n, rows % n, FL_MIN(64, (bytes + n - 1) / n)};
}

/* The first row of tile i, where tile i - 1 ends. */
static inline ptrdiff_t FN(tile_start)(FN(tiles) tiles, ptrdiff_t i) {
    return i * tiles.rows + FL_MIN(i, tiles.larger);
}

/* Fetch the next slice of a panel into L2, which comes from L3 otherwise, and late: each tile of a
 * slice fetches its share of the next one, a little with every k. All at once, by the first tiles,
 * would hold every line buffer for as long as L3 takes, and their own loads would wait. */
typedef struct {
    const char *at;
    ptrdiff_t step; /* bytes a k; less than a line: the same line more than once */
} FN(ahead);

static inline FN(ahead)
    FN(ahead_of)(FN(tiles) tiles, ptrdiff_t i, const REAL *following, ptrdiff_t k_n) {
    return (FN(ahead)){(const char *)following + i * k_n * tiles.ahead, tiles.ahead};
}

/* acc[m][v] += a[m * a_row] * p[v * VL...]: one k of a tile, for constants mr and nv. The fewer of
 * the two stay in registers, so that nothing is loaded twice: with 3 rows of 4 vectors in 16
 * registers, 7 loads for 12 FMAs and not 9 (0.95 of the time on a Zen 3, 2026-11). */
FL_INLINE void FN(accumulate_k)(const int mr, const int nv, const REAL *restrict a, ptrdiff_t a_row,
                                const REAL *restrict p, V acc[][TILE_VECTORS]) {
    if (mr < nv) {
        V rows[TILE_ROWS];
        FL_UNROLL for (int m = 0; m < mr; m++) rows[m] = V_SET1(a[m * a_row]);
        FL_UNROLL for (int v = 0; v < nv; v++) {
            const V p_v = V_LOAD(p + v * VL);
            FL_UNROLL for (int m = 0; m < mr; m++) acc[m][v] = V_FMA(rows[m], p_v, acc[m][v]);
        }
    } else {
        V vectors[TILE_VECTORS];
        FL_UNROLL for (int v = 0; v < nv; v++) vectors[v] = V_LOAD(p + v * VL);
        FL_UNROLL for (int m = 0; m < mr; m++) {
            const V a_m = V_SET1(a[m * a_row]);
            FL_UNROLL for (int v = 0; v < nv; v++) acc[m][v] = V_FMA(a_m, vectors[v], acc[m][v]);
        }
    }
}

/* The sum over k < K with a packed panel of nv vectors, of rows of a whose numbers lie a_k apart */
FL_INLINE void FN(accumulate)(const int mr, const int nv, ptrdiff_t K, const REAL *restrict a,
                              ptrdiff_t a_row, ptrdiff_t a_k, const REAL *restrict panel,
                              V acc[][TILE_VECTORS]) {
    FL_UNROLL_K for (ptrdiff_t k = 0; k < K; k++)
        FN(accumulate_k)(mr, nv, a + k * a_k, a_row, panel + k * nv * VL, acc);
}

/* acc[m][v] += sum over k of a[k] * panels[m * apart + (k * nv + v) * VL]: one row, and mr panels
 * of nv vectors at once (sums.inc.h says why). A step of one row takes 0.8 to 0.95 of the time of
 * panel by panel, with weights from beyond L3 0.6 to 0.8 (Zen 3, 2026-11). */
FL_INLINE void FN(accumulate_along)(const int mr, const int nv, ptrdiff_t K, const REAL *restrict a,
                                    const REAL *restrict panels, ptrdiff_t apart,
                                    V acc[][TILE_VECTORS]) {
    FL_UNROLL_K for (ptrdiff_t k = 0; k < K; k++) {
        const V a_k = V_SET1(a[k]);
        FL_UNROLL for (int m = 0; m < mr; m++) {
            const REAL *p = panels + m * apart + k * nv * VL;
            FL_UNROLL for (int v = 0; v < nv; v++) {
                acc[m][v] = V_FMA(a_k, V_LOAD(p + v * VL), acc[m][v]);
            }
        }
    }
}

/* The same for rows of a, fetching ahead: the next slice, or for few rows this panel. */
FL_INLINE void FN(accumulate_ahead)(const int mr, const int nv, ptrdiff_t K, const REAL *restrict a,
                                    ptrdiff_t a_row, const REAL *restrict panel, FN(ahead) next,
                                    V acc[][TILE_VECTORS]) {
    const ptrdiff_t step = nv * VL * sizeof(REAL);
    FL_UNROLL_K for (ptrdiff_t k = 0; k < K; k++) {
        if (mr > FEW_ROWS)
            __builtin_prefetch(next.at + k * next.step, 0, 2);
        else
            FL_UNROLL for (ptrdiff_t at = 0; at < step && FETCH_AHEAD; at += 64)
                __builtin_prefetch((const char *)panel + k * step + FETCH_AHEAD + at, 0, 3);
        FN(accumulate_k)(mr, nv, a + k, a_row, panel + k * nv * VL, acc);
    }
}

/* A tile of C in memory: mr rows of nv vectors, the last of which has `tail` lanes. */
FL_INLINE void FN(load_tile)(const int mr, const int nv, const REAL *c, ptrdiff_t c_row,
                             ptrdiff_t tail, V acc[][TILE_VECTORS]) {
    FL_UNROLL for (int m = 0; m < mr; m++) {
        FL_UNROLL for (int v = 0; v < nv - 1; v++) acc[m][v] = V_LOAD(c + m * c_row + v * VL);
        acc[m][nv - 1] = tail == VL ? V_LOAD(c + m * c_row + (nv - 1) * VL)
                                    : V_LOAD_PART(c + m * c_row + (nv - 1) * VL, tail);
    }
}

FL_INLINE void FN(store_tile)(const int mr, const int nv, REAL *c, ptrdiff_t c_row, ptrdiff_t tail,
                              V acc[][TILE_VECTORS]) {
    FL_UNROLL for (int m = 0; m < mr; m++) {
        FL_UNROLL for (int v = 0; v < nv - 1; v++) V_STORE(c + m * c_row + v * VL, acc[m][v]);
        if (tail == VL)
            V_STORE(c + m * c_row + (nv - 1) * VL, acc[m][nv - 1]);
        else
            V_STORE_PART(c + m * c_row + (nv - 1) * VL, tail, acc[m][nv - 1]);
    }
}

/* The same vectors in every row: a bias, or zeros where it is NULL. */
FL_INLINE void FN(fill_tile)(const int mr, const int nv, const REAL *row, V acc[][TILE_VECTORS]) {
    FL_UNROLL for (int v = 0; v < nv; v++) {
        const V value = row ? V_LOAD(row + v * VL) : V_SET1((REAL)0);
        FL_UNROLL for (int m = 0; m < mr; m++) acc[m][v] = value;
    }
}

/* Rows of a tile of so few vectors that TILE_ROWS would have too few chains of FMAs to hide their
 * latency. Rows that lie 4 KiB apart share a set of L1: not more of them than it has ways. */
#undef NARROW_ROWS
#define NARROW_ROWS(nv) FL_MIN(8, (TILE_ROWS * TILE_VECTORS) / (nv))

/* Rows of C := A P for one panel P of nv < 4 vectors, the last of `tail` lanes: as many of M as
 * make whole narrow tiles; returns how many. dx of 8 inputs takes 0.55 of the time of tiles of
 * three rows, of 16 and 24 0.75 and 0.85 (Zen 3, 2026-11). */
FL_INLINE ptrdiff_t FN(product_narrow)(const int nv, ptrdiff_t tail, ptrdiff_t M, ptrdiff_t K,
                                       const REAL *a, ptrdiff_t a_row, const REAL *panel, REAL *c,
                                       ptrdiff_t c_row) {
    ptrdiff_t r = 0;
    for (; r + NARROW_ROWS(nv) <= M; r += NARROW_ROWS(nv)) {
        V acc[NARROW_ROWS(1)][TILE_VECTORS];
        FN(fill_tile)(NARROW_ROWS(nv), nv, NULL, acc);
        FN(accumulate)(NARROW_ROWS(nv), nv, K, a + r * a_row, a_row, 1, panel, acc);
        FN(store_tile)(NARROW_ROWS(nv), nv, c + r * c_row, c_row, tail, acc);
    }
    return r;
}

/* In a function for each number of vectors, as every row wants a register for its address */
#define NARROW(nv)                                                                                 \
    static FL_NOINLINE ptrdiff_t FN(product_##nv)(ptrdiff_t tail, ptrdiff_t M, ptrdiff_t K,        \
                                                  const REAL *a, ptrdiff_t a_row,                  \
                                                  const REAL *panel, REAL *c, ptrdiff_t c_row) {   \
        return FN(product_narrow)(nv, tail, M, K, a, a_row, panel, c, c_row);                      \
    }
NARROW(1)
NARROW(2)
NARROW(3)
#undef NARROW

/* C (M, N) := bias + A P for one panel P of nv vectors, N <= nv * VL columns.
 * A: rows of K numbers, a_row apart; bias: nv vectors or NULL for zeros; following: the panel that
 * comes next, or NULL where it lies behind this one. */
static void FN(product)(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const REAL *a, ptrdiff_t a_row,
                        const REAL *panel, const REAL *following, const REAL *bias, REAL *c,
                        ptrdiff_t c_row) {
    const ptrdiff_t nv = (N + VL - 1) / VL, tail = N - (nv - 1) * VL;
    if (nv < TILE_VECTORS) { /* without a bias */
        const ptrdiff_t done = nv == 1   ? FN(product_1)(tail, M, K, a, a_row, panel, c, c_row)
                               : nv == 2 ? FN(product_2)(tail, M, K, a, a_row, panel, c, c_row)
                                         : FN(product_3)(tail, M, K, a, a_row, panel, c, c_row);
        a += done * a_row, c += done * c_row, M -= done;
    }
    const ptrdiff_t slices = SLICES(K);
    const FN(tiles) tiles = FN(tiles_of)(M);
    for (ptrdiff_t s = 0; s < slices; s++) {
        const ptrdiff_t k0 = K * s / slices, k1 = K * (s + 1) / slices;
        const REAL *ahead = k1 == K && following ? following : panel + k1 * nv * VL;
        for (ptrdiff_t i = 0; i < tiles.n; i++) {
            const ptrdiff_t r = FN(tile_start)(tiles, i), r_end = FN(tile_start)(tiles, i + 1);
            const FN(ahead) next = FN(ahead_of)(tiles, i, ahead, k1 - k0);
#define BODY(mr, nv_)                                                                              \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    if (s == 0)                                                                                    \
        FN(fill_tile)(mr, nv_, bias, acc);                                                         \
    else                                                                                           \
        FN(load_tile)(mr, nv_, c + r * c_row, c_row, tail, acc);                                   \
    FN(accumulate_ahead)(mr, nv_, k1 - k0, a + r * a_row + k0, a_row, panel + k0 * nv_ * VL, next, \
                         acc);                                                                     \
    FN(store_tile)(mr, nv_, c + r * c_row, c_row, tail, acc);
            FL_TILE(BODY, r_end - r, nv)
#undef BODY
        }
    }
}

/* One block of C (M, GROUP) += A^T P, where A (K, M) was packed by pack_rows and P is a slice of
 * K steps of a panel of four vectors; `first`: assign instead. */
static void FN(product_transposed)(ptrdiff_t M, ptrdiff_t K, const REAL *a, const REAL *panel,
                                   int first, REAL *c, ptrdiff_t c_row) {
    const FN(tiles) tiles = FN(tiles_of)(M);
    for (ptrdiff_t i = 0; i < tiles.n; i++) {
        const ptrdiff_t r = FN(tile_start)(tiles, i), r_end = FN(tile_start)(tiles, i + 1);
#define BODY(mr, nv)                                                                               \
    V acc[TILE_ROWS][TILE_VECTORS];                                                                \
    if (first)                                                                                     \
        FN(fill_tile)(mr, nv, NULL, acc);                                                          \
    else                                                                                           \
        FN(load_tile)(mr, nv, c + r * c_row, c_row, VL, acc);                                      \
    FN(accumulate)(mr, nv, K, a + r * K, 1, mr, panel, acc);                                       \
    FN(store_tile)(mr, nv, c + r * c_row, c_row, VL, acc);
        FL_ROWS(BODY, r_end - r, TILE_VECTORS)
#undef BODY
    }
}

/* c[m][n] += sum over k < kn of d[m * d_row + k * d_k] * w[k * w_row + n] for mr rows of c and N
 * columns, whole vectors; `first`: assign instead. w and c are read from one end to the other. */
FL_INLINE void FN(add_rows)(const int mr, const int kn, ptrdiff_t N, const REAL *d, ptrdiff_t d_row,
                            ptrdiff_t d_k, const REAL *restrict w, ptrdiff_t w_row, int first,
                            REAL *restrict c, ptrdiff_t c_row) {
    V factors[TILE_ROWS][OUTER_ROWS];
    FL_UNROLL for (int m = 0; m < mr; m++) {
        FL_UNROLL for (int k = 0; k < kn; k++) factors[m][k] = V_SET1(d[m * d_row + k * d_k]);
    }
    FL_UNROLL_K for (ptrdiff_t n = 0; n < N; n += VL) {
        FL_UNROLL for (int m = 0; m < mr; m++) {
            V sum = first ? V_SET1((REAL)0) : V_LOAD(c + m * c_row + n);
            FL_UNROLL for (int k = 0; k < kn; k++) {
                sum = V_FMA(factors[m][k], V_LOAD(w + k * w_row + n), sum);
            }
            V_STORE(c + m * c_row + n, sum);
        }
    }
}

/* Columns n0 <= n < n1 of C (M, N) := D W, without packing: D (M rows of gates in panel order)
 * times w (4H,N) as the caller has it, where few rows would not repay the packing. H, N and the
 * columns are whole vectors; the sums, which wait in C, run in the order of the packed product. */
static void FN(product_unpacked)(ptrdiff_t H, ptrdiff_t M, ptrdiff_t N, ptrdiff_t n0, ptrdiff_t n1,
                                 const REAL *d, ptrdiff_t d_row, const REAL *w, REAL *c,
                                 ptrdiff_t c_row) {
    const FN(tiles) tiles = FN(tiles_of)(M);
    for (ptrdiff_t u = 0; u * VL < H; u++)
        for (ptrdiff_t g = 0; g < 4; g++) {
            const REAL *d_u = d + u * GROUP + g * VL, *w_u = w + (g * H + u * VL) * N + n0;
            for (ptrdiff_t i = 0; i < tiles.n; i++) {
                const ptrdiff_t r = FN(tile_start)(tiles, i), r_end = FN(tile_start)(tiles, i + 1);
#define BODY(mr, nv)                                                                               \
    for (ptrdiff_t k = 0; k < VL; k += ROWS_AT_ONCE)                                               \
        FN(add_rows)(mr, ROWS_AT_ONCE, n1 - n0, d_u + r * d_row + k, d_row, 1, w_u + k * N, N,     \
                     u + g + k == 0, c + r * c_row + n0, c_row);
                FL_ROWS(BODY, r_end - r, 1)
#undef BODY
            }
        }
}

/* Rows of panels u0 <= u < u1 in C (4H,N) := D^T P, without packing: D (K rows of gates in panel
 * order), P (K,N); N is whole vectors. For few K, where writing C takes the time: a row at a time,
 * as memory likes it best (tiles of six rows took four times as long). */
static void FN(outer_product)(ptrdiff_t H, ptrdiff_t K, ptrdiff_t N, ptrdiff_t u0, ptrdiff_t u1,
                              const REAL *d, ptrdiff_t d_row, const REAL *p, ptrdiff_t p_row,
                              REAL *c) {
    for (ptrdiff_t g = 0; g < 4; g++)
        for (ptrdiff_t u = u0; u < u1; u++)
            for (ptrdiff_t k = 0; k < K; k += OUTER_ROWS) {
                const REAL *d_k = d + k * d_row + u * GROUP + g * VL, *p_k = p + k * p_row;
                REAL *c_u = c + (g * H + u * VL) * N;
#define BODY(kn, nv)                                                                               \
    for (ptrdiff_t l = 0; l < FL_MIN(VL, H - u * VL); l++)                                         \
        FN(add_rows)(1, kn, N, d_k + l, 0, d_row, p_k, p_row, k == 0, c_u + l * N, 0);
                FL_OUTER(BODY, K - k)
#undef BODY
            }
}
