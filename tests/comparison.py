# SPDX-License-Identifier: MIT
"""The one comparison that all tests of the maths use; test_oracle_bites.py shows that it bites."""

import numpy as np


def tolerance(dtype, case, k=6):
    """The largest error allowed, in units of a tensor's largest magnitude.

    Rounding errors of a sum of n terms add up like a random walk: eps * sqrt(n). The longest sums
    are those over a step's inputs and hidden units (I + H, and 4H backward) and those over
    all steps and rows in a weight's gradient (T * B); errors of a step are carried on through
    the cell for T steps. k = 6: 3 for activations that are good to 3 ulp, as much again for
    the products of activations in a derivative. The largest error measured, over all cases,
    dtypes and instruction sets, is a third of it (H = 1 in float64), else a seventh.
    """
    n = 1 + case.I + 5 * case.H + case.T * max(case.B, 1)
    return k * np.finfo(dtype).eps * np.sqrt(n)


def fault(name, actual, expected, dtype, limit):
    """What is wrong with ``actual``, in one line, or None."""
    if not isinstance(actual, np.ndarray):
        return f"{name}: expected an ndarray, got {type(actual).__name__}"
    if actual.dtype != dtype:
        return f"{name}: expected dtype {dtype}, got {actual.dtype}"
    if actual.shape != expected.shape:
        return f"{name}: expected shape {expected.shape}, got {actual.shape}"
    if expected.size == 0:
        return None
    # Padding, and gradients of what was not used, are exact: random numbers are never 0.
    loose = (expected == 0) & (actual != 0)
    strange = np.isfinite(actual) != np.isfinite(expected)
    for kind, bad in (("must be exactly 0", loose), ("finite in one of the two", strange)):
        if bad.any():
            at = tuple(map(int, np.argwhere(bad)[0]))
            return f"{name}: {kind} at {at}: {actual[at]!r}, expected {expected[at]!r}"
    error = np.where(np.isfinite(expected), np.abs(actual - expected, dtype=np.float64), 0)
    scale = np.abs(expected, where=np.isfinite(expected), out=np.zeros(expected.shape)).max()
    at = tuple(map(int, np.unravel_index(error.argmax(), error.shape)))
    if error[at] <= limit * scale:
        return None
    return (
        f"{name}: largest error {error[at]:.3g} at {at}: {actual[at]!r}, expected "
        f"{expected[at]!r}; allowed {limit:.3g} * {scale:.3g}; "
        f"{np.count_nonzero(error > limit * scale)} of {error.size} are wrong"
    )


def assert_matches(actual, expected, dtype, case, limit=None):
    """Compare tensor by tensor, by name: value, dtype, shape, exact zeros.

    Parameters
    ----------
    actual, expected : dict of str to ndarray
        What was computed, in ``dtype``, and the answer, in float64.
    case : Case
        For the tolerance and for the message.
    limit : float, optional
        Instead of ``tolerance(dtype, case)``.
    """
    dtype = np.dtype(dtype)
    limit = tolerance(dtype, case) if limit is None else limit
    faults = [fault(name, actual.get(name), expected[name], dtype, limit) for name in expected]
    faults = [line for line in faults if line]
    if actual.keys() != expected.keys():
        faults.append(f"names: {sorted(actual.keys() ^ expected.keys())} in one of the two only")
    assert not faults, "\n".join([f"case {case} in {dtype}:", *faults])


def assert_identical(actual, expected, case):
    """Compare tensor by tensor, by name: the same bits."""
    assert actual.keys() == expected.keys(), f"{case}: {sorted(actual)} != {sorted(expected)}"
    for name, a in actual.items():
        same = np.array_equal(a, expected[name], equal_nan=True)
        assert same, f"{name} of case {case}: {fault(name, a, expected[name], a.dtype, 0)}"
        assert a.dtype == expected[name].dtype, f"{name} of case {case}: {a.dtype}"
