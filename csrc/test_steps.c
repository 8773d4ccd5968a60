/* SPDX-License-Identifier: MIT */
/* Proof of the steps and gradients without Python: whole sequences forward and backward, on every
 * instruction set that this processor has, against plain loops in double.
 *
 * The cases are all tiles (rows x vectors), long sums in blocks, and drawn from a fixed seed: the
 * variant, the direction, how the work is cut into ranges, what goes on from earlier sums. Buffers
 * are as small as lstm.h allows, so that a sanitizer sees a number beyond them. */
#include "test_plain.h"

#include <float.h>
#include <stdio.h>

enum { WHOLE, BY_ROWS, BY_UNITS, N_CUTS };

static int n_failures, n_cases;
static char label[200];

/* ---- the kernels ---- */

/* rows of n numbers at the strides of `actual` are the expected ones, up to rounding */
static void compare(const char *name, const lstm_case *s, int dtype, const void *actual,
                    ptrdiff_t rows, ptrdiff_t n, ptrdiff_t stride, const double *expected) {
    const double eps = dtype == FL_F32 ? FLT_EPSILON : DBL_EPSILON;
    const double terms = (double)(1 + s->I + 5 * s->H + s->T * s->B);
    double scale = 0, worst = 0;
    int nans = 0;
    for (ptrdiff_t k = 0; k < rows * n; k++) scale = fmax(scale, fabs(expected[k]));
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t k = 0; k < n; k++) {
            const double error = fabs(get(dtype, actual, r * stride + k) - expected[r * n + k]);
            if (isnan(error))
                nans++;
            else if (error > worst)
                worst = error;
        }
    if (!nans && worst <= 6 * eps * sqrt(terms) * scale) return; /* tests/comparison.py: why */
    if (n_failures++ < 20)
        fprintf(stderr, "FAIL %s: %s is off by %g of %g, and %d are NaN\n", label, name, worst,
                scale, nans);
}

/* Range k of at most two that [0, n) is cut into. */
static ptrdiff_t bound(ptrdiff_t n, int cut, int k) {
    return k == 0 ? 0 : cut && k == 1 ? n / 2 : n;
}

static const void *columns_of(const fl_kernels *simd, int dtype, ptrdiff_t H, ptrdiff_t K,
                              ptrdiff_t U, const void *w) {
    const ptrdiff_t L = simd->lanes[dtype];
    void *to = blank(dtype, U * 4 * L * ((K + L - 1) / L * L));
    const ptrdiff_t groups = (K + 4 * L - 1) / (4 * L), half = groups / 2;
    simd->pack_columns[dtype](H, K, w, to, half, groups);
    simd->pack_columns[dtype](H, K, w, to, 0, half);
    return to;
}

/* The sizes and the weights. */
static void describe(const fl_kernels *simd, int dtype, const lstm_case *s, const numbers *n,
                     fl_lstm *q) {
    const ptrdiff_t L = simd->lanes[dtype], H = s->H, I = s->I, P = s->P ? s->P : H;
    const ptrdiff_t U = (H + L - 1) / L;
    *q = (fl_lstm){.T = s->T, .B = s->B, .I = I, .H = H, .P = P, .U = U, .L = L};
    q->reverse = s->reverse, q->save = s->save, q->walk = s->walk, q->coupled = s->coupled;
    q->cell_clip = s->cell_clip, q->peepholes = s->peepholes, q->add = s->add;
    q->variant = s->P || s->peepholes || s->coupled || s->cell_clip > 0 || s->norms;
    q->h_row = (P + L - 1) / L * L;
    q->state_slots = s->save ? s->T + 1 : 2, q->gate_slots = q->m_slots = s->T;
    q->w_ih = native(dtype, 4 * H, I, I, n->w_ih), q->w_hh = native(dtype, 4 * H, P, P, n->w_hh);
    if (!s->no_b) q->b = native(dtype, 1, 4 * H, 4 * H, n->b);
    if (s->peepholes) {
        void *panel = blank(dtype, U * 3 * L);
        q->w_peephole = native(dtype, 3, H, H, n->w_peephole);
        simd->pack_peepholes[dtype](H, q->w_peephole, panel), q->peephole_panel = panel;
    }
    if (s->P) {
        void *panels = blank(dtype, H * q->h_row), *columns = blank(dtype, P * U * L);
        q->w_proj = native(dtype, P, H, H, n->w_proj);
        simd->pack_projection[dtype](H, P, q->w_proj, panels), q->m_panels = panels;
        simd->pack_projection_columns[dtype](H, P, q->w_proj, columns), q->m_columns = columns;
        q->m = blank(dtype, s->T * s->B * U * L), q->dm = blank(dtype, s->B * U * L);
        q->dh_all = blank(dtype, s->T * s->B * q->h_row);
    }
    if (!s->unpacked) {
        void *panels = blank(dtype, U * (I + P) * 4 * L), *b_panel = blank(dtype, U * 4 * L);
        simd->pack_panels[dtype](H, I, P, q->w_ih, q->w_hh, panels, U / 2, U);
        simd->pack_panels[dtype](H, I, P, q->w_ih, q->w_hh, panels, 0, U / 2), q->panels = panels;
        simd->pack_bias[dtype](H, q->b, b_panel), q->b_panel = b_panel;
    }
    if (!s->no_columns) {
        q->x_columns = columns_of(simd, dtype, H, I, U, q->w_ih);
        q->h_columns = columns_of(simd, dtype, H, P, U, q->w_hh);
    }
}

