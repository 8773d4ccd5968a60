# SPDX-License-Identifier: MIT
"""The optimisers' steps, each one pass over the flat buffers; optim.py has the formulas.

All arrays are (n,), contiguous, and do not overlap. Every operation is rounded to their dtype, in
the order of torch.optim, so that the bits are those of the formulas written in NumPy
(tests/numpy_optim.py).
"""

from cython cimport floating
from libc.math cimport sqrt, sqrtf

__all__ = ["adam", "sgd", "sum_of_squares"]


def adam(
    floating[::1] p, const floating[::1] g, floating[::1] m, floating[::1] v,
    double beta1, double beta2, double rate, double correction, double eps, double l2,
    double shrink,
):
    """p *= shrink;  d = g + l2 p;  m += (1 - beta1) (d - m);  v = beta2 v + (1 - beta2) d d
    p -= rate m / (sqrt(v) / correction + eps)

    ``rate`` is lr / (1 - beta1**t), ``correction`` sqrt(1 - beta2**t). l2 = 0 and shrink = 1 leave
    out their terms. g is only read.
    """
    cdef Py_ssize_t k, n = p.shape[0]
    cdef floating d, s, a = <floating>(1 - beta1), b = <floating>beta2, c = <floating>(1 - beta2)
    cdef floating r = <floating>rate, q = <floating>correction, e = <floating>eps
    cdef floating w = <floating>l2, shrunk = <floating>shrink
    with nogil:
        for k in range(n):
            p[k] = shrunk * p[k]
            d = g[k]
            if w != 0:
                d = w * p[k] + d
            m[k] += (d - m[k]) * a
            v[k] = v[k] * b + d * d * c
            s = sqrtf(v[k]) if floating is float else sqrt(v[k])
            p[k] -= m[k] / (s / q + e) * r


def sgd(
    floating[::1] p, const floating[::1] g, floating[::1] m, double lr, double momentum,
    bint nesterov, double l2,
):
    """d = g + l2 p;  m = momentum m + d;  p -= lr m, or with nesterov lr (d + momentum m)

    Without momentum p -= lr d, and m is None. l2 = 0 leaves out its term. g is only read.
    """
    cdef Py_ssize_t k, n = p.shape[0]
    cdef floating d, r = <floating>lr, u = <floating>momentum, w = <floating>l2
    cdef bint moving = m is not None
    with nogil:
        for k in range(n):
            d = g[k]
            if w != 0:
                d = w * p[k] + d
            if moving:
                m[k] = m[k] * u + d
                d = m[k] * u + d if nesterov else m[k]
            p[k] -= d * r


def sum_of_squares(const floating[::1] g):
    """The sum of g**2 in float64, in an order that depends on n alone."""
    cdef Py_ssize_t k, lane, n = g.shape[0]
    cdef double[8] sums  # independent chains of additions
    cdef double total = 0
    with nogil:
        for lane in range(8):
            sums[lane] = 0
        for k in range(0, n - 7, 8):
            for lane in range(8):
                sums[lane] += <double>g[k + lane] * <double>g[k + lane]
        for k in range(n - n % 8, n):
            total += <double>g[k] * <double>g[k]
        for lane in range(8):
            total += sums[lane]
    return total
