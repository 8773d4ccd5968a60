/* SPDX-License-Identifier: MIT */
/* Proof of the kernels without Python:   test_kernels [--full]
 *
 * Runs every instruction set that this processor has. Accuracy is counted in units in the last
 * place (ulp) of the exact result: float32 against libm in double, float64 against libm in long
 * double. The default takes a sample in every binade (about 2 s); --full takes all 2^32 floats and
 * a denser sample of doubles (about 1 min). Returns 0 when every bound and every edge case holds.
 */
#include "fastlstm.h"
#include "test_random.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 4096, MAX_ISAS = 8, N_FUNCTIONS = 2, SIGMOID = 0, TANH = 1 };

static const double MAX_ULP = 3.0; /* the promise in fastlstm.h */
static const char *const DTYPES[FL_N_DTYPES] = {"float32", "float64"};
static const char *const FUNCTIONS[N_FUNCTIONS] = {"sigmoid", "tanh"};

static const fl_kernels *kernels[MAX_ISAS];
static int n_isas;
static int n_failures;

/* The largest error of one function on one instruction set, and a checksum of all its results. */
typedef struct {
    double ulp, at;
    uint64_t checksum;
} worst;

static void fail(const char *isa, int function, int dtype, const char *what, double x, double y) {
    if (n_failures++ < 20)
        fprintf(stderr, "FAIL %s %s %s: %s at x = %a (%.9g): got %a\n", isa, FUNCTIONS[function],
                DTYPES[dtype], what, x, x, y);
}

static void run(const fl_kernels *k, int function, int dtype, const void *x, void *y, ptrdiff_t n) {
    (function == SIGMOID ? k->sigmoid : k->tanh)[dtype](x, y, n);
}

/* ---- float32: the exact result in double ---- */

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* The series and the limits, exact in double out there, save half of the time of a full sweep. */
static double sigmoid_exact(double x) {
    if (fabs(x) < 0x1p-30) return 0.5 + x / 4;
    if (fabs(x) > 128) return x > 0 ? 1 : 0;
    return 1 / (1 + exp(-x));
}

static double tanh_exact(double x) {
    if (fabs(x) < 0x1p-30) return x;
    if (fabs(x) > 128) return copysign(1, x);
    return tanh(x);
}

/* |y - exact| over the distance of floats at exact, that of the denormals included */
static double float_ulps(float y, double exact) {
    uint64_t bits;
    memcpy(&bits, &exact, sizeof bits);
    uint64_t exponent = bits >> 52 & 0x7ff;
    if (exponent < 1023 - 126) exponent = 1023 - 126;
    bits = (1023 + 23 + 1023 - exponent) << 52;
    double per_ulp;
    memcpy(&per_ulp, &bits, sizeof per_ulp);
    return fabs(y - exact) * per_ulp;
}

static void compare_floats(int isa, int function, const float *x, const float *y,
                           const double *exact, int n, worst *w) {
    double block_worst = 0;
    int bad = 0;
    uint64_t checksum = 0;
    for (int j = 0; j < n; j++) {
        const double ulp = float_ulps(y[j], exact[j]);
        block_worst = ulp > block_worst ? ulp : block_worst;
        bad |= !(ulp <= MAX_ULP) | !(fabsf(y[j]) <= 1); /* NaN is bad */
        checksum += bits_of(y[j]);
    }
    w->checksum = w->checksum * 31 + checksum;
    for (int j = 0; j < n && (bad || block_worst > w->ulp); j++) {
        const double ulp = float_ulps(y[j], exact[j]);
        if (!(ulp <= MAX_ULP)) fail(kernels[isa]->isa, function, FL_F32, "> 3 ulp", x[j], y[j]);
        if (!(fabsf(y[j]) <= 1)) fail(kernels[isa]->isa, function, FL_F32, "> 1", x[j], y[j]);
        if (ulp > w->ulp) w->ulp = ulp, w->at = x[j];
    }
}

