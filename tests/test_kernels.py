# SPDX-License-Identifier: MIT
"""The kernels of csrc/ as Python reaches them; csrc/test_kernels.c holds the full sweeps."""

import importlib.util
import re
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest

from fastlstm import backend

ISAS = [isa for isa in backend.implementations() if isa not in ("reference", "none")]
EXACT = {"sigmoid": lambda x: 1 / (1 + mp.exp(-x)), "tanh": mp.tanh}
MAX_ULP = 3
CSRC = Path(__file__).parent.parent / "csrc"

each_isa = pytest.mark.parametrize("isa", ISAS)
each_function = pytest.mark.parametrize("name", EXACT)


def ulps(y, exact):
    """Error of each y in units in the last place of the exact result, a list of mpmath numbers."""
    info = np.finfo(y.dtype)
    result = []
    for value, true in zip(y, exact, strict=True):
        exponent = max(mp.frexp(true)[1] - 1, int(info.minexp))  # denormals have the unit of minexp
        result.append(
            float(abs(mp.mpf(float(value)) - true) / mp.mpf(2) ** (exponent - info.nmant))
        )
    return np.array(result)


def sample(dtype):
    """Both signs of every binade where something happens, the worst places more densely."""
    rng = np.random.default_rng(5)
    low = -104 if dtype == np.float32 else -745.2
    parts = [
        np.exp2(rng.uniform(-30, 10, 1000)) * rng.choice([-1, 1], 1000),
        rng.uniform(-1, 1, 500),
        rng.uniform(low, 20, 500),
        rng.uniform(-17, -16, 300),
        rng.uniform(-37, -36, 300),
    ]
    return np.concatenate(parts).astype(dtype)


@each_function
@each_isa
def test_kernels_are_within_3_ulp_of_mpmath(isa, name, dtype):
    x = sample(dtype)
    with mp.workprec(150):
        exact = [EXACT[name](mp.mpf(float(v))) for v in x]
        error = ulps(backend.elementwise(name, x, isa), exact)
    worst = error.argmax()
    assert error[worst] <= MAX_ULP, f"{error[worst]:.2f} ulp at {x[worst]!r}"
    assert error[worst] > 0.5  # else this compares the kernel with itself


def test_oracle_ulps_counts_units(dtype):
    """An error of 4 units is told from one of 3, among normal and denormal numbers."""
    info = np.finfo(dtype)
    for true in (dtype.type(0.75), info.smallest_normal, 8 * info.smallest_subnormal):
        unit = np.spacing(true)
        y = np.array([true, true + 3 * unit, true + 4 * unit], dtype)
        assert ulps(y, [mp.mpf(float(true))] * 3).tolist() == [0, 3, 4]


@each_function
@each_isa
def test_kernels_keep_nan_in_its_place(isa, name, dtype):
    for position in range(19):
        x = np.linspace(-2, 2, 19, dtype=dtype)
        x[position] = np.nan
        y = backend.elementwise(name, x, isa)
        assert np.flatnonzero(np.isnan(y)).tolist() == [position]


@each_isa
def test_kernels_saturate_exactly(isa, dtype):
    info = np.finfo(dtype)
    x = np.array([-np.inf, info.min, info.max, np.inf], dtype)
    assert backend.elementwise("sigmoid", x, isa).tolist() == [0, 0, 1, 1]
    assert backend.elementwise("tanh", x, isa).tolist() == [-1, -1, 1, 1]


@each_isa
def test_kernels_keep_denormals(isa, dtype):
    info = np.finfo(dtype)
    tiny = np.array([0, info.smallest_subnormal, 3 * info.smallest_subnormal, info.tiny], dtype)
    np.testing.assert_array_equal(backend.elementwise("tanh", tiny, isa), tiny)
    assert set(backend.elementwise("sigmoid", tiny, isa)) == {0.5}
    almost_zero = np.array([-103.9 if dtype == np.float32 else -745.1], dtype)
    assert backend.elementwise("sigmoid", almost_zero, isa) == info.smallest_subnormal


@each_isa
def test_kernels_tanh_is_odd_to_the_bit(isa, dtype):
    x = np.append(np.abs(sample(dtype)), [0, np.inf]).astype(dtype)
    positive, negative = (backend.elementwise("tanh", v, isa) for v in (x, -x))
    assert (-positive).tobytes() == negative.tobytes()  # -0.0 too


@each_function
@each_isa
def test_kernels_do_not_depend_on_position_or_length(isa, name, dtype):
    x = np.linspace(-4, 4, 40, dtype=dtype)
    whole = backend.elementwise(name, x, isa)
    for start, stop in [(0, 0), (0, 1), (1, 8), (3, 20), (5, 38), (39, 40)]:
        part = backend.elementwise(name, x[start:stop], isa)
        assert part.tobytes() == whole[start:stop].tobytes()


@each_function
@each_isa
def test_kernels_have_the_same_bits_on_every_isa(isa, name, dtype):
    x = sample(dtype)
    first, y = (backend.elementwise(name, x, i) for i in (ISAS[0], isa))
    assert y.dtype == dtype
    assert y.tobytes() == first.tobytes()


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_kernels_polynomial_is_as_close_as_it_says(name):
    """The literals in activations.inc.h against the bounds that stand there."""
    spec = importlib.util.spec_from_file_location("fit", CSRC / "fit_coefficients.py")
    fit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fit)
    text = (CSRC / "activations.inc.h").read_text(encoding="utf-8")
    function = {"sigmoid": "e^-r", "tanh": "m"}[name]
    bounds = re.search(re.escape(function) + r" <= (\S+)( \(.*?\))? and ([^\s.,]+\.\d+e-\d+)", text)
    arrays = re.findall(rf"FN\({name}_q\)\[\] = \{{(.*?)\}}", text, re.DOTALL)
    for array, bound, n in zip(arrays, bounds.group(1, 3), (5, 10), strict=True):
        literals = re.findall(r"-?0x1\.[0-9a-f]+p[+-]\d+", array)
        q = [mp.mpf(float.fromhex(c)) for c in reversed(literals)]
        if name == "tanh":  # it holds 2 q(2r)
            q = [c / 2 ** (k + 1) for k, c in enumerate(q)]
        points = [fit.REACH * k / 500 for k in range(-500, 501) if k]
        error = max(abs(fit.relative_error(name, q, r)) for r in points)
        assert len(q) == n
        assert float(bound) / 2 < error <= float(bound)


def test_kernels_are_chosen_by_name():
    with pytest.raises(ValueError, match=r"isa must be one of .*none on this machine, got 'mmx'"):
        backend.elementwise("tanh", np.zeros(3), "mmx")
    for isa in [*ISAS, "none"]:
        with backend.using_isa(isa):
            assert backend.info()["isa"] == isa
