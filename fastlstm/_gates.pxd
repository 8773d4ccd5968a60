# SPDX-License-Identifier: MIT
"""The gate math of the BLAS step: one row of the batch, forward and backward.

    i f o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)
    c[t] = f c[t-1] + i g;  m = o tanh(c[t])

A row of gates is 4H numbers, the gates i f g o one after the other. `fl_squash` applies sigmoid
or tanh to n numbers; the backward pass has tanh(c) computed again rather than kept.
"""

from libc.math cimport exp, expf, fabs, fabsf, tanh, tanhf

ctypedef fused real:
    float
    double

ctypedef void (*fl_squash)(const void *x, void *y, Py_ssize_t n) noexcept nogil


cdef inline void libm_sigmoid_f32(const void *x, void *y, Py_ssize_t n) noexcept nogil:
    """y := sigmoid(x), n numbers; x may be y."""
    cdef Py_ssize_t j
    cdef float e
    for j in range(n):
        e = expf(-fabsf((<const float *>x)[j]))  # never overflows
        (<float *>y)[j] = (e if (<const float *>x)[j] < 0 else 1) / (1 + e)


cdef inline void libm_sigmoid_f64(const void *x, void *y, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    cdef double e
    for j in range(n):
        e = exp(-fabs((<const double *>x)[j]))
        (<double *>y)[j] = (e if (<const double *>x)[j] < 0 else 1) / (1 + e)


cdef inline void libm_tanh_f32(const void *x, void *y, Py_ssize_t n) noexcept nogil:
    """y := tanh(x), n numbers; x may be y."""
    cdef Py_ssize_t j
    for j in range(n):
        (<float *>y)[j] = tanhf((<const float *>x)[j])


cdef inline void libm_tanh_f64(const void *x, void *y, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        (<double *>y)[j] = tanh((<const double *>x)[j])


cdef inline void gates_forward(
    Py_ssize_t H, fl_squash sigmoid_, fl_squash tanh_,
    real *a,             # (4H) in: W_ih x + W_hh h; out: the activated gates i f g o
    const real *b,       # (4H) or NULL
    const real *c_prev,  # (H)
    real *c_next,        # (H) may be c_prev
    real *m,             # (H) out: o tanh(c)
) noexcept nogil:
    cdef Py_ssize_t j
    if b != NULL:
        for j in range(4 * H):
            a[j] += b[j]
    sigmoid_(a, a, 2 * H)
    tanh_(a + 2 * H, a + 2 * H, H)
    sigmoid_(a + 3 * H, a + 3 * H, H)
    cdef const real *i = a
    cdef const real *f = a + H
    cdef const real *g = a + 2 * H
    cdef const real *o = a + 3 * H
    for j in range(H):
        c_next[j] = f[j] * c_prev[j] + i[j] * g[j]
    tanh_(c_next, m, H)
    for j in range(H):
        m[j] *= o[j]


cdef inline void gates_backward(
    Py_ssize_t H, fl_squash tanh_,
    real *gates,         # (4H) in: the activated gates; out: their gradients before activation
    const real *c_prev,  # (H)
    const real *c_next,  # (H)
    real *tanh_c,        # (H) scratch
    const real *dm,      # (H)
    real *dc,            # (H) in: dL/dc[t]; out: dL/dc[t-1]
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real i, f, g, o, dc_t
    tanh_(c_next, tanh_c, H)
    for j in range(H):
        i, f, g, o = gates[j], gates[H + j], gates[2 * H + j], gates[3 * H + j]
        dc_t = dc[j] + dm[j] * o * (1 - tanh_c[j] * tanh_c[j])  # m = o tanh(c)
        gates[3 * H + j] = dm[j] * tanh_c[j] * o * (1 - o)
        gates[j] = dc_t * g * i * (1 - i)  # c = f c[t-1] + i g
        gates[H + j] = dc_t * c_prev[j] * f * (1 - f)
        gates[2 * H + j] = dc_t * i * (1 - g * g)
        dc[j] = dc_t * f
