# SPDX-License-Identifier: MIT
"""Regenerate the polynomial coefficients in activations.inc.h.

Both activations rest on one function of the reduced argument r, |r| <= ln(2)/2:

    exp(-r) = 1 - r + r^2 q(r),      q(r) = 1/2 - r/6 + r^2/24 - ...

q is fitted twice, so that the largest *relative* error is smallest: for sigmoid of exp(-r), for
tanh of 1 - exp(-r), which vanishes with r (Lawson's iteration: weighted least squares, each
weight multiplied by the error found at its point). The coefficients
are rounded to the target type one after the other, lowest power first, and the rest is fitted
again after each, so that the later ones make up for the rounding of the earlier ones.

Needs mpmath; nothing in the build runs it:  python csrc/fit_coefficients.py
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 50
HALF_LN2 = mp.log(2) / 2
REACH = HALF_LN2 * mp.mpf("1.0001")  # r overshoots by the rounding of x * log2(e)
N_POINTS = 160  # even: r = 0, where m vanishes, is not among the Chebyshev points
N_LAWSON = 40
COMPUTED = {"sigmoid": lambda r: mp.exp(-r), "tanh": lambda r: -mp.expm1(-r)}


def q_exact(r):
    """Return q(r) = (exp(-r) - 1 + r) / r^2, the function to be fitted."""
    return (r + mp.expm1(-r)) / r**2


def relative_error(name, coefficients, r):
    """Return the relative error of what name computes when q has these coefficients."""
    q = mp.polyval(coefficients[::-1], r)
    return r**2 * (q_exact(r) - q) / COMPUTED[name](r)


def fit_free(name, points, fixed, n_free):
    """Return n_free coefficients that follow the fixed ones, by Lawson's iteration."""
    scale = [r**2 / COMPUTED[name](r) for r in points]
    target = [q_exact(r) - mp.polyval(fixed[::-1], r) if fixed else q_exact(r) for r in points]
    rows = [[r ** (len(fixed) + k) for k in range(n_free)] for r in points]
    weights = [mp.mpf(1)] * len(points)
    best, best_error = None, mp.inf
    for _ in range(N_LAWSON):
        w = [weight * s**2 for weight, s in zip(weights, scale, strict=True)]
        data = list(zip(w, rows, target, strict=True))
        normal = mp.matrix(n_free, n_free)
        right = mp.matrix(n_free, 1)
        for i in range(n_free):
            right[i] = mp.fsum(wi * row[i] * t for wi, row, t in data)
            for j in range(i + 1):
                normal[i, j] = normal[j, i] = mp.fsum(wi * row[i] * row[j] for wi, row, _ in data)
        free = list(mp.lu_solve(normal, right))
        errors = [abs(relative_error(name, fixed + free, r)) for r in points]
        if max(errors) < best_error:
            best, best_error = free, max(errors)
        weights = [weight * e for weight, e in zip(weights, errors, strict=True)]
        total = mp.fsum(weights)
        weights = [weight / total for weight in weights]
    return best


def fit(name, degree, dtype):
    """Return the degree + 1 coefficients of q, each exactly a value of dtype."""
    points = [REACH * mp.cos(mp.pi * (2 * k + 1) / (2 * N_POINTS)) for k in range(N_POINTS)]
    fixed = []
    while len(fixed) <= degree:
        free = fit_free(name, points, fixed, degree + 1 - len(fixed))
        fixed.append(mp.mpf(float(dtype(mp.nstr(free[0], 30)))))
    return fixed


def split_ln2(bits):
    """Return ln(2) as hi + lo, where hi has only this many bits: n * hi is exact."""
    hi = mp.floor(mp.log(2) * mp.mpf(2) ** bits) / mp.mpf(2) ** bits
    return hi, mp.log(2) - hi


def main():
    """Print the constants of both types as C hexadecimal literals."""
    for dtype, degree, hi_bits in ((np.float32, 4, 15), (np.float64, 9, 40)):
        for name in COMPUTED:
            coefficients = fit(name, degree, dtype)
            probe = [REACH * mp.mpf(k) / 2000 for k in range(-2000, 2001) if k]
            worst = max(abs(relative_error(name, coefficients, r)) for r in probe)
            print(f"{name} {dtype.__name__}: q of degree {degree}, error <= {mp.nstr(worst, 3)}")
            for k, value in enumerate(coefficients):
                print(f"  Q{k} {float(value).hex()}")
        hi, lo = split_ln2(hi_bits)
        print(f"  LN2_HI {float(hi).hex()}  LN2_LO {float(dtype(mp.nstr(lo, 30))).hex()}")
        print(f"  LOG2E {float(dtype(mp.nstr(1 / mp.log(2), 30))).hex()}")


if __name__ == "__main__":
    main()
