# SPDX-License-Identifier: MIT
"""LSTM, the layer: what it does beyond a cell, and that its gradients know all of it."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from comparison import assert_identical, assert_matches, tolerance
from stacks import STACKS, Stack, cell_weights, compose, make_stack_problem, run_layer

import fastlstm as fl
from fastlstm import _engine, reference
from fastlstm.parameters import Parameters

DEEP = Stack(L=2, bidirectional=True, P=3, B=4, lengths=(2, 7, 0, 5))
WITH_EMPTY_ROWS = (
    DEEP,
    Stack(L=3, H=5, B=4, lengths=(0, 7, 3, 0)),
    Stack(L=2, bidirectional=True, lengths=(0, 0, 0)),
    Stack(T=0, L=2, bidirectional=True),
    Stack(B=0, L=2),
    Stack(I=0, L=2),
    Stack(H=1, L=4, B=2),
    Stack(H=33, I=17, L=2, bidirectional=True, B=6, lengths=(1, 7, 7, 2, 0, 4)),
)
stacks = pytest.mark.parametrize("stack", STACKS + WITH_EMPTY_ROWS, ids=str)
deep = pytest.mark.parametrize(
    "stack", [DEEP, Stack(L=2, state=False), Stack(bidirectional=True, bias=False)], ids=str
)


def with_weights(make_layer, problem, **changes):
    """A layer with the problem's weights."""
    lstm = make_layer(**problem.stack.arguments(), dtype=problem.dtype, **changes)
    lstm.load_state_dict(problem.weights)
    return lstm


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


# -- parameters ------------------------------------------------------------------------------


def test_layer_parameters_have_pytorch_s_names_and_shapes(make_layer):
    lstm = make_layer(5, 9, num_layers=2, bidirectional=True, proj_size=4)
    expected = {}
    for suffix, inputs in (("l0", 5), ("l0_reverse", 5), ("l1", 8), ("l1_reverse", 8)):
        expected |= {
            f"weight_ih_{suffix}": (36, inputs), f"weight_hh_{suffix}": (36, 4),
            f"bias_{suffix}": (36,), f"weight_hr_{suffix}": (4, 9),
        }  # fmt: skip
    assert lstm.parameters().shapes == expected
    assert lstm.flat.shape == (sum(np.prod(s) for s in expected.values()),)


@stacks
def test_layer_parameters_are_views_of_flat(make_layer, dtype, stack):
    lstm = make_layer(**stack.arguments(), dtype=dtype)
    assert lstm.flat.dtype == dtype
    assert lstm.flat.flags.c_contiguous
    parameters = lstm.parameters()
    lstm.flat[:] = np.arange(lstm.flat.size)
    joined = np.concatenate([a.ravel() for a in parameters.values()])
    np.testing.assert_array_equal(joined, lstm.flat)
    for a in parameters.values():
        assert a.size == 0 or np.shares_memory(a, lstm.flat)


