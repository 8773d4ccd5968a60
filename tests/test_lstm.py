# SPDX-License-Identifier: MIT
"""lstm_forward and lstm_backward: every implementation against the reference in float64."""

import inspect

import numpy as np
import pytest
from cases import DEFAULT_CASES, Case, backward, expected, make_problem, run
from comparison import assert_identical, assert_matches
from hypothesis import HealthCheck, given, settings, strategies

from fastlstm import _engine, reference

RAGGED = Case(B=5, P=4, lengths=(3, 0, 7, 7, 5))
some_cases = pytest.mark.parametrize("case", DEFAULT_CASES, ids=str)
both_ways = pytest.mark.parametrize(
    "case", [Case(B=4, lengths=(5, 2, 7, 0), reverse=r) for r in (False, True)], ids=str
)


def test_lstm_matches_reference(implementation, dtype, case):
    actual = run(implementation, make_problem(case, dtype))
    assert_matches(actual, expected(case), dtype, case)


@some_cases
def test_lstm_gradients_are_the_forward_s_derivatives(implementation, case):
    """<J v, u> = <v, J^T u>, J v by central differences: no oracle but the forward itself."""
    problem = make_problem(case)
    rng = np.random.default_rng(1)
    direction = problem.map(lambda a: rng.standard_normal(a.shape))

    def loss(step):
        p = problem.forward()
        for name, value in p.items():
            if isinstance(value, np.ndarray):
                p[name] = value + step * getattr(direction, name)
        h0, c0 = problem.state
        p["state"] = h0 + step * direction.state[0], c0 + step * direction.state[1]
        y, (h_n, c_n), _ = implementation.lstm_forward(**p, save=False)
        dh_n, dc_n = problem.dstate
        return (y * problem.dy).sum() + (h_n * dh_n).sum() + (c_n * dc_n).sum()

    h = 2e-4
    slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    grads = run(implementation, problem)
    v = dict(x=direction.x, h0=direction.state[0], c0=direction.state[1])
    v |= {name: getattr(direction, name) for name in ("w_ih", "w_hh", "b", "w_proj")}
    products = [(grads[f"d{name}"] * a).sum() for name, a in v.items() if a is not None]
    # steep along so many inputs at once: h**4 leaves about 1e-11, rounding 1e-14 / h
    assert sum(products) == pytest.approx(slope, rel=1e-8, abs=1e-8), case


def test_lstm_forward_without_tape_is_the_same(implementation, dtype, case):
    problem = make_problem(case, dtype)
    y, (h_n, c_n), tape = implementation.lstm_forward(**problem.forward(), save=False)
    assert tape is None
    actual = dict(y=y, h_n=h_n, c_n=c_n)
    assert_matches(actual, {k: expected(case)[k] for k in actual}, dtype, case)


@some_cases
def test_lstm_gives_the_same_bits_twice(implementation, dtype, case):
    problem = make_problem(case, dtype)
    assert_identical(run(implementation, problem), run(implementation, problem), case)


@some_cases
def test_lstm_backward_keep_leaves_the_tape(implementation, dtype, case):
    problem = make_problem(case, dtype)
    _, _, tape = implementation.lstm_forward(**problem.forward())
    before = {name: getattr(tape, name).copy() for name in ("h", "c", "gates")}
    first = backward(implementation, problem, tape, keep=True)
    assert_identical({n: getattr(tape, n) for n in before}, before, case)
    assert_identical(backward(implementation, problem, tape), first, case)


@pytest.mark.parametrize("what", ["gates", "backward", "backward keep"])
def test_lstm_backward_consumes_the_tape(implementation, dtype, what):
    problem = make_problem(Case(), dtype)
    _, _, tape = implementation.lstm_forward(**problem.forward())
    backward(implementation, problem, tape)
    with pytest.raises(RuntimeError, match=r"keep=True"):
        tape.gates if what == "gates" else backward(implementation, problem, tape, "keep" in what)


