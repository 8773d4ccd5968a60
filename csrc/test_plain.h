/* SPDX-License-Identifier: MIT */
/* What test_steps.c compares the kernels with: an LSTM and its gradients as plain loops in double,
 * and the memory and numbers of a case. */
#ifndef FL_TEST_PLAIN_H
#define FL_TEST_PLAIN_H

#include "fastlstm.h"
#include "test_random.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    ptrdiff_t T, B, I, H, P; /* P = 0: no projection */
    int reverse, fused, cut, walk, save, add, norms;
    int unpacked, no_columns; /* weights as they are, forward and backward */
    int no_b, no_dy, peepholes, coupled;
    double cell_clip;
} lstm_case;

/* ---- memory, numbers ---- */

static void *taken[400];
static int n_taken;

static void *take(ptrdiff_t count, size_t size) {
    void *p = calloc((size_t)count + !count, size);
    if (!p || n_taken == 400) abort();
    return taken[n_taken++] = p;
}

static void free_all(void) {
    while (n_taken) free(taken[--n_taken]);
}

/* n numbers in [-size, size) that float holds exactly */
static double *draw(ptrdiff_t n, double size) {
    double *a = take(n, sizeof *a);
    for (ptrdiff_t k = 0; k < n; k++)
        a[k] = (float)(size * ((double)(random_bits() >> 40) * 0x1p-23 - 1));
    return a;
}

static double *zeros(ptrdiff_t n) { return take(n, sizeof(double)); }

static double get(int dtype, const void *a, ptrdiff_t k) {
    return dtype == FL_F32 ? (double)((const float *)a)[k] : ((const double *)a)[k];
}

static void put(int dtype, void *a, ptrdiff_t k, double value) {
    if (dtype == FL_F32)
        ((float *)a)[k] = (float)value;
    else
        ((double *)a)[k] = value;
}

static void *blank(int dtype, ptrdiff_t n) {
    return take(n, dtype == FL_F32 ? sizeof(float) : sizeof(double));
}

/* `rows` rows of n numbers, each in a row of `width`, as the dtype */
static void *native(int dtype, ptrdiff_t rows, ptrdiff_t n, ptrdiff_t width, const double *a) {
    void *to = blank(dtype, rows * width);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t k = 0; k < n; k++) put(dtype, to, r * width + k, a[r * n + k]);
    return to;
}

/* ---- the answer: plain loops ---- */

typedef struct { /* shapes as in lstm.h; slots are those of lstm.h too */
    double *x, *w_ih, *w_hh, *b, *w_proj, *w_peephole, *h0, *c0, *dy, *dh, *dc;
    double *gates, *h, *c, *m;                             /* out, forward */
    double *dx, *dw_ih, *dw_hh, *db, *dw_proj, *dp, *norm; /* out, backward */
} numbers;

static double sigmoid(double a) { return 1 / (1 + exp(-a)); }

static double dot(ptrdiff_t n, const double *a, const double *b) {
    double sum = 0;
    for (ptrdiff_t k = 0; k < n; k++) sum += a[k] * b[k];
    return sum;
}

static void add_to(ptrdiff_t n, double factor, const double *a, double *to) {
    for (ptrdiff_t k = 0; k < n; k++) to[k] += factor * a[k];
}

/* One unit of one row: its four gates, c and m. */
static void unit_forward(const lstm_case *s, const numbers *n, ptrdiff_t u, const double *x,
                         const double *h, double c_prev, double *gates, double *c, double *m) {
    const ptrdiff_t H = s->H, P = s->P ? s->P : H;
    const double *p = n->w_peephole;
    double a[4];
    for (int g = 0; g < 4; g++)
        a[g] = (s->no_b ? 0 : n->b[g * H + u]) + dot(s->I, n->w_ih + (g * H + u) * s->I, x) +
               dot(P, n->w_hh + (g * H + u) * P, h);
    if (s->peepholes & FL_PEEPHOLE_I) a[0] += p[u] * c_prev;
    if (s->peepholes & FL_PEEPHOLE_F) a[1] += p[H + u] * c_prev;
    const double i = sigmoid(a[0]), f = s->coupled ? 1 - i : sigmoid(a[1]), g = tanh(a[2]);
    *c = f * c_prev + i * g;
    if (s->cell_clip > 0) *c = fmax(-s->cell_clip, fmin(s->cell_clip, *c));
    if (s->peepholes & FL_PEEPHOLE_O) a[3] += p[2 * H + u] * *c;
    gates[u] = i, gates[H + u] = f, gates[2 * H + u] = g, gates[3 * H + u] = sigmoid(a[3]);
    *m = gates[3 * H + u] * tanh(*c);
}