static void check_forward(const fl_kernels *simd, int dtype, const lstm_case *s, const numbers *n,
                          fl_lstm *q) {
    const ptrdiff_t T = s->T, B = s->B, H = s->H, P = q->P, U = q->U, c_row = U * q->L;
    const ptrdiff_t gap = 3, first = s->reverse ? T : 0, last = T - first;
    void *h0 = native(dtype, B, P, q->h_row, n->h0), *c0 = native(dtype, B, H, c_row, n->c0);
    const size_t size = dtype == FL_F32 ? sizeof(float) : sizeof(double);
    char *h = blank(dtype, q->state_slots * B * q->h_row), *y = blank(dtype, T * B * (P + gap));
    char *c = blank(dtype, q->state_slots * B * c_row);
    ptrdiff_t *active = take(T, sizeof *active);
    for (ptrdiff_t t = 0; t < T; t++) active[t] = B;
    for (ptrdiff_t k = 0; k < T * B * (P + gap); k++) put(dtype, y, k, 42);
    const ptrdiff_t slot = first % q->state_slots;
    memcpy(h + (size_t)(slot * B * q->h_row) * size, h0, (size_t)(B * q->h_row) * size);
    memcpy(c + (size_t)(slot * B * c_row) * size, c0, (size_t)(B * c_row) * size);
    q->h = h, q->c = c, q->y = y, q->y_b = P + gap, q->y_t = B * q->y_b, q->active = active;
    q->gates = blank(dtype, T * B * U * 4 * q->L);
    q->x = native(dtype, T * B, s->I, s->I, n->x);
    const int rows = s->cut == BY_ROWS, units = s->cut == BY_UNITS;
    for (ptrdiff_t s_ = -1; s_ < T; s_++)
        for (int k = 0; k <= (s->cut != WHOLE); k++) {
            const ptrdiff_t b0 = rows ? bound(B, 1, k) : 0, b1 = rows ? bound(B, 1, k + 1) : B;
            const ptrdiff_t u0 = units ? bound(U, 1, k) : 0, u1 = units ? bound(U, 1, k + 1) : U;
            const ptrdiff_t t = s->reverse ? T - 1 - s_ : s_;
            if (s_ < 0 && !s->fused)
                simd->project[dtype](q, 0, T, b0, b1, u0, u1);
            else if (s_ >= 0)
                simd->step_forward[dtype](q, t, s->fused, b0, b1, u0, u1);
        }
    for (ptrdiff_t r = 0; r < T * B; r++)
        for (ptrdiff_t k = P; k < P + gap; k++)
            if (get(dtype, y, r * (P + gap) + k) != 42 && n_failures++ < 20)
                fprintf(stderr, "FAIL %s: wrote beside y\n", label);
    compare("y", s, dtype, y, T * B, P, P + gap, n->h + (s->reverse ? 0 : B * P));
    compare("c_n", s, dtype, c + (size_t)(last % q->state_slots * B * c_row) * size, B, H, c_row,
            n->c + last * B * H);
}

