/* SPDX-License-Identifier: MIT */
/* The contract between csrc/ and its callers (the Cython engine and test_kernels.c).
 *
 * Dims, the same letters everywhere in this folder:
 *     T  time steps     B  batch rows     I  input size     H  hidden units
 * Sizes and offsets are ptrdiff_t. Gates stand in the order i f g o.
 *
 * Nothing here allocates, prints, exits, or knows of Python. */
#ifndef FASTLSTM_H
#define FASTLSTM_H

#include "lstm.h"

#include <stddef.h>

/* dtype is an index into the members of fl_kernels. */
enum { FL_F32 = 0, FL_F64 = 1, FL_N_DTYPES = 2 };

/* All kernels of one instruction set. The tables are constant and live as long as the library. */
typedef struct {
    const char *isa;              /* "avx512", "avx2" or "neon" */
    ptrdiff_t lanes[FL_N_DTYPES]; /* values in one vector */
    ptrdiff_t tile_rows;          /* rows that a step on weights as they are can have */

    /* y[k] = sigmoid(x[k]) or tanh(x[k]) for 0 <= k < n, at most 3 ulp off (activations.inc.h); in
     * the loops over time, where denormals are flushed (denormals.h), a denormal result is 0. x and
     * y: n values of the dtype, aligned as that dtype; y is x itself or does not overlap it. An
     * element's result does not depend on its position, nor on its neighbours. */
    void (*sigmoid[FL_N_DTYPES])(const void *x, void *y, ptrdiff_t n);
    void (*tanh[FL_N_DTYPES])(const void *x, void *y, ptrdiff_t n);

    /* Weights to panels and columns: pack.inc.h, which says how many numbers they take. */
    void (*pack_panels[FL_N_DTYPES])(ptrdiff_t H, ptrdiff_t I, ptrdiff_t P, const void *w_ih,
                                     const void *w_hh, void *panels, ptrdiff_t u0, ptrdiff_t u1);
    void (*pack_columns[FL_N_DTYPES])(ptrdiff_t H, ptrdiff_t K, const void *w, void *columns,
                                      ptrdiff_t v0, ptrdiff_t v1);
    void (*pack_bias[FL_N_DTYPES])(ptrdiff_t H, const void *b, void *panel);
    void (*pack_projection[FL_N_DTYPES])(ptrdiff_t H, ptrdiff_t P, const void *w, void *panels);
    void (*pack_projection_columns[FL_N_DTYPES])(ptrdiff_t H, ptrdiff_t P, const void *w,
                                                 void *columns);
    void (*pack_peepholes[FL_N_DTYPES])(ptrdiff_t H, const void *w, void *panel);

    /* The steps of an LSTM: step.inc.h, and what follows them: gradients.inc.h. They say what each
     * does and what its ranges are. */
    void (*project[FL_N_DTYPES])(const fl_lstm *q, ptrdiff_t t0, ptrdiff_t t1, ptrdiff_t b0,
                                 ptrdiff_t b1, ptrdiff_t u0, ptrdiff_t u1);
    void (*step_forward[FL_N_DTYPES])(const fl_lstm *q, ptrdiff_t t, int fused, ptrdiff_t b0,
                                      ptrdiff_t b1, ptrdiff_t u0, ptrdiff_t u1);
    void (*step_backward[FL_N_DTYPES])(const fl_lstm *q, ptrdiff_t t_from, ptrdiff_t t,
                                       ptrdiff_t b0, ptrdiff_t b1, ptrdiff_t v0, ptrdiff_t v1);
    void (*input_gradient[FL_N_DTYPES])(const fl_lstm *q, ptrdiff_t r0, ptrdiff_t r1);
    void (*weight_gradient[FL_N_DTYPES])(const fl_lstm *q, ptrdiff_t u0, ptrdiff_t u1,
                                         ptrdiff_t begin, ptrdiff_t end, void *scratch);
    void (*peephole_gradient[FL_N_DTYPES])(const fl_lstm *q, int gates, ptrdiff_t u0, ptrdiff_t u1);
    ptrdiff_t (*gradient_scratch[FL_N_DTYPES])(const fl_lstm *q, ptrdiff_t u0, ptrdiff_t u1);
} fl_kernels;

/* The kernels of this name, or NULL: "none", an unknown name, one that is not compiled in, or one
 * that this processor or its operating system does not run. */
const fl_kernels *fl_kernels_for(const char *isa);

/* The name of the fastest instruction set that fl_kernels_for accepts here; "none" without any. */
const char *fl_best_isa(void);

/* The names compiled in, fastest first, then "none", then NULL. */
const char *const *fl_isas(void);

#endif
