/* SPDX-License-Identifier: MIT */
/* Kernels for 64-bit ARM, where NEON is part of the base. */
#if !defined(__aarch64__) && !defined(_M_ARM64)
#    error "isa_neon.c is compiled without its flags: see ISA_FLAGS_neon in the Makefile"
#endif

#define ISA      neon
#define ISA_NEON 1

#define REAL      float
#define REAL_BITS 32
#define TAG       f32
#include "instantiate.inc.h"

#define REAL      double
#define REAL_BITS 64
#define TAG       f64
#include "instantiate.inc.h"

#include "kernel_table.inc.h"
