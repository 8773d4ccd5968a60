/* SPDX-License-Identifier: MIT */
/* From the processor to the table of its kernels. Which ISA files belong to which machine stands
 * in the Makefile (ISAS_<machine>); this file must agree with it. */
#include "fastlstm.h"

#include <string.h>

/* __builtin_cpu_supports asks cpuid and, for the wide registers, whether the system saves them. */
#if defined(__x86_64__) && defined(__GNUC__)
extern const fl_kernels fl_kernels_avx512, fl_kernels_avx2;

static int runs_avx512(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
}

static int runs_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#    define FL_CANDIDATES {&fl_kernels_avx512, runs_avx512}, {&fl_kernels_avx2, runs_avx2},
#    define FL_NAMES      "avx512", "avx2",

#elif defined(__aarch64__) && defined(__GNUC__)
extern const fl_kernels fl_kernels_neon;

static int runs_neon(void) { return 1; }
#    define FL_CANDIDATES {&fl_kernels_neon, runs_neon},
#    define FL_NAMES      "neon",

#else /* another machine, or a compiler without the builtin: the engine's own step serves */
#    define FL_CANDIDATES
#    define FL_NAMES
#endif

/* Fastest first; the last entry ends the list. */
static const struct {
    const fl_kernels *kernels;
    int (*runs)(void);
} candidates[] = {FL_CANDIDATES{NULL, NULL}};

static const char *const names[] = {FL_NAMES "none", NULL};

const char *const *fl_isas(void) { return names; }

const fl_kernels *fl_kernels_for(const char *isa) {
    for (size_t k = 0; candidates[k].kernels; k++)
        if (strcmp(isa, candidates[k].kernels->isa) == 0)
            return candidates[k].runs() ? candidates[k].kernels : NULL;
    return NULL;
}

const char *fl_best_isa(void) {
    for (size_t k = 0; candidates[k].kernels; k++)
        if (candidates[k].runs()) return candidates[k].kernels->isa;
    return "none";
}
