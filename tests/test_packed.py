# SPDX-License-Identifier: MIT
"""Packed weights: kept from call to call, and never those of before."""

import copy
import gc
import operator
import pickle
from dataclasses import replace
from types import FunctionType, ModuleType

import numpy as np
import pytest
from comparison import assert_identical
from stacks import DEEP, Stack, make_stack_problem, run_layer, with_weights

import fastlstm as fl
from fastlstm.recurrent import Recurrent


@pytest.mark.parametrize("where", [0, -1], ids=["first", "last"])
def test_packed_sees_a_change_of_one_number(make_layer, dtype, where):
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


@pytest.mark.parametrize("n", [1, 2, 7])
def test_packed_sees_a_change_of_one_number_among_many(threads, n):
    """Weights of 4 MiB, which the team compares and packs: each share must see to its own."""
    threads(n)
    lstm = fl.LSTM(8, 512, seed=0)
    x = np.random.default_rng(2).standard_normal((3, 3, 8), dtype=np.float32)
    w_hh, last = lstm.parameters()["weight_hh_l0"], lstm(x)[0]
    for where in (*np.linspace(0, w_hh.size - 1, 15).astype(int), w_hh.size // 2):
        w_hh.flat[where] += 1
        fresh = fl.LSTM(8, 512, seed=1)
        fresh.flat[:] = lstm.flat
        y, _, tape = lstm.forward(x)
        y_fresh, _, tape_fresh = fresh.forward(x)
        assert (y != last).any()
        np.testing.assert_array_equal(y, y_fresh)
        np.testing.assert_array_equal(lstm.backward(tape, y)[0], fresh.backward(tape_fresh, y)[0])
        last = y


# How others get at the memory of a layer's parameters: each returns what writes there
WAYS = {
    "flat": lambda lstm, x: writer(lstm.flat),
    "flat +=": lambda lstm, x: lambda: setattr(lstm, "flat", operator.iadd(lstm.flat, 1)),
    "parameters": lambda lstm, x: writer(*lstm.parameters().values()),
    "cell_weights": lambda lstm, x: writer(*(w["w_ih"] for w in lstm.cell_weights())),
    "flat, loaded": lambda lstm, x: writer(loaded(lstm, lstm.flat)),
    "bind": lambda lstm, x: writer(bound(lstm)),
    "Sequential": lambda lstm, x: writer(fl.Sequential([lstm]).flat),
    "tape": lambda lstm, x: writer(lstm.forward(x)[2].tapes[0][0].inputs.w_ih),
    "load_state_dict": lambda lstm, x: (
        lambda: lstm.load_state_dict({name: a + 1 for name, a in lstm.state_dict().items()})
    ),
}


def writer(*arrays):
    """What adds 1 to all of these."""

    def write():
        for a in arrays:
            a += 1

    return write


def loaded(lstm, flat):
    """``flat``, after the layer was given the numbers that it had."""
    lstm.load_state_dict(lstm.state_dict())
    return flat


def bound(lstm):
    """The buffer to which the layer was bound."""
    flat = np.zeros_like(lstm._parameters.flat)  # ``lstm.flat`` would itself hand it out
    lstm.bind(flat)
    return flat


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_packed_is_compared_once_others_can_write(make_layer, dtype, way, T):
    """Before that it trusts what it has packed."""
    lstm = make_layer(5, 17, num_layers=2, dtype=dtype, seed=0)
    x = np.random.default_rng(1).standard_normal((T, 3, 5)).astype(dtype)
    last = lstm(x)[0]
    write = WAYS[way](lstm, x)
    np.testing.assert_array_equal(lstm(x)[0], last)
    for _ in range(2):
        write()
        y = lstm(x)[0]
        other = make_layer(5, 17, num_layers=2, dtype=dtype)
        other.load_state_dict(lstm.state_dict())
        assert (y != last).any(), f"written to by way of {way}, the result is the old one"
        np.testing.assert_array_equal(y, other(x)[0])
        last = y


# The members of a layer that take arguments
USES = {
    "__call__": lambda m, x: m(x),
    "__reduce_ex__": lambda m, x: m.__reduce_ex__(5),
    "backward": lambda m, x: m.backward(m.forward(x)[2]),
    "bind": lambda m, x: m.bind(np.zeros_like(m._parameters.flat)),
    "check_state": lambda m, x: m.check_state("s", m.initial_state(2), "{}", 2, ("x", x)),
    "forward": lambda m, x: m.forward(x),
    "from_config": lambda m, x: m.from_config(m.config),
    "load_state_dict": lambda m, x: m.load_state_dict(m.state_dict()),
    "stream": lambda m, x: m.stream(2),
    "top": lambda m, x: m.top(m.initial_state(2)),
    "top_gradient": lambda m, x: m.top_gradient(m.initial_state(2), np.zeros((1, 2, 4))),
}
MEMBERS = {name for name in dir(fl.LSTM(3, 4)) if not name.startswith("_")}


def arrays_in(result, seen):
    """All arrays that are reached from there, but not through a layer."""
    if id(result) in seen or isinstance(result, (type, ModuleType, FunctionType, Recurrent)):
        return
    seen[id(result)] = result
    if isinstance(result, np.ndarray):
        yield result
    for part in gc.get_referents(result):
        yield from arrays_in(part, seen)


@pytest.mark.parametrize("name", sorted(MEMBERS | USES.keys() | {"__getstate__", "__copy__"}))
def test_packed_no_member_of_a_layer_gives_its_memory_out_unnoticed(name):
    lstm, x = fl.LSTM(3, 4, learn_state=True, seed=0), np.zeros((5, 2, 3), np.float32)
    lstm(x)
    if name in USES:
        result = USES[name](lstm, x)
    else:
        result = getattr(lstm, name)
        result = result() if callable(result) else result
    mine = lstm._parameters.flat
    shared = any(np.shares_memory(a, mine) for a in arrays_in(result, {}))
    assert not (shared and lstm._unseen), f"{name} gives out the parameters of the layer"
    assert shared or name not in {"cell_weights", "flat", "forward", "parameters"}


def test_packed_is_not_compared_where_parameters_are_only_read(make_layer, tmp_path):
    """What only reads the parameters does not let others write to them."""
    lstm = make_layer(5, 17, seed=0)
    lstm.load_state_dict(make_layer(5, 17, seed=1).state_dict())
    lstm.stream().step(np.zeros(5, np.float32))
    fl.save(tmp_path / "lstm.safetensors", lstm)
    again = fl.load(tmp_path / "lstm.safetensors")
    copied = copy.copy(again)
    buffers = []
    pickle.dumps(lstm, protocol=5, buffer_callback=buffers.append)
    assert buffers
    arrays = [np.frombuffer(buffer, np.uint8) for buffer in buffers]
    assert not any(np.shares_memory(a, lstm._parameters.flat) for a in arrays)
    assert lstm._unseen
    assert again._unseen
    assert copied._unseen
    assert fl.load(tmp_path / "lstm.safetensors")._unseen
    assert not fl.load(tmp_path / "lstm.safetensors").freeze()._unseen


@pytest.mark.parametrize("stack", [replace(DEEP, lengths=None), Stack(I=5, H=19, P=3)], ids=str)
def test_packed_again_for_every_pass(make_layer, dtype, stack):
    """As training does: what is kept from the pass before is of other weights."""
    problem = make_stack_problem(stack, dtype)
    lstm, rng = with_weights(make_layer, problem), np.random.default_rng(3)
    for _ in range(3):
        lstm.flat[:] += rng.uniform(-0.1, 0.1, lstm.flat.size)
        fresh = make_layer(**stack.arguments(), dtype=dtype)
        fresh.flat[:] = lstm.flat
        of_fresh, of_lstm = (m.backward(m.forward(problem.x)[2], problem.dy) for m in (fresh, lstm))
        np.testing.assert_array_equal(of_lstm[0], of_fresh[0])
        np.testing.assert_array_equal(of_lstm[2].flat, of_fresh[2].flat)


def test_packed_backward_has_the_weights_of_its_forward(make_layer, dtype):
    """Two layers of one shape, calls in between, also with other weights: what a tape needs must
    not be mixed up."""
    problem, other = (make_stack_problem(Stack(L=2, H=17), dtype, seed) for seed in (0, 1))
    answer = run_layer(make_layer, problem)
    one, two = with_weights(make_layer, problem), with_weights(make_layer, other)
    *_, tape = one.forward(problem.x, problem.state)
    two.backward(two.forward(other.x)[2], other.dy)
    one(other.x)
    weights = one.flat.copy()
    one.flat[:] = two.flat
    one(other.x)
    one.flat[:] = weights
    dx, _, _ = one.backward(tape, problem.dy, problem.dstate)
    assert_identical(dict(dx=dx), dict(dx=answer["dx"]), problem.stack)
