# SPDX-License-Identifier: MIT
"""GRU, RNN and sLSTM as functions: against central differences, transcriptions, each other."""

import inspect
import os
import subprocess
import sys
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from comparison import assert_matches
from numpy.testing import assert_allclose, assert_array_equal
from siblings import CELLS, SHAPES, Shape, functions, make_problem, run

from fastlstm import backend, reference
from fastlstm.siblings import GRUCell, SLSTMCell

cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


# -- the reference: gradients -------------------------------------------------------------------


def slopes(problem, value, h=1e-4):
    """Central differences for each element of ``value``; None where a kink is too near."""
    forward, _ = functions(reference, problem.cell)

    def loss(k, step):
        before = value.flat[k]
        value.flat[k] += step
        y, end, _ = forward(**problem.forward(), save=False)
        value.flat[k] = before
        end = end if isinstance(end, tuple) else (end,)
        pairs = zip(end, problem.dstate, strict=True)
        return (y * problem.dy).sum() + sum((a * d).sum() for a, d in pairs)

    slope = np.empty_like(value)
    for k in range(value.size):
        near = (loss(k, h) - loss(k, -h)) / (2 * h)
        far = (loss(k, 2 * h) - loss(k, -2 * h)) / (4 * h)
        if abs(near - far) > 1e-5 * max(1, abs(near)):
            return None
        slope.flat[k] = (4 * near - far) / 3
    return slope


def smooth_problem(cell, shape):
    """The first numbers of the case without a kink nearby, and the slopes of every input."""
    for seed in count():
        problem = make_problem(cell, shape, seed=seed)
        found = {}
        for name, value in problem.arrays().items():
            found[name] = slopes(problem, value)
            if found[name] is None:
                break
        else:
            return problem, found


LAYOUTS = {
    "forward": Shape(T=4, B=2, I=2, H=3),
    "ragged-reverse": Shape(T=3, B=3, I=2, H=3, lengths=(2, 0, 3), reverse=True),
    "mask": Shape(T=4, B=3, I=2, H=3, lengths=(4, 2, 3), mask=True, reset=True),
}


@cells
@pytest.mark.parametrize("layout", LAYOUTS)
def test_siblings_gradients_match_central_differences(cell, layout):
    H = 2 * getattr(cell, "num_heads", 1) + 1 * (cell.name != "slstm")
    problem, expected = smooth_problem(cell, replace(LAYOUTS[layout], H=H))
    results = run(reference, problem)
    for name, slope in expected.items():
        computed = results[f"d{name}"]
        assert computed.shape == slope.shape
        error, size = np.abs(computed - slope), np.abs(slope).max()
        assert (error <= 1e-6 * np.abs(slope) + 1e-9 * size).all(), f"d{name}: {error.max()}"
        assert size > 0 or layout == "mask", name  # a relu may be dead in all the rows that move


# -- every implementation against the reference --------------------------------------------------


@cells
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_siblings_match_the_reference(implementation, dtype, cell, shape):
    problem = fitting(cell, shape, dtype)
    answer = run(reference, problem.astype("float64"))
    assert_matches(run(implementation, problem), answer, dtype, problem.shape)


