# SPDX-License-Identifier: MIT
"""The reference against numbers worked out by hand and against central differences."""

from math import log

import numpy as np
import pytest
from cases import Case, make_problem, run

from fastlstm import reference
from fastlstm.reference import lstm_backward, lstm_forward, sigmoid

# T=2, I=1, H=2, worked out with 40 digits from the six equations, one scalar after the other.
BY_HAND = dict(
    x=np.array([0.5, -1.5]).reshape(2, 1, 1),
    w_ih=np.array([0.1, -0.2, 0.3, 0.4, -0.5, 0.6, 0.7, -0.8]).reshape(8, 1),
    w_hh=np.array(
        [0.2, -0.1, 0.4, 0.3, -0.3, 0.5, 0.1, 0.6, 0.7, -0.4, -0.2, 0.8, 0.5, 0.9, -0.6, 0.1]
    ).reshape(8, 2),
    b=np.array([0.05, -0.15, 0.25, 0.35, -0.45, 0.55, -0.65, 0.75]),
    state=(np.array([[0.3, -0.7]]), np.array([[1.1, -0.9]])),
)
H_BY_HAND = [
    [0.12573347212711658, -0.19583315970532774],
    [0.05186091904039589, -0.34478120468300498],
]
C_BY_HAND = [
    [0.423669828484028, -0.39193866513724342],
    [0.3882241092909086, -0.42213139949941025],
]


def test_reference_forward_by_hand():
    y, (h_n, c_n), tape = lstm_forward(**BY_HAND)
    np.testing.assert_allclose(y[:, 0], H_BY_HAND, rtol=1e-14)
    np.testing.assert_allclose(h_n[0], H_BY_HAND[1], rtol=1e-14)
    np.testing.assert_allclose(c_n[0], C_BY_HAND[1], rtol=1e-14)
    np.testing.assert_allclose(tape.c[1:, 0], C_BY_HAND, rtol=1e-14)
    assert tape.gates.shape == (2, 1, 4, 2)


def test_reference_forward_by_hand_reversed():
    """Over x reversed, from the end: the same states, the outputs in the places of the inputs."""
    y, (h_n, c_n), _ = lstm_forward(**BY_HAND | dict(x=BY_HAND["x"][::-1]), reverse=True)
    np.testing.assert_allclose(y[::-1, 0], H_BY_HAND, rtol=1e-14)
    np.testing.assert_allclose(h_n[0], H_BY_HAND[1], rtol=1e-14)
    np.testing.assert_allclose(c_n[0], C_BY_HAND[1], rtol=1e-14)


def test_reference_forward_by_hand_ragged():
    """Two rows of the same numbers, one of length 1: it stops at the first step's state."""
    twice = {n: np.repeat(BY_HAND[n], 2, axis=1) for n in ("x",)}
    state = tuple(np.repeat(a, 2, axis=0) for a in BY_HAND["state"])
    y, (h_n, c_n), _ = lstm_forward(**BY_HAND | twice | dict(state=state), lengths=[1, 2])
    np.testing.assert_allclose(h_n, H_BY_HAND, rtol=1e-14)
    np.testing.assert_allclose(c_n, C_BY_HAND, rtol=1e-14)
    np.testing.assert_array_equal(y[1, 0], 0)


@pytest.fixture
def one_step():
    """T=B=I=H=1 with i = 3/4, f = 1/2, g = 3/5, o = 4/5 and c = log 2, tanh c = 3/5.

    The biases make it so whatever the weights are: sigmoid(log 3) = 3/4, tanh(log 2) = 3/5,
    sigmoid(log 4) = 4/5; c = f c0 + i g = log 2 gives c0 = 2 (log 2 - 9/20).
    """
    x, h0, c0 = 2.0, 3.0, 2 * (log(2) - 0.45)
    w, u = np.array([0.1, 0.2, 0.3, 0.4]), np.array([-0.4, 0.3, 0.2, -0.1])
    b = np.array([log(3), 0, log(2), log(4)]) - w * x - u * h0
    return dict(
        x=np.full((1, 1, 1), x), w_ih=w[:, None], w_hh=u[:, None], b=b,
        state=(np.full((1, 1), h0), np.full((1, 1), c0)),
    )  # fmt: skip


def test_reference_one_step_by_hand(one_step):
    y, (_, c_n), tape = lstm_forward(**one_step)
    np.testing.assert_allclose(tape.gates.ravel(), [0.75, 0.5, 0.6, 0.8], rtol=1e-14)
    np.testing.assert_allclose(c_n, [[log(2)]], rtol=1e-14)
    np.testing.assert_allclose(y, [[[0.48]]], rtol=1e-14)


