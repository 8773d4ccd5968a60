/* SPDX-License-Identifier: MIT */
/* sigmoid(x) = 1 / (1 + e^-x)        tanh(x) = (1 - e^-2|x|) / (1 + e^-2|x|), the sign of x
 *
 * Both take the exponential apart, s = 2^n, and end in one FMA on it:
 *
 *     sigmoid    n = round(-x log2 e)       r = x + n ln 2         |r| <= ln(2)/2
 *                e^-r = 1 - r + r^2 q(r)    1 + e^-x = 1 + s e^-r
 *     tanh       n = round(-2|x| log2 e)    r = |x| + n ln(2)/2    |r| <= ln(2)/4
 *                m = (1 - e^-2r) / 2 = r - 2 r^2 q(2r)
 *                (1 - e^-2|x|) / 2 = (1 - s) / 2 + s m,  (1 + e^-2|x|) / 2 = (1 + s) / 2 - s m
 *
 * so that tanh keeps all digits of small x through m. The two q are polynomials by
 * fit_coefficients.py: relative error of e^-r <= 3.2e-9 (float32, degree 4) and 3.8e-18
 * (float64, degree 9), of m <= 1.4e-8 and 1.9e-17.
 *
 * Largest error, in units in the last place of the exact result (test_kernels.c --full: float32
 * over all 2^32 values, float64 the largest seen in 5 10^7 samples); the same bits on every ISA:
 *
 *                float32    float64
 *     sigmoid    2.48       2.5
 *     tanh       1.97       2.2
 *
 * NaN gives NaN (why the constant comes first in V_MIN and V_MAX); sigmoid(-inf) = 0,
 * sigmoid(inf) = 1, tanh(+-inf) = +-1, all exact; tanh(-x) = -tanh(x) to the bit, zero included;
 * denormal arguments and results are as accurate as the rest, unless the caller has them
 * flushed, as the loops over time have. */

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

/* The coefficients of q(r) and of 2 q(2r), highest power first. */
#if REAL_BITS == 32
#    define Q_DEGREE 4
static const REAL FN(sigmoid_q)[] = {
    0x1.6a4f28p-10f, -0x1.12398p-7f, 0x1.5558aep-5f, -0x1.555492p-3f, 0x1.fffffcp-2f,
};
static const REAL FN(tanh_q)[] = {
    0x1.6b979ep-5f, -0x1.122536p-3f, 0x1.5556f6p-2f, -0x1.5554b4p-1f, 0x1.fffffep-1f,
};
#else
#    define Q_DEGREE 9
static const REAL FN(sigmoid_q)[] = {
    -0x1.adaf49f0ec425p-26, 0x1.28ade48c5f0fbp-22, -0x1.71df0598be197p-19, 0x1.a019997929fb3p-16,
    -0x1.a01a01396a1dcp-13, 0x1.6c16c1846e067p-10, -0x1.1111111124be4p-7,  0x1.55555555506dbp-5,
    -0x1.5555555555507p-3,  0x1.000000000000ap-1,
};
static const REAL FN(tanh_q)[] = {
    -0x1.ae97249e3f19ep-16, 0x1.28a1703187099p-13, -0x1.71de677d894d8p-11, 0x1.a019a7d45cdf7p-9,
    -0x1.a01a0186bfeb8p-7,  0x1.6c16c17ec6063p-5,  -0x1.1111111114e34p-3,  0x1.5555555552278p-2,
    -0x1.555555555554fp-1,  0x1.0000000000005p+0,
};
#endif

/* n vectors in lockstep: the next instruction of the first waits for its last one as long as the
 * others take theirs. One vector after the other, the processor finds too few that are ready among
 * the hundred instructions it looks at: 19.5 ns instead of 16.6 for the gates of a vector. */
#define EACH FL_UNROLL for (int k = 0; k < n; k++)

FL_INLINE void FN(polynomial)(const int n, const REAL *coefficients, const V *r, V *q) {
    EACH q[k] = V_SET1(coefficients[0]);
    FL_UNROLL_ALL for (int i = 1; i <= Q_DEGREE; i++) EACH q[k] =
        V_FMA(q[k], r[k], V_SET1(coefficients[i]));
}