def fitting(cell, shape, dtype, seed=0):
    """The problem with a hidden size that the heads divide."""
    heads = getattr(cell, "num_heads", 1)
    return make_problem(cell, replace(shape, H=-(-shape.H // heads) * heads), dtype, seed)


# -- transcriptions, step by step ------------------------------------------------------------------


def test_siblings_slstm_is_its_equations(implementation):
    """Beck et al. (2024) as xLSTM's code has it, from the zero state, one number at a time."""
    problem = make_problem(SLSTMCell(num_heads=2), Shape(T=6, B=1, I=2, H=6, state=False))
    x, w, r, b = problem.x[:, 0], *problem.weights.values()
    h, c, n, m = np.zeros((4, 6))
    expected = []
    for t in range(6):
        new = []
        for unit in range(6):
            head, j = divmod(unit, 3)
            a = [
                w[g * 6 + unit] @ x[t]
                + r[head, g, j] @ h[3 * head : 3 * head + 3]
                + b[g * 6 + unit]
                for g in range(4)
            ]
            log_f = -np.log(1 + np.exp(-a[1]))
            m_t = a[0] if t == 0 else max(log_f + m[unit], a[0])
            i, f = np.exp(a[0] - m_t), np.exp(log_f + m[unit] - m_t)
            c_t, n_t = f * c[unit] + i * np.tanh(a[2]), f * n[unit] + i
            new.append((c_t / n_t / (1 + np.exp(-a[3])), c_t, n_t, m_t))
        h, c, n, m = np.transpose(new)
        expected.append(h)
    y, end, tape = implementation.slstm_forward(**problem.forward())
    assert_allclose(y[:, 0], expected, rtol=1e-12)
    for computed, a in zip(end, (h, c, n, m), strict=True):
        assert_allclose(computed[0], a, rtol=1e-12)
    assert tape.gates.shape == (6, 1, 4, 6)


def test_siblings_slstm_does_not_depend_on_the_stabiliser(implementation):
    """c and n smaller by e^s, m larger by s: the same h; with the floor it is another."""
    problem = make_problem(SLSTMCell(num_heads=3), Shape())
    h0, c0, n0, m0 = problem.state
    moved = h0, c0 * np.exp(-3), n0 * np.exp(-3), m0 + 3
    y, *_ = implementation.slstm_forward(**problem.forward())
    again, *_ = implementation.slstm_forward(**problem.forward() | dict(state=moved))
    assert_allclose(again, y, rtol=1e-11)
    with_floor, *_ = implementation.slstm_forward(
        **problem.forward() | dict(state=moved, floor=True)
    )
    assert not np.allclose(with_floor, y, rtol=1e-3)


def test_siblings_slstm_survives_what_exp_does_not(implementation, dtype):
    """Input gates of e^1000 and forget gates of e^-1000: everything stays finite."""
    x = np.array([1000.0, -1000.0, 500.0, 0.0], dtype).reshape(4, 1, 1)
    w_ih = np.ones((4, 1), dtype)
    y, end, tape = implementation.slstm_forward(x, w_ih, np.zeros((1, 4, 1, 1), dtype))
    dx, dstate, grads = implementation.slstm_backward(tape, np.ones_like(y))
    for a in (y, dx, *end, *dstate, *grads.values()):
        assert np.isfinite(a).all()


@pytest.mark.parametrize("reset_after", [True, False])
def test_siblings_gru_is_its_equations(implementation, reset_after):
    problem = make_problem(GRUCell(reset_after), Shape(T=4, B=1, I=2, H=3))
    w, u, b, b_h = (a.reshape(3, 3, -1) for a in problem.weights.values())
    h, expected = problem.state[0][0], []
    for x in problem.x[:, 0]:
        r = 1 / (1 + np.exp(-(w[0] @ x + b[0, :, 0] + u[0] @ h + b_h[0, :, 0])))
        z = 1 / (1 + np.exp(-(w[1] @ x + b[1, :, 0] + u[1] @ h + b_h[1, :, 0])))
        inner = r * (u[2] @ h + b_h[2, :, 0]) if reset_after else u[2] @ (r * h) + b_h[2, :, 0]
        h = (1 - z) * np.tanh(w[2] @ x + b[2, :, 0] + inner) + z * h
        expected.append(h)
    assert_allclose(implementation.gru_forward(**problem.forward())[0][:, 0], expected, rtol=1e-12)


# -- lengths, mask, reset --------------------------------------------------------------------------


def final(end):
    """The final states as a tuple."""
    return end if isinstance(end, tuple) else (end,)


@cells
def test_siblings_all_masked_stand_still(implementation, cell):
    problem = fitting(cell, Shape(), "float64")
    problem.mask = np.zeros((7, 3), bool)
    problem.x[...] = np.nan  # nobody looks at it
    results = run(implementation, problem)
    for s, a, d in zip(cell.states, problem.state, problem.dstate, strict=True):
        assert_array_equal(results[f"{s}_n"], a)
        expected = d + (problem.dy.sum(axis=0) if s == "h" else 0)
        assert_allclose(results[f"d{s}0"], expected, rtol=1e-12)
    assert_array_equal(results["y"], np.broadcast_to(problem.state[0], results["y"].shape))
    assert not results["dx"].any()
    assert not any(results[f"d{name}"].any() for name in problem.weights)


@cells
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_siblings_mask_is_leaving_steps_out(implementation, cell, reverse):
    """A row with a mask ends as the row of the steps that it leaves; y repeats itself between."""
    problem = fitting(cell, Shape(T=9, B=1, reverse=reverse), "float64")
    problem.mask = np.array([0, 1, 1, 0, 0, 1, 0, 1, 0], bool)[:, None]
    forward, _ = functions(implementation, cell)
    y, end, _ = forward(**problem.forward())
    keep = problem.mask[:, 0]
    short, end_short, _ = forward(**problem.forward() | dict(x=problem.x[keep], mask=None))
    assert_allclose(y[keep], short, rtol=1e-12)
    for a, b in zip(final(end), final(end_short), strict=True):
        assert_allclose(a, b, rtol=1e-12)
    h = problem.state[0]
    for t in reversed(range(9)) if reverse else range(9):
        h = y[t] if keep[t] else h
        assert_array_equal(y[t], h)


@cells
def test_siblings_reset_begins_anew(implementation, cell):
    problem = fitting(cell, Shape(T=8, B=2), "float64")
    reset = np.zeros((8, 2), bool)
    reset[5] = True
    forward, backward = functions(implementation, cell)
    y, end, tape = forward(**problem.forward() | dict(reset=reset))
    head, _, _ = forward(**problem.forward() | dict(x=problem.x[:5]))
    tail, last, _ = forward(**problem.forward() | dict(x=problem.x[5:], state=None))
    assert_allclose(y, np.concatenate([head, tail]), rtol=1e-12)
    for a, b in zip(final(end), final(last), strict=True):
        assert_allclose(a, b, rtol=1e-12)
    dy = np.zeros_like(y)
    dy[5:] = 1
    dx, dstart, _ = backward(tape, dy)
    assert dx[5:].any() and not dx[:5].any()
    assert not any(d.any() for d in final(dstart))


@cells
def test_siblings_nan_stays_in_its_row(implementation, cell):
    shape = Shape(B=5, lengths=(3, 0, 7, 7, 5), mask=True)
    problem = fitting(cell, shape, "float64")
    clean = run(implementation, problem)
    problem.x[3, 2] = np.nan
    problem.mask[3, 2] = True
    spoilt = fitting(cell, shape, "float64")
    spoilt.mask[3, 2] = True
    clean = run(implementation, spoilt)
    for row, length in enumerate(shape.lengths):  # what no step looks at
        problem.x[length:, row] = np.nan
    problem.x[~problem.mask] = np.nan
    results = run(implementation, problem)
    rows = [0, 1, 3, 4]
    assert_array_equal(results["y"][:, rows], clean["y"][:, rows])
    assert_array_equal(results["dx"][:, rows], clean["dx"][:, rows])
    assert np.isnan(results["y"][4:, 2]).all()


# -- the tape, and errors --------------------------------------------------------------------------


@cells
def test_siblings_tape_is_consumed(implementation, cell):
    problem = fitting(cell, Shape(), "float64")
    forward, backward = functions(implementation, cell)
    *_, tape = forward(**problem.forward())
    gates = tape.gates.copy()
    kept = backward(tape, problem.dy, keep=True)
    assert_array_equal(tape.gates, gates)
    again = backward(tape, problem.dy)
    assert_array_equal(kept[0], again[0])
    for name, a in kept[2].items():
        assert_array_equal(a, again[2][name])
    with pytest.raises(RuntimeError, match=f"{cell.name}_backward has consumed this tape"):
        backward(tape, problem.dy)
    with pytest.raises(RuntimeError, match=f"overwritten by {cell.name}_backward"):
        tape.gates  # noqa: B018
    assert forward(**problem.forward(), save=False)[2] is None


@cells
def test_siblings_never_write_to_their_inputs(implementation, cell):
    problem = fitting(cell, Shape(B=5, lengths=(6, 1, 4, 7, 5), mask=True, reset=True), "float64")
    arrays = [*problem.arrays().values(), *problem.dstate, problem.dy, problem.mask, problem.reset]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    run(implementation, problem)
    for a, b in zip(arrays, before, strict=True):
        assert_array_equal(a, b)


@cells
def test_siblings_take_any_strides(implementation, cell):
    problem = fitting(cell, Shape(B=5, lengths=(6, 1, 4, 7, 5)), "float64")
    answer = run(implementation, problem)

    def strided(a):
        return np.repeat(a, 2, axis=-1)[..., ::2]

    problem.x, problem.dy = strided(problem.x), problem.dy.transpose(2, 0, 1).copy()
    problem.dy = problem.dy.transpose(1, 2, 0)
    problem.weights = {name: strided(a) for name, a in problem.weights.items()}
    problem.state = tuple(map(strided, problem.state))
    problem.dstate = tuple(map(strided, problem.dstate))
    assert_matches(run(implementation, problem), answer, "float64", problem.shape)
    out = np.empty((9, 5, 7)).transpose(2, 1, 0)
    forward, _ = functions(implementation, cell)
    y, *_ = forward(**problem.forward(), out=out)
    assert y is out
    assert_allclose(out, answer["y"], rtol=1e-12)


def z(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


ERRORS = {
    "gru": {
        "w_ih must have shape (3*H, I) with H >= 1, its rows the gates r z n": dict(w_ih=z(13, 5)),
        "w_hh must have shape (3*H, H) = (12, 4), got (12, 5)": dict(w_hh=z(12, 5)),
        "b_hh must have shape (3*H,) = (12,), got (4,)": dict(b_hh=z(4)),
        "x is float32 but w_hh is float64": dict(w_hh=z(12, 4, dtype="float64")),
        "h0 must have shape (B, H) = (2, 4), got (2, 5)": dict(state=z(2, 5)),
        "mask must be an array of bool, got float32": dict(mask=z(3, 2)),
        "reset must have shape (T, B) = (3, 2), got (2, 3)": dict(reset=z(2, 3, dtype=bool)),
        "reset_after must be True or False, got 1": dict(reset_after=1),
        "gate must be one of sigmoid, ": dict(gate="sigmoids"),
        "clip must be positive and finite, got -1": dict(clip=-1),
        "lengths[1] must be in [0, T] = [0, 3], got 4": dict(lengths=[1, 4]),
        "out must have shape (T, B, H) = (3, 2, 4), got (3, 2, 5)": dict(out=z(3, 2, 5)),
    },
    "rnn": {
        "w_ih must have shape (H, I) = (4, 5), got (4, 6)": dict(w_ih=z(4, 6)),
        "w_hh must have shape (H, H) = (4, 4), got (12, 4)": dict(w_hh=z(12, 4)),
        "nonlinearity must be one of sigmoid, ": dict(nonlinearity="sine"),
    },
    "slstm": {
        "w_hh must have shape (N, 4, D, D) = (2, 4, 2, 2), got (2, 4, 2, 3)": dict(
            w_hh=z(2, 4, 2, 3)
        ),
        "num_heads must divide the hidden size H = 4 into equal heads, got 3": dict(
            w_hh=z(3, 4, 1, 1)
        ),
        "state must be None or a tuple of 4 (h0, c0, n0, m0), got ndarray": dict(state=z(2, 4)),
        "floor must be True or False, got None": dict(floor=None),
    },
}
VALID = {
    "gru": dict(x=z(3, 2, 5), w_ih=z(12, 5), w_hh=z(12, 4)),
    "rnn": dict(x=z(3, 2, 5), w_ih=z(4, 5), w_hh=z(4, 4)),
    "slstm": dict(x=z(3, 2, 5), w_ih=z(16, 5), w_hh=z(2, 4, 2, 2)),
}


@pytest.mark.parametrize(
    ("name", "text", "change"), [(n, t, c) for n in ERRORS for t, c in ERRORS[n].items()]
)
def test_siblings_forward_error(implementation, name, text, change):
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(implementation, f"{name}_forward")(**VALID[name] | change)
    assert text in str(caught.value)


def test_siblings_backward_error(implementation):
    *_, tape = implementation.rnn_forward(**VALID["rnn"])
    with pytest.raises(TypeError, match="tape must be the SiblingTape that gru_forward returned"):
        implementation.gru_backward(tape)
    with pytest.raises(TypeError, match="got NoneType"):
        implementation.rnn_backward(None)
    with pytest.raises(ValueError, match=r"dh_n must have shape \(B, H\) = \(2, 4\), got \(4,\)"):
        implementation.rnn_backward(tape, dstate=z(4))
    with pytest.raises(TypeError, match="x is float32 but dy is float64"):
        implementation.rnn_backward(tape, z(3, 2, 4, dtype="float64"))
    implementation.rnn_backward(tape)


def test_siblings_are_documented_alike():
    engine = backend.functions("engine")
    for name, function in backend.functions("reference").items():
        assert engine[name].__doc__ == function.__doc__
        assert inspect.signature(engine[name]) == inspect.signature(function)


@pytest.mark.parametrize("name", ["reference", "engine"])
def test_siblings_run_where_the_environment_says(name):
    code = (
        "import fastlstm as fl; cell = fl.GRU(2, 3)._cells[0][0][0]; "
        "print(fl.gru_forward.__module__, cell._maths)"
    )
    environment = os.environ | {"FASTLSTM_BACKEND": name}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    module, maths = done.stdout.decode().split(maxsplit=1)
    assert ("reference" in module, "reference" in maths) == (name == "reference",) * 2
