# SPDX-License-Identifier: MIT
"""Errors name the argument, what was expected, what came; inputs of every kind are taken."""

import re

import numpy as np
import pytest
from cases import Case, backward, make_problem, run
from comparison import assert_identical, assert_matches

from fastlstm import checks, reference
from fastlstm.reference import lstm_forward
from fastlstm.spec import Spec

CASE = Case()  # T7 B3 I5 H9: 4*H = 36
PROJECTED = Case(P=4)
f32, f64 = np.dtype("float32"), np.dtype("float64")


def zeros(*shape, dtype=f64):
    return np.zeros(shape, dtype)


# id: (case, changed arguments of lstm_forward, exception, text)
FORWARD_ERRORS = {
    "x-2d": (
        CASE, dict(x=zeros(7, 5)), ValueError,
        "x must have 3 dimensions (T, B, I), got shape (7, 5)",
    ),
    "x-4d": (
        CASE, dict(x=zeros(7, 3, 5, 1)), ValueError,
        "x must have 3 dimensions (T, B, I), got shape (7, 3, 5, 1)",
    ),
    "x-int": (
        CASE, dict(x=np.zeros((7, 3, 5), np.int64)), TypeError,
        "x must be float32 or float64, got int64",
    ),
    "x-bool": (
        CASE, dict(x=np.zeros((7, 3, 5), bool)), TypeError,
        "x must be float32 or float64, got bool",
    ),
    "x-complex": (
        CASE, dict(x=np.zeros((7, 3, 5), complex)), TypeError,
        "x must be float32 or float64, got complex128",
    ),
    "x-float16": (
        CASE, dict(x=np.zeros((7, 3, 5), np.float16)), TypeError,
        "x must be float32 or float64, got float16",
    ),
    "x-longdouble": (
        CASE, dict(x=np.zeros((7, 3, 5), np.longdouble)), TypeError,
        f"x must be float32 or float64, got {np.dtype(np.longdouble)}",
    ),
    "x-object": (
        CASE, dict(x=np.zeros((7, 3, 5), object)), TypeError,
        "x must be float32 or float64, got object",
    ),
    "x-None": (CASE, dict(x=None), TypeError, "x must be float32 or float64, got object"),
    "x-str": (CASE, dict(x="text"), TypeError, "x must be float32 or float64, got <U4"),
    "w_ih-1d": (
        CASE, dict(w_ih=zeros(36)), ValueError,
        "w_ih must have 2 dimensions (4*H, I), got shape (36,)",
    ),
    "w_ih-no-gates": (
        CASE, dict(w_ih=zeros(35, 5)), ValueError,
        "w_ih must have shape (4*H, I) with H >= 1, its rows the gates i f g o, got (35, 5)",
    ),
    "w_ih-empty": (
        CASE, dict(w_ih=zeros(0, 5)), ValueError,
        "w_ih must have shape (4*H, I) with H >= 1, its rows the gates i f g o, got (0, 5)",
    ),
    "w_ih-other-I": (
        CASE, dict(w_ih=zeros(36, 6)), ValueError,
        "w_ih must have shape (4*H, I) = (36, 5), got (36, 6)",
    ),
    "w_hh-transposed": (
        CASE, dict(w_hh=zeros(9, 36)), ValueError,
        "w_hh must have shape (4*H, H) = (36, 9), got (9, 36)",
    ),
    "w_hh-3d": (
        CASE, dict(w_hh=zeros(36, 9, 1)), ValueError,
        "w_hh must have shape (4*H, H) = (36, 9), got (36, 9, 1)",
    ),
    "w_hh-not-projected": (
        PROJECTED, dict(w_hh=zeros(36, 9)), ValueError,
        "w_hh must have shape (4*H, P) = (36, 4), got (36, 9)",
    ),
    "w_proj-transposed": (
        PROJECTED, dict(w_proj=zeros(9, 4)), ValueError,
        "w_proj must have shape (P, H) = (9, 9), got (9, 4)",
    ),
    "w_proj-1d": (
        PROJECTED, dict(w_proj=zeros(36)), ValueError,
        "w_proj must have 2 dimensions (P, H), got shape (36,)",
    ),
    "w_proj-empty": (
        PROJECTED, dict(w_proj=zeros(0, 9)), ValueError,
        "w_proj must have shape (P, H) with P >= 1, got (0, 9)",
    ),
    "b-short": (
        CASE, dict(b=zeros(35)), ValueError, "b must have shape (4*H,) = (36,), got (35,)",
    ),
    "b-two": (
        CASE, dict(b=zeros(2, 36)), ValueError, "b must have shape (4*H,) = (36,), got (2, 36)",
    ),
    "h0-shape": (
        CASE, dict(state=(zeros(3, 8), zeros(3, 9))), ValueError,
        "h0 must have shape (B, H) = (3, 9), got (3, 8)",
    ),
    "h0-layers": (
        CASE, dict(state=(zeros(1, 3, 9), zeros(1, 3, 9))), ValueError,
        "h0 must have shape (B, H) = (3, 9), got (1, 3, 9)",
    ),
    "h0-not-projected": (
        PROJECTED, dict(state=(zeros(3, 9), zeros(3, 9))), ValueError,
        "h0 must have shape (B, P) = (3, 4), got (3, 9)",
    ),
    "c0-shape": (
        CASE, dict(state=(zeros(3, 9), zeros(9, 3))), ValueError,
        "c0 must have shape (B, H) = (3, 9), got (9, 3)",
    ),
    "c0-dtype": (
        CASE, dict(state=(zeros(3, 9), zeros(3, 9, dtype=f32))), TypeError,
        "x is float64 but c0 is float32; all arrays must share one dtype",
    ),
    "state-one": (
        CASE, dict(state=(zeros(3, 9),)), TypeError,
        "state must be None or a pair (h0, c0), got tuple",
    ),
    "state-array": (
        CASE, dict(state=zeros(2, 3, 9)), TypeError,
        "state must be None or a pair (h0, c0), got ndarray",
    ),
    "state-number": (
        CASE, dict(state=0), TypeError, "state must be None or a pair (h0, c0), got int",
    ),
    "w_ih-dtype": (
        CASE, dict(w_ih=zeros(36, 5, dtype=f32)), TypeError,
        "x is float64 but w_ih is float32; all arrays must share one dtype",
    ),
    "w_hh-dtype": (
        CASE, dict(w_hh=zeros(36, 9, dtype=f32)), TypeError,
        "x is float64 but w_hh is float32; all arrays must share one dtype",
    ),
    "b-dtype": (
        CASE, dict(b=zeros(36, dtype=f32)), TypeError,
        "x is float64 but b is float32; all arrays must share one dtype",
    ),
    "w_proj-dtype": (
        PROJECTED, dict(w_proj=zeros(4, 9, dtype=f32)), TypeError,
        "x is float64 but w_proj is float32; all arrays must share one dtype",
    ),
    "lengths-shape": (
        CASE, dict(lengths=[7, 7]), ValueError, "lengths must have shape (B,) = (3,), got (2,)",
    ),
    "lengths-scalar": (
        CASE, dict(lengths=7), ValueError, "lengths must have shape (B,) = (3,), got ()",
    ),
    "lengths-float": (
        CASE, dict(lengths=[7.0, 7.0, 7.0]), TypeError, "lengths must be integers, got float64",
    ),
    "lengths-bool": (
        CASE, dict(lengths=[True] * 3), TypeError, "lengths must be integers, got bool",
    ),
    "lengths-negative": (
        CASE, dict(lengths=[7, -1, 7]), ValueError, "lengths[1] must be in [0, T] = [0, 7], got -1",
    ),
    "lengths-too-long": (
        CASE, dict(lengths=[7, 7, 8]), ValueError, "lengths[2] must be in [0, T] = [0, 7], got 8",
    ),
    "lengths-huge": (
        CASE, dict(lengths=np.array([7, 2**64 - 1, 7], np.uint64)), ValueError,
        "lengths[1] must be in [0, T] = [0, 7], got 18446744073709551615",
    ),
    "spec-none": (
        CASE, dict(spec=None), TypeError, "spec must be a fastlstm.Spec, got NoneType",
    ),
    "spec-dict": (CASE, dict(spec={}), TypeError, "spec must be a fastlstm.Spec, got dict"),
    "out-shape": (
        CASE, dict(out=zeros(7, 3, 8)), ValueError,
        "out must have shape (T, B, H) = (7, 3, 9), got (7, 3, 8)",
    ),
    "out-shape-projected": (
        PROJECTED, dict(out=zeros(7, 3, 9)), ValueError,
        "out must have shape (T, B, P) = (7, 3, 4), got (7, 3, 9)",
    ),
    "out-dtype": (
        CASE, dict(out=zeros(7, 3, 9, dtype=f32)), TypeError,
        "x is float64 but out is float32; all arrays must share one dtype",
    ),
    "out-list": (
        CASE, dict(out=[[[0.0]]]), TypeError, "out must be an ndarray, got list",
    ),
    "out-read-only": (
        CASE, dict(out=np.broadcast_to(0.0, (7, 3, 9))), ValueError,
        "out must be writeable, aligned and of native byte order",
    ),
    "out-byte-swapped": (
        CASE, dict(out=zeros(7, 3, 9, dtype=f64.newbyteorder("S"))), TypeError, "out is",
    ),
    "out-overlaps-itself": (
        CASE, dict(out=np.lib.stride_tricks.as_strided(zeros(9), (7, 3, 9), (0, 0, 8))),
        ValueError,
        "out must not overlap itself, got strides (0, 0, 8)",
    ),
}  # fmt: skip