FL_INLINE void FN(v_sigmoid)(const int n, V *x) {
    const V one = V_SET1((REAL)1), scale = V_SET1(EXP_SCALE);
    V shifted[LOCKSTEP], r[LOCKSTEP], s[LOCKSTEP], e[LOCKSTEP];
    EACH x[k] = V_MIN(V_SET1(X_MAX), x[k]);
    EACH x[k] = V_MAX(V_SET1(X_MIN), x[k]);
    EACH shifted[k] = V_FMA(x[k], V_SET1(-LOG2E), V_SHIFTER);
    EACH s[k] = V_SUB(shifted[k], V_SHIFTER);
    EACH r[k] = V_FMA(s[k], V_SET1(LN2_HI), x[k]); /* exact: LN2_HI is short */
    EACH r[k] = V_FMA(s[k], V_SET1(LN2_LO), r[k]);
    EACH s[k] = V_LDEXP(scale, s[k], shifted[k]);
    FN(polynomial)(n, FN(sigmoid_q), r, e);
    EACH e[k] = V_FMA(e[k], r[k], V_SET1((REAL)-1));
    EACH e[k] = V_FMA(e[k], r[k], one);
    EACH e[k] = V_FMA(s[k], e[k], scale);
    EACH x[k] = V_DIV(scale, e[k]);
}

/* ln 2 in one piece: its rounding error, times n, is lost in s = 2^n <= 1/2 beside 1 (10 % of the
 * time on a Zen 4; sigmoid needs both pieces, because there s grows with n). */
FL_INLINE void FN(v_tanh)(const int n, V *x) {
    const V one = V_SET1((REAL)1), half = V_SET1((REAL)0.5);
    V shifted[LOCKSTEP], r[LOCKSTEP], s[LOCKSTEP], m[LOCKSTEP], square[LOCKSTEP];
    EACH r[k] = V_ABS(x[k]);
    EACH r[k] = V_MIN(V_SET1(X_MAX), r[k]);
    EACH shifted[k] = V_FMA(r[k], V_SET1(-2 * LOG2E), V_SHIFTER);
    EACH s[k] = V_SUB(shifted[k], V_SHIFTER);
    EACH r[k] = V_FMA(s[k], V_SET1((LN2_HI + LN2_LO) / 2), r[k]);
    EACH s[k] = V_LDEXP(one, s[k], shifted[k]);
    FN(polynomial)(n, FN(tanh_q), r, m);
    EACH square[k] = V_MUL(r[k], r[k]);
    EACH m[k] = V_FNMA(square[k], m[k], r[k]);
    EACH r[k] = V_FNMA(half, s[k], half);
    EACH square[k] = V_FMA(half, s[k], half);
    EACH r[k] = V_FMA(s[k], m[k], r[k]); /* numerator and denominator */
    EACH square[k] = V_FNMA(s[k], m[k], square[k]);
    EACH r[k] = V_DIV(r[k], square[k]);
    EACH x[k] = V_COPYSIGN(r[k], x[k]);
}

#define FL_ELEMENTWISE(name)                                                                       \
    static void FN(name)(const void *x_, void *y_, ptrdiff_t count) {                              \
        const REAL *x = x_;                                                                        \
        REAL *y = y_;                                                                              \
        V v[LOCKSTEP];                                                                             \
        ptrdiff_t at = 0;                                                                          \
        for (; at <= count - LOCKSTEP * VL; at += LOCKSTEP * VL) {                                 \
            FL_UNROLL for (int k = 0; k < LOCKSTEP; k++) v[k] = V_LOAD(x + at + k * VL);           \
            FN(v_##name)(LOCKSTEP, v);                                                             \
            FL_UNROLL for (int k = 0; k < LOCKSTEP; k++) V_STORE(y + at + k * VL, v[k]);           \
        }                                                                                          \
        for (; at < count; at += VL) {                                                             \
            v[0] = V_LOAD_PART(x + at, FL_MIN(VL, count - at));                                    \
            FN(v_##name)(1, v);                                                                    \
            V_STORE_PART(y + at, FL_MIN(VL, count - at), v[0]);                                    \
        }                                                                                          \
    }
FL_ELEMENTWISE(sigmoid)
FL_ELEMENTWISE(tanh)
#undef FL_ELEMENTWISE
#undef EACH
#undef Q_DEGREE
#undef LOG2E
#undef LN2_HI
#undef LN2_LO
#undef EXP_SCALE
#undef X_MIN
#undef X_MAX