/* q's gradients of the weights, which hold what they are to go on from, or NaN */
static void prepare_gradients(int dtype, const lstm_case *s, numbers *n, fl_lstm *q) {
    const ptrdiff_t H = s->H, I = s->I, P = q->P;
    const ptrdiff_t sizes[] = {4 * H * I, 4 * H * P, 4 * H, P * H, 3 * H};
    double **to[] = {&n->dw_ih, &n->dw_hh, &n->db, &n->dw_proj, &n->dp};
    void **from[] = {&q->dw_ih, &q->dw_hh, &q->db, &q->dw_proj, &q->dw_peephole};
    const int wanted[] = {1, 1, !s->no_b, s->P > 0, s->peepholes > 0};
    for (int k = 0; k < 5; k++) {
        *to[k] = s->add ? draw(sizes[k], 1) : zeros(sizes[k]);
        if (wanted[k]) *from[k] = native(dtype, 1, sizes[k], sizes[k], *to[k]);
        for (ptrdiff_t j = 0; wanted[k] && !s->add && j < sizes[k]; j++)
            put(dtype, *from[k], j, NAN);
    }
}

static void run_backward(const fl_kernels *simd, int dtype, const lstm_case *s, fl_lstm *q) {
    const ptrdiff_t T = s->T, N = T * s->B, V = (q->U + 3) / 4;
    const int rows = s->cut == BY_ROWS, units = s->cut == BY_UNITS;
    for (ptrdiff_t s_ = 0, t_from = -1; s_ <= T; s_++) {
        const ptrdiff_t t = s_ == T ? -1 : s->reverse ? s_ : T - 1 - s_;
        for (int k = 0; k <= (s->cut != WHOLE); k++) {
            const ptrdiff_t b0 = rows ? bound(s->B, 1, k) : 0;
            const ptrdiff_t b1 = rows ? bound(s->B, 1, k + 1) : s->B;
            const ptrdiff_t v0 = units ? bound(V, 1, k) : 0, v1 = units ? bound(V, 1, k + 1) : V;
            simd->step_backward[dtype](q, t_from, t, b0, b1, v0, v1);
        }
        t_from = t;
    }
    const ptrdiff_t middle = N > 512 ? 512 : N; /* whole blocks, and few rows in one call */
    for (int k = 0; k < 2; k++) {
        const ptrdiff_t u0 = bound(q->U, 1, k), u1 = bound(q->U, 1, k + 1);
        void *scratch = blank(dtype, simd->gradient_scratch[dtype](q, u0, u1));
        simd->input_gradient[dtype](q, bound(N, 1, k), bound(N, 1, k + 1));
        simd->weight_gradient[dtype](q, u0, u1, 0, middle, scratch);
        if (middle < N) simd->weight_gradient[dtype](q, u0, u1, middle, N, scratch);
        const int gates = FL_PEEPHOLE_I | FL_PEEPHOLE_F;
        simd->peephole_gradient[dtype](q, gates, u0, u1);
        simd->peephole_gradient[dtype](q, FL_PEEPHOLE_O, u0, u1);
    }
}

static void compare_norms(int dtype, const lstm_case *s, const numbers *n, const fl_lstm *q) {
    double *actual = zeros(s->T * s->B * 2);
    for (ptrdiff_t k = 0; k < s->T * s->B * q->U * 2; k++)
        actual[k / (q->U * 2) * 2 + k % 2] += get(dtype, q->norms, k);
    const ptrdiff_t count = s->T * s->B * 2;
    compare("norms", s, dtype, native(dtype, 1, count, count, actual), 1, count, 0, n->norm);
}

static void check_backward(const fl_kernels *simd, int dtype, const lstm_case *s, numbers *n,
                           fl_lstm *q) {
    const ptrdiff_t T = s->T, B = s->B, H = s->H, I = s->I, P = q->P, c_row = q->U * q->L;
    const ptrdiff_t gap = 2;
    q->dh = native(dtype, B, P, q->h_row, n->dh), q->dc = native(dtype, B, H, c_row, n->dc);
    q->dx = blank(dtype, T * B * I), q->dy_b = P + gap, q->dy_t = B * q->dy_b;
    if (!s->no_dy) q->dy = native(dtype, T * B, P, P + gap, n->dy);
    if (s->norms) q->norms = blank(dtype, T * B * q->U * 2);
    prepare_gradients(dtype, s, n, q);
    run_backward(simd, dtype, s, q);
    plain_backward(s, n);
    compare("dx", s, dtype, q->dx, T * B, I, I, n->dx);
    compare("dh0", s, dtype, q->dh, B, P, q->h_row, n->dh);
    compare("dc0", s, dtype, q->dc, B, H, c_row, n->dc);
    compare("dw_ih", s, dtype, q->dw_ih, 4 * H, I, I, n->dw_ih);
    compare("dw_hh", s, dtype, q->dw_hh, 4 * H, P, P, n->dw_hh);
    if (q->db) compare("db", s, dtype, q->db, 1, 4 * H, 0, n->db);
    if (q->dw_proj) compare("dw_proj", s, dtype, q->dw_proj, P, H, H, n->dw_proj);
    if (q->dw_peephole) compare("dw_peephole", s, dtype, q->dw_peephole, 3, H, H, n->dp);
    if (s->norms) compare_norms(dtype, s, n, q);
}

