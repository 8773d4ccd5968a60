/* SPDX-License-Identifier: MIT */
/* sigmoid(x) = 1 / (1 + e^-x)            tanh(x) = (1 - e^-2x) / (1 + e^-2x)
 *
 * Both take e^-z apart, z = x or 2|x|, and never form it:
 *
 *     n = round(-z log2 e)     r = z + n ln 2, |r| <= ln(2)/2     m = 1 - e^-r     s = 2^n
 *     e^-z = s - s m           1 + e^-z = (1 + s) - s m           1 - e^-z = (1 - s) + s m
 *
 * so that the last two are one FMA each, and small z keep all their digits through m.
 * m = r - r^2 q(r), q a polynomial fitted by fit_coefficients.py, where the coefficients come from:
 * relative error of m <= 1.4e-8 (float32, degree 4) and 1.9e-17 (float64, degree 9).
 *
 * Largest error, in units in the last place of the exact result (test_kernels.c --full: float32
 * over all 2^32 values, float64 the largest seen in 5 10^7 samples); the same bits on every ISA:
 *
 *                float32    float64
 *     sigmoid    2.45       2.5
 *     tanh       1.97       2.2
 *
 * NaN gives NaN (why the constant comes first in V_MIN and V_MAX); sigmoid(-inf) = 0,
 * sigmoid(inf) = 1, tanh(+-inf) = +-1, all exact; tanh(-x) = -tanh(x) to the bit, zero included;
 * denormal arguments and results are as accurate as the rest. */

/* EXP_SCALE: sigmoid works on 2^-k (1 + e^-x), so that e^-x does not overflow where the result is
 * denormal, and divides 2^-k by it: one rounding, also into the denormals.
 * X_MIN: sigmoid is 0 below. X_MAX: sigmoid and tanh are 1 above. */
#if REAL_BITS == 32
#    define LOG2E     0x1.715476p+0f
#    define LN2_HI    0x1.62e4p-1f
#    define LN2_LO    0x1.7f7d1cp-20f
#    define EXP_SCALE 0x1p-24f
#    define X_MIN     -104.0f
#    define X_MAX     20.0f
#else
#    define LOG2E     0x1.71547652b82fep+0
#    define LN2_HI    0x1.62e42fefa2p-1
#    define LN2_LO    0x1.9ef35793c7673p-41
#    define EXP_SCALE 0x1p-64
#    define X_MIN     -746.0
#    define X_MAX     40.0
#endif

enum { FN(lanes) = VL };

/* q(r) of the formula above */
static inline V FN(v_exp_polynomial)(V r) {
#if REAL_BITS == 32
    V q = V_SET1(0x1.6b979ep-10f);
    q = V_FMA(q, r, V_SET1(-0x1.122536p-7f));
    q = V_FMA(q, r, V_SET1(0x1.5556f6p-5f));
    q = V_FMA(q, r, V_SET1(-0x1.5554b4p-3f));
    return V_FMA(q, r, V_SET1(0x1.fffffep-2f));
#else
    V q = V_SET1(-0x1.ae97249e3f19ep-26);
    q = V_FMA(q, r, V_SET1(0x1.28a1703187099p-22));
    q = V_FMA(q, r, V_SET1(-0x1.71de677d894d8p-19));
    q = V_FMA(q, r, V_SET1(0x1.a019a7d45cdf7p-16));
    q = V_FMA(q, r, V_SET1(-0x1.a01a0186bfeb8p-13));
    q = V_FMA(q, r, V_SET1(0x1.6c16c17ec6063p-10));
    q = V_FMA(q, r, V_SET1(-0x1.1111111114e34p-7));
    q = V_FMA(q, r, V_SET1(0x1.5555555552278p-5));
    q = V_FMA(q, r, V_SET1(-0x1.555555555554fp-3));
    return V_FMA(q, r, V_SET1(0x1.0000000000005p-1));
#endif
}

/* m(r) = 1 - e^-r */
static inline V FN(v_exp_difference)(V r) {
    return V_FNMA(V_MUL(r, r), FN(v_exp_polynomial)(r), r);
}

static inline V FN(v_sigmoid)(V x) {
    const V scale = V_SET1(EXP_SCALE);
    const V z = V_MAX(V_SET1(X_MIN), V_MIN(V_SET1(X_MAX), x));
    const V shifted = V_FMA(z, V_SET1(-LOG2E), V_SHIFTER);
    const V n = V_SUB(shifted, V_SHIFTER);
    V r = V_FMA(n, V_SET1(LN2_HI), z); /* exact: LN2_HI is short */
    r = V_FMA(n, V_SET1(LN2_LO), r);
    const V m = FN(v_exp_difference)(r);
    const V s = V_LDEXP(scale, shifted);
    return V_DIV(scale, V_FNMA(s, m, V_ADD(scale, s)));
}

/* ln 2 in one piece: its rounding error, times n, is lost in s = 2^n <= 1/2 beside 1 (10 % of the
 * time on a Zen 4; sigmoid needs both pieces, because there s grows with n). */
static inline V FN(v_tanh)(V x) {
    const V one = V_SET1((REAL)1);
    const V half_z = V_MIN(V_SET1(X_MAX), V_ABS(x));
    const V shifted = V_FMA(half_z, V_SET1(-2 * LOG2E), V_SHIFTER);
    const V n = V_SUB(shifted, V_SHIFTER);
    const V r = V_FMA(n, V_SET1(LN2_HI + LN2_LO), V_ADD(half_z, half_z));
    const V m = FN(v_exp_difference)(r);
    const V s = V_LDEXP(one, shifted);
    const V numerator = V_FMA(s, m, V_SUB(one, s));
    const V denominator = V_FNMA(s, m, V_ADD(one, s));
    return V_COPYSIGN(V_DIV(numerator, denominator), x);
}

static void FN(sigmoid)(const void *x_, void *y_, ptrdiff_t n) {
    const REAL *x = x_;
    REAL *y = y_;
    ptrdiff_t k = 0;
    for (; k <= n - VL; k += VL) V_STORE(y + k, FN(v_sigmoid)(V_LOAD(x + k)));
    if (k < n) V_STORE_PART(y + k, n - k, FN(v_sigmoid)(V_LOAD_PART(x + k, n - k)));
}

static void FN(tanh)(const void *x_, void *y_, ptrdiff_t n) {
    const REAL *x = x_;
    REAL *y = y_;
    ptrdiff_t k = 0;
    for (; k <= n - VL; k += VL) V_STORE(y + k, FN(v_tanh)(V_LOAD(x + k)));
    if (k < n) V_STORE_PART(y + k, n - k, FN(v_tanh)(V_LOAD_PART(x + k, n - k)));
}

#undef LOG2E
#undef LN2_HI
#undef LN2_LO
#undef EXP_SCALE
#undef X_MIN
#undef X_MAX