def raised(call, *arguments, **named):
    """The exception that the call raises."""
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as caught:
        call(*arguments, **named)
    return caught.value


@pytest.mark.parametrize("name", FORWARD_ERRORS)
def test_checks_forward_error(implementation, name):
    case, changes, kind, text = FORWARD_ERRORS[name]
    error = raised(implementation.lstm_forward, **make_problem(case).forward() | changes)
    assert type(error) is kind, repr(error)
    assert text in str(error), str(error)
    assert str(error) == str(raised(lstm_forward, **make_problem(case).forward() | changes))


def test_checks_forward_nested_ragged_list(implementation):
    arguments = make_problem(CASE).forward() | dict(x=[[[1.0], [1.0, 2.0]]])
    error = raised(implementation.lstm_forward, **arguments)
    assert isinstance(error, TypeError)
    assert str(error).startswith("x must be an array: ")


@pytest.mark.parametrize("name", ["w_peephole", "w_fgr", "ln_x", "ln_h", "ln_c"])
def test_checks_forward_weight_of_a_variant_not_asked_for(implementation, name):
    arguments = make_problem(CASE).forward() | {name: zeros(3, 9)}
    error = raised(implementation.lstm_forward, **arguments)
    assert isinstance(error, ValueError)
    assert str(error).startswith(f"{name} was given, but spec does not use it: Spec(")


