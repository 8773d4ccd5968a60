# SPDX-License-Identifier: MIT
"""Arrays of every kind are taken, none is written to, and out= gets the result."""

import numpy as np
import pytest
from cases import Case, backward, make_problem, run
from comparison import assert_identical, assert_matches
from memory import Subclass, WithArray, WithDLPack

from fastlstm import checks, reference

CASE = Case()  # T7 B3 I5 H9
f64 = np.dtype("float64")


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
def test_inputs_takes_inputs_that_are(implementation, dtype, case, kind):
    problem = make_problem(case, dtype)
    answer = run(implementation, problem)
    odd = problem.map(KINDS[kind])
    if kind in ("array-protocol", "dlpack"):
        odd.state = tuple(KINDS[kind](a) for a in problem.state)
    results = run(implementation, odd)
    assert {type(a) for a in results.values()} == {np.ndarray}
    assert_matches(results, {n: a.astype(f64) for n, a in answer.items()}, dtype, case)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_inputs_takes_0_strides(implementation, dtype, axis):
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


def test_inputs_takes_a_memory_map(implementation, dtype, tmp_path):
    problem = make_problem(CASE, dtype)
    np.save(tmp_path / "x.npy", problem.x)
    answer = run(implementation, problem)
    problem.x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_identical(run(implementation, problem), answer, CASE)


def test_inputs_takes_lists(implementation):
    problem = make_problem(Case(T=2, I=2, H=2))
    y, _, _ = implementation.lstm_forward(**problem.forward())
    listed = problem.map(lambda a: a.tolist()).forward()
    listed["state"] = [a.tolist() for a in problem.state]
    np.testing.assert_array_equal(implementation.lstm_forward(**listed)[0], y)


@pytest.mark.parametrize("kind", ["list", "int8", "uint64", "strided", "read-only"])
def test_inputs_takes_lengths_as(implementation, kind):
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


def test_inputs_full_lengths_are_no_lengths(implementation, dtype):
    problem = make_problem(CASE, dtype)
    answer = run(implementation, problem)
    problem.lengths = np.full(3, 7)
    assert_identical(run(implementation, problem), answer, CASE)


def test_inputs_lengths_may_change_after_the_forward(implementation):
    problem = make_problem(Case(B=4, lengths=(2, 7, 0, 5)))
    answer = run(implementation, problem)
    lengths = np.array(problem.lengths)
    *_, tape = implementation.lstm_forward(**problem.forward() | dict(lengths=lengths))
    lengths[:] = 7
    results = backward(implementation, problem, tape)
    assert_identical(results, {n: answer[n] for n in results}, problem.case)


@pytest.mark.parametrize("case", [Case(P=4, B=4, lengths=(2, 7, 0, 5)), CASE], ids=str)
def test_inputs_inputs_are_never_written(implementation, dtype, case):
    """Not by the forward, not by the backward: nor are dy and dstate."""
    problem = make_problem(case, dtype)
    before = problem.map(np.copy)
    run(implementation, problem)
    for name, value in vars(problem).items():
        kept = getattr(before, name)
        pairs = zip(value, kept, strict=True) if isinstance(value, tuple) else [(value, kept)]
        for a, b in pairs:
            np.testing.assert_array_equal(a, b, err_msg=f"{name} was changed in {case}")


def test_inputs_state_and_dstate_may_be_half_given(implementation, dtype):
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
def test_inputs_out_gets_the_result(implementation, dtype, case, kind, save):
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
def test_inputs_out_may_have_an_axis_of_one_with_any_stride(implementation, dtype, case):
    """``buffer[None]`` has stride 0 there, and overlaps nothing."""
    problem = make_problem(case, dtype)
    answer, *_ = implementation.lstm_forward(**problem.forward())
    buffer = np.zeros([n for n in answer.shape if n > 1], dtype)
    out = buffer[tuple(None if n == 1 else slice(None) for n in answer.shape)]
    assert 0 in out.strides
    implementation.lstm_forward(**problem.forward(), out=out)
    np.testing.assert_array_equal(out, answer)


def test_inputs_arrays_come_out_aligned_and_native():
    for kind in ("misaligned", "byte-swapped"):
        a = KINDS[kind](np.arange(6.0).reshape(2, 3))
        taken = checks.array("x", a)
        assert taken.flags.aligned
        assert taken.dtype.isnative
        np.testing.assert_array_equal(taken, a)
    a = np.arange(6.0)
    assert checks.array("x", a) is a


def test_inputs_out_may_be_beside_an_input(implementation, dtype):
    """Interleaved memory that does not overlap is fine."""
    problem = make_problem(Case(I=9), dtype)
    answer, *_ = implementation.lstm_forward(**problem.forward())
    both = np.zeros((2, *problem.x.shape), dtype)
    both[0] = problem.x
    arguments = problem.forward() | dict(x=both[0], out=both[1])
    y, *_ = implementation.lstm_forward(**arguments)
    np.testing.assert_array_equal(y, answer)
