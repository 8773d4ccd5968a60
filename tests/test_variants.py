# SPDX-License-Identifier: MIT
"""The variants of the cell: the reference against central differences and by hand."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from cases import Case, make_problem, run
from variants import COMBINATIONS, OPTIONS

from fastlstm import reference
from fastlstm.activations import ACTIVATIONS, activation
from fastlstm.spec import Spec

SMALL = Case(T=4, B=2, I=2, H=3)
LAYOUTS = {
    "forward": SMALL,
    "reverse": replace(SMALL, reverse=True),
    "ragged": replace(SMALL, T=3, B=3, lengths=(2, 0, 3)),
    "ragged-reverse-projected": replace(SMALL, T=3, B=3, lengths=(2, 3, 1), reverse=True, P=2),
}


def inputs_of(problem):
    """Every array that has a gradient, by name."""
    h0, c0 = problem.state
    inputs = problem.forward() | dict(h0=h0, c0=c0)
    return {n: a for n, a in inputs.items() if isinstance(a, np.ndarray)}


def slopes(problem, value, h=1e-4):
    """Central differences for each element of ``value``; None where a kink is too near.

    4th order: rounding is about eps / h = 2e-12 of the loss, and truncation h**4. Where a clip
    or a relu has its kink within 2 h, the differences over h and over 2 h disagree, by the jump
    of the slope; where all is smooth, by h**2.
    """

    def loss(k, step):
        before = value.flat[k]
        value.flat[k] += step
        y, (h_n, c_n), _ = reference.lstm_forward(**problem.forward(), save=False)
        value.flat[k] = before
        dh_n, dc_n = problem.dstate
        return (y * problem.dy).sum() + (h_n * dh_n).sum() + (c_n * dc_n).sum()

    slope = np.empty_like(value)
    for k in range(value.size):
        near = (loss(k, h) - loss(k, -h)) / (2 * h)
        far = (loss(k, 2 * h) - loss(k, -2 * h)) / (4 * h)
        if abs(near - far) > 1e-5 * max(1, abs(near)):
            return None
        slope.flat[k] = (4 * near - far) / 3
    return slope


def smooth_problem(case):
    """The first numbers of the case without a kink nearby, and the slopes of every input."""
    for seed in count():
        assert seed < 20, f"no smooth numbers for {case}"
        problem = make_problem(case, seed=seed)
        found = {}
        for name, value in inputs_of(problem).items():
            found[name] = slopes(problem, value)
            if found[name] is None:
                break
        else:
            return problem, found


def ignored(spec, shape):
    """Where a weight (4H, ...) has rows that the variant does not use."""
    return np.broadcast_to(~np.repeat(spec.live, shape[0] // 4), shape[::-1]).T


def assert_gradients(case):
    problem, found = smooth_problem(case)
    computed = run(reference, problem)
    for name, slope in found.items():
        error = np.abs(computed[f"d{name}"] - slope)
        # the floor is for elements that happen to be near 0
        allowed = 1e-6 * np.abs(slope) + 1e-9 * max(1, np.abs(slope).max())
        at = np.unravel_index((error - allowed).argmax(), error.shape)
        assert (error <= allowed).all(), (
            f"d{name} of {case} at {at}: {computed[f'd{name}'][at]!r}, "
            f"central difference {slope[at]!r}"
        )
        if name in ("w_ih", "w_hh", "b", "ln_x", "ln_h"):
            rows = ignored(case.spec, slope.shape)
            assert not computed[f"d{name}"][rows].any(), f"d{name} of {case} in ignored rows"


@pytest.mark.parametrize("layout", ["ragged", "ragged-reverse-projected"])
@pytest.mark.parametrize("spec", OPTIONS, ids=repr)
def test_variants_gradients_match_central_differences(spec, layout):
    assert_gradients(replace(LAYOUTS[layout], spec=spec))


@pytest.mark.parametrize("number", range(len(COMBINATIONS)))
def test_variants_gradients_of_combinations_match_central_differences(number):
    layout = list(LAYOUTS.values())[number % len(LAYOUTS)]
    assert_gradients(replace(layout, spec=COMBINATIONS[number], bias=number % 5 != 0))


def test_variants_combinations_differ_and_cover_all_fields():
    assert len(set(COMBINATIONS)) == len(COMBINATIONS) == 40
    times = {name: sum(name in spec.changed for spec in COMBINATIONS) for name in vars(Spec())}
    assert min(times.values()) >= 5, times
    assert max(len(spec.changed) for spec in COMBINATIONS) >= 6


# -- by hand ---------------------------------------------------------------------------------


def one_unit(**spec):
    """Two steps of one row and one unit, from its equations: the gates, c and m of the second."""
    spec = Spec(**spec)
    problem = make_problem(Case(T=2, B=1, I=1, H=1, spec=spec))
    _, _, tape = reference.lstm_forward(**problem.forward())
    a = problem.w_ih[:, 0] * problem.x[1, 0] + problem.w_hh[:, 0] * tape.h[1, 0] + problem.b
    return problem, tape, a, tape.gates[1, 0, :, 0], tape.c[1:, 0, 0], tape.h[2, 0, 0]


def test_variants_peepholes_by_hand():
    problem, _, a, gates, (c_prev, c), m = one_unit(peepholes="ifo")
    p = problem.w_peephole[:, 0]
    i, f = reference.sigmoid(a[0] + p[0] * c_prev), reference.sigmoid(a[1] + p[1] * c_prev)
    answer_c = f * c_prev + i * np.tanh(a[2])
    o = reference.sigmoid(a[3] + p[2] * answer_c)
    np.testing.assert_allclose(gates, [i, f, np.tanh(a[2]), o], rtol=1e-13)
    np.testing.assert_allclose([c, m], [answer_c, o * np.tanh(answer_c)], rtol=1e-13)


def test_variants_coupled_by_hand():
    _, _, a, gates, (c_prev, c), _ = one_unit(coupled=True)
    i, g = reference.sigmoid(a[0]), np.tanh(a[2])
    np.testing.assert_allclose(gates[:3], [i, 1 - i, g], rtol=1e-13)
    np.testing.assert_allclose(c, (1 - i) * c_prev + i * g, rtol=1e-13)


@pytest.mark.parametrize(
    ("field", "k"), [("input_gate", 0), ("forget_gate", 1), ("output_gate", 3)]
)
def test_variants_gate_off_is_one_by_hand(field, k):
    _, _, _, gates, (c_prev, c), m = one_unit(**{field: False})
    i, f, g, o = gates
    assert gates[k] == 1
    np.testing.assert_allclose([c, m], [f * c_prev + i * g, o * np.tanh(c)], rtol=1e-13)


def test_variants_identity_by_hand():
    _, _, a, gates, (_, c), m = one_unit(candidate="identity", output="identity")
    np.testing.assert_allclose([gates[2], m], [a[2], gates[3] * c], rtol=1e-13)


def test_variants_full_gate_recurrence_by_hand():
    problem, tape, a, gates, _, _ = one_unit(full_gate_recurrence=True)
    r = problem.w_fgr @ tape.gates[0, 0, [0, 1, 3], 0]
    np.testing.assert_allclose(gates[[0, 1, 3]], reference.sigmoid(a[[0, 1, 3]] + r), rtol=1e-13)
    np.testing.assert_allclose(gates[2], np.tanh(a[2]), rtol=1e-13)
    first = problem.w_ih[:, 0] * problem.x[0, 0] + problem.w_hh[:, 0] * tape.h[0, 0] + problem.b
    zeros = reference.sigmoid(first[[0, 1, 3]])  # the gates before the first step are 0
    np.testing.assert_allclose(tape.gates[0, 0, [0, 1, 3], 0], zeros, rtol=1e-13)


def test_variants_cell_clip_by_hand():
    """The carried cell is clipped, and the peephole and the tanh of the output see it so."""
    problem, _, a, (i, f, g, o), (c_prev, c), m = one_unit(cell_clip=1e-3, peepholes="o")
    assert abs(f * c_prev + i * g) > 1e-3
    assert abs(c) == 1e-3
    np.testing.assert_allclose(
        o, reference.sigmoid(a[3] + problem.w_peephole[2, 0] * c), rtol=1e-13
    )
    np.testing.assert_allclose(m, o * np.tanh(c), rtol=1e-13)


def test_variants_clip_by_hand():
    """Before the activations, and not c."""
    _, _, a, gates, (_, c), m = one_unit(clip=0.25)
    assert np.abs(a).min() > 0.25
    s = np.sign(a) * 0.25
    answer = reference.sigmoid(s)
    answer[2] = np.tanh(s[2])
    np.testing.assert_allclose(gates, answer, rtol=1e-13)
    np.testing.assert_allclose(m, gates[3] * np.tanh(c), rtol=1e-13)


def layer_norm(a):
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)


def test_variants_layer_norm_by_hand():
    q = make_problem(Case(T=1, spec=Spec(layer_norm=True)))
    y, (_, c_n), _ = reference.lstm_forward(**q.forward())
    a = q.ln_x * layer_norm(q.x[0] @ q.w_ih.T) + q.ln_h * layer_norm(q.state[0] @ q.w_hh.T) + q.b
    i, f, g, o = np.split(a, 4, axis=1)
    c = reference.sigmoid(f) * q.state[1] + reference.sigmoid(i) * np.tanh(g)
    h = reference.sigmoid(o) * np.tanh(q.ln_c[0] * layer_norm(c) + q.ln_c[1])
    np.testing.assert_allclose(c_n, c, rtol=1e-12)  # the cell that is carried is not normalised
    np.testing.assert_allclose(y[0], h, rtol=1e-12)


def test_variants_layer_norm_leaves_out_the_rows_that_are_ignored():
    """With f = 1 - i the norms are over i, g, o: what f's rows hold has no influence."""
    q = make_problem(Case(spec=Spec(layer_norm=True, coupled=True)))
    answer, other = run(reference, q), q.map(np.copy)
    H = q.case.H
    for a in (other.w_ih, other.w_hh, other.b, other.ln_x, other.ln_h):
        a[H : 2 * H] += 3
    for name, a in run(reference, other).items():
        if not name.startswith("dw"):
            np.testing.assert_allclose(a, answer[name], rtol=1e-10, atol=1e-12, err_msg=name)