@pytest.mark.parametrize("field", [dict(layer_norm=True), dict(full_gate_recurrence=True)], ids=str)
def test_checks_variant_is_computed_or_refused_by_name(implementation, field):
    """A variant that is not there yet says which field; nothing is ignored in silence."""
    problem = make_problem(CASE)
    with pytest.raises((NotImplementedError, ValueError, TypeError)) as caught:
        implementation.lstm_forward(**problem.forward(), spec=Spec(**field))
    name = next(iter(field))
    assert name in str(caught.value) or "must" in str(caught.value)


@pytest.mark.parametrize("name", ["x", "w_ih", "w_hh", "b", "h0", "c0", "w_proj"])
def test_checks_out_must_not_overlap(implementation, name):
    case = Case(T=1, B=4, I=4, H=4, P=4)
    problem = make_problem(case)
    inputs = vars(problem) | dict(zip(("h0", "c0"), problem.state, strict=True))
    buffer = np.zeros(512)
    place = buffer[: inputs[name].size].reshape(inputs[name].shape)
    place[...] = inputs[name]
    changes = {"state": (place, inputs["c0"])} if name == "h0" else {name: place}
    changes = {"state": (inputs["h0"], place)} if name == "c0" else changes
    out = buffer[:16].reshape(1, 4, 4)
    error = raised(implementation.lstm_forward, **problem.forward() | changes, out=out)
    assert type(error) is ValueError
    assert str(error) == f"out must not overlap {name}, whose memory it shares"


