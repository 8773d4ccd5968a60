# SPDX-License-Identifier: MIT
"""Stream: step after step gives what the whole sequence gives, and the state can be moved."""

import itertools
import pickle
import sys
import tracemalloc

import numpy as np
import pytest
from comparison import assert_matches
from fastlstm._stream import Stream
from stacks import Stack, make_stack_problem, with_weights

import fastlstm as fl

STACKS = (
    Stack(),
    Stack(L=3, H=5),
    Stack(P=4, L=2),
    Stack(bias=False),
    Stack(B=1),
    Stack(B=1, I=1, H=1),
    Stack(B=13, H=33, I=17, L=2),
    Stack(T=60, B=1, I=16, H=64),
)
stacks = pytest.mark.parametrize("stack", STACKS, ids=str)


@stacks
def test_stream_steps_are_the_whole_sequence(make_layer, dtype, stack):
    problem = make_stack_problem(stack, dtype)
    lstm = with_weights(make_layer, problem)
    y, (h_n, c_n) = lstm(problem.x, problem.state)
    stream = lstm.stream(stack.B)
    stream.state = problem.state
    steps = [stream.step(x_t) for x_t in problem.x]
    results = dict(y=np.stack(steps), h_n=stream.state[0], c_n=stream.state[1])
    answer = {n: a.astype("float64") for n, a in dict(y=y, h_n=h_n, c_n=c_n).items()}
    assert_matches(results, answer, dtype, stack)


@stacks
def test_stream_starts_and_resets_to_zeros(make_layer, dtype, stack):
    problem = make_stack_problem(stack, dtype)
    lstm = with_weights(make_layer, problem)
    stream = lstm.stream(stack.B)
    assert not any(a.any() for a in stream.state)
    assert [a.shape for a in stream.state] == [a.shape for a in problem.dstate]
    assert {a.dtype for a in stream.state} == {dtype}
    first = stream.step(problem.x[0])
    assert all(a.any() for a in stream.state)
    assert (stream.step(problem.x[0]) != first).any()
    stream.reset()
    assert not any(a.any() for a in stream.state)
    np.testing.assert_array_equal(stream.step(problem.x[0]), first)


def test_stream_of_one_row_takes_a_vector(make_layer, dtype):
    problem = make_stack_problem(Stack(B=1, L=2), dtype)
    lstm = with_weights(make_layer, problem)
    one, two = lstm.stream(), lstm.stream(batch_size=1)
    for x_t in problem.x:
        y = one.step(x_t[0])
        assert y.shape == (9,)
        np.testing.assert_array_equal(y, two.step(x_t)[0])


def test_stream_of_a_batch_first_layer_steps_the_same(make_layer, dtype):
    problem = make_stack_problem(Stack(L=2), dtype)
    plain, turned = (with_weights(make_layer, problem, batch_first=b) for b in (False, True))
    one, two = plain.stream(3), turned.stream(3)
    for x_t in problem.x:
        np.testing.assert_array_equal(one.step(x_t), two.step(x_t))


def test_stream_has_no_dropout(make_layer, dtype):
    problem = make_stack_problem(Stack(L=3), dtype)
    plain, dropping = (with_weights(make_layer, problem, dropout=p) for p in (0.0, 0.9))
    one, two = plain.stream(3), dropping.stream(3)
    for x_t in problem.x:
        np.testing.assert_array_equal(one.step(x_t), two.step(x_t))


def test_stream_keeps_the_weights_of_its_creation(make_layer, dtype):
    problem = make_stack_problem(Stack(L=2), dtype)
    lstm = with_weights(make_layer, problem)
    answer = lstm.stream(3).step(problem.x[0])
    stream = lstm.stream(3)
    lstm.flat[:] = 0
    np.testing.assert_array_equal(stream.step(problem.x[0]), answer)
    assert lstm.flat.flags.writeable


def test_stream_does_not_disturb_its_layer(make_layer, dtype):
    problem = make_stack_problem(Stack(L=2), dtype)
    lstm = with_weights(make_layer, problem)
    before = lstm(problem.x)[0]
    one, two = lstm.stream(3), lstm.stream(3)
    first = one.step(problem.x[0])
    one.step(problem.x[1])
    np.testing.assert_array_equal(two.step(problem.x[0]), first)
    np.testing.assert_array_equal(lstm(problem.x)[0], before)


