/* SPDX-License-Identifier: MIT */
/* A vector of REAL and the operations on it that the kernels are written with:
 *
 *     V, VL                        the type of a vector, its number of lanes
 *     V_LOAD(p), V_STORE(p, a)     VL values, unaligned
 *     V_LOAD_PART(p, n)            n <= VL values, the other lanes 0; touches nothing beyond p[n-1]
 *     V_STORE_PART(p, n, a)        the first n lanes, nothing else
 *     V_SET1(x)                    x in every lane
 *     V_ADD V_SUB V_MUL V_DIV (a, b)
 *     V_FMA(a, b, c)               a * b + c, rounded once
 *     V_FNMA(a, b, c)              c - a * b, rounded once
 *     V_MIN(a, b), V_MAX(a, b)     b where either is NaN on x86: put the constant first
 *     V_ZERO_IF_GE(a, x, y)        a, but 0 in the lanes where x >= y
 *     V_ABS(a), V_COPYSIGN(a, b)   |a|;  a >= 0 with the sign of b
 *     V_SHIFTER                    shifted = V_SHIFTER + n holds the integer n in its low bits
 *     V_LDEXP(c, n, shifted)       c * 2^n, where both are normal numbers: one instruction of
 *                                  AVX-512 from n; elsewhere shifted is added to the exponent
 *
 * Included once per type by instantiate.inc.h: the first half is per ISA, the second per type.
 * FMA is always written out, files are compiled with -ffp-contract=off: so every ISA
 * rounds at the same places, and these functions give the same bits on all of them. */
#ifndef FL_SIMD_H
#    define FL_SIMD_H

#    include <stddef.h>
#    include <stdint.h>

/* 1.5 * 2^(bits of the fraction): adding it rounds to the nearest integer, as its unit is 1. */
#    define V_SHIFTER     V_SET1((REAL)(REAL_BITS == 32 ? 0x1.8p23 : 0x1.8p52))
#    define V_SIGN_BIT    V_SET1((REAL) - 0.0)
#    define FRACTION_BITS (REAL_BITS == 32 ? 23 : 52)

#    if defined(ISA_AVX512)
#        include <immintrin.h>
#        define V_LOAD(p)             MM(loadu)(p)
#        define V_STORE(p, a)         MM(storeu)(p, a)
#        define V_LOAD_PART(p, n)     MM(maskz_loadu)(FIRST_LANES(n), p)
#        define V_STORE_PART(p, n, a) MM(mask_storeu)(p, FIRST_LANES(n), a)
#        define V_ABS(a)              MM(abs)(a)
#        define V_ZERO_IF_GE(a, x, y) MM(mask_mov)(a, WHERE_GE(x, y), V_SET1((REAL)0))
/* 0xf8 is the truth table of a | (b & c) */
#        define V_COPYSIGN(a, b)                                                                   \
            AS_REAL(II(ternarylogic)(AS_INT(a), AS_INT(b), AS_INT(V_SIGN_BIT), 0xf8))
#        define V_LDEXP(c, n, shifted) MM(scalef)(c, n)
#    elif defined(ISA_AVX2)
#        include <immintrin.h>
#        define V_LOAD(p)             MM(loadu)(p)
#        define V_STORE(p, a)         MM(storeu)(p, a)
#        define V_LOAD_PART(p, n)     MM(maskload)(p, FIRST_LANES(n))
#        define V_STORE_PART(p, n, a) FN(store_part)(p, n, a)
#        define V_ABS(a)              MM(andnot)(V_SIGN_BIT, a)
#        define V_ZERO_IF_GE(a, x, y) MM(andnot)(WHERE_GE(x, y), a)
#        define V_COPYSIGN(a, b)      MM(or)(a, MM (and)(b, V_SIGN_BIT))
#        define V_LDEXP(c, n, shifted)                                                             \
            AS_REAL(II(add)(AS_INT(c), II(slli)(AS_INT(shifted), FRACTION_BITS)))
#    elif defined(ISA_NEON)
#        include <arm_neon.h>
#        include <string.h>
#        define V_LOAD(p)             MM(vld1q)(p)
#        define V_STORE(p, a)         MM(vst1q)(p, a)
#        define V_LOAD_PART(p, n)     FN(load_part)(p, n)
#        define V_STORE_PART(p, n, a) FN(store_part)(p, n, a)
#        define V_SET1(x)             MM(vdupq_n)(x)
#        define V_ADD(a, b)           MM(vaddq)(a, b)
#        define V_SUB(a, b)           MM(vsubq)(a, b)
#        define V_MUL(a, b)           MM(vmulq)(a, b)
#        define V_DIV(a, b)           MM(vdivq)(a, b)
#        define V_FMA(a, b, c)        MM(vfmaq)(c, a, b)
#        define V_FNMA(a, b, c)       MM(vfmsq)(c, a, b)
#        define V_MIN(a, b)           MM(vminq)(a, b)
#        define V_MAX(a, b)           MM(vmaxq)(a, b)
#        define V_ABS(a)              MM(vabsq)(a)
#        define V_ZERO_IF_GE(a, x, y) AS_REAL(II(vbicq)(AS_INT(a), WHERE_GE(x, y)))
#        define V_COPYSIGN(a, b)                                                                   \
            AS_REAL(II(vorrq)(AS_INT(a), II(vandq)(AS_INT(b), AS_INT(V_SIGN_BIT))))
#        define V_LDEXP(c, n, shifted)                                                             \
            AS_REAL(II(vaddq)(AS_INT(c), II(vshlq_n)(AS_INT(shifted), FRACTION_BITS)))