def test_layer_uses_what_is_written_to_flat(make_layer, dtype):
    problem = make_stack_problem(DEEP, dtype)
    donor, lstm = with_weights(make_layer, problem), make_layer(**DEEP.arguments(), dtype=dtype)
    answer = donor(problem.x)[0]
    assert (lstm(problem.x)[0] != answer).any()
    lstm.flat[:] = donor.flat
    np.testing.assert_array_equal(lstm(problem.x)[0], answer)
    lstm.flat += 1
    np.testing.assert_array_equal(lstm.flat, donor.flat + 1)
    for name, a in lstm.parameters().items():
        a -= 1
        assert a is not donor.parameters()[name]
    np.testing.assert_allclose(lstm(problem.x)[0], answer, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("where", [0, -1], ids=["first", "last"])
def test_layer_sees_a_change_of_one_number(make_layer, dtype, where):
    """Whatever is kept of the weights between calls: no change may be missed."""
    problem = make_stack_problem(replace(DEEP, H=17, P=0, lengths=None), dtype)
    lstm = with_weights(make_layer, problem)
    last = lstm(problem.x)[0]
    for name, a in lstm.parameters().items():
        a.flat[where] += 1
        y = lstm(problem.x)[0]
        assert (y != last).any(), f"{name} was changed, the result is the old one"
        other = make_layer(**problem.stack.arguments(), dtype=dtype)
        other.flat[:] = lstm.flat
        np.testing.assert_array_equal(y, other(problem.x)[0])
        last = y


def test_layer_backward_has_the_weights_of_its_forward(make_layer, dtype):
    """Two layers of one shape, calls in between: packed weights must not be mixed up."""
    problem, other = (make_stack_problem(Stack(L=2, H=17), dtype, seed) for seed in (0, 1))
    answer = run_layer(make_layer, problem)
    one, two = with_weights(make_layer, problem), with_weights(make_layer, other)
    *_, tape = one.forward(problem.x, problem.state)
    two.backward(two.forward(other.x)[2], other.dy)
    one(other.x)
    dx, _, _ = one.backward(tape, problem.dy, problem.dstate)
    assert_identical(dict(dx=dx), dict(dx=answer["dx"]), problem.stack)


def test_layer_bind_moves_the_parameters(make_layer, dtype):
    problem = make_stack_problem(DEEP, dtype)
    lstm = with_weights(make_layer, problem)
    before, answer = lstm.flat.copy(), lstm(problem.x)[0]
    large = np.zeros(lstm.flat.size + 10, dtype)
    lstm.bind(large[5:-5])
    np.testing.assert_array_equal(large[5:-5], before)
    np.testing.assert_array_equal(lstm(problem.x)[0], answer)
    large[:] = 0
    assert not lstm(problem.x)[0].any()
    with pytest.raises(ValueError, match="flat must be a contiguous"):
        lstm.bind(large)


def test_layer_freeze_makes_read_only(make_layer):
    problem = make_stack_problem(DEEP)
    lstm = with_weights(make_layer, problem)
    answer, old = lstm(problem.x)[0], lstm.flat
    assert lstm.freeze() is lstm
    old[:] = 0
    np.testing.assert_array_equal(lstm(problem.x)[0], answer)
    with pytest.raises(ValueError, match="read-only"):
        lstm.flat[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        lstm.parameters()["bias_l0"][0] = 1
    with pytest.raises(ValueError, match="read-only"):
        lstm.load_state_dict(problem.weights)


def test_layer_starts_from_its_seed(make_layer, dtype):
    one, two, other = (make_layer(5, 64, seed=s, dtype=dtype) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.flat, two.flat)
    assert (one.flat != other.flat).any()
    assert (make_layer(5, 64).flat != make_layer(5, 64).flat).any()
    for name, a in one.parameters().items():
        bound = (2 if name.startswith("bias") else 1) / 8
        assert bound * 0.8 < np.abs(a).max() <= bound, name
        assert abs(a.mean()) < bound / 4, name


# -- state_dict ------------------------------------------------------------------------------


@stacks
def test_layer_state_dict_round_trip(make_layer, dtype, stack):
    lstm, other = (make_layer(**stack.arguments(), dtype=dtype, seed=s) for s in (1, 2))
    state = lstm.state_dict()
    names = {f"{kind}_{suffix}" for _, _, suffix, _ in stack.cells() for kind in kinds(stack)}
    assert set(state) == names
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.flat, lstm.flat)
    for a in state.values():
        a[...] = 7  # copies
    np.testing.assert_array_equal(other.flat, lstm.flat)


def kinds(stack):
    """The kinds of PyTorch's weights that a stack has."""
    biases = ["bias_ih", "bias_hh"] if stack.bias else []
    return ["weight_ih", "weight_hh", *biases] + ["weight_hr"] * bool(stack.P)


def test_layer_state_dict_writes_the_bias_once(make_layer):
    lstm = make_layer(5, 9, seed=0)
    state = lstm.state_dict()
    np.testing.assert_array_equal(state["bias_ih_l0"], lstm.parameters()["bias_l0"])
    assert not state["bias_hh_l0"].any()


def test_layer_load_state_dict_sums_the_biases(make_layer, dtype):
    problem = make_stack_problem(DEEP, dtype)
    lstm = with_weights(make_layer, problem)
    for _, _, suffix, _ in DEEP.cells():
        expected = cell_weights(problem, suffix)["b"]
        np.testing.assert_array_equal(lstm.parameters()[f"bias_{suffix}"], expected)


def test_layer_load_state_dict_takes_our_names_and_other_dtypes(make_layer):
    lstm, other = make_layer(5, 9, seed=1), make_layer(5, 9, seed=2, dtype="float64")
    other.load_state_dict(lstm.parameters())
    np.testing.assert_array_equal(other.flat, lstm.flat.astype("float64"))


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "int"])
def test_layer_load_state_dict_error_changes_nothing(make_layer, change):
    lstm = make_layer(5, 9, num_layers=2, seed=0)
    before, state = lstm.flat.copy(), make_layer(5, 9, num_layers=2, seed=1).state_dict()
    if change == "missing":
        del state["bias_hh_l1"]
    elif change == "unknown":
        state["weight_ih_l2"] = state["weight_ih_l1"]
    elif change == "shape":
        state["weight_hh_l1"] = state["weight_hh_l1"].T
    else:
        state["weight_hh_l1"] = np.zeros((36, 9), int)
    text = dict(
        missing="state_dict has no bias_hh_l1",
        unknown="state_dict has weight_ih_l2, which this layer does not have",
        shape=r"weight_hh_l1 must have shape \(4\*H, .*\) = \(36, 9\), got \(9, 36\)",
        int="weight_hh_l1 must be float32 or float64",
    )[change]
    with pytest.raises((ValueError, TypeError), match=text):
        lstm.load_state_dict(state)
    np.testing.assert_array_equal(lstm.flat, before)


