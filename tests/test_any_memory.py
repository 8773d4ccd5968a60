# SPDX-License-Identifier: MIT
"""Arguments of any memory, drawn: any stride, order, offset, byte order, size, protocol.

The results are those of contiguous arrays, no byte of an argument is written to, ``out`` may lie
anywhere but over an input, and what is refused is refused by name.
"""

import os
import re

import numpy as np
import pytest
from cases import Case, make_problem, run
from comparison import assert_matches
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from memory import EDGE, WithDLPack, laid_out, layouts, view_in

import fastlstm as fl
from fastlstm.modules import MODULES

LAYERS = {name: cls for name, cls in MODULES.items() if hasattr(cls, "stream")}
drawn = settings(
    max_examples=int(os.environ.get("FASTLSTM_EXAMPLES", "25")),
    deadline=None,
    phases=[Phase.generate],  # to make a failing case smaller takes minutes, and they are small
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
few = st.sampled_from([0, 1, 2, 5])


def draw_case(data):
    """A small case, with every size that is allowed to be 0 being so now and then."""
    T, B, ragged = data.draw(few), data.draw(few), data.draw(st.booleans())
    lengths = tuple(data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    return Case(
        T=T, B=B, I=data.draw(st.sampled_from([0, 1, 4, 7])),
        H=data.draw(st.sampled_from([1, 4, 9, 16, 17])),
        P=data.draw(st.sampled_from([None, None, 3, 16])),
        lengths=lengths if ragged else None, reverse=data.draw(st.booleans()),
        bias=data.draw(st.booleans()),
    )  # fmt: skip


def lay_out(data, problem):
    """The problem with its arrays laid out, the same with their plain values, and all of them."""
    laid = {}

    def one(a):
        laid[len(laid)] = new = data.draw(laid_out(a))
        return new

    odd = problem.map(one)
    plain = {name: _each(value, "values") for name, value in vars(odd).items()}
    given_ = {name: _each(value, "given") for name, value in vars(odd).items()}
    return type(problem)(**given_), type(problem)(**plain), laid.values()


def _each(value, attribute):
    if isinstance(value, tuple):
        return tuple(getattr(part, attribute, part) for part in value)
    return getattr(value, attribute, value)


def check_unchanged(laid):
    for k, one in enumerate(laid):
        one.check_unchanged(f"argument {k}")


@drawn
@given(data=st.data())
def test_any_memory_gives_the_same(implementation, dtype, data):
    problem = make_problem(draw_case(data), dtype)
    odd, plain, laid = lay_out(data, problem)
    if problem.lengths is not None:
        kind = data.draw(st.sampled_from(["i1", ">i4", "u8", "i8"]))
        lengths = data.draw(laid_out(np.array(problem.lengths, kind)))
        odd.lengths, plain.lengths = lengths.view, tuple(lengths.values.tolist())
    results, answer = run(implementation, odd), run(implementation, plain)
    assert {type(a) for a in results.values()} == {np.ndarray}
    assert_matches(results, {n: a.astype("f8") for n, a in answer.items()}, dtype, problem.case)
    check_unchanged(laid)


@drawn
@given(data=st.data())
def test_any_memory_of_out(implementation, dtype, data):
    """Written, and nothing beside it; or refused by name, and left alone."""
    problem = make_problem(draw_case(data), dtype)
    answer = run(implementation, problem)["y"]
    raw, out = data.draw(layouts(answer.shape, problem.dtype))
    before = raw.tobytes()
    save = data.draw(st.booleans())
    if not (out.flags.aligned and out.dtype.isnative):
        with pytest.raises((TypeError, ValueError), match=r"^out|\bout\b"):
            implementation.lstm_forward(**problem.forward(), out=out)
        assert raw.tobytes() == before
        return
    y, *_ = implementation.lstm_forward(**problem.forward(), out=out, save=save)
    assert y is out
    np.testing.assert_allclose(y, answer, rtol=0, atol=40 * np.finfo(dtype).eps)
    out[...] = np.frombuffer(b"\xff" * out.nbytes, dtype).reshape(out.shape)
    assert raw.tobytes() == before, "memory beside out was written to"


@drawn
@given(data=st.data())
def test_any_memory_where_out_and_an_input_share_it(implementation, data):
    """Refused exactly where they have a byte in common."""
    case = Case(T=data.draw(st.integers(1, 3)), B=data.draw(st.integers(1, 3)), I=3, H=4)
    problem = make_problem(case)
    name = data.draw(st.sampled_from(["x", "w_ih", "w_hh", "b"]))
    raw, shadow = (np.zeros(4000, np.uint8) for _ in range(2))

    def place(shape):
        order = data.draw(st.permutations(range(len(shape))))
        steps = [data.draw(st.sampled_from([1, 1, 2, -1])) for _ in shape]
        start = 8 * data.draw(st.integers(0, 40))
        size = int(np.prod(shape)) * 8 * 2 ** len(shape)
        if start + size > raw.size:
            steps, start = [1] * len(shape), 0
        return [view_in(memory, start, shape, problem.dtype, order, steps)
                for memory in (raw, shadow)]  # fmt: skip

    value = getattr(problem, name)
    (own, own_shadow), (out, out_shadow) = place(value.shape), place((case.T, case.B, case.H))
    own[...] = value
    own_shadow[...] = 1
    overlap = bool(np.array(out_shadow).any())
    before = raw.tobytes()
    arguments = problem.forward() | {name: own, "out": out}
    if overlap:
        with pytest.raises(ValueError, match=f"out must not overlap {name}"):
            implementation.lstm_forward(**arguments)
        assert raw.tobytes() == before
        return
    answer, *_ = implementation.lstm_forward(**problem.forward())
    y, *_ = implementation.lstm_forward(**arguments)
    np.testing.assert_allclose(y, answer, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(own, value)


# -- layers and streams --------------------------------------------------------------------------


def draw_layer(data, cls, dtype):
    options = {}
    if cls is fl.LSTM:
        options["proj_size"] = data.draw(st.sampled_from([0, 0, 3]))
    return cls(
        data.draw(st.sampled_from([1, 4, 7])), data.draw(st.sampled_from([4, 9, 17])),
        num_layers=data.draw(st.integers(1, 2)), batch_first=data.draw(st.booleans()),
        bidirectional=data.draw(st.booleans()), dtype=dtype, seed=0, **options,
    )  # fmt: skip


def states_of(state):
    return state if isinstance(state, tuple) else (state,)


@drawn
@given(data=st.data())
@pytest.mark.parametrize("name", LAYERS)
def test_any_memory_of_a_layer(name, dtype, data):
    layer = draw_layer(data, LAYERS[name], dtype)
    T, B = data.draw(few), data.draw(few)
    rng = np.random.default_rng(0)

    def lay(shape):
        return data.draw(laid_out(rng.standard_normal(shape).astype(dtype)))

    x = lay((B, T, layer.input_size) if layer.batch_first else (T, B, layer.input_size))
    y, state = layer(x.values)
    start = tuple(lay(s.shape) for s in states_of(state))
    dy, end = lay(y.shape), tuple(lay(s.shape) for s in states_of(state))
    pack = tuple if isinstance(state, tuple) else lambda parts: next(iter(parts))
    results = []
    for kind in ("values", "given"):
        pick = lambda laid: getattr(laid, kind)  # noqa: B023, E731  called in this turn
        y, state, tape = layer.forward(pick(x), pack(map(pick, start)))
        inference, _ = layer(pick(x), pack(map(pick, start)))
        dx, dstate, grads = layer.backward(tape, pick(dy), pack(map(pick, end)))
        results.append([y, inference, dx, *states_of(state), *states_of(dstate), grads.flat])
    for a, b in zip(*results, strict=True):
        assert type(b) is np.ndarray
        limit = 2000 * np.finfo(dtype).eps  # another path through BLAS
        np.testing.assert_allclose(b, a, rtol=limit, atol=limit * max(1, np.abs(a).max(initial=0)))
    check_unchanged([x, dy, *start, *end])


@drawn
@given(data=st.data())
@pytest.mark.parametrize("name", LAYERS)
def test_any_memory_of_a_stream(name, dtype, data):
    """Also of out: written, and nothing beside it; or refused, and the state stays as it was."""
    layer = LAYERS[name](5, 9, dtype=dtype, seed=0)
    B = data.draw(st.integers(1, 3))
    rng = np.random.default_rng(0)
    stream, plain = layer.stream(B), layer.stream(B)
    for _ in range(2):
        x_t = data.draw(laid_out(rng.standard_normal((B, 5)).astype(dtype)))
        answer = plain.step(x_t.values)
        raw, out = data.draw(layouts((B, 9), np.dtype(dtype)))
        before, state = raw.tobytes(), [np.array(s) for s in states_of(stream.state)]
        try:
            y = stream.step(x_t.given, out)
        except (TypeError, ValueError) as error:
            assert re.search(r"\bout\b", str(error))  # noqa: PT017
            assert not (out.flags.c_contiguous and out.flags.aligned and out.dtype.isnative)
            assert raw.tobytes() == before
            for a, b in zip(states_of(stream.state), state, strict=True):
                np.testing.assert_array_equal(a, b)
            y = stream.step(x_t.given)
        else:
            assert y is out
        np.testing.assert_allclose(y, answer, rtol=0, atol=40 * np.finfo(dtype).eps)
        x_t.check_unchanged("x_t")
        if y is out:
            out[...] = np.frombuffer(b"\xff" * out.nbytes, dtype).reshape(out.shape)
            assert raw.tobytes() == before, "memory beside out was written to"


@pytest.mark.parametrize("name", LAYERS)
def test_any_memory_reaches_the_kernels_aligned(name):
    """Processors may read misaligned numbers where C may not: no result would tell."""
    x = np.frombuffer(b"\0" * 61, np.float32, offset=1).reshape(1, 3, 5)
    assert not x.flags.aligned
    *_, tape = LAYERS[name](5, 9, seed=0).forward(x)
    assert tape.tapes[0][0].inputs.x.flags.aligned


# -- what is refused -----------------------------------------------------------------------------


class Fails:
    """Exports nothing: a buffer on another device, or of a dtype that NumPy has not."""

    def __init__(self, error):
        self.error = error

    def __dlpack__(self, **named):
        raise self.error

    def __dlpack_device__(self):
        return 1, 0


def wrong(draw, a):
    """Something that cannot stand for the array ``a``, and whether its dtype or shape is why."""
    other = "f4" if a.dtype == "f8" else "f8"
    kinds = ["f2", "i4", "u1", "?", "c16", "O", "U3", "M8[s]", "g", other]
    made = {
        "dtype": lambda: a.astype("f8").astype(draw(st.sampled_from(kinds)))
        if a.size else np.zeros(a.shape, draw(st.sampled_from(kinds))),
        "axis": lambda: a[..., None] if draw(st.booleans()) else a[None],
        "flat": lambda: a.reshape(-1) if a.ndim > 1 else np.array(1, a.dtype),
        "text": lambda: "text",
        "dict": lambda: {"a": 1},
        "ragged": lambda: [[1.0], [1.0, 2.0]],
        "device": lambda: Fails(BufferError("unsupported device")),
        "exporter": lambda: Fails(RuntimeError("no such dtype")),
        "integers": lambda: WithDLPack(np.zeros(a.shape, np.int32)),
        "records": lambda: np.zeros(a.shape, [("a", a.dtype)]),
    }  # fmt: skip
    return made[draw(st.sampled_from(sorted(made)))]()


def assert_named(error, name):
    assert type(error) in (TypeError, ValueError), repr(error)
    assert re.search(rf"\b{name}\b", str(error)), str(error)


@drawn
@given(data=st.data())
def test_any_memory_wrong_is_refused_by_name(implementation, data):
    problem = make_problem(Case(T=2, B=3, I=5, H=4, P=6))
    names = ["x", "w_ih", "w_hh", "b", "h0", "c0", "w_proj", "dy", "dh_n", "dc_n"]
    name = data.draw(st.sampled_from(names))
    arrays = vars(problem) | dict(zip(("h0", "c0"), problem.state, strict=True))
    arrays |= dict(zip(("dh_n", "dc_n"), problem.dstate, strict=True))
    arrays[name] = wrong(data.draw, arrays[name])
    bad = problem.map(lambda a: a)
    for key in ("x", "w_ih", "w_hh", "b", "w_proj", "dy"):
        setattr(bad, key, arrays[key])
    bad.state, bad.dstate = (arrays["h0"], arrays["c0"]), (arrays["dh_n"], arrays["dc_n"])
    backward = name in ("dy", "dh_n", "dc_n")
    *_, tape = implementation.lstm_forward(**problem.forward())
    call = implementation.lstm_backward if backward else implementation.lstm_forward
    arguments = (tape, bad.dy, bad.dstate) if backward else ()
    with pytest.raises(Exception) as caught:  # noqa: PT011  assert_named looks at it
        call(*arguments, **{} if backward else bad.forward())
    assert_named(caught.value, name)
    implementation.lstm_backward(tape, problem.dy, problem.dstate)  # it was not used up


@drawn
@given(data=st.data())
@pytest.mark.parametrize("name", LAYERS)
def test_any_memory_wrong_is_refused_by_layers(name, data):
    layer = LAYERS[name](5, 9, seed=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal((4, 3, 5))
    y, state, tape = layer.forward(x)
    stream = layer.stream(3)
    calls = {
        "x": (x, lambda bad: layer(bad)),
        "dy": (y, lambda bad: layer.backward(tape, bad)),
        "x_t": (x[0], lambda bad: stream.step(bad)),
    }
    what = data.draw(st.sampled_from(sorted(calls)))
    right, call = calls[what]
    bad = wrong(data.draw, right)
    with pytest.raises(Exception) as caught:  # noqa: PT011  assert_named looks at it
        call(bad)
    assert_named(caught.value, what)
    layer.backward(tape, y, state)


@pytest.mark.parametrize("name", LAYERS)
def test_any_memory_of_a_wrong_shape_says_which(name):
    """Also where only DLPack tells it."""
    stream = LAYERS[name](5, 9, seed=0).stream(3)
    with pytest.raises(ValueError, match=r"x_t must have shape \(B, I\) = \(3, 5\), got \(3, 4\)"):
        stream.step(WithDLPack(np.zeros((3, 4), np.float32)))


def test_memory_layouts_hold_what_they_say():
    """The instrument: what was put in is there, and a byte that changes is seen."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 3))
    raw = np.full(500, 255, np.uint8)
    view = view_in(raw, EDGE, a.shape, a.dtype, (1, 0), (-2, 3))
    view[...] = a
    np.testing.assert_array_equal(view, a)
    assert view.strides[0] < 0
    assert raw.tobytes().count(b"\xff" * 8) >= 40 - a.size