/* All floats start + j * stride and their negatives, in every instruction set */
static void float_block(int function, uint32_t start, uint32_t stride, int n, worst *w) {
    static float x[BLOCK], minus_x[BLOCK], y[BLOCK], minus_y[BLOCK];
    static double exact[BLOCK], minus_exact[BLOCK];
    for (int j = 0; j < n; j++) {
        x[j] = float_of(start + (uint32_t)j * stride);
        minus_x[j] = -x[j];
        exact[j] = function == SIGMOID ? sigmoid_exact(x[j]) : tanh_exact(x[j]);
        minus_exact[j] = function == SIGMOID ? sigmoid_exact(minus_x[j]) : -exact[j];
    }
    for (int isa = 0; isa < n_isas; isa++) {
        run(kernels[isa], function, FL_F32, x, y, n);
        run(kernels[isa], function, FL_F32, minus_x, minus_y, n);
        compare_floats(isa, function, x, y, exact, n, &w[isa]);
        compare_floats(isa, function, minus_x, minus_y, minus_exact, n, &w[isa]);
        for (int j = 0; function == TANH && j < n; j++)
            if (bits_of(minus_y[j]) != (bits_of(y[j]) ^ 0x80000000u))
                fail(kernels[isa]->isa, TANH, FL_F32, "tanh(-x) != -tanh(x)", x[j], minus_y[j]);
    }
}

static void sweep_floats(int function, uint32_t stride, worst *w) {
    const uint32_t infinity = 0x7f800000u;
    for (uint64_t start = 0; start <= infinity; start += (uint64_t)stride * BLOCK) {
        const uint64_t left = (infinity - start) / stride + 1;
        float_block(function, (uint32_t)start, stride, left < BLOCK ? (int)left : BLOCK, w);
    }
}

static void sweep_float_nans(int function, uint32_t stride) {
    static float x[BLOCK], y[BLOCK];
    const uint32_t last = 0x7fffffffu;
    for (uint64_t start = 0x7f800001u; start <= last; start += (uint64_t)stride * BLOCK) {
        const uint64_t left = (last - start) / stride + 1;
        const int n = left < BLOCK ? (int)left : BLOCK;
        for (uint32_t sign = 0; sign <= 1; sign++) {
            for (int j = 0; j < n; j++)
                x[j] = float_of((uint32_t)start + (uint32_t)j * stride + (sign << 31));
            for (int isa = 0; isa < n_isas; isa++) {
                run(kernels[isa], function, FL_F32, x, y, n);
                for (int j = 0; j < n; j++)
                    if (!isnan(y[j]))
                        fail(kernels[isa]->isa, function, FL_F32, "NaN lost", x[j], y[j]);
            }
        }
    }
}

/* ---- float64: the exact result in long double (64 bits of fraction or more) ---- */

static double double_ulps(double y, long double exact) {
    int exponent;
    (void)frexpl(exact, &exponent);
    if (exponent < DBL_MIN_EXP) exponent = DBL_MIN_EXP;
    return (double)ldexpl(fabsl((long double)y - exact), DBL_MANT_DIG - exponent);
}

static void compare_doubles(int isa, int function, const double *x, const long double *exact, int n,
                            worst *w) {
    static double y[BLOCK];
    run(kernels[isa], function, FL_F64, x, y, n);
    for (int j = 0; j < n; j++) {
        const double ulp = double_ulps(y[j], exact[j]);
        uint64_t bits;
        memcpy(&bits, &y[j], sizeof bits);
        w->checksum = w->checksum * 31 + bits;
        if (!(ulp <= MAX_ULP)) fail(kernels[isa]->isa, function, FL_F64, "> 3 ulp", x[j], y[j]);
        if (!(fabs(y[j]) <= 1)) fail(kernels[isa]->isa, function, FL_F64, "> 1", x[j], y[j]);
        if (ulp > w->ulp) w->ulp = ulp, w->at = x[j];
    }
}

