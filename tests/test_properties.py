# SPDX-License-Identifier: MIT
"""What must hold whatever the numbers are: adjoints at large sizes, any memory, any order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import Stack, make_stack_problem, with_weights
from test_inputs import KINDS

import fastlstm as fl
from fastlstm.modules import MODULES

LAYERS = {name: cls for name, cls in MODULES.items() if hasattr(cls, "stream")}
LARGE = (
    Stack(T=100, B=32, I=64, H=128),
    Stack(T=50, B=3, I=20, H=300, bidirectional=True),
    Stack(T=40, B=33, I=9, H=70, L=2, P=20, lengths=tuple(range(7, 40))),
)


@pytest.mark.parametrize("stack", LARGE, ids=str)
def test_properties_backward_is_the_adjoint(make_layer, stack):
    """<J v, u> = <v, J' u> for random directions, in x, the states and all weights at once.

    J v by central differences in float64: their error is about eps^(2/3).
    """
    problem = make_stack_problem(stack)
    rng = np.random.default_rng(1)
    lstm = with_weights(make_layer, problem)
    flat = lstm.flat.copy()
    v = [rng.standard_normal(a.shape) for a in (problem.x, *problem.state, flat)]

    def outputs(step):
        x, h0, c0, weights = (
            a + step * d for a, d in zip((problem.x, *problem.state, flat), v, strict=True)
        )
        lstm.flat[...] = weights
        y, state = lstm(x, (h0, c0), stack.lengths)
        return y, *state

    scale = 1e-5 / max(np.abs(d).max() for d in v)
    forth, back = outputs(scale), outputs(-scale)
    lstm.flat[...] = flat
    *_, tape = lstm.forward(problem.x, problem.state, stack.lengths)
    dx, dstate, grads = lstm.backward(tape, problem.dy, problem.dstate)
    u = (problem.dy, *problem.dstate)
    left = sum(np.vdot((a - b) / (2 * scale), c) for a, b, c in zip(forth, back, u, strict=True))
    pairs = zip(v, (dx, *dstate, grads.flat), strict=True)
    terms = [np.vdot(a, b) for a, b in pairs]
    assert left == pytest.approx(sum(terms), rel=1e-6, abs=1e-7 * max(map(abs, terms)))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_properties_layers_take_any_memory(dtype, name, kind):
    """Every layer, its gradients and its stream: the same numbers, and nothing is written to."""
    layer = LAYERS[name](5, 9, dtype=dtype, seed=0)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((7, 3, n)).astype(dtype) for n in (5, 9))
    odd_x, odd_dy = KINDS[kind](x), KINDS[kind](dy)
    results = []
    for a, d in ((x, dy), (odd_x, odd_dy)):
        y, _, tape = layer.forward(a)
        dx, _, grads = layer.backward(tape, d)
        stream = layer.stream(3)
        steps = [stream.step(KINDS[kind](x_t) if a is odd_x else x_t) for x_t in x]
        results.append([y, dx, grads.flat, *steps])
    limit = 100 * np.finfo(dtype).eps  # other strides take another path through BLAS
    for a, b in zip(*results, strict=True):
        assert type(b) is np.ndarray
        np.testing.assert_allclose(b, a, rtol=limit, atol=limit)
    for odd, plain in ((odd_x, x), (odd_dy, dy)):
        np.testing.assert_array_equal(odd.a if hasattr(odd, "a") else odd, plain)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", LAYERS)
def test_properties_rows_and_cuts(name, data):
    """Rows in any order give their results in that order; time cut anywhere gives the whole."""
    T, B = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    layer = LAYERS[name](3, data.draw(st.integers(1, 20)), seed=0, dtype="float64")
    x = np.random.default_rng(T * 10 + B).standard_normal((T, B, 3))
    whole, state = layer(x)
    order = data.draw(st.permutations(range(B)))
    np.testing.assert_allclose(layer(x[:, order])[0], whole[:, order], rtol=1e-12, atol=1e-13)
    cut = data.draw(st.integers(0, T))
    first, middle = layer(x[:cut])
    second, last = layer(x[cut:], middle)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-12, atol=1e-13)
    for a, b in zip(np.atleast_1d(last), np.atleast_1d(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    ragged = layer(x, lengths=lengths)[0]
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(ragged[:n, row], whole[:n, row], rtol=1e-12, atol=1e-13)
        assert (ragged[n:, row] == 0).all()


WRONG = {
    "list of text": ["a", "b"],
    "none": None,
    "a number": 3.5,
    "integers": np.zeros((7, 3, 5), np.int64),
    "objects": np.zeros((7, 3, 5), object),
    "complex": np.zeros((7, 3, 5), complex),
    "half": np.zeros((7, 3, 5), np.float16),
    "the other float": np.zeros((7, 3, 5), np.float64),
    "four axes": np.zeros((7, 3, 5, 1), np.float32),
    "one axis": np.zeros(5, np.float32),
    "too few inputs": np.zeros((7, 3, 4), np.float32),
    "dates": np.zeros((7, 3, 5), "datetime64[s]"),
    "fields": np.zeros((7, 3, 5), [("a", "f4")]),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("what", WRONG)
def test_properties_layers_refuse_what_is_no_x(name, what):
    layer = LAYERS[name](5, 9, seed=0)
    for call in (layer, layer.forward):
        with pytest.raises((TypeError, ValueError), match=r"\bx\b"):
            call(WRONG[what])
    stream = layer.stream(3)
    step = WRONG[what][0] if getattr(WRONG[what], "ndim", 0) > 2 else WRONG[what]
    with pytest.raises((TypeError, ValueError), match="x_t"):
        stream.step(step)


@pytest.mark.parametrize("what", [k for k in WRONG if k not in ("a number", "integers", "half")])
def test_properties_fit_refuses_what_is_no_x(what):
    layer = fl.LSTM(5, 9, batch_first=True, seed=0)
    model = fl.Sequential([layer, fl.LastState(), fl.Dense(9, 1, seed=0)])
    before = model.flat.copy()
    with pytest.raises((TypeError, ValueError)) as caught:
        fl.fit(model, WRONG[what], np.zeros((7, 1), np.float32), epochs=1, progress=False)
    assert "x" in str(caught.value)
    np.testing.assert_array_equal(model.flat, before)