def test_stream_state_is_a_copy_both_ways(make_layer, dtype):
    problem = make_stack_problem(Stack(L=2), dtype)
    lstm = with_weights(make_layer, problem)
    stream, twin = lstm.stream(3), lstm.stream(3)
    state = tuple(a.copy() for a in problem.state)
    stream.state, twin.state = state, problem.state
    for a in (*state, *stream.state):
        a[...] = np.nan
    np.testing.assert_array_equal(stream.step(problem.x[0]), twin.step(problem.x[0]))
    kept = stream.state
    twin.step(problem.x[1])
    stream.state = kept  # a checkpoint, and back to it
    np.testing.assert_array_equal(stream.step(problem.x[2]), fresh(lstm, kept).step(problem.x[2]))
    stream.state = None
    assert not any(a.any() for a in stream.state)


def fresh(lstm, state):
    """A new stream of three rows in that state."""
    stream = lstm.stream(3)
    stream.state = state
    return stream


def test_stream_outputs_stay_as_they_were(make_layer, dtype):
    """A step does not overwrite the last one's result, nor does writing there reach the state."""
    problem = make_stack_problem(Stack(), dtype)
    lstm = with_weights(make_layer, problem)
    stream, twin = lstm.stream(3), lstm.stream(3)
    first = stream.step(problem.x[0])
    kept = first.copy()
    second = stream.step(problem.x[1])
    np.testing.assert_array_equal(first, kept)
    second[...] = np.nan
    twin.step(problem.x[0])
    twin.step(problem.x[1])
    np.testing.assert_array_equal(stream.step(problem.x[2]), twin.step(problem.x[2]))


@pytest.mark.parametrize("single", [False, True], ids=["batch", "vector"])
def test_stream_out_gets_the_result(make_layer, dtype, single):
    problem = make_stack_problem(Stack(B=1), dtype)
    lstm = with_weights(make_layer, problem)
    stream, twin = lstm.stream(), lstm.stream()
    out = np.full(9 if single else (1, 9), np.nan, dtype)
    for x_t in problem.x:
        x_t = x_t[0] if single else x_t
        assert stream.step(x_t, out=out) is out
        np.testing.assert_array_equal(out, twin.step(x_t))


def test_stream_step_allocates_nothing_and_enters_no_python():
    stream, out = fl.LSTM(3, 4, num_layers=2, seed=0).stream(), np.empty(4, np.float32)
    x = pickle.loads(pickle.dumps(np.ones(3, np.float32)))  # whose dtype is another object
    stream.step(x, out=out)
    calls, times = [], itertools.repeat(None, 100)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for _ in times:
        stream.step(x, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak == before
    sys.setprofile(lambda frame, event, arg: calls.append((event, arg)))
    stream.step(x, out=out)
    sys.setprofile(None)
    assert calls == [("c_call", sys.setprofile)]  # the one that ends it


def test_stream_takes_read_only_and_strided_steps(make_layer, dtype):
    problem = make_stack_problem(Stack(), dtype)
    lstm = with_weights(make_layer, problem)
    stream, twin = lstm.stream(3), lstm.stream(3)
    x = np.asfortranarray(problem.x)
    x.flags.writeable = False
    for t in range(7):
        np.testing.assert_array_equal(stream.step(x[t]), twin.step(problem.x[t]))


def test_stream_nan_stays_in_its_row_until_reset(make_layer, dtype):
    problem = make_stack_problem(Stack(L=2), dtype)
    lstm = with_weights(make_layer, problem)
    stream, twin = lstm.stream(3), lstm.stream(3)
    spoilt = problem.x[0].copy()
    spoilt[1] = np.nan
    y, clean = stream.step(spoilt), twin.step(problem.x[0])
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])
    assert np.isnan(y[1]).all()
    assert np.isnan(stream.step(problem.x[1])[1]).all()
    stream.reset()
    np.testing.assert_array_equal(stream.step(problem.x[0]), clean)


