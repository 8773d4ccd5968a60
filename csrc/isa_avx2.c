/* SPDX-License-Identifier: MIT */
/* Kernels for x86-64 with AVX2 and FMA: Haswell, Zen and later. */
#if !defined(__AVX2__) || !(defined(__FMA__) || defined(_MSC_VER))
#    error "isa_avx2.c is compiled without its flags: see ISA_FLAGS_avx2 in the Makefile"
#endif

#define ISA      avx2
#define ISA_AVX2 1

#define REAL      float
#define REAL_BITS 32
#define TAG       f32
#include "instantiate.inc.h"

#define REAL      double
#define REAL_BITS 64
#define TAG       f64
#include "instantiate.inc.h"

#include "kernel_table.inc.h"
