/* SPDX-License-Identifier: MIT */
/* What isa_avx512.c uses of AVX-512, by AVX2: its kernels are tested on a processor without it, too
 * (`make -C csrc BY_AVX2=1`), where their speed means nothing. SIMDe has most of this, but
 * compilers work for longer than 10 minutes on it. */
#include <immintrin.h>
#include <math.h>

#define __AVX512F__  1
#define __AVX512DQ__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1

#define BY_AVX2 static inline __attribute__((always_inline))

/* A vector, its halves and its numbers */
typedef union {
    __m512 all;
    __m256 half[2];
    __m128 quarter[4];
    float lane[16];
} by_avx2_ps;

typedef union {
    __m512d all;
    __m256d half[2];
    __m128d quarter[4];
    double lane[8];
} by_avx2_pd;

/* An operation that AVX2 has under the same name, on both halves */
#define BY_HALVES(op, type, V)                                                                     \
    BY_AVX2 V by_avx2_##op##_##type(V a, V b) {                                                    \
        by_avx2_##type x = {a}, y = {b};                                                           \
        for (int j = 0; j < 2; j++) x.half[j] = _mm256_##op##_##type(x.half[j], y.half[j]);        \
        return x.all;                                                                              \
    }
#define BY_HALVES_3(op, type, V)                                                                   \
    BY_AVX2 V by_avx2_##op##_##type(V a, V b, V c) {                                               \
        by_avx2_##type x = {a}, y = {b}, z = {c};                                                  \
        for (int j = 0; j < 2; j++)                                                                \
            x.half[j] = _mm256_##op##_##type(x.half[j], y.half[j], z.half[j]);                     \
        return x.all;                                                                              \
    }
/* The operations with a mask, and those that AVX2 lacks, number by number */
#define BY_AVX2_OPERATIONS(type, V, REAL, MASK, LANES, LDEXP)                                      \
    BY_HALVES(add, type, V)                                                                        \
    BY_HALVES(sub, type, V)                                                                        \
    BY_HALVES(mul, type, V)                                                                        \
    BY_HALVES(div, type, V)                                                                        \
    BY_HALVES(min, type, V)                                                                        \
    BY_HALVES(max, type, V)                                                                        \
    BY_HALVES(unpacklo, type, V)                                                                   \
    BY_HALVES(unpackhi, type, V)                                                                   \
    BY_HALVES_3(fmadd, type, V)                                                                    \
    BY_HALVES_3(fnmadd, type, V)                                                                   \
    BY_AVX2 V by_avx2_set1_##type(REAL value) {                                                    \
        by_avx2_##type x;                                                                          \
        for (int j = 0; j < 2; j++) x.half[j] = _mm256_set1_##type(value);                         \
        return x.all;                                                                              \
    }                                                                                              \
    BY_AVX2 V by_avx2_loadu_##type(const REAL *p) {                                                \
        by_avx2_##type x;                                                                          \
        for (int j = 0; j < 2; j++) x.half[j] = _mm256_loadu_##type(p + j * LANES / 2);            \
        return x.all;                                                                              \
    }                                                                                              \
    BY_AVX2 void by_avx2_storeu_##type(REAL *p, V a) {                                             \
        by_avx2_##type x = {a};                                                                    \
        for (int j = 0; j < 2; j++) _mm256_storeu_##type(p + j * LANES / 2, x.half[j]);            \
    }                                                                                              \
    BY_AVX2 V by_avx2_maskz_loadu_##type(MASK mask, const REAL *p) {                               \
        by_avx2_##type x;                                                                          \
        for (int l = 0; l < LANES; l++) x.lane[l] = mask >> l & 1 ? p[l] : 0;                      \
        return x.all;                                                                              \
    }                                                                                              \
    BY_AVX2 void by_avx2_mask_storeu_##type(REAL *p, MASK mask, V a) {                             \
        by_avx2_##type x = {a};                                                                    \
        for (int l = 0; l < LANES; l++)                                                            \
            if (mask >> l & 1) p[l] = x.lane[l];                                                   \
    }                                                                                              \
    BY_AVX2 V by_avx2_mask_mov_##type(V a, MASK mask, V b) {                                       \
        by_avx2_##type x = {a}, y = {b};                                                           \
        for (int l = 0; l < LANES; l++) x.lane[l] = mask >> l & 1 ? y.lane[l] : x.lane[l];         \
        return x.all;                                                                              \
    }                                                                                              \
    BY_AVX2 MASK by_avx2_cmp_##type##_mask(V a, V b, int predicate) {                              \
        by_avx2_##type x = {a}, y = {b};                                                           \
        MASK mask = 0;                                                                             \
        (void)predicate; /* _CMP_GE_OQ */                                                          \
        for (int l = 0; l < LANES; l++) mask |= (MASK)((x.lane[l] >= y.lane[l]) << l);             \
        return mask;                                                                               \
    }                                                                                              \
    BY_AVX2 V by_avx2_abs_##type(V a) {                                                            \
        by_avx2_##type x = {a};                                                                    \
        for (int j = 0; j < 2; j++)                                                                \
            x.half[j] = _mm256_andnot_##type(_mm256_set1_##type((REAL) - 0.0), x.half[j]);         \
        return x.all;                                                                              \
    }                                                                                              \
    BY_AVX2 V by_avx2_scalef_##type(V a, V n) {                                                    \
        by_avx2_##type x = {a}, y = {n};                                                           \
        for (int l = 0; l < LANES; l++) x.lane[l] = LDEXP(x.lane[l], (int)y.lane[l]);              \
        return x.all;                                                                              \
    }

