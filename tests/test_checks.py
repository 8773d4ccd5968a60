# SPDX-License-Identifier: MIT
"""Errors name the argument, what was expected, what came; inputs of every kind are taken."""

import re

import numpy as np
import pytest
from cases import Case, backward, make_problem, run

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