static void plain_forward(const lstm_case *s, numbers *n) {
    const ptrdiff_t H = s->H, B = s->B, P = s->P ? s->P : H;
    n->gates = zeros(s->T * B * 4 * H), n->m = zeros(s->T * B * H);
    n->h = zeros((s->T + 1) * B * P), n->c = zeros((s->T + 1) * B * H);
    memcpy(n->h + s->reverse * s->T * B * P, n->h0, (size_t)(B * P) * sizeof(double));
    memcpy(n->c + s->reverse * s->T * B * H, n->c0, (size_t)(B * H) * sizeof(double));
    for (ptrdiff_t k = 0; k < s->T; k++) {
        const ptrdiff_t t = s->reverse ? s->T - 1 - k : k, from = t + s->reverse,
                        to = t + 1 - s->reverse;
        for (ptrdiff_t r = 0; r < B; r++) {
            double *h = n->h + (to * B + r) * P, *m = n->m + (t * B + r) * H;
            for (ptrdiff_t u = 0; u < H; u++)
                unit_forward(s, n, u, n->x + (t * B + r) * s->I, n->h + (from * B + r) * P,
                             n->c[(from * B + r) * H + u], n->gates + (t * B + r) * 4 * H,
                             &n->c[(to * B + r) * H + u], &m[u]);
            for (ptrdiff_t p = 0; p < P; p++) h[p] = s->P ? dot(H, n->w_proj + p * H, m) : m[p];
        }
    }
}

/* The gradients of one row at one step; da (4H) out, dc in and out, dm in. */
static void row_backward(const lstm_case *s, numbers *n, ptrdiff_t at, const double *c_prev,
                         const double *c, const double *dm, double *da, double *dc) {
    const ptrdiff_t H = s->H;
    const double *p = n->w_peephole, *gates = n->gates + at * 4 * H;
    for (ptrdiff_t u = 0; u < H; u++) {
        const double i = gates[u], f = gates[H + u], g = gates[2 * H + u], o = gates[3 * H + u];
        const double th = tanh(c[u]), d_o = dm[u] * th * o * (1 - o);
        double d = dc[u] + dm[u] * o * (1 - th * th);
        if (s->peepholes & FL_PEEPHOLE_O) d += p[2 * H + u] * d_o, n->dp[2 * H + u] += d_o * c[u];
        n->norm[at * 2 + 1] += d * d;
        if (s->cell_clip > 0 && fabs(c[u]) >= s->cell_clip) d = 0;
        const double df = d * c_prev[u];
        da[u] = (d * g - (s->coupled ? df : 0)) * i * (1 - i);
        da[H + u] = s->coupled ? 0 : df * f * (1 - f);
        da[2 * H + u] = d * i * (1 - g * g);
        da[3 * H + u] = d_o;
        dc[u] = d * f;
        if (s->peepholes & FL_PEEPHOLE_I) dc[u] += p[u] * da[u], n->dp[u] += da[u] * c_prev[u];
        if (s->peepholes & FL_PEEPHOLE_F)
            dc[u] += p[H + u] * da[H + u], n->dp[H + u] += da[H + u] * c_prev[u];
        n->norm[at * 2] += dm[u] * dm[u];
    }
}

/* dh and dc: in dh_n and dc_n, out dh0 and dc0; the sums of the weights go on from what is there */
static void plain_backward(const lstm_case *s, numbers *n) {
    const ptrdiff_t H = s->H, B = s->B, I = s->I, P = s->P ? s->P : H;
    double *da = zeros(4 * H), *dm = zeros(H);
    n->dx = zeros(s->T * B * I), n->norm = zeros(s->T * B * 2);
    for (ptrdiff_t k = 0; k < s->T; k++) {
        const ptrdiff_t t = s->reverse ? k : s->T - 1 - k, from = t + s->reverse,
                        to = t + 1 - s->reverse;
        for (ptrdiff_t r = 0; r < B; r++) {
            const ptrdiff_t at = t * B + r;
            double *dh = n->dh + r * P;
            if (!s->no_dy) add_to(P, 1, n->dy + at * P, dh);
            memset(dm, 0, (size_t)H * sizeof *dm);
            for (ptrdiff_t p = 0; s->P && p < P; p++) {
                add_to(H, dh[p], n->w_proj + p * H, dm);
                add_to(H, dh[p], n->m + at * H, n->dw_proj + p * H);
            }
            row_backward(s, n, at, n->c + (from * B + r) * H, n->c + (to * B + r) * H,
                         s->P ? dm : dh, da, n->dc + r * H);
            memset(dh, 0, (size_t)P * sizeof *dh);
            for (ptrdiff_t j = 0; j < 4 * H; j++) {
                add_to(P, da[j], n->w_hh + j * P, dh);
                add_to(I, da[j], n->w_ih + j * I, n->dx + at * I);
                add_to(P, da[j], n->h + (from * B + r) * P, n->dw_hh + j * P);
                add_to(I, da[j], n->x + at * I, n->dw_ih + j * I);
                n->db[j] += da[j];
            }
        }
    }
}

#endif