/* n random doubles of either sign with low <= |x| < high */
static void double_block(int function, double low, double high, int n, worst *w) {
    static double x[BLOCK];
    static long double exact[BLOCK];
    for (int j = 0; j < n; j++) {
        const uint64_t bits = random_bits();
        x[j] = low + (double)(bits >> 12) * 0x1p-52 * (high - low);
        if (bits & 1) x[j] = -x[j];
        const long double z = x[j];
        exact[j] = function == SIGMOID ? 1 / (1 + expl(-z)) : tanhl(z);
    }
    for (int isa = 0; isa < n_isas; isa++) compare_doubles(isa, function, x, exact, n, &w[isa]);
}

/* Blocks where something happens, 2^-30 to 2^10; a few numbers of every other binade; and more
 * where sigmoid is worst, near -53 ln 2: there 2^53 + 1 is rounded. */
static void sample_doubles(int function, int n_blocks, worst *w) {
    for (int exponent = DBL_MIN_EXP - DBL_MANT_DIG; exponent < DBL_MAX_EXP; exponent++) {
        const int dense = exponent >= -30 && exponent < 10;
        const double low = ldexp(1, exponent);
        const double high = exponent < DBL_MAX_EXP - 1 ? 2 * low : DBL_MAX;
        for (int k = 0; k < (dense ? n_blocks : 1); k++)
            double_block(function, low, high, dense ? BLOCK : 16, w);
    }
    for (int k = 0; k < 10 * n_blocks; k++) double_block(function, 36, 37, BLOCK, w);
}

/* ---- edges, tails, dispatch ---- */

/* One value through the kernel of either type */
static double evaluate(const fl_kernels *k, int function, int dtype, double x) {
    const float x32 = (float)x;
    float y32;
    double y64;
    if (dtype == FL_F32)
        run(k, function, dtype, &x32, &y32, 1);
    else
        run(k, function, dtype, &x, &y64, 1);
    return dtype == FL_F32 ? (double)y32 : y64;
}

static void expect(const fl_kernels *k, int function, int dtype, double x, double exact) {
    const double y = evaluate(k, function, dtype, x);
    const int same = isnan(exact) ? isnan(y) : y == exact && !signbit(y) == !signbit(exact);
    if (!same) fail(k->isa, function, dtype, "wrong edge case", x, y);
}

static void test_edges(const fl_kernels *k, int dtype) {
    const double largest = dtype == FL_F32 ? FLT_MAX : DBL_MAX;
    const double normal = dtype == FL_F32 ? FLT_MIN : DBL_MIN;
    const double denormal = dtype == FL_F32 ? 0x1p-149 : 0x1p-1074;
    const double unchanged[] = {0, denormal, 3 * denormal, normal - denormal, normal, 5 * normal};
    expect(k, SIGMOID, dtype, INFINITY, 1);
    expect(k, SIGMOID, dtype, -INFINITY, 0);
    expect(k, SIGMOID, dtype, largest, 1);
    expect(k, SIGMOID, dtype, -largest, 0);
    expect(k, SIGMOID, dtype, dtype == FL_F32 ? -103.9 : -745.1, denormal);
    expect(k, SIGMOID, dtype, dtype == FL_F32 ? -104.0 : -745.2, 0);
    for (int sign = -1; sign <= 1; sign += 2) {
        expect(k, SIGMOID, dtype, sign * (double)NAN, NAN);
        expect(k, TANH, dtype, sign * (double)NAN, NAN);
        expect(k, TANH, dtype, sign * (double)INFINITY, sign);
        expect(k, TANH, dtype, sign * largest, sign);
        expect(k, TANH, dtype, sign * (dtype == FL_F32 ? 9.02 : 19.07), sign);
        for (size_t j = 0; j < sizeof unchanged / sizeof *unchanged; j++) {
            expect(k, TANH, dtype, sign * unchanged[j], sign * unchanged[j]);
            expect(k, SIGMOID, dtype, sign * unchanged[j], 0.5);
        }
    }
}

/* Every length up to two vectors and a bit: the same bits as one by one, in place too, and no
 * byte beyond the end read (the sanitizer sees the heap block's end) or written. */