# id: (dy, dstate, exception, text) for the tape of CASE in float64
BACKWARD_ERRORS = {
    "dy-shape": (
        zeros(7, 3, 8), None, ValueError, "dy must have shape (T, B, H) = (7, 3, 9), got (7, 3, 8)",
    ),
    "dy-dtype": (
        zeros(7, 3, 9, dtype=f32), None, TypeError,
        "x is float64 but dy is float32; all arrays must share one dtype",
    ),
    "dy-int": (
        np.zeros((7, 3, 9), int), None, TypeError,
        f"dy must be float32 or float64, got {np.dtype(int)}",
    ),
    "dstate-one": (
        None, (zeros(3, 9),), TypeError,
        "dstate must be None or a pair (dh_n, dc_n), got tuple",
    ),
    "dstate-array": (
        None, zeros(2, 3, 9), TypeError,
        "dstate must be None or a pair (dh_n, dc_n), got ndarray",
    ),
    "dh_n-shape": (
        None, (zeros(9, 3), None), ValueError, "dh_n must have shape (B, H) = (3, 9), got (9, 3)",
    ),
    "dc_n-shape": (
        None, (None, zeros(3)), ValueError, "dc_n must have shape (B, H) = (3, 9), got (3,)",
    ),
    "dc_n-dtype": (
        None, (None, zeros(3, 9, dtype=f32)), TypeError,
        "x is float64 but dc_n is float32; all arrays must share one dtype",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKWARD_ERRORS)
def test_checks_backward_error(implementation, name):
    dy, dstate, kind, text = BACKWARD_ERRORS[name]
    problem = make_problem(CASE)
    *_, tape = implementation.lstm_forward(**problem.forward())
    error = raised(implementation.lstm_backward, tape, dy, dstate)
    assert type(error) is kind, repr(error)
    assert str(error) == text
    backward(implementation, problem, tape)  # the tape was not consumed by the failure


def test_checks_backward_of_a_projection_says_P(implementation):
    *_, tape = implementation.lstm_forward(**make_problem(PROJECTED).forward())
    error = raised(implementation.lstm_backward, tape, zeros(7, 3, 9))
    assert str(error) == "dy must have shape (T, B, P) = (7, 3, 4), got (7, 3, 9)"


@pytest.mark.parametrize("tape", [None, (1, 2), "tape"], ids=["None", "tuple", "str"])
def test_checks_backward_without_a_tape(implementation, tape):
    error = raised(implementation.lstm_backward, tape, zeros(7, 3, 9))
    assert type(error) is TypeError
    expected = "tape must be the Tape that lstm_forward returned (with save=True), got "
    assert str(error) == expected + type(tape).__name__


class WithArray:
    """An object that has ``__array__`` and nothing else."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a if dtype is None else self.a.astype(dtype)


class WithDLPack:
    """An object that has DLPack's protocol and nothing else."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **named):
        return self.a.__dlpack__(**named)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def strided(a):
    """Every second element of each axis of something larger, which holds NaN elsewhere."""
    large = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
    view = large[tuple(slice(1, 2 * n + 1, 2) for n in a.shape)]
    view[...] = a
    return view


def negative(a):
    flip = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[flip])[flip]


def misaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned
    return view


class Subclass(np.ndarray):
    """A subclass whose product is something else."""

    def __matmul__(self, other):
        raise AssertionError("the product of a subclass was called")

    __rmatmul__ = __mul__ = __add__ = __matmul__