#    else
#        error "simd.h has no section for this ISA: define ISA_AVX512, ISA_AVX2 or ISA_NEON"
#    endif

#    if defined(ISA_AVX512) || defined(ISA_AVX2)
#        define V_SET1(x)       MM(set1)(x)
#        define V_ADD(a, b)     MM(add)(a, b)
#        define V_SUB(a, b)     MM(sub)(a, b)
#        define V_MUL(a, b)     MM(mul)(a, b)
#        define V_DIV(a, b)     MM(div)(a, b)
#        define V_FMA(a, b, c)  MM(fmadd)(a, b, c)
#        define V_FNMA(a, b, c) MM(fnmadd)(a, b, c)
#        define V_MIN(a, b)     MM(min)(a, b)
#        define V_MAX(a, b)     MM(max)(a, b)
#    endif
#endif /* FL_SIMD_H */

#undef V
#undef VL
#undef MM
#undef II
#undef AS_INT
#undef AS_REAL
#undef FIRST_LANES
#undef WHERE_GE

/* MM(op) and II(op): the intrinsics on REAL and on the integers of the same width; WHERE_GE: the
 * lanes where x >= y, as a mask or as bits. */
#if defined(ISA_AVX512) && REAL_BITS == 32
#    define V              __m512
#    define VL             16
#    define MM(op)         _mm512_##op##_ps
#    define II(op)         _mm512_##op##_epi32
#    define AS_INT(a)      _mm512_castps_si512(a)
#    define AS_REAL(a)     _mm512_castsi512_ps(a)
#    define FIRST_LANES(n) ((__mmask16)((1u << (n)) - 1u))
#    define WHERE_GE(x, y) _mm512_cmp_ps_mask(x, y, _CMP_GE_OQ)
#elif defined(ISA_AVX512) && REAL_BITS == 64
#    define V              __m512d
#    define VL             8
#    define MM(op)         _mm512_##op##_pd
#    define II(op)         _mm512_##op##_epi64
#    define AS_INT(a)      _mm512_castpd_si512(a)
#    define AS_REAL(a)     _mm512_castsi512_pd(a)
#    define FIRST_LANES(n) ((__mmask8)((1u << (n)) - 1u))
#    define WHERE_GE(x, y) _mm512_cmp_pd_mask(x, y, _CMP_GE_OQ)
#elif defined(ISA_AVX2) && REAL_BITS == 32
#    define V          __m256
#    define VL         8
#    define MM(op)     _mm256_##op##_ps
#    define II(op)     _mm256_##op##_epi32
#    define AS_INT(a)  _mm256_castps_si256(a)
#    define AS_REAL(a) _mm256_castsi256_ps(a)
#    define FIRST_LANES(n)                                                                         \
        _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#    define WHERE_GE(x, y) _mm256_cmp_ps(x, y, _CMP_GE_OQ)
#elif defined(ISA_AVX2) && REAL_BITS == 64
#    define V              __m256d
#    define VL             4
#    define MM(op)         _mm256_##op##_pd
#    define II(op)         _mm256_##op##_epi64
#    define AS_INT(a)      _mm256_castpd_si256(a)
#    define AS_REAL(a)     _mm256_castsi256_pd(a)
#    define FIRST_LANES(n) _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3))
#    define WHERE_GE(x, y) _mm256_cmp_pd(x, y, _CMP_GE_OQ)
#elif defined(ISA_NEON) && REAL_BITS == 32
#    define V              float32x4_t
#    define VL             4
#    define MM(op)         op##_f32
#    define II(op)         op##_s32
#    define AS_INT(a)      vreinterpretq_s32_f32(a)
#    define AS_REAL(a)     vreinterpretq_f32_s32(a)
#    define WHERE_GE(x, y) vreinterpretq_s32_u32(vcgeq_f32(x, y))
#elif defined(ISA_NEON) && REAL_BITS == 64
#    define V              float64x2_t
#    define VL             2
#    define MM(op)         op##_f64
#    define II(op)         op##_s64
#    define AS_INT(a)      vreinterpretq_s64_f64(a)
#    define AS_REAL(a)     vreinterpretq_f64_s64(a)
#    define WHERE_GE(x, y) vreinterpretq_s64_u64(vcgeq_f64(x, y))
#endif

#if defined(ISA_AVX2)
/* By halves: a masked store takes twelve cycles or more on AMD's processors. */
static inline void FN(store_part)(REAL *p, ptrdiff_t n, V a) {
    if (n == VL) {
        V_STORE(p, a);
        return;
    }
#    if REAL_BITS == 32
    __m128 part = _mm256_castps256_ps128(a);
    if (n & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps(a, 1), p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, part);
        part = _mm_movehl_ps(part, part), p += 2;
    }
    if (n & 1) _mm_store_ss(p, part);
#    else
    __m128d part = _mm256_castpd256_pd128(a);
    if (n & 2) {
        _mm_storeu_pd(p, part);
        part = _mm256_extractf128_pd(a, 1), p += 2;
    }
    if (n & 1) _mm_store_sd(p, part);
#    endif
}
#elif defined(ISA_NEON)
static inline V FN(load_part)(const REAL *p, ptrdiff_t n) {
    REAL lanes[VL] = {0};
    memcpy(lanes, p, (size_t)n * sizeof(REAL));
    return V_LOAD(lanes);
}

static inline void FN(store_part)(REAL *p, ptrdiff_t n, V a) {
    REAL lanes[VL];
    V_STORE(lanes, a);
    memcpy(p, lanes, (size_t)n * sizeof(REAL));
}
#endif