FORMULAS = {
    "sigmoid": ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    "tanh": ("tanh", np.tanh),
    "identity": ("identity", lambda x: x),
    "hard_sigmoid": (("hard_sigmoid", 0.2, 0.5), lambda x: min(max(0.2 * x + 0.5, 0), 1)),
    "relu": ("relu", lambda x: max(x, 0)),
    "leaky_relu": (("leaky_relu", 0.1), lambda x: x if x >= 0 else 0.1 * x),
    "thresholded_relu": (("thresholded_relu", 0.7), lambda x: x if x > 0.7 else 0),
    "elu": (("elu", 1.5), lambda x: x if x >= 0 else 1.5 * (np.exp(x) - 1)),
    "scaled_tanh": (("scaled_tanh", 1.7, 0.6), lambda x: 1.7 * np.tanh(0.6 * x)),
    "affine": (("affine", -0.8, 0.3), lambda x: -0.8 * x + 0.3),
    "softsign": ("softsign", lambda x: x / (1 + abs(x))),
    "softplus": ("softplus", lambda x: np.log(1 + np.exp(x))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_variants_activation_is_onnx_s_formula(name):
    value, formula = FORMULAS[name]
    forward, backward = activation(value)
    x = np.array([-4.1, -1.3, -0.2, 0.4, 0.69, 0.9, 2.2, 5.3])
    np.testing.assert_allclose(forward(x), [formula(v) for v in x], rtol=1e-14)
    slope = (forward(x + 1e-6) - forward(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(
        backward(forward(x), np.full(8, 3.0)), 3 * slope, rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_variants_activation_keeps_the_dtype_nan_and_large_numbers(name, dtype):
    forward, backward = activation(FORMULAS[name][0])
    x = np.array([np.nan, -1e4, 1e4], dtype)
    with np.errstate(over="raise"):
        y = forward(x)
        dx = backward(y, np.ones(3, dtype))
    assert y.dtype == dx.dtype == dtype
    assert np.isnan(y[0])
    assert np.isfinite(y[1:]).all()
    assert np.isfinite(dx[1:]).all()


# -- errors ----------------------------------------------------------------------------------

WEIGHTS = {
    "w_peephole": (dict(peepholes="i"), "3, H", (3, 9)),
    "w_fgr": (dict(full_gate_recurrence=True), "3*H, 3*H", (27, 27)),
    "ln_x": (dict(layer_norm=True), "4*H,", (36,)),
    "ln_h": (dict(layer_norm=True), "4*H,", (36,)),
    "ln_c": (dict(layer_norm=True), "2, H", (2, 9)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_variants_weights_are_checked(name):
    spec, symbols, shape = WEIGHTS[name]
    arguments = make_problem(Case(spec=Spec(**spec))).forward()
    right = arguments[name]
    assert right.shape == shape
    symbols = symbols.removesuffix(",")
    faults = (
        (None, ValueError, f"{name} ({symbols}) is missing, which spec asks for: Spec("),
        (right[..., :-1], ValueError, f"{name} must have shape ({WEIGHTS[name][1]}) = {shape}"),
        (right.astype("float32"), TypeError, f"x is float64 but {name} is float32"),
        (right.astype(int), TypeError, f"{name} must be float32 or float64, got int64"),
    )
    for value, kind, text in faults:
        with pytest.raises(kind) as caught:
            reference.lstm_forward(**arguments | {name: value})
        assert str(caught.value).startswith(text)
