/* SPDX-License-Identifier: MIT */
/* The contract between the engine's loops over time and the steps inside them.
 *
 * T steps, B rows of the batch, I inputs, H hidden units, P numbers in h (H without a projection).
 * Gates come in the order i f g o. The element type (float or double) is the kernel's.
 *
 * The units lie in U panels of L lanes; U * L >= H, and the lanes beyond H hold zeros in c and h.
 *   BLAS step: U = 1, L = H: a row of gates is i[H] f[H] g[H] o[H].
 *   SIMD step: L = the lanes of a vector: a row of gates is i[L] f[L] g[L] o[L], U times.
 *
 * A slot is the state between two steps. Forward in time step t goes from slot t to slot t + 1,
 * reversed from slot t + 1 to slot t; so no step is special, and the states before all steps
 * are T consecutive slots. A buffer with fewer slots is used round and round.
 */
#ifndef FL_LSTM_H
#define FL_LSTM_H

#include <stddef.h>

enum { FL_PEEPHOLE_I = 1, FL_PEEPHOLE_F = 2, FL_PEEPHOLE_O = 4 };

typedef struct {
    ptrdiff_t T, B, I, H, P;
    ptrdiff_t U, L;
    int reverse;
    int save; /* keep the activated gates: there will be a backward pass */
    int walk; /* forward: 0, or 1: even steps walk the panels backward, not odd ones */
    const ptrdiff_t *active; /* (T) rows that have a step t: the first ones, longest row first */

    /* forward, in; lent by the caller for the call (and for backward), never written */
    const void *x;           /* (T,B,I) contiguous; zeros beyond a row's length */
    const void *w_ih, *w_hh; /* (4H,I) (4H,P) contiguous */
    const void *b, *w_proj;  /* (4H) or NULL; (P,H) or NULL */
    const void *h0, *c0;     /* (B,P) (B,H) contiguous; NULL: zeros */

    /* the variants that both steps serve; 0 and NULL: the default cell */
    int peepholes;          /* FL_PEEPHOLE_I | ...: the gates that see the cell */
    int coupled;            /* f = 1 - i; the rows of f are ignored */
    double cell_clip;       /* c is clipped to [-cell_clip, cell_clip]; 0: not */
    const void *w_peephole; /* (3,H) rows i f o contiguous, or NULL */

    void *gemm; /* BLAS step: the matrix product of _blas.pyx for this type */

    /* SIMD step: the weights in the order in which the kernels read them (pack.inc.h) */
    const void *panels, *b_panel; /* forward: U panels of W_ih, W_hh over [x; h]; NULL: one step of
                                     few rows, on the weights as they are */
    const void *x_columns, *h_columns; /* backward: transposed; NULL: few rows, and I, H
                                          whole vectors: the weights are read as they are */
    const void *peephole_panel;        /* U panels [i f o][lane], or NULL */
    const void *m_panels, *m_columns;  /* w_proj for h from m, for dm from dh; or NULL */
    int variant;                       /* any of peepholes, coupled, cell_clip, w_proj,
                                          norms: the kernels look at these only if set */

    /* forward, out */
    void *y; /* (T,B,P), rows contiguous: element strides y_t, y_b */
    ptrdiff_t y_t, y_b;
    void *h_n, *c_n; /* (B,P) (B,H) contiguous */

    /* the tape, or scratch of fewer slots when nothing is kept */
    void *h, *c; /* (state_slots,B,h_row) (state_slots,B,U*L) */
    void *gates; /* (gate_slots,B,U,4,L), not touched where x is fused and nothing saved;
                    backward: dgates, in place */
    void *m;     /* (m_slots,B,U*L) o * tanh(c), used with a projection */
    ptrdiff_t state_slots, gate_slots, m_slots, h_row;

    /* backward, in */
    const void *dy; /* (T,B,P), rows contiguous: dy_t, dy_b; or NULL */
    ptrdiff_t dy_t, dy_b;

    /* backward, in and out: from dh_n, dc_n to dh0, dc0 */
    void *dh, *dc; /* (B,h_row) (B,U*L) */

    int add;     /* backward: the sums of the weights' gradients go on from what is there */
    void *norms; /* SIMD step, backward, out: (T,B,U,2) squares of dL/dh, dL/dc over the units
                    of each panel; or NULL */

    /* backward, out, assigned; dx is zero beyond a row's length */
    void *dx;                           /* (T,B,I) contiguous */
    void *dw_ih, *dw_hh, *db, *dw_proj; /* as the weights; db, dw_proj NULL without b, w_proj */
    void *dw_peephole;                  /* (3,H), zeros for gates without one; or NULL */
    void *dh_all;                       /* (T,B,h_row) scratch with a projection: dL/dh[t] */
    void *dm;                           /* (B,U*L) scratch with a projection: dL/dm */
} fl_lstm;

#endif
