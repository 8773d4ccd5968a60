/* SPDX-License-Identifier: MIT */
/* The kernels for one type and one instruction set. An isa_*.c file includes this once per type,
 * after defining
 *     ISA       avx512, avx2 or neon: the last part of every symbol
 *     ISA_...   ISA_AVX512, ISA_AVX2 or ISA_NEON: the section of simd.h to use
 *     REAL      float or double,  REAL_BITS  32 or 64,  TAG  f32 or f64
 * The three of the type are undefined again at the end; kernel_table.inc.h closes the file. */
#ifndef REAL
#    error "instantiate.inc.h is a template: compile an isa_*.c file, which defines REAL"
#endif
#if !defined(ISA) || !defined(REAL_BITS) || !defined(TAG)
#    error "instantiate.inc.h needs ISA, REAL, REAL_BITS and TAG"
#endif

#ifndef FL_NAME
#    define FL_CAT2_(a, b)      a##_##b
#    define FL_CAT2(a, b)       FL_CAT2_(a, b)
#    define FL_CAT3_(a, b, c)   a##_##b##_##c
#    define FL_CAT3(a, b, c)    FL_CAT3_(a, b, c)
#    define FL_NAME(name, type) FL_CAT3(name, type, ISA)
#    define FN(name)            FL_NAME(name, TAG) /* sigmoid_f32_avx2: greppable, shows in perf */
#endif

#include "lstm.h"
#include "simd.h"
#include "gemm.inc.h"
#include "activations.inc.h"
#include "pack.inc.h"
#include "gates.inc.h"
#include "sums.inc.h"
#include "step.inc.h"
#include "gradients.inc.h"

#undef REAL
#undef REAL_BITS
#undef TAG