BY_AVX2_OPERATIONS(ps, __m512, float, __mmask16, 16, ldexpf)
BY_AVX2_OPERATIONS(pd, __m512d, double, __mmask8, 8, ldexp)

BY_AVX2 __m512 by_avx2_shuffle_ps(__m512 a, __m512 b, const int order) {
    by_avx2_ps x = {a}, y = {b};
    for (int j = 0; j < 2; j++)
        x.half[j] = order == 0x44 ? _mm256_shuffle_ps(x.half[j], y.half[j], 0x44)
                                  : _mm256_shuffle_ps(x.half[j], y.half[j], 0xee);
    return x.all;
}

BY_AVX2 __m512 by_avx2_mask_broadcast_f32x4(__m512 a, __mmask16 mask, __m128 piece) {
    by_avx2_ps x = {a};
    for (int j = 0; j < 4; j++)
        if (mask >> 4 * j & 1) x.quarter[j] = piece;
    return x.all;
}

BY_AVX2 __m512d by_avx2_mask_broadcast_f64x2(__m512d a, __mmask8 mask, __m128d piece) {
    by_avx2_pd x = {a};
    for (int j = 0; j < 4; j++)
        if (mask >> 2 * j & 1) x.quarter[j] = piece;
    return x.all;
}

BY_AVX2 __m512 by_avx2_castps128_ps512(__m128 a) {
    return by_avx2_mask_broadcast_f32x4(by_avx2_set1_ps(0), 0x000f, a);
}

BY_AVX2 __m512d by_avx2_castpd128_pd512(__m128d a) {
    return by_avx2_mask_broadcast_f64x2(by_avx2_set1_pd(0), 0x03, a);
}

#undef _mm512_shuffle_ps
#undef _mm512_cmp_ps_mask
#undef _mm512_cmp_pd_mask
#undef _mm512_ternarylogic_epi32
#undef _mm512_ternarylogic_epi64
#define _mm512_add_ps                          by_avx2_add_ps
#define _mm512_add_pd                          by_avx2_add_pd
#define _mm512_sub_ps                          by_avx2_sub_ps
#define _mm512_sub_pd                          by_avx2_sub_pd
#define _mm512_mul_ps                          by_avx2_mul_ps
#define _mm512_mul_pd                          by_avx2_mul_pd
#define _mm512_div_ps                          by_avx2_div_ps
#define _mm512_div_pd                          by_avx2_div_pd
#define _mm512_min_ps                          by_avx2_min_ps
#define _mm512_min_pd                          by_avx2_min_pd
#define _mm512_max_ps                          by_avx2_max_ps
#define _mm512_max_pd                          by_avx2_max_pd
#define _mm512_abs_ps                          by_avx2_abs_ps
#define _mm512_abs_pd                          by_avx2_abs_pd
#define _mm512_fmadd_ps                        by_avx2_fmadd_ps
#define _mm512_fmadd_pd                        by_avx2_fmadd_pd
#define _mm512_fnmadd_ps                       by_avx2_fnmadd_ps
#define _mm512_fnmadd_pd                       by_avx2_fnmadd_pd
#define _mm512_scalef_ps                       by_avx2_scalef_ps
#define _mm512_scalef_pd                       by_avx2_scalef_pd
#define _mm512_set1_ps                         by_avx2_set1_ps
#define _mm512_set1_pd                         by_avx2_set1_pd
#define _mm512_loadu_ps                        by_avx2_loadu_ps
#define _mm512_loadu_pd                        by_avx2_loadu_pd
#define _mm512_storeu_ps                       by_avx2_storeu_ps
#define _mm512_storeu_pd                       by_avx2_storeu_pd
#define _mm512_maskz_loadu_ps                  by_avx2_maskz_loadu_ps
#define _mm512_maskz_loadu_pd                  by_avx2_maskz_loadu_pd
#define _mm512_mask_storeu_ps                  by_avx2_mask_storeu_ps
#define _mm512_mask_storeu_pd                  by_avx2_mask_storeu_pd
#define _mm512_mask_mov_ps                     by_avx2_mask_mov_ps
#define _mm512_mask_mov_pd                     by_avx2_mask_mov_pd
#define _mm512_cmp_ps_mask                     by_avx2_cmp_ps_mask
#define _mm512_cmp_pd_mask                     by_avx2_cmp_pd_mask
#define _mm512_unpacklo_ps                     by_avx2_unpacklo_ps
#define _mm512_unpacklo_pd                     by_avx2_unpacklo_pd
#define _mm512_unpackhi_ps                     by_avx2_unpackhi_ps
#define _mm512_unpackhi_pd                     by_avx2_unpackhi_pd
#define _mm512_shuffle_ps                      by_avx2_shuffle_ps
#define _mm512_mask_broadcast_f32x4            by_avx2_mask_broadcast_f32x4
#define _mm512_mask_broadcast_f64x2            by_avx2_mask_broadcast_f64x2
#define _mm512_castps128_ps512                 by_avx2_castps128_ps512
#define _mm512_castpd128_pd512                 by_avx2_castpd128_pd512
#define _mm512_castps_si512(a)                 ((__m512i)(a))
#define _mm512_castpd_si512(a)                 ((__m512i)(a))
#define _mm512_castsi512_ps(a)                 ((__m512)(a))
#define _mm512_castsi512_pd(a)                 ((__m512d)(a))
#define _mm512_ternarylogic_epi32(a, b, c, or) ((a) | ((b) & (c))) /* 0xf8 */
#define _mm512_ternarylogic_epi64(a, b, c, or) ((a) | ((b) & (c)))