def test_reference_backward_one_step_by_hand(one_step):
    """dy + dh_n = 1, dc_n = 0.488: dc = 1 * 0.8 * (1 - 0.36) + 0.488 = 1."""
    c0 = one_step["state"][1][0, 0]
    *_, tape = lstm_forward(**one_step)
    dstate = np.full((1, 1), 0.75), np.full((1, 1), 0.488)
    dx, (dh0, dc0), grads = lstm_backward(tape, np.full((1, 1, 1), 0.25), dstate)
    #           g i (1-i)            c0 f (1-f)   i (1 - g g)          tanh(c) o (1-o)
    da = np.array([0.6 * 0.75 * 0.25, c0 * 0.25, 0.75 * (1 - 0.36), 0.6 * 0.8 * 0.2])
    np.testing.assert_allclose(grads["b"], da, rtol=1e-13)
    np.testing.assert_allclose(grads["w_ih"][:, 0], 2 * da, rtol=1e-13)
    np.testing.assert_allclose(grads["w_hh"][:, 0], 3 * da, rtol=1e-13)
    np.testing.assert_allclose(dx.item(), da @ [0.1, 0.2, 0.3, 0.4], rtol=1e-13)
    np.testing.assert_allclose(dh0.item(), da @ [-0.4, 0.3, 0.2, -0.1], rtol=1e-13)
    np.testing.assert_allclose(dc0, [[0.5]], rtol=1e-13)


def test_reference_projection_by_hand(one_step):
    """h = W m with m = 0.48, W = (2, -1): and dm = W^T dh, dW = dh m."""
    w_hh, h0 = one_step["w_hh"] * [1, 0], np.array([[3.0, 5.0]])
    w_proj = np.array([[2.0], [-1.0]])
    arguments = one_step | dict(w_hh=w_hh, state=(h0, one_step["state"][1]))
    y, _, tape = lstm_forward(**arguments, w_proj=w_proj)
    np.testing.assert_allclose(y.ravel(), [0.96, -0.48], rtol=1e-14)
    _, (_, dc0), grads = lstm_backward(tape, np.array([[[0.75, 0.5]]]))
    np.testing.assert_allclose(grads["w_proj"], [[0.75 * 0.48], [0.5 * 0.48]], rtol=1e-13)
    np.testing.assert_allclose(dc0.item(), (2 * 0.75 - 0.5) * 0.8 * 0.64 * 0.5, rtol=1e-13)


GRADIENT_CASES = [
    Case(T=4, B=3, I=2, H=3),
    Case(T=4, B=3, I=2, H=3, reverse=True),
    Case(T=4, B=4, I=2, H=3, lengths=(3, 0, 4, 1)),
    Case(T=4, B=4, I=2, H=3, lengths=(3, 0, 4, 1), reverse=True),
    Case(T=4, B=3, I=2, H=4, P=3),
    Case(T=4, B=3, I=2, H=4, P=3, reverse=True),
    Case(T=3, B=3, I=3, H=3, P=2, lengths=(2, 0, 3), bias=False),
    Case(T=3, B=3, I=3, H=3, P=2, lengths=(2, 0, 3), reverse=True),
    Case(T=1, B=2, I=2, H=3),
    Case(T=5, B=2, I=2, H=2, dy=False),
    Case(T=5, B=2, I=2, H=2, dstate=False),
]
INPUTS = {"x", "w_ih", "w_hh", "b", "w_proj", "h0", "c0"}


def inputs_of(case):
    """The names of the inputs that the case has, in a fixed order."""
    absent = {"b": not case.bias, "w_proj": case.P is None}
    return sorted(name for name in INPUTS if not absent.get(name))


@pytest.mark.parametrize(
    ("case", "name"), [(case, name) for case in GRADIENT_CASES for name in inputs_of(case)], ids=str
)
def test_reference_gradient_matches_central_differences(case, name):
    """Every element of every input, from t = 0: relative error at most 1e-6."""
    problem = make_problem(case)
    inputs = vars(problem) | dict(zip(("h0", "c0"), problem.state, strict=True))
    value = inputs[name]

    def loss(k, step):
        value.flat[k] += step
        y, (h_n, c_n), _ = lstm_forward(**problem.forward(), save=False)
        value.flat[k] -= step
        total = 0.0 if problem.dy is None else (y * problem.dy).sum()
        if problem.dstate is not None:
            total += (h_n * problem.dstate[0]).sum() + (c_n * problem.dstate[1]).sum()
        return total

    computed = run(reference, problem)[f"d{name}"]
    # 4th order: the truncation h**4 and the rounding eps / h are both about 1e-13 at h = 1e-3
    h = 1e-3
    slope = np.empty_like(computed)
    for k in range(value.size):
        near, far = loss(k, h) - loss(k, -h), loss(k, 2 * h) - loss(k, -2 * h)
        slope.flat[k] = (8 * near - far) / (12 * h)
    error = np.abs(computed - slope)
    allowed = 1e-6 * np.abs(slope) + 1e-12  # the floor for elements that happen to be near 0
    at = np.unravel_index((error - allowed).argmax(), error.shape)
    assert (error <= allowed).all(), (
        f"d{name} of {case} at {at}: {computed[at]!r}, central difference {slope[at]!r}"
    )
    assert computed.any(), f"d{name} of {case} is all zero"


def test_reference_sigmoid_does_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        a = np.array([-1e30, -800.0, -1.0, 0.0, 1.0, 800.0, 1e30])
        np.testing.assert_allclose(
            sigmoid(a),
            [0, 0, 0.2689414213699951, 0.5, 0.7310585786300049, 1, 1],
            rtol=1e-15,
            atol=1e-300,
        )
    assert np.isnan(sigmoid(np.array([np.nan]))).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reference_keeps_the_dtype(dtype):
    results = run(reference, make_problem(Case(P=4), dtype))
    assert {a.dtype for a in results.values()} == {np.dtype(dtype)}