def z(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


STEP_ERRORS = {
    "features": (z(3, 4), ValueError, "x_t must have shape (B, I) = (3, 5), got (3, 4)"),
    "rows": (z(2, 5), ValueError, "x_t must have shape (B, I) = (3, 5), got (2, 5)"),
    "vector": (z(5), ValueError, "x_t must have shape (B, I) = (3, 5), got (5,)"),
    "sequence": (z(7, 3, 5), ValueError, "x_t must have shape (B, I) = (3, 5), got (7, 3, 5)"),
    "dtype": (z(3, 5, dtype="float64"), TypeError, "x_t is float64 but the stream is float32"),
    "int": (np.zeros((3, 5), "i4"), TypeError, "x_t must be float32 or float64, got int32"),
}


@pytest.mark.parametrize("name", STEP_ERRORS)
def test_stream_step_error_leaves_the_state(make_layer, name):
    x_t, kind, text = STEP_ERRORS[name]
    stream = make_layer(5, 9, seed=0).stream(3)
    stream.step(np.ones((3, 5), np.float32))
    before = stream.state
    with pytest.raises(kind) as caught:
        stream.step(x_t)
    assert text in str(caught.value)
    for a, b in zip(stream.state, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("out", "text"),
    [
        (z(3, 8), "out must have shape (B, H|P) = (3, 9), got (3, 8)"),
        (z(3, 9, dtype="float64"), "out is float64"),
    ],
    ids=["shape", "dtype"],
)
def test_stream_out_error_leaves_the_state(make_layer, out, text):
    stream = make_layer(5, 9, seed=0).stream(3)
    with pytest.raises((TypeError, ValueError)) as caught:
        stream.step(np.ones((3, 5), np.float32), out=out)
    assert text in str(caught.value)
    assert not any(a.any() for a in stream.state), "the step has been taken"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ((z(1, 3, 8), z(1, 3, 9)), "h must have shape (L, B, H|P) = (1, 3, 9), got (1, 3, 8)"),
        ((z(1, 3, 9), z(1, 2, 9)), "c must have shape (L, B, H) = (1, 3, 9), got (1, 2, 9)"),
        (z(2, 3, 9), "state must be None or a pair (h, c), got ndarray"),
    ],
    ids=["h", "c", "array"],
)
def test_stream_state_error(make_layer, state, text):
    stream = make_layer(5, 9, seed=0).stream(3)
    with pytest.raises((TypeError, ValueError)) as caught:
        stream.state = state
    assert text in str(caught.value)


def test_stream_refuses_what_cannot_be_streamed(make_layer):
    with pytest.raises(ValueError, match="a bidirectional LSTM cannot be streamed"):
        make_layer(5, 9, bidirectional=True).stream()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        make_layer(5, 9).stream(0)


@pytest.mark.parametrize("batch_size", [2**40, 2**60, 2**62, 2**63 - 1])
def test_stream_of_more_rows_than_memory_holds(dtype, batch_size):
    """The size of its memory passes 2^63: no small block with pointers far beyond it."""
    lstm = fl.LSTM(0, 33, num_layers=2, dtype=dtype, seed=0)
    with pytest.raises((MemoryError, ValueError)):
        lstm.stream(batch_size)


def test_stream_that_was_not_initialised_refuses_to_work():
    stream = Stream.__new__(Stream)
    with pytest.raises(RuntimeError, match="not initialised"):
        stream.state  # noqa: B018
    with pytest.raises(RuntimeError, match="not initialised"):
        stream.reset()
    for shape in ((1, 1), (0, 0)):  # of the second nothing is wrong
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            stream.step(np.zeros(shape, np.float32))


def test_stream_that_could_not_be_made_refuses_to_work():
    stream, lstm = Stream.__new__(Stream), fl.LSTM(3, 4, seed=0)
    with pytest.raises(MemoryError):
        stream.__init__(lstm, 2**61)
    with pytest.raises(RuntimeError, match="not initialised"):
        stream.step(np.zeros(3, np.float32))
    stream.__init__(lstm)
    assert stream.step(np.zeros(3, np.float32)).shape == (4,)
    with pytest.raises(RuntimeError, match="made once"):
        stream.__init__(lstm)


def test_stream_takes_misaligned_steps_but_no_misaligned_out(make_layer, dtype):
    def misaligned(shape):
        raw = np.zeros(int(np.prod(shape)) * dtype.itemsize + 1, np.uint8)
        return raw[1:].view(dtype).reshape(shape)

    lstm = make_layer(5, 9, dtype=dtype, seed=0)
    x_t = misaligned((3, 5))
    x_t[...] = 0.5
    np.testing.assert_array_equal(lstm.stream(3).step(x_t), lstm.stream(3).step(x_t.copy()))
    with pytest.raises(ValueError, match="out must be writeable"):
        lstm.stream(3).step(x_t, out=misaligned((3, 9)))


def test_stream_out_must_not_overlap_the_step(make_layer, dtype):
    """Whichever lies in front; side by side is fine."""
    lstm = make_layer(9, 9, dtype=dtype, seed=0)
    answer = lstm.stream(3).step(np.full((3, 9), 0.5, dtype))
    for shift in (0, 1, 5):
        for first, second in ((0, shift), (shift, 0)):
            memory = np.full((9, 9), 0.5, dtype)
            x_t, out = memory[first : first + 3], memory[second : second + 3]
            stream = lstm.stream(3)
            if shift < 3:
                with pytest.raises(ValueError, match="out must not overlap x"):
                    stream.step(x_t, out=out)
                assert (memory == dtype.type(0.5)).all()
            else:
                np.testing.assert_array_equal(stream.step(x_t, out=out), answer)
