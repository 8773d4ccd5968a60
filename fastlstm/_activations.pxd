# SPDX-License-Identifier: MIT
"""The functions that squash gates, candidate and output: values and derivatives of n numbers.

They are those of activations.py, which has the formulas; each derivative is read off the value.
"""

from libc.math cimport exp, expm1, fabs, log1p

from ._gates cimport fl_squash

ctypedef fused real:
    float
    double


cdef enum Kind:  # in the order of activations.ACTIVATIONS
    SIGMOID, TANH, IDENTITY, HARD_SIGMOID, RELU, LEAKY_RELU, THRESHOLDED_RELU, ELU, SCALED_TANH
    AFFINE, SOFTSIGN, SOFTPLUS


cdef struct Activation:
    int kind
    double alpha
    double beta
    fl_squash sigmoid  # of n numbers of the type that is computed with
    fl_squash tanh


cdef inline void activate(
    const Activation *f, Py_ssize_t n, const real *x, real *y
) noexcept nogil:
    """y := f(x), n numbers; x may be y."""
    cdef Py_ssize_t j
    cdef real alpha = <real>f.alpha, beta = <real>f.beta
    if f.kind == SIGMOID:
        f.sigmoid(x, y, n)
        return
    if f.kind == TANH:
        f.tanh(x, y, n)
        return
    if f.kind == SCALED_TANH:
        for j in range(n):
            y[j] = beta * x[j]
        f.tanh(y, y, n)
        for j in range(n):
            y[j] *= alpha
        return
    for j in range(n):
        y[j] = simple(f.kind, x[j], alpha, beta)


cdef inline real simple(int kind, real x, real alpha, real beta) noexcept nogil:
    """f(x) where it takes a few operations; NaN in, NaN out."""
    if kind == HARD_SIGMOID:
        x = alpha * x + beta
        return <real>0 if x < 0 else <real>1 if x > 1 else x
    if kind == RELU:
        return <real>0 if x <= 0 else x
    if kind == LEAKY_RELU:
        return alpha * x if x < 0 else x
    if kind == THRESHOLDED_RELU:
        return <real>0 if x <= alpha else x
    if kind == ELU:
        return alpha * <real>expm1(x) if x < 0 else x
    if kind == AFFINE:
        return alpha * x + beta
    if kind == SOFTSIGN:
        return x / (1 + <real>fabs(x))
    if kind == SOFTPLUS:
        return (x if x > 0 else <real>0) + <real>log1p(exp(-fabs(x)))  # exp never overflows
    return x


cdef inline void derive(const Activation *f, Py_ssize_t n, const real *y, real *d) noexcept nogil:
    """d := d f'(x), n numbers, from the values y = f(x)."""
    cdef Py_ssize_t j
    cdef real alpha = <real>f.alpha, beta = <real>f.beta
    if f.kind == SIGMOID:
        for j in range(n):
            d[j] *= y[j] * (1 - y[j])
    elif f.kind == TANH:
        for j in range(n):
            d[j] *= 1 - y[j] * y[j]
    elif f.kind != IDENTITY:
        for j in range(n):
            d[j] = slope(f.kind, y[j], d[j], alpha, beta)


cdef inline real slope(int kind, real y, real d, real alpha, real beta) noexcept nogil:
    """d f'(x); exactly 0 where the function is flat."""
    if kind == HARD_SIGMOID:
        return <real>0 if y <= 0 or y >= 1 else d * alpha
    if kind == RELU:
        return <real>0 if y <= 0 else d
    if kind == LEAKY_RELU:
        return d * alpha if y < 0 else d
    if kind == THRESHOLDED_RELU:
        return <real>0 if y == 0 else d
    if kind == ELU:
        return d * (y + alpha) if y < 0 else d
    if kind == SCALED_TANH:
        return d * beta * (alpha - y * y / alpha)
    if kind == AFFINE:
        return d * alpha
    if kind == SOFTSIGN:
        return d * (1 - <real>fabs(y)) * (1 - <real>fabs(y))
    if kind == SOFTPLUS:
        return d * <real>-expm1(-y)
    return d