@both_ways
def test_lstm_forward_pads_with_zeros_and_returns_the_last_valid_state(implementation, case):
    problem = make_problem(case)
    y, (h_n, c_n), _ = implementation.lstm_forward(**problem.forward())
    for row, n in enumerate(case.lengths):
        assert not y[n:, row].any(), f"y beyond {n} in row {row} of {case}"
        if n == 0:
            np.testing.assert_array_equal(h_n[row], problem.state[0][row])
            np.testing.assert_array_equal(c_n[row], problem.state[1][row])
        else:
            np.testing.assert_array_equal(h_n[row], y[0 if case.reverse else n - 1, row])


@both_ways
def test_lstm_row_of_length_n_is_a_sequence_of_n_steps(implementation, dtype, case):
    problem = make_problem(case, dtype)
    whole = run(implementation, problem)
    for row, n in enumerate(case.lengths):
        alone = problem.map(lambda a: a)
        alone.case = Case(T=n, B=1, reverse=case.reverse)
        alone.lengths = None
        alone.x, alone.dy = problem.x[:n, row : row + 1], problem.dy[:n, row : row + 1]
        alone.state = tuple(a[row : row + 1] for a in problem.state)
        alone.dstate = tuple(a[row : row + 1] for a in problem.dstate)
        names = {"y": (slice(n), [row]), "dx": (slice(n), [row])}
        names |= {name: [row] for name in ("h_n", "c_n", "dh0", "dc0")}
        actual = {name: whole[name][at] for name, at in names.items()}
        answer = run(implementation, alone)
        assert_matches(actual, {name: answer[name] for name in actual}, dtype, alone.case)


def test_lstm_reverse_is_a_run_over_the_reversed_prefix(implementation, dtype):
    case = Case(B=4, lengths=(5, 2, 7, 0))
    problem = make_problem(case, dtype)

    def flipped(a):
        a = a.copy()
        for row, n in enumerate(case.lengths):
            a[:n, row] = a[:n, row][::-1].copy()
        return a

    forward = run(implementation, problem)
    problem.x, problem.dy, problem.reverse = flipped(problem.x), flipped(problem.dy), True
    mirrored = run(implementation, problem)
    names = [name for name in forward if not name.startswith("tape.")]
    mirrored = {n: flipped(mirrored[n]) if n in ("y", "dx") else mirrored[n] for n in names}
    assert_matches(mirrored, {n: forward[n] for n in names}, dtype, case)


@pytest.mark.parametrize("change", ["x", "dy"])
@both_ways
def test_lstm_does_not_look_beyond_a_length(implementation, dtype, case, change):
    problem = make_problem(case, dtype)
    answer = run(implementation, problem)
    for row, n in enumerate(case.lengths):
        getattr(problem, change)[n:, row] = np.nan
    assert_identical(run(implementation, problem), answer, case)


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=["nan", "inf"])
@both_ways
def test_lstm_nan_stays_in_its_row(implementation, dtype, case, bad):
    problem = make_problem(case, dtype)
    answer = run(implementation, problem)
    row, t = 2, 3
    problem.x[t, row, 1] = bad
    with np.errstate(invalid="ignore"):
        actual = run(implementation, problem)
    others = [r for r in range(case.B) if r != row]
    for name in ("y", "dx", "tape.h", "tape.c"):
        np.testing.assert_array_equal(actual[name][:, others], answer[name][:, others], name)
    for name in ("h_n", "c_n", "dh0", "dc0"):
        np.testing.assert_array_equal(actual[name][others], answer[name][others], name)
    if np.isnan(bad):
        seen = slice(t + 1) if case.reverse else slice(t, None)
        assert np.isnan(actual["y"][seen, row]).all()
        assert np.isnan(actual["h_n"][row]).all()
        assert np.isnan(actual["c_n"][row]).all()
        assert np.isnan(actual["dw_ih"]).any()
    before = slice(t + 1, case.lengths[row]) if case.reverse else slice(t)
    np.testing.assert_array_equal(actual["y"][before, row], answer["y"][before, row])


