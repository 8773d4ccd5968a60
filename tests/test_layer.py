# SPDX-License-Identifier: MIT
"""LSTM, the layer: what it does beyond a cell, and that its gradients know all of it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from comparison import assert_identical, assert_matches, tolerance
from stacks import (
    DEEP,
    EDGE_STACKS,
    STACKS,
    Stack,
    compose,
    make_stack_problem,
    run_layer,
    with_weights,
)  # fmt: skip

import fastlstm as fl
from fastlstm import reference
from fastlstm.parameters import Parameters

stacks = pytest.mark.parametrize("stack", STACKS + EDGE_STACKS, ids=str)
deep = pytest.mark.parametrize(
    "stack", [DEEP, Stack(L=2, state=False), Stack(bidirectional=True, bias=False)], ids=str
)


@stacks
def test_layer_is_its_cells_composed(make_layer, dtype, stack):
    problem = make_stack_problem(stack, dtype)
    answer = compose(reference, problem.astype("float64"))
    limit = stack.L * tolerance(dtype, stack)
    assert_matches(run_layer(make_layer, problem), answer, dtype, stack, limit)


@deep
def test_layer_batch_first_turns_x_and_y_only(make_layer, dtype, stack):
    problem = make_stack_problem(stack, dtype)
    answer = run_layer(make_layer, problem)
    results = run_layer(make_layer, problem, batch_first=True)
    wide = {name: a.astype("float64") for name, a in answer.items()}
    assert_matches(results, wide, dtype, stack)


def test_layer_stacked_is_one_layer_after_the_other(make_layer, dtype):
    problem = make_stack_problem(Stack(L=2), dtype)
    y, (h_n, c_n) = with_weights(make_layer, problem)(problem.x, problem.state)
    x, states = problem.x, []
    for k in range(2):
        layer = make_layer(x.shape[2], 9, dtype=dtype)
        names = [n for n in problem.weights if n.endswith(f"l{k}")]
        layer.load_state_dict({n.replace(f"l{k}", "l0"): problem.weights[n] for n in names})
        x, state = layer(x, tuple(a[k : k + 1] for a in problem.state))
        states.append(state)
    h, c = (np.concatenate(parts) for parts in zip(*states, strict=True))
    assert_identical(dict(y=y, h_n=h_n, c_n=c_n), dict(y=x, h_n=h, c_n=c), problem.stack)


def test_layer_bidirectional_is_two_runs(make_layer, dtype):
    stack = Stack(bidirectional=True, B=4, lengths=(2, 7, 0, 5))
    problem = make_stack_problem(stack, dtype)
    y, (h_n, _) = with_weights(make_layer, problem)(problem.x, problem.state, stack.lengths)
    one = make_layer(5, 9, dtype=dtype)
    for direction, suffix in enumerate(("l0", "l0_reverse")):
        weights = {n: a for n, a in problem.weights.items() if n.endswith(f"_{suffix}")}
        one.load_state_dict({n.replace(suffix, "l0"): a for n, a in weights.items()})
        x = problem.x.copy()
        state = tuple(a[direction : direction + 1] for a in problem.state)
        answer = y[:, :, 9 * direction : 9 * (direction + 1)].copy()
        for row, n in enumerate(stack.lengths):
            if direction:
                x[:n, row] = x[:n, row][::-1].copy()
                answer[:n, row] = answer[:n, row][::-1].copy()
        y_one, (h_one, _) = one(x, state, stack.lengths)
        expected = dict(y=answer.astype("float64"), h=h_n[direction].astype("float64"))
        assert_matches(dict(y=y_one, h=h_one[0]), expected, dtype, stack)


@stacks
def test_layer_call_is_forward_without_a_tape(make_layer, dtype, stack):
    problem = make_stack_problem(stack, dtype)
    lstm = with_weights(make_layer, problem)
    y, (h_n, c_n), _ = lstm.forward(problem.x, problem.state, stack.lengths)
    called, (h, c) = lstm(problem.x, problem.state, stack.lengths)
    answer = {n: a.astype("float64") for n, a in dict(y=y, h_n=h_n, c_n=c_n).items()}
    assert_matches(dict(y=called, h_n=h, c_n=c), answer, dtype, stack)


@pytest.mark.parametrize("batch_first", [False, True], ids=["TBI", "BTI"])
@deep
def test_layer_unbatched_is_a_batch_of_one(make_layer, dtype, stack, batch_first):
    stack = replace(stack, B=1, lengths=None)
    problem = make_stack_problem(stack, dtype)
    answer = run_layer(make_layer, problem)
    lstm = with_weights(make_layer, problem, batch_first=batch_first)
    state = problem.state and tuple(a[:, 0] for a in problem.state)
    y, (h_n, c_n), tape = lstm.forward(problem.x[:, 0], state)
    dstate = tuple(a[:, 0] for a in problem.dstate)
    dx, (dh0, dc0), grads = lstm.backward(tape, problem.dy[:, 0], dstate)
    results = dict(y=y, h_n=h_n, c_n=c_n, dx=dx, dh0=dh0, dc0=dc0)
    results = {name: np.expand_dims(a, 1) for name, a in results.items()}
    results |= {f"d{name}": a for name, a in grads.items()}
    assert_identical(results, answer, stack)


# -- gradients of the whole ------------------------------------------------------------------


def loss_of(lstm, problem, seed):
    """The loss whose gradient dy and dstate are; dropout drawn from ``seed``."""
    rng = np.random.default_rng(seed)
    y, (h_n, c_n), tape = lstm.forward(problem.x, problem.state, problem.lengths, rng=rng)
    dh_n, dc_n = problem.dstate
    return (y * problem.dy).sum() + (h_n * dh_n).sum() + (c_n * dc_n).sum(), tape


@pytest.mark.parametrize("batch_first", [False, True], ids=["TBI", "BTI"])
def test_layer_gradients_match_central_differences(make_layer, batch_first):
    """Two layers, two directions, a projection, ragged rows with an empty one, and dropout."""
    stack = Stack(T=3, B=3, I=2, H=3, P=2, L=2, bidirectional=True, lengths=(2, 3, 0))
    problem = make_stack_problem(stack)
    lstm = with_weights(make_layer, problem, dropout=0.4, batch_first=batch_first)
    if batch_first:
        problem.x, problem.dy = problem.x.swapaxes(0, 1).copy(), problem.dy.swapaxes(0, 1)
    _, tape = loss_of(lstm, problem, 7)
    dx, (dh0, dc0), grads = lstm.backward(tape, problem.dy, problem.dstate)
    pairs = dict(x=(problem.x, dx), h0=(problem.state[0], dh0), c0=(problem.state[1], dc0))
    pairs["flat"] = lstm.flat, grads.flat
    h = 1e-3
    for name, (value, computed) in pairs.items():
        slope = np.zeros_like(computed)
        for k in range(value.size):
            middle, losses = value.flat[k], {}
            for step in (-2, -1, 1, 2):
                value.flat[k] = middle + step * h
                losses[step] = loss_of(lstm, problem, 7)[0]
            value.flat[k] = middle
            slope.flat[k] = (8 * (losses[1] - losses[-1]) - losses[2] + losses[-2]) / (12 * h)
        error = np.abs(computed - slope)
        at = np.unravel_index((error - 1e-6 * np.abs(slope)).argmax(), error.shape)
        assert (error <= 1e-6 * np.abs(slope) + 1e-11).all(), (
            f"d{name} at {at}: {computed[at]!r}, central difference {slope[at]!r}"
        )
        assert computed.any(), name


@stacks
def test_layer_grads_are_parameters(make_layer, dtype, stack):
    problem = make_stack_problem(stack, dtype)
    lstm = with_weights(make_layer, problem)
    *_, tape = lstm.forward(problem.x, problem.state, stack.lengths)
    _, _, grads = lstm.backward(tape, problem.dy)
    assert type(grads) is Parameters
    assert list(grads) == list(lstm.parameters())
    assert grads.shapes == lstm.parameters().shapes
    assert grads.flat.dtype == dtype
    joined = [a.ravel() for a in grads.values()]
    np.testing.assert_array_equal(grads.flat, np.concatenate(joined))
    assert not np.shares_memory(grads.flat, lstm.flat)


@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("offset", [0, 1])
def test_parameters_are_views_as_writeable_and_aligned_as_their_buffer(offset, writeable):
    flat = np.zeros(8 * 4 + 1, np.uint8)[offset:][:32].view(np.float32)
    flat[...] = range(8)
    flat.flags.writeable = writeable
    parts = Parameters({"w": (2, 3), "b": (2,)}, np.float32, flat)
    for part, same in ((parts["w"], flat[:6].reshape(2, 3)), (parts["b"], flat[6:])):
        np.testing.assert_array_equal(part, same)
        assert part.flags.writeable == writeable
        assert part.flags.aligned == (offset == 0)
        assert np.shares_memory(part, flat)


def test_parameters_may_have_as_many_dimensions_as_numpy_has():
    assert Parameters({"w": (1,) * 64}, "float32")["w"].shape == (1,) * 64
    with pytest.raises(ValueError, match="at most 64 dimensions, got 65"):
        Parameters({"w": (1,) * 65}, "float32")


def test_parameters_of_another_dtype_are_refused():
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got 'float16'"):
        Parameters({"w": (2, 3)}, "float16")


@pytest.mark.parametrize("missing", ["dy", "dstate", "both"])
@deep
def test_layer_missing_gradients_are_zeros(make_layer, dtype, stack, missing):
    problem = make_stack_problem(stack, dtype)
    if missing != "dstate":
        problem.dy = np.zeros_like(problem.dy)
    if missing != "dy":
        problem.dstate = tuple(map(np.zeros_like, problem.dstate))
    answer = run_layer(make_layer, problem)
    lstm = with_weights(make_layer, problem)
    *_, tape = lstm.forward(problem.x, problem.state, stack.lengths)
    dy = problem.dy if missing == "dstate" else None
    dx, (dh0, dc0), grads = lstm.backward(tape, dy, problem.dstate if missing == "dy" else None)
    results = dict(dx=dx, dh0=dh0, dc0=dc0) | {f"d{n}": a for n, a in grads.items()}
    wide = {name: answer[name].astype("float64") for name in results}
    assert_matches(results, wide, dtype, stack)


def test_layer_backward_consumes_the_tape(make_layer):
    problem = make_stack_problem(DEEP)
    lstm = with_weights(make_layer, problem)
    *_, tape = lstm.forward(problem.x, problem.state, DEEP.lengths)
    lstm.backward(tape, problem.dy)
    with pytest.raises(RuntimeError):
        lstm.backward(tape, problem.dy)


def test_layer_two_tapes_do_not_disturb_each_other(make_layer, dtype):
    problem, other = make_stack_problem(DEEP, dtype), make_stack_problem(DEEP, dtype, seed=1)
    lstm = with_weights(make_layer, problem)
    answer = run_layer(make_layer, problem)
    *_, tape = lstm.forward(problem.x, problem.state, DEEP.lengths)
    *_, second = lstm.forward(other.x, other.state, DEEP.lengths)
    lstm.backward(second, other.dy)
    dx, _, _ = lstm.backward(tape, problem.dy, problem.dstate)
    assert_identical(dict(dx=dx), dict(dx=answer["dx"]), DEEP)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_layer_y_is_the_caller_s_to_change(make_layer, dropout):
    """What is done to y in place must not reach the tape."""
    problem = make_stack_problem(Stack(L=2))
    lstm = with_weights(make_layer, problem, dropout=dropout)
    results = []
    for spoil in (False, True):
        y, (h_n, c_n), tape = lstm.forward(problem.x, rng=np.random.default_rng(0))
        if spoil:
            y[:], h_n[:], c_n[:] = np.nan, np.nan, np.nan
        results.append(dict(lstm.backward(tape, problem.dy)[2]))
    assert_identical(results[1], results[0], problem.stack)


# -- dropout ---------------------------------------------------------------------------------


def transparent(make_layer, p, **changes):
    """Two layers whose second shows its input: h = tanh(tanh(x / 2)), i = o = 1, f = 0."""
    H = 6
    lstm = make_layer(4, H, num_layers=2, dropout=p, dtype="float64", seed=0, **changes)
    weights = lstm.parameters()
    weights["weight_ih_l1"][:], weights["weight_hh_l1"][:] = 0, 0
    weights["weight_ih_l1"][2 * H : 3 * H] = np.eye(H) / 2
    weights["bias_l1"][:] = np.repeat([800.0, -800.0, 0.0, 800.0], H)
    return lstm


def seen(y):
    """The input of the second layer of `transparent`, from its output."""
    return 2 * np.arctanh(np.arctanh(y))


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5])
def test_layer_dropout_scales_what_it_keeps_by_exactly_1_over_1_minus_p(make_layer, p):
    lstm = transparent(make_layer, p)
    x = np.random.default_rng(1).standard_normal((80, 10, 4))
    whole = seen(lstm(x)[0])
    y, _, _ = lstm.forward(x, rng=np.random.default_rng(2))
    kept = y != 0
    np.testing.assert_allclose(seen(y)[kept], whole[kept] / (1 - p), rtol=1e-12)
    n = y.size  # 4800 draws: 4 standard deviations
    assert abs(kept.mean() - (1 - p)) < 4 * (p * (1 - p) / n) ** 0.5
    assert 0 < kept.mean(axis=(1, 2)).std() < 0.15, "drawn anew at each step"
    assert (kept[0] != kept[1]).any()
    assert (kept[:, 0] != kept[:, 1]).any()


def test_layer_dropout_of_1_leaves_nothing(make_layer):
    lstm = transparent(make_layer, 1.0)
    y, _, tape = lstm.forward(np.ones((3, 2, 4)))
    assert not y.any()
    assert not lstm.backward(tape, np.ones_like(y))[0].any()


def test_layer_dropout_is_off_in_a_call_and_in_the_last_layer(make_layer):
    problem = make_stack_problem(Stack())
    lstm = with_weights(make_layer, problem, dropout=0.5)  # one layer: nothing to drop
    plain = with_weights(make_layer, problem)
    np.testing.assert_array_equal(lstm.forward(problem.x)[0], plain.forward(problem.x)[0])
    problem = make_stack_problem(Stack(L=3))
    lstm, plain = (with_weights(make_layer, problem, dropout=p) for p in (0.5, 0.0))
    np.testing.assert_array_equal(lstm(problem.x)[0], plain(problem.x)[0])
    y = lstm.forward(problem.x)[0]
    assert (y != plain.forward(problem.x)[0]).mean() > 0.9
    assert y.all()


def test_layer_dropout_leaves_h_n_as_it_is(make_layer):
    """As in PyTorch: what is dropped is the way to the next layer, not the final state."""
    problem = make_stack_problem(Stack(L=2))
    lstm = with_weights(make_layer, problem, dropout=0.5)
    _, (h_n, c_n), _ = lstm.forward(problem.x)
    _, (h, c) = lstm(problem.x)
    np.testing.assert_allclose(h_n[0], h[0], rtol=1e-14)
    np.testing.assert_allclose(c_n[0], c[0], rtol=1e-14)


def test_layer_dropout_is_reproducible(make_layer, dtype):
    x = make_stack_problem(Stack(), dtype).x

    def outputs(seed, rng=None):
        lstm = make_layer(5, 9, num_layers=2, dropout=0.3, seed=seed, dtype=dtype)
        return [lstm.forward(x, rng=rng)[0] for _ in range(2)]

    one, two = outputs(1), outputs(1)
    np.testing.assert_array_equal(one, two)
    assert (one[0] != one[1]).any(), "the second pass draws anew"
    assert (one[0] != outputs(2)[0]).any()
    np.testing.assert_array_equal(
        outputs(1, np.random.default_rng(5)), outputs(1, np.random.default_rng(5))
    )
    assert {a.dtype for a in one} == {dtype}


# -- the rest ---------------------------------------------------------------------------------


@deep
def test_layer_never_writes_to_its_inputs(make_layer, dtype, stack):
    problem = make_stack_problem(stack, dtype)
    inputs = [problem.x, problem.dy, *problem.dstate, *(problem.state or ())]
    inputs += problem.weights.values()
    for a in inputs:
        a.flags.writeable = False
    kept = [a.copy() for a in inputs]
    lstm = with_weights(make_layer, problem, dropout=0.5)
    flat = lstm.flat.copy()
    *_, tape = lstm.forward(problem.x, problem.state, stack.lengths)
    lstm.backward(tape, problem.dy, problem.dstate)
    for a, b in zip(inputs, kept, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(lstm.flat, flat)


def test_layer_nan_stays_in_its_row(make_layer, dtype):
    problem = make_stack_problem(DEEP, dtype)
    lstm = with_weights(make_layer, problem)
    answer = lstm(problem.x, problem.state, DEEP.lengths)[0]
    problem.x[3, 1, 0] = np.nan
    problem.x[2:, 0] = np.nan  # beyond the length of row 0
    y = lstm(problem.x, problem.state, DEEP.lengths)[0]
    np.testing.assert_array_equal(y[:, [0, 2, 3]], answer[:, [0, 2, 3]])
    assert np.isnan(y[:, 1]).all()  # two layers, two directions


def test_layer_runs_in_several_threads(make_layer, dtype):
    problem = make_stack_problem(Stack(T=20, B=14, H=40, L=2, bidirectional=True), dtype)
    lstm = with_weights(make_layer, problem)

    def work(seed):
        other = make_stack_problem(problem.stack, dtype, seed)
        y, _, tape = lstm.forward(other.x, other.state)
        return y, lstm.backward(tape, other.dy, other.dstate)[2].flat

    alone = [work(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(8)))
    for (y, flat), (y_alone, flat_alone) in zip(together, alone, strict=True):
        np.testing.assert_array_equal(y, y_alone)
        np.testing.assert_array_equal(flat, flat_alone)


def test_layer_backend_is_what_was_asked_for(monkeypatch):
    """The reference runs where it was asked for, also in a stream, and nowhere else."""
    calls = []
    step = reference.step

    def counted(*args, **kwargs):
        calls.append(1)
        return step(*args, **kwargs)

    monkeypatch.setattr(reference, "step", counted)
    x = np.ones((2, 3, 5), np.float32)
    lstm = fl.LSTM(5, 9, backend="reference", seed=0)
    lstm(x)
    lstm.stream(3).step(x[0])
    assert len(calls) == 2 + 1
    lstm = fl.LSTM(5, 9, backend="engine", seed=0)
    lstm(x)
    lstm.stream(3).step(x[0])
    assert len(calls) == 2 + 1


@pytest.mark.parametrize("peepholes", ["", "ifo"])
@pytest.mark.parametrize(("rows", "I"), [(1, 16), (3, 10)])  # 10: no whole vectors
def test_single_steps_see_weights_that_were_written_to(rows, I, peepholes):
    """Between two steps, and between a step and the backward pass of a later one."""
    lstm = fl.LSTM(I, 32, seed=0, spec=fl.Spec(peepholes=peepholes))
    x = np.random.default_rng(1).standard_normal((1, rows, I), dtype=np.float32)
    for _ in range(3):
        lstm(x), lstm(x)
        y, _, tape = lstm.forward(x)
        dx, _, _ = lstm.backward(tape, np.ones_like(y))
        fresh = fl.LSTM(I, 32, seed=5, spec=fl.Spec(peepholes=peepholes))
        fresh.flat[:] = lstm.flat
        y_fresh, _, tape = fresh.forward(x)
        dx_fresh, _, _ = fresh.backward(tape, np.ones_like(y))
        assert lstm(x)[0].tobytes() == y.tobytes() == y_fresh.tobytes()
        assert dx.tobytes() == dx_fresh.tobytes()
        for w in lstm.parameters().values():
            w *= np.float32(0.75)  # in place: the arrays stay the same