static void check_case(const fl_kernels *simd, int dtype, const lstm_case *s) {
    const ptrdiff_t T = s->T, B = s->B, I = s->I, H = s->H, P = s->P ? s->P : H;
    const double size = 1 / sqrt((double)H);
    fl_lstm q;
    numbers n = {0};
    n_cases++;
    snprintf(label, sizeof label,
             "%s %s T%td B%td I%td H%td P%td reverse%d fused%d cut%d walk%d save%d add%d norms%d "
             "unpacked%d%d no_b%d no_dy%d peepholes%d coupled%d clip%g",
             simd->isa, dtype == FL_F32 ? "f32" : "f64", T, B, I, H, s->P, s->reverse, s->fused,
             s->cut, s->walk, s->save, s->add, s->norms, s->unpacked, s->no_columns, s->no_b,
             s->no_dy, s->peepholes, s->coupled, s->cell_clip);
    n.x = draw(T * B * I, 1), n.w_ih = draw(4 * H * I, 1 / sqrt((double)I));
    n.w_hh = draw(4 * H * P, size), n.b = draw(4 * H, 1), n.w_peephole = draw(3 * H, 1);
    n.w_proj = draw(P * H, size), n.h0 = draw(B * P, 1), n.c0 = draw(B * H, 1);
    n.dy = draw(T * B * P, 1), n.dh = draw(B * P, 1), n.dc = draw(B * H, 1);
    plain_forward(s, &n);
    describe(simd, dtype, s, &n, &q);
    check_forward(simd, dtype, s, &n, &q);
    if (s->save) check_backward(simd, dtype, s, &n, &q);
    free_all();
}

/* ---- the cases ---- */

/* What a size leaves open, drawn. */
static lstm_case drawn(ptrdiff_t T, ptrdiff_t B, ptrdiff_t I, ptrdiff_t H, ptrdiff_t P) {
    const uint64_t bits = random_bits();
    lstm_case s = {.T = T, .B = B, .I = I, .H = H, .P = P};
    s.reverse = bits & 1, s.fused = bits >> 1 & 1, s.save = (bits >> 2 & 7) > 0;
    s.walk = bits >> 26 & 1, s.add = bits >> 5 & 1, s.no_b = (bits >> 6 & 3) == 0,
    s.no_dy = (bits >> 8 & 3) == 0;
    s.cut = P ? (int)(bits >> 10 & 1) : (int)((bits >> 10 & 0xff) % N_CUTS); /* P: by rows only */
    if (bits >> 18 & 1) {                                                    /* a variant */
        s.peepholes = (int)(bits >> 19 & 7), s.coupled = (bits >> 22 & 3) == 0;
        s.cell_clip = (bits >> 24 & 1) ? 0.5 : 0, s.norms = bits >> 25 & 1;
        if (s.coupled) s.peepholes &= ~FL_PEEPHOLE_F;
    }
    return s;
}

static void test_sizes(const fl_kernels *simd, int dtype) {
    const ptrdiff_t L = simd->lanes[dtype], rows = simd->tile_rows;
    for (ptrdiff_t B = 1; B <= 2 * rows + 1; B++)
        for (ptrdiff_t U = 1; U <= 12; U++)
            for (int odd = 0; odd < 2; odd++) { /* every tile, sums of one block and of more */
                lstm_case s = drawn(2, B, 1 + (B * 5 + U) % 13, U * L - odd, 0);
                if (U > 6 && B != rows + 1 && B != 2 * rows - 1 && B != 2 * rows && B % rows)
                    continue; /* the larger ones only for some tiles */
                check_case(simd, dtype, &s);
            }
    for (ptrdiff_t B = 1; B <= 2 * rows + 1; B++)
        for (ptrdiff_t P = L - 1; P <= 5 * L; P += L / 2) {
            lstm_case s = drawn(2, B, 3, 2 * L + B % L, P > 0 ? P : 1);
            check_case(simd, dtype, &s);
        }
    for (ptrdiff_t B = 1; B <= 2 * rows; B++) /* products with x and with h, of long sums too */
        for (ptrdiff_t v = 1; v <= 5; v++)
            for (int odd = 0; odd < 2; odd++) {
                lstm_case s = drawn(1, B, v * L - odd, 9 * L, 0);
                check_case(simd, dtype, &s);
                s = drawn(1, B, v * L, v * L, 2 * L + odd);
                check_case(simd, dtype, &s);
            }
}