def test_lstm_rows_do_not_depend_on_their_order(implementation, dtype):
    problem = make_problem(RAGGED, dtype)
    answer = run(implementation, problem)
    order = np.array([2, 4, 0, 3, 1])
    rows = {"y": 1, "dx": 1, "h_n": 0, "c_n": 0, "dh0": 0, "dc0": 0}
    rows |= {"tape.h": 1, "tape.c": 1, "tape.gates": 1}
    moved = {n: a.take(order, rows[n]) if n in rows else a for n, a in answer.items()}
    problem.x, problem.dy = problem.x[:, order], problem.dy[:, order]
    problem.state = tuple(a[order] for a in problem.state)
    problem.dstate = tuple(a[order] for a in problem.dstate)
    problem.lengths = [RAGGED.lengths[k] for k in order]
    assert_matches(run(implementation, problem), moved, dtype, RAGGED)


def test_lstm_chunks_of_time_are_the_whole(implementation, dtype):
    case = Case(T=11, B=2)
    problem = make_problem(case, dtype)
    state, parts = problem.state, []
    for at in (slice(0, 4), slice(4, 5), slice(5, 11)):
        arguments = problem.forward() | dict(x=problem.x[at], state=state)
        y, state, _ = implementation.lstm_forward(**arguments)
        parts.append(y)
    actual = dict(y=np.concatenate(parts), h_n=state[0], c_n=state[1])
    assert_matches(actual, {n: expected(case)[n] for n in actual}, dtype, case)


def test_lstm_chunks_of_time_carry_gradients(implementation, dtype):
    case = Case(T=11, B=2)
    problem = make_problem(case, dtype)
    state, tapes, cuts = problem.state, [], (slice(0, 4), slice(4, 11))
    for at in cuts:
        arguments = problem.forward() | dict(x=problem.x[at], state=state)
        _, state, tape = implementation.lstm_forward(**arguments)
        tapes.append(tape)
    dstate, dx, total = problem.dstate, [], {}
    for at, tape in zip(cuts[::-1], tapes[::-1], strict=True):
        part, dstate, grads = implementation.lstm_backward(tape, problem.dy[at], dstate)
        dx.insert(0, part)
        total = {f"d{n}": total.get(f"d{n}", 0) + g for n, g in grads.items()}
    actual = dict(dx=np.concatenate(dx), dh0=dstate[0], dc0=dstate[1]) | total
    assert_matches(actual, {n: expected(case)[n] for n in actual}, dtype, case)


def test_lstm_saturates_without_a_warning(implementation, dtype):
    problem = make_problem(Case(), dtype)
    problem.x *= 1e4
    actual = run(implementation, problem)
    assert all(np.isfinite(a).all() for a in actual.values())
    assert np.abs(actual["y"]).max() <= 1
    exact = problem.map(lambda a: a.astype(np.float64))
    answer = run(implementation, exact)
    assert_matches(
        {n: actual[n] for n in ("y", "c_n")}, {n: answer[n] for n in ("y", "c_n")},
        dtype, problem.case, limit=1e4 * np.finfo(dtype).eps,
    )  # fmt: skip


def test_lstm_zero_weights_give_the_closed_form(implementation, dtype):
    """All pre-activations 0: i = f = o = 1/2, g = 0, so c halves at each step."""
    problem = make_problem(Case(bias=False), dtype)
    problem.w_ih[:], problem.w_hh[:] = 0, 0
    y, (h_n, c_n), tape = implementation.lstm_forward(**problem.forward())
    halves = 0.5 ** np.arange(1, 8)[:, None, None] * problem.state[1].astype(np.float64)
    answer = {"y": np.tanh(halves) / 2, "h_n": np.tanh(halves[-1]) / 2, "c_n": halves[-1]}
    assert_matches(dict(y=y, h_n=h_n, c_n=c_n), answer, dtype, problem.case)
    np.testing.assert_array_equal(tape.gates[:, :, 2], 0)