KINDS = {
    "read-only": read_only,
    "fortran": np.asfortranarray,
    "transposed-view": lambda a: a.T.copy().T,
    "strided": strided,
    "negative-strides": negative,
    "misaligned": misaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "array-protocol": WithArray,
    "dlpack": WithDLPack,
    "subclass": lambda a: a.view(Subclass),
}
ODD_CASES = [Case(P=4, B=4, lengths=(2, 7, 0, 5)), Case(I=1), Case(B=1, reverse=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ODD_CASES, ids=str)
def test_checks_takes_inputs_that_are(implementation, dtype, case, kind):
    problem = make_problem(case, dtype)
    answer = run(implementation, problem)
    odd = problem.map(KINDS[kind])
    if kind in ("array-protocol", "dlpack"):
        odd.state = tuple(KINDS[kind](a) for a in problem.state)
    results = run(implementation, odd)
    assert {type(a) for a in results.values()} == {np.ndarray}
    assert_matches(results, {n: a.astype(f64) for n, a in answer.items()}, dtype, case)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_checks_takes_0_strides(implementation, dtype, axis):
    problem = make_problem(CASE, dtype)
    problem.x = np.broadcast_to(problem.x.take([0], axis), problem.x.shape)
    problem.dy = np.broadcast_to(problem.dy.take([0], axis), problem.dy.shape)
    problem.b = np.broadcast_to(problem.b[:1], problem.b.shape)
    problem.w_hh = np.broadcast_to(problem.w_hh[:1], problem.w_hh.shape)
    assert 0 in problem.x.strides
    copied = problem.map(np.array)
    results, answer = run(implementation, problem), run(implementation, copied)
    assert_matches(results, {n: a.astype(f64) for n, a in answer.items()}, dtype, CASE)
    assert results["dx"].strides == answer["dx"].strides


def test_checks_takes_a_memory_map(implementation, dtype, tmp_path):
    problem = make_problem(CASE, dtype)
    np.save(tmp_path / "x.npy", problem.x)
    answer = run(implementation, problem)
    problem.x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_identical(run(implementation, problem), answer, CASE)


def test_checks_takes_lists(implementation):
    problem = make_problem(Case(T=2, I=2, H=2))
    y, _, _ = implementation.lstm_forward(**problem.forward())
    listed = problem.map(lambda a: a.tolist()).forward()
    listed["state"] = [a.tolist() for a in problem.state]
    np.testing.assert_array_equal(implementation.lstm_forward(**listed)[0], y)


@pytest.mark.parametrize("kind", ["list", "int8", "uint64", "strided", "read-only"])
def test_checks_takes_lengths_as(implementation, kind):
    problem = make_problem(Case(B=4, lengths=(2, 7, 0, 5)))
    answer = run(implementation, problem)
    lengths = np.array(problem.lengths)
    if kind in ("int8", "uint64"):
        lengths = lengths.astype(kind)
    problem.lengths = {
        "list": lengths.tolist(), "strided": np.repeat(lengths, 3)[::3],
        "read-only": read_only(lengths),
    }.get(kind, lengths)  # fmt: skip
    assert_identical(run(implementation, problem), answer, problem.case)


def test_checks_full_lengths_are_no_lengths(implementation, dtype):
    problem = make_problem(CASE, dtype)
    answer = run(implementation, problem)
    problem.lengths = np.full(3, 7)
    assert_identical(run(implementation, problem), answer, CASE)


def test_checks_lengths_may_change_after_the_forward(implementation):
    problem = make_problem(Case(B=4, lengths=(2, 7, 0, 5)))
    answer = run(implementation, problem)
    lengths = np.array(problem.lengths)
    *_, tape = implementation.lstm_forward(**problem.forward() | dict(lengths=lengths))
    lengths[:] = 7
    results = backward(implementation, problem, tape)
    assert_identical(results, {n: answer[n] for n in results}, problem.case)


@pytest.mark.parametrize("case", [Case(P=4, B=4, lengths=(2, 7, 0, 5)), CASE], ids=str)
def test_checks_inputs_are_never_written(implementation, dtype, case):
    """Not by the forward, not by the backward: nor are dy and dstate."""
    problem = make_problem(case, dtype)
    before = problem.map(np.copy)
    run(implementation, problem)
    for name, value in vars(problem).items():
        kept = getattr(before, name)
        pairs = zip(value, kept, strict=True) if isinstance(value, tuple) else [(value, kept)]
        for a, b in pairs:
            np.testing.assert_array_equal(a, b, err_msg=f"{name} was changed in {case}")


def test_checks_state_and_dstate_may_be_half_given(implementation, dtype):
    problem = make_problem(CASE, dtype)
    h0, c0 = problem.state
    for half, whole in (((h0, None), (h0, 0 * c0)), ((None, c0), (0 * h0, c0))):
        problem.state = problem.dstate = whole
        answer = run(implementation, problem)
        problem.state = problem.dstate = half
        assert_identical(run(implementation, problem), answer, CASE)


OUTS = {
    "contiguous": lambda a: a,
    "fortran": np.asfortranarray,
    "strided": strided,
    "negative-strides": negative,
    "batch-first": lambda a: np.zeros((3, 7, 9), a.dtype).swapaxes(0, 1),
}


@pytest.mark.parametrize("kind", OUTS)
@pytest.mark.parametrize("case", [CASE, Case(lengths=(4, 0, 6), reverse=True)], ids=str)
@pytest.mark.parametrize("save", [True, False], ids=["save", "nosave"])
def test_checks_out_gets_the_result(implementation, dtype, case, kind, save):
    problem = make_problem(case, dtype)
    answer, (h_n, c_n), _ = implementation.lstm_forward(**problem.forward())
    out = OUTS[kind](np.full(answer.shape, np.nan, dtype))
    around = out.base.copy() if kind == "strided" else None
    y, state, tape = implementation.lstm_forward(**problem.forward(), out=out, save=save)
    assert y is out
    named = dict(y=answer, h_n=h_n, c_n=c_n)
    results = dict(y=np.array(y), h_n=state[0], c_n=state[1])
    assert_matches(results, {n: a.astype(f64) for n, a in named.items()}, dtype, case)
    if save:  # out is the caller's: what happens to it later must not reach the tape
        out[...] = np.nan
        results = backward(implementation, problem, tape)
        answer = run(reference, problem)
        assert_matches(results, {n: answer[n].astype(f64) for n in results}, dtype, case)
    if around is not None:
        out[...] = around[1::2, 1::2, 1::2]
        np.testing.assert_array_equal(out.base, around)  # nothing was written between


@pytest.mark.parametrize("case", [Case(T=1), Case(B=1), Case(T=1, B=1), Case(H=1)], ids=str)
def test_checks_out_may_have_an_axis_of_one_with_any_stride(implementation, dtype, case):
    """``buffer[None]`` has stride 0 there, and overlaps nothing."""
    problem = make_problem(case, dtype)
    answer, *_ = implementation.lstm_forward(**problem.forward())
    buffer = np.zeros([n for n in answer.shape if n > 1], dtype)
    out = buffer[tuple(None if n == 1 else slice(None) for n in answer.shape)]
    assert 0 in out.strides
    implementation.lstm_forward(**problem.forward(), out=out)
    np.testing.assert_array_equal(out, answer)


def test_checks_arrays_come_out_aligned_and_native():
    for kind in ("misaligned", "byte-swapped"):
        a = KINDS[kind](np.arange(6.0).reshape(2, 3))
        taken = checks.array("x", a)
        assert taken.flags.aligned
        assert taken.dtype.isnative
        np.testing.assert_array_equal(taken, a)
    a = np.arange(6.0)
    assert checks.array("x", a) is a


def test_checks_out_may_be_beside_an_input(implementation, dtype):
    """Interleaved memory that does not overlap is fine."""
    problem = make_problem(Case(I=9), dtype)
    answer, *_ = implementation.lstm_forward(**problem.forward())
    both = np.zeros((2, *problem.x.shape), dtype)
    both[0] = problem.x
    arguments = problem.forward() | dict(x=both[0], out=both[1])
    y, *_ = implementation.lstm_forward(**arguments)
    np.testing.assert_array_equal(y, answer)


@pytest.mark.parametrize(
    "change", [dict(x=zeros(7, 3, 6)), dict(lengths=[7, 7, 8])], ids=["x", "lengths"]
)
def test_checks_failure_leaves_out_alone(implementation, change):
    out = np.full((7, 3, 9), 5.0)
    raised(implementation.lstm_forward, **make_problem(CASE).forward() | change, out=out)
    assert (out == 5).all()


def test_checks_overflow_is_refused_before_allocation(implementation):
    """Sizes beyond memory are MemoryError or ValueError, at once, and nothing breaks."""
    huge = np.broadcast_to(np.float64(0), (2**22, 2**22, 1))
    with pytest.raises((MemoryError, ValueError)):
        implementation.lstm_forward(huge, zeros(64, 1), zeros(64, 16))
    run(implementation, make_problem(CASE))


def test_checks_texts_have_no_line_breaks():
    for name, (case, changes, *_) in FORWARD_ERRORS.items():
        text = str(raised(lstm_forward, **make_problem(case).forward() | changes))
        assert re.fullmatch(r"[^\n]+", text), name
