/* SPDX-License-Identifier: MIT */
/* How a thread treats denormal numbers: flushed to zero while it computes, as it was afterwards.
 *
 * A vanishing gradient or a decaying state ends in denormal numbers, and processors take 100 cycles
 * and more for an operation on them: T=40, B=16, I=64, H=128 in float32 with a dy of 1e-40 took
 * 0.88 s for the backward pass instead of 0.0018 s (Xeon with AVX-512, 2026-11). What is flushed is
 * less than 1.2e-38 in float32, 2.3e-308 in float64.
 *
 * Nothing of the interpreter may run in between: it would compute with flushed numbers. */
#ifndef FL_DENORMALS_H
#define FL_DENORMALS_H

#if defined(__SSE2__) || defined(_M_X64)
#    include <xmmintrin.h>
enum { FL_FLUSH = 0x8040 }; /* MXCSR: results (FTZ) and operands (DAZ) */
static inline unsigned long long fl_flush_denormals(void) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | FL_FLUSH);
    return before;
}
static inline void fl_restore_denormals(unsigned long long before) {
    _mm_setcsr((_mm_getcsr() & ~(unsigned)FL_FLUSH) | ((unsigned)before & FL_FLUSH));
}

#elif defined(__aarch64__) && defined(__GNUC__)
enum { FL_FLUSH = 1 << 24 }; /* FPCR: FZ */
static inline unsigned long long fl_flush_denormals(void) {
    unsigned long long before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | FL_FLUSH));
    return before;
}
static inline void fl_restore_denormals(unsigned long long before) {
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
}

#else /* they are computed with, however slowly */
static inline unsigned long long fl_flush_denormals(void) { return 0; }
static inline void fl_restore_denormals(unsigned long long before) { (void)before; }
#endif

#endif