def test_lstm_tape_holds_the_states(implementation, dtype):
    problem = make_problem(Case(), dtype)
    y, (_, c_n), tape = implementation.lstm_forward(**problem.forward())
    np.testing.assert_array_equal(tape.h[0], problem.state[0])
    np.testing.assert_array_equal(tape.c[0], problem.state[1])
    np.testing.assert_array_equal(tape.h[1:], y)
    np.testing.assert_array_equal(tape.c[-1], c_n)
    i, f, g, o = np.moveaxis(tape.gates, 2, 0)
    c = f * tape.c[:-1] + i * g
    assert_matches({"c": tape.c[1:]}, {"c": c.astype(np.float64)}, dtype, problem.case)
    h = {"h": (o * np.tanh(tape.c[1:])).astype(np.float64)}
    assert_matches({"h": np.array(tape.h[1:])}, h, dtype, problem.case)


def test_lstm_results_are_not_one_another_s_memory(implementation, dtype):
    problem = make_problem(Case(), dtype)
    y, (h_n, c_n), tape = implementation.lstm_forward(**problem.forward())
    answer = backward(implementation, problem, tape, keep=True)
    y[:], h_n[:], c_n[:] = 7, 7, 7
    assert_identical(backward(implementation, problem, tape), answer, problem.case)


@pytest.mark.parametrize("name", ["h", "c", "gates"])
def test_lstm_tape_is_read_only(implementation, dtype, name):
    """What backward needs cannot be changed by whoever looks."""
    problem = make_problem(Case(), dtype)
    *_, tape = implementation.lstm_forward(**problem.forward())
    with pytest.raises(ValueError, match="read-only"):
        getattr(tape, name)[:] = 0


def test_lstm_engine_mirrors_the_reference():
    """Names, arguments and documentation are the same."""
    assert set(_engine.__all__) >= {"lstm_forward", "lstm_backward"}
    for name in ("lstm_forward", "lstm_backward"):
        ours, theirs = getattr(_engine, name), getattr(reference, name)
        assert ours.__name__ == theirs.__name__ == name
        assert ours.__doc__ == theirs.__doc__
        assert inspect.signature(ours) == inspect.signature(theirs)


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(data=strategies.data())
def test_lstm_of_any_shape_matches_reference(implementation, dtype, data):
    size = strategies.sampled_from
    T, B = data.draw(size([0, 1, 2, 3, 9])), data.draw(size([0, 1, 2, 3, 5, 6, 7, 12, 19]))
    case = Case(
        T=T, B=B, I=data.draw(size([0, 1, 2, 7, 8, 9, 17])),
        H=data.draw(size([1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65])),
        P=data.draw(size([None, None, 1, 3, 8, 17])),
        lengths=data.draw(
            strategies.none() | strategies.tuples(*[strategies.integers(0, T)] * B)
        ),
        **{name: data.draw(strategies.booleans()) for name in ("reverse", "bias", "state")},
        dy=data.draw(size([True, True, False])), dstate=data.draw(size([True, True, False])),
    )  # fmt: skip
    actual = run(implementation, make_problem(case, dtype))
    assert_matches(actual, run(reference, make_problem(case)), dtype, case)


def test_lstm_backward_without_gradients_is_zero(implementation, dtype):
    problem = make_problem(Case(P=4, dy=False, dstate=False), dtype)
    actual = run(implementation, problem)
    for name in ("dx", "dh0", "dc0", "dw_ih", "dw_hh", "db", "dw_proj"):
        assert not actual[name].any(), name


def test_lstm_backward_is_linear_in_the_gradients(implementation):
    case = Case(P=4, B=4, lengths=(2, 7, 0, 5))
    problem = make_problem(case)
    parts = [dict(dstate=None), dict(dy=None, dstate=(problem.dstate[0], None))]
    parts.append(dict(dy=None, dstate=(None, problem.dstate[1])))
    names = ("dx", "dh0", "dc0", "dw_ih", "dw_hh", "db", "dw_proj")
    total = dict.fromkeys(names, 0)
    for part in parts:
        p = problem.map(lambda a: a)
        for name, value in part.items():
            setattr(p, name, value)
        results = run(implementation, p)
        total = {name: total[name] + results[name] for name in names}
    assert_matches(total, {n: expected(case)[n] for n in names}, np.float64, case)