# -- the layer as a value --------------------------------------------------------------------

OPTIONS = dict(
    num_layers=2, bias=False, batch_first=True, dropout=0.25, bidirectional=True, proj_size=3,
    dtype="float64",
)  # fmt: skip


def test_layer_config_round_trip():
    lstm = fl.LSTM(5, 9, **OPTIONS)
    config = json.loads(json.dumps(lstm.config))
    assert config["type"] == "LSTM"
    assert {name: config[name] for name in OPTIONS} == OPTIONS
    again = fl.LSTM.from_config(config)
    assert again.config == lstm.config
    assert again.parameters().shapes == lstm.parameters().shapes


def test_layer_repr_builds_it_again():
    lstm = fl.LSTM(5, 9, **OPTIONS)
    again = eval(repr(lstm), {"LSTM": fl.LSTM})
    assert again.config == lstm.config
    assert repr(fl.LSTM(5, 9)) == "LSTM(5, 9)"


def pickled(a):
    """A copy by way of pickle."""
    return pickle.loads(pickle.dumps(a))


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickled])
def test_layer_is_copied_whole(make_layer, dtype, clone):
    """For joblib, Dask and scikit-learn: the copy's parameters are views of its own flat."""
    problem = make_stack_problem(DEEP, dtype)
    lstm = with_weights(make_layer, problem, dropout=0.5)
    other = clone(lstm)
    np.testing.assert_array_equal(other(problem.x)[0], lstm(problem.x)[0])
    np.testing.assert_array_equal(other.forward(problem.x)[0], lstm.forward(problem.x)[0])
    other.flat[:] = 0
    assert not other(problem.x)[0].any()
    assert not any(a.any() for a in other.parameters().values())
    assert lstm(problem.x)[0].any()
    with pytest.raises(ValueError, match="read-only"):
        clone(lstm.freeze()).flat[0] = 1


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickled])
def test_layer_parameters_are_copied_whole(clone):
    parameters = fl.LSTM(5, 9, seed=0).parameters()
    other = clone(parameters)
    np.testing.assert_array_equal(other.flat, parameters.flat)
    other.flat[:] = 7
    assert all((a == 7).all() for a in other.values())
    assert (parameters.flat != 7).all()


