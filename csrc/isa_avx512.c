/* SPDX-License-Identifier: MIT */
/* Kernels for x86-64 with AVX-512 F, DQ, BW and VL: Skylake-SP, Zen 4 and later. */
#if !defined(__AVX512F__) || !defined(__AVX512DQ__) || !defined(__AVX512BW__) ||                   \
    !defined(__AVX512VL__)
#    error "isa_avx512.c is compiled without its flags: see ISA_FLAGS_avx512 in the Makefile"
#endif

#define ISA        avx512
#define ISA_AVX512 1

#define REAL      float
#define REAL_BITS 32
#define TAG       f32
#include "instantiate.inc.h"

#define REAL      double
#define REAL_BITS 64
#define TAG       f64
#include "instantiate.inc.h"

#include "kernel_table.inc.h"