/* One row takes several panels at once, backward several groups of four, and what is left. */
static void test_one_row(const fl_kernels *simd, int dtype) {
    const ptrdiff_t L = simd->lanes[dtype];
    for (ptrdiff_t groups = 1; groups <= simd->tile_rows + 1; groups++)
        for (int k = 0; k < 4; k++) {
            const ptrdiff_t rest = k % 2 * (L + 3);
            const lstm_case s = {.T = 3,
                                 .B = 1,
                                 .I = 3,
                                 .H = 4 * groups * L + rest,
                                 .save = 1,
                                 .cut = k / 2 ? BY_UNITS : WHOLE,
                                 .reverse = k / 2};
            check_case(simd, dtype, &s);
        }
}

/* Weights as they are: forward a step of a tile's rows, backward any rows of whole vectors. */
static void test_unpacked(const fl_kernels *simd, int dtype) {
    const ptrdiff_t L = simd->lanes[dtype], rows = simd->tile_rows;
    for (ptrdiff_t B = 1; B <= 12; B++) /* an outer product takes eight rows at once */
        for (ptrdiff_t v = 1; v <= 5; v++)
            for (int odd = 0; odd < 2; odd++) {
                lstm_case s = drawn(B > 8 ? 2 : 1, B, (6 - v) * L, v * L - odd, 0);
                s.unpacked = B <= rows, s.no_columns = !odd, s.save = 1;
                s.fused |= s.unpacked, s.add &= odd;
                if (B == 1) s.cut = BY_ROWS; /* a thread may have no row */
                check_case(simd, dtype, &s);
            }
}

static void test_long_sums(const fl_kernels *simd, int dtype) {
    const ptrdiff_t L = simd->lanes[dtype], rows = simd->tile_rows, size = dtype == FL_F32 ? 4 : 8;
    const ptrdiff_t slice = 8192 / (L * size);
    for (ptrdiff_t B = rows + 1; B <= 2 * rows; B++) { /* of h, in more than one block of k */
        const lstm_case s = {.T = 1, .B = B, .I = 9, .H = slice + 5, .fused = B % 2};
        check_case(simd, dtype, &s);
    }
    for (int k = 0; k < 4; k++) { /* of x and h: an end of x inside a slice, at one, more rows than
                                     sums are kept of */
        const ptrdiff_t I = k % 2 ? slice : slice + 9, B = k / 2 ? 16 * rows + 5 : rows + 2;
        const lstm_case s = {.T = 2, .B = B, .I = I, .H = L + 3, .fused = 1, .save = k == 3};
        check_case(simd, dtype, &s);
    }
}

static void test_many_rows(const fl_kernels *simd, int dtype) {
    for (int k = 0; k < 16; k++) { /* the weights' gradients in several blocks and calls */
        const ptrdiff_t L = simd->lanes[dtype];
        lstm_case s = drawn(30, 31, 1 + k % 7, L + 3, k % 4 == 3 ? L + 1 : 0);
        s.save = 1;
        check_case(simd, dtype, &s);
    }
}

int main(void) {
    const char *const *names = fl_isas();
    for (int k = 0; names[k]; k++) {
        const fl_kernels *simd = fl_kernels_for(names[k]);
        for (int dtype = 0; simd && dtype < FL_N_DTYPES; dtype++) {
            test_sizes(simd, dtype);
            test_one_row(simd, dtype);
            test_unpacked(simd, dtype);
            test_long_sums(simd, dtype);
            test_many_rows(simd, dtype);
        }
    }
    printf(n_failures ? "%d FAILED\n" : "%d cases of steps passed\n",
           n_failures ? n_failures : n_cases);
    return n_failures != 0;
}