CONSTRUCTOR_ERRORS = {
    "input_size-float": (dict(input_size=5.0), TypeError, "input_size must be an int, got 5.0"),
    "input_size-negative": (
        dict(input_size=-1), ValueError, "input_size must be at least 0, got -1",
    ),
    "hidden_size-zero": (dict(hidden_size=0), ValueError, "hidden_size must be at least 1, got 0"),
    "hidden_size-bool": (dict(hidden_size=True), TypeError, "hidden_size must be an int, got True"),
    "num_layers-zero": (dict(num_layers=0), ValueError, "num_layers must be at least 1, got 0"),
    "dropout-high": (dict(dropout=1.5), ValueError, "dropout must be in [0, 1], got 1.5"),
    "dropout-nan": (dict(dropout=float("nan")), ValueError, "dropout must be in [0, 1], got nan"),
    "dropout-str": (dict(dropout="0.5"), TypeError, "dropout must be a float in [0, 1], got '0.5'"),
    "proj_size-H": (
        dict(proj_size=9), ValueError, "proj_size must be less than hidden_size = 9, got 9",
    ),
    "proj_size-negative": (dict(proj_size=-1), ValueError, "proj_size must be at least 0, got -1"),
    "dtype-int": (dict(dtype="int32"), TypeError, "dtype must be float32 or float64, got 'int32'"),
    "dtype-half": (dict(dtype=np.float16), TypeError, "dtype must be float32 or float64, got "),
    "dtype-none": (dict(dtype="no"), TypeError, "dtype must be float32 or float64, got 'no'"),
    "spec": (dict(spec="ifo"), TypeError, "spec must be a fastlstm.Spec, got str"),
    "backend": (
        dict(backend="cuda"), ValueError, "backend must be one of engine, reference, got 'cuda'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTRUCTOR_ERRORS)
def test_layer_constructor_error(name):
    change, kind, text = CONSTRUCTOR_ERRORS[name]
    with pytest.raises(kind) as caught:
        fl.LSTM(**dict(input_size=5, hidden_size=9) | change)
    assert text in str(caught.value)


def z(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


CALL_ERRORS = {
    "x-dtype": (
        dict(x=z(7, 3, 5, dtype="float64")), TypeError, "x is float64 but the layer is float32",
    ),
    "x-features": (
        dict(x=z(7, 3, 4)), ValueError,
        "x must have input_size = 5 features on its last axis, got shape (7, 3, 4)",
    ),
    "x-1d": (
        dict(x=z(5)), ValueError,
        "x must have shape (T, B, I), or (T, I) without a batch, got (5,)",
    ),
    "x-4d": (
        dict(x=z(1, 7, 3, 5)), ValueError,
        "x must have shape (T, B, I), or (T, I) without a batch, got (1, 7, 3, 5)",
    ),
    "h0": (
        dict(state=(z(1, 3, 9), z(2, 3, 9))), ValueError,
        "h0 must have shape (L*D, B, H|P) = (2, 3, 9), got (1, 3, 9)",
    ),
    "c0": (
        dict(state=(z(2, 3, 9), z(3, 2, 9))), ValueError,
        "c0 must have shape (L*D, B, H) = (2, 3, 9), got (3, 2, 9)",
    ),
    "c0-dtype": (
        dict(state=(z(2, 3, 9), z(2, 3, 9, dtype="float64"))), TypeError,
        "x is float32 but c0 is float64; all arrays must share one dtype",
    ),
    "state-array": (dict(state=z(2, 3, 9)), TypeError, "state must be None or a pair (h0, c0)"),
    "lengths": (
        dict(lengths=[8, 1, 1]), ValueError, "lengths[0] must be in [0, T] = [0, 7], got 8",
    ),
    "lengths-unbatched": (
        dict(x=z(7, 5), lengths=[7]), ValueError,
        "lengths needs a batch: x must have 3 dimensions, got 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", ["call", "forward"])
@pytest.mark.parametrize("name", CALL_ERRORS)
def test_layer_call_error(make_layer, name, way):
    change, kind, text = CALL_ERRORS[name]
    lstm = make_layer(5, 9, num_layers=2)
    with pytest.raises(kind) as caught:
        (lstm if way == "call" else lstm.forward)(**dict(x=z(7, 3, 5)) | change)
    assert text in str(caught.value)


BACKWARD_ERRORS = {
    "dy": (dict(dy=z(7, 3, 8)), "dy must have shape (T, B, D*H) = (7, 3, 9), got (7, 3, 8)"),
    "dy-batch-first": (dict(dy=z(3, 7, 9)), "dy must have shape (T, B, D*H) = (7, 3, 9)"),
    "dy-dtype": (dict(dy=z(7, 3, 9, dtype="float64")), "x is float32 but dy is float64"),
    "dh_n": (dict(dstate=(z(3, 9), None)), "dh_n must have shape (L*D, B, H|P) = (2, 3, 9)"),
    "dstate": (dict(dstate=(None,)), "dstate must be None or a pair (dh_n, dc_n), got tuple"),
    "tape": (dict(tape=None), "tape must be the LSTMTape that forward of this layer returned"),
}


@pytest.mark.parametrize("name", BACKWARD_ERRORS)
def test_layer_backward_error_leaves_the_tape(make_layer, name):
    change, text = BACKWARD_ERRORS[name]
    lstm = make_layer(5, 9, num_layers=2)
    *_, tape = lstm.forward(z(7, 3, 5))
    with pytest.raises((TypeError, ValueError)) as caught:
        lstm.backward(**dict(tape=tape) | change)
    assert text in str(caught.value)
    lstm.backward(tape, z(7, 3, 9))


def test_layer_backward_refuses_the_tape_of_another_layer(make_layer):
    one, two = make_layer(5, 9), make_layer(5, 9)
    *_, tape = one.forward(z(7, 3, 5))
    with pytest.raises(TypeError, match="of this layer"):
        two.backward(tape)


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
    problem = make_stack_problem(Stack(T=20, B=6, H=17, L=2, bidirectional=True), dtype)
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
    def fail(*args, **kwargs):
        raise AssertionError("the engine ran")

    for name in ("lstm_forward", "LSTMForward"):
        monkeypatch.setattr(_engine, name, fail)
    lstm = fl.LSTM(5, 9, backend="reference")
    x = np.ones((2, 3, 5), np.float32)
    assert lstm(x)[0].any()
    assert lstm.stream(3).step(x[0]).any()
    with pytest.raises(AssertionError, match="the engine ran"):
        fl.LSTM(5, 9, backend="engine").stream(3).step(x[0])