static void test_tails(const fl_kernels *k, int function, int dtype) {
    const size_t size = dtype == FL_F32 ? sizeof(float) : sizeof(double);
    for (ptrdiff_t n = 0; n <= 2 * k->lanes[dtype] + 1; n++) {
        const size_t bytes = (size_t)n * size;
        char *x = malloc(bytes + 1), *y = malloc(bytes + 1), one[sizeof(double)];
        if (!x || !y) abort();
        for (ptrdiff_t j = 0; j < n; j++) {
            const double value = (double)j * 0.37 - 3;
            const float value32 = (float)value;
            memcpy(x + (size_t)j * size, dtype == FL_F32 ? (const void *)&value32 : &value, size);
        }
        x[bytes] = y[bytes] = 42;
        run(k, function, dtype, x, y, n);
        for (ptrdiff_t j = 0; j < n; j++) {
            run(k, function, dtype, x + (size_t)j * size, one, 1);
            if (memcmp(y + (size_t)j * size, one, size))
                fail(k->isa, function, dtype, "result depends on position", (double)j, (double)n);
        }
        run(k, function, dtype, x, x, n);
        if (memcmp(x, y, bytes)) fail(k->isa, function, dtype, "wrong in place", 0, (double)n);
        if (x[bytes] != 42 || y[bytes] != 42)
            fail(k->isa, function, dtype, "wrote beyond the end", 0, (double)n);
        free(x);
        free(y);
    }
}

static void test_dispatch(void) {
    const char *const *names = fl_isas();
    int n_names = 0, ok = 1;
    for (; names[n_names]; n_names++) {
        const fl_kernels *k = fl_kernels_for(names[n_names]);
        if (k) ok &= strcmp(k->isa, names[n_names]) == 0;
        if (k && n_isas < MAX_ISAS) kernels[n_isas++] = k;
    }
    ok &= n_names > 0 && strcmp(names[n_names - 1], "none") == 0;
    ok &= strcmp(fl_best_isa(), n_isas ? kernels[0]->isa : "none") == 0;
    ok &= !fl_kernels_for("none") && !fl_kernels_for("") && !fl_kernels_for("avx");
    if (!ok) {
        n_failures++;
        fprintf(stderr, "FAIL dispatch: names, tables and the best name do not agree\n");
    }
}

static void report(int function, int dtype, const worst *w) {
    for (int isa = 0; isa < n_isas; isa++) {
        printf("%-8s %-8s %-8s max %.3f ulp at %-13.9g bits %016llx\n", kernels[isa]->isa,
               FUNCTIONS[function], DTYPES[dtype], w[isa].ulp, w[isa].at,
               (unsigned long long)w[isa].checksum);
        if (w[isa].checksum != w[0].checksum)
            fail(kernels[isa]->isa, function, dtype, "other bits than the first ISA", 0, 0);
    }
}

int main(int argc, char **argv) {
    const int full = argc == 2 && strcmp(argv[1], "--full") == 0;
    if (argc > 1 && !full) {
        fprintf(stderr, "usage: %s [--full]\n", argv[0]);
        return 2;
    }
    test_dispatch();
    printf("best instruction set here: %s\n", fl_best_isa());
    for (int isa = 0; isa < n_isas; isa++)
        for (int dtype = 0; dtype < FL_N_DTYPES; dtype++) {
            test_edges(kernels[isa], dtype);
            for (int function = 0; function < N_FUNCTIONS; function++)
                test_tails(kernels[isa], function, dtype);
        }
    for (int function = 0; function < N_FUNCTIONS; function++) {
        worst float_worst[MAX_ISAS] = {{0}}, double_worst[MAX_ISAS] = {{0}};
        sweep_floats(function, full ? 1 : 101, float_worst);
        sweep_float_nans(function, full ? 1 : 101);
        report(function, FL_F32, float_worst);
        sample_doubles(function, full ? 256 : 24, double_worst);
        report(function, FL_F64, double_worst);
    }
    printf(n_failures ? "%d FAILED\n" : "all kernels passed\n", n_failures);
    return n_failures != 0;
}
