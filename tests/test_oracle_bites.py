# SPDX-License-Identifier: MIT
"""Wrong kernels are caught by the comparison that all tests use.

A wrong kernel is the reference with one line changed, so each is a fault that a real
implementation can have; several of them were published and passed their own tests.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from cases import Case, expected, make_problem, run
from comparison import assert_identical, assert_matches

from fastlstm import Spec, reference, reference_step

CASE = Case(B=4, lengths=(2, 7, 0, 5))
REVERSE = replace(CASE, reverse=True)
PROJECTED = replace(CASE, P=4)
PEEPHOLES = replace(CASE, spec=Spec(peepholes="ifo", cell_clip=0.6))
COUPLED = replace(CASE, spec=Spec(coupled=True, clip=0.9))
NORM = replace(CASE, spec=Spec(layer_norm=True, coupled=True))
RECURRENT = replace(CASE, spec=Spec(full_gate_recurrence=True))
ZONEOUT = replace(CASE, spec=Spec(zoneout_h=0.3, zoneout_c=0.4))
DROPPED = replace(CASE, spec=Spec(recurrent_dropout=0.4, weight_drop=0.3))
RECURRENT_REVERSE = replace(RECURRENT, reverse=True)

# name: (line of the reference, what the wrong kernel has instead, case, a tensor that is wrong)
FAULTS = {
    "forward: h0 and c0 swapped": ("= q.h0, q.c0", "= q.c0, q.h0", CASE, "y"),
    "forward: h0 ignored": ("= q.h0, q.c0", "= 0, q.c0", CASE, "y"),
    "forward: c0 ignored": ("= q.h0, q.c0", "= q.h0, 0", CASE, "y"),
    "forward: gates i f swapped": ("a_i, a_f, a_g, a_o = ", "a_f, a_i, a_g, a_o = ", CASE, "y"),
    "forward: gates g o swapped": ("a_i, a_f, a_g, a_o = ", "a_i, a_f, a_o, a_g = ", CASE, "y"),
    "forward: gates f o swapped": ("a_i, a_f, a_g, a_o = ", "a_i, a_o, a_g, a_f = ", CASE, "y"),
    "forward: bias dropped": ("(0 if q.b is None else q.b)", "0", CASE, "y"),
    "forward: recurrence dropped": (
        "(h_prev * masks.get(\"h\", 1)) @ w_hh_of(q).T", "0 * (x @ q.w_ih.T)", CASE, "y",
    ),
    "forward: tanh(c) missing": ("m = o * output(", "m = o * (", CASE, "y"),
    "forward: t=0 skipped": (
        "reversed(range(T)) if q.reverse else range(T):\n        on = t < n  # (B,) the",
        "range(1, T):\n        on = t < n  # (B,) the", CASE, "y",
    ),
    "forward: last step skipped": (
        "else range(T):\n        on = t < n  # (B,)",
        "else range(T - 1):\n        on = t < n  # (B,)", CASE, "y",
    ),
    "forward: lengths ignored": (
        "on = t < n  # (B,)", "on = t < n + T  # (B,)", CASE, "y",
    ),
    "forward: padded y is the last h": (
        "q.y[t, on] = h[after, on]", "h[after, ~on] = h[before, ~on]; q.y[t] = h[after]", CASE, "y",
    ),
    "forward: one step too long": ("on = t < n  # (B,)", "on = t <= n  # (B,)", CASE, "y"),
    "forward: h_n from the last slot": (
        "h[last, np.arange(B)], c[last", "h[T * (1 - q.reverse)], c[last", CASE, "h_n",
    ),
    "forward: reverse not aligned": (
        "q.y[t, on] = h[after, on]",
        "q.y[T - 1 - t if q.reverse else t, on] = h[after, on]", REVERSE, "y",
    ),
    "forward: reverse starts at T": (
        "(n, 0 * n) if", "(0 * n + T, 0 * n) if", REVERSE, "y",
    ),
    "forward: reverse ignored": (
        "reversed(range(T)) if q.reverse else range(T):\n        on = t < n  # (B,)",
        "range(T):\n        q.reverse = False\n        on = t < n  # (B,)", REVERSE, "y",
    ),
    "forward: only row 0 of the batch": (
        "on = t < n  # (B,)", "on = (t < n) & (np.arange(B) == 0)  # (B,)", Case(), "y",
    ),
    "forward: projection left out of y": (
        "q.y[t, on] = h[after, on]", "q.y[t, on] = m[t, on][:, : q.P]", PROJECTED, "y",
    ),
    "backward: t=0 skipped": (
        "dh, dc, grads, range(q.T))", "dh, dc, grads, range(1, q.T))", CASE, "dx",
    ),
    "backward: h[t] for h[t-1] in dw_hh": (
        "da_h.T @ (h[before, on]", "da_h.T @ (h[t + 1, on]", CASE, "dw_hh",
    ),
    "backward: c[t] for c[t-1] in df": (
        "dc * c_prev, dc", "dc * c, dc", CASE, "dw_ih",
    ),
    "backward: dh_n missing": (
        "gates = tape.consume(keep)", "dh[:] = 0\n        gates = tape.consume(keep)", CASE, "dh0",
    ),
    "backward: dc_n missing": (
        "gates = tape.consume(keep)", "dc[:] = 0\n        gates = tape.consume(keep)", CASE, "dc0",
    ),
    "backward: dh_n and dc_n swapped": (
        "gates = tape.consume(keep)", "dh, dc = dc, dh\n        gates = tape.consume(keep)",
        CASE, "dx",
    ),
    "backward: dstate lost in rows that end early": (
        "dh_t = dh[on] if dy", "dh[~on], dc[~on] = 0, 0\n        dh_t = dh[on] if dy", CASE, "dx",
    ),
    "backward: dy only at the last step": (
        "else dh[on] + dy[t, on]", "else dh[on] + dy[t, on] * (t == q.T - 1)", CASE, "dx",
    ),
    "backward: dy added twice": (
        "else dh[on] + dy[t, on]", "else dh[on] + 2 * dy[t, on]", CASE, "dx",
    ),
    "backward: dh not carried": ("dh[on] = (da_h @ w_hh)", "dh[on] = 0", CASE, "dx"),
    "backward: dc not carried": ("dc_prev = dc * f", "dc_prev = 0 * f", CASE, "dx"),
    "backward: o missing in dc": ("d_output(s_c, dm * o)", "d_output(s_c, dm)", CASE, "dx"),
    "backward: 1 - tanh(c)**2 missing": ("d_output(s_c, dm * o)", "dm * o", CASE, "dx"),
    "backward: derivative of g": ("d_candidate(g, dg)", "d_gate(g, dg)", CASE, "dx"),
    "backward: derivatives of i f swapped": (
        "di, df, dg = dc * g", "df, di, dg = dc * g", CASE, "db",
    ),
    "backward: lengths ignored": (
        "on = t < n  # a row", "on = t < n + q.T  # a row", CASE, "dw_ih",
    ),
    "backward: dw of the last step only": (
        "grads[\"w_ih\"] += da_x.T", "grads[\"w_ih\"] = da_x.T", CASE, "dw_ih",
    ),
    "backward: db without a row": (
        "grads[\"b\"] += da.sum(axis=0)", "grads[\"b\"] += da[1:].sum(axis=0)", CASE, "db",
    ),
    "backward: all weights' gradients zero": (
        "else (dx, (dh, dc), grads)", "else (dx, (dh, dc), {n: 0 * a for n, a in grads.items()})",
        CASE, "dw_ih",
    ),
    "backward: weights' gradients start from the weights": (
        "{name: np.zeros(w.shape, w.dtype)", "{name: w.copy()", CASE, "dw_ih",
    ),
    "backward: projection not inverted": (
        "dh_new @ q.w_proj", "np.pad(dh_new, ((0, 0), (0, q.H - q.P)))", PROJECTED, "dx",
    ),
    "backward: dw_proj without the last step's output gate": (
        "dh_new.T @ m[t, on]", "dh_new.T @ np.tanh(c[t + 1, on])", PROJECTED, "dw_proj",
    ),
    "backward: reverse runs forward": (
        "sorted(steps, reverse=not q.reverse)", "sorted(steps, reverse=True)", REVERSE, "dx",
    ),
    "backward: reverse takes h[t-1] from the wrong side": (
        "da_h.T @ (h[before, on]", "da_h.T @ (h[t, on]", REVERSE, "dw_hh",
    ),
    "variant: o sees c[t-1]": (
        '_peephole(q, "o") * c if', '_peephole(q, "o") * c_prev if', PEEPHOLES, "y",
    ),
    "variant: the peephole of f is wrong": (
        "f = 1 - i if s.coupled", "f = gate(a_f + 0.01 * c_prev) if s.peepholes", PEEPHOLES, "y",
    ),
    "variant: the peephole of o gives c no gradient": (
        'dc = dc + _peephole(q, "o") * da_o', "pass", PEEPHOLES, "dx",
    ),
    "variant: the peepholes of i f give c[t-1] no gradient": (
        "dc_prev = dc_prev + _peephole(q, name) * da", "pass", PEEPHOLES, "dc0",
    ),
    "variant: gradient of the peepholes from c[t]": (
        "(da * c_prev).sum(axis=0)", "(da * c).sum(axis=0)", PEEPHOLES, "dw_peephole",
    ),
    "variant: gradient through the clip of c": (
        "np.abs(c) >= s.cell_clip, 0, dc", "np.abs(c) >= s.cell_clip, dc, dc", PEEPHOLES, "dx",
    ),
    "variant: gradient through the clip": (
        '"clipped"][:, k], 0, da)', '"clipped"][:, k], da, da)', COUPLED, "dx",
    ),
    "variant: coupled without its share of i": (
        "di - df if s.coupled", "di if s.coupled", COUPLED, "dx",
    ),
    "variant: coupled the other way round": (
        "f = 1 - i if s.coupled", "i = 1 - f if s.coupled", COUPLED, "y",
    ),
    "variant: normalised c carried": (
        "    m = o * output(", "    c = _norm(c)[0] if s.layer_norm else c\n    m = o * output(",
        NORM, "c_n",
    ),
    "variant: ignored rows normalised": (
        "return np.repeat(q.spec.live, q.H)", "return np.full(4 * q.H, True)", NORM, "y",
    ),
    "variant: layer norm's gradient without its means": (
        "(dhat - mean[0] - hat * mean[1])", "(dhat - mean[0])", NORM, "dx",
    ),
    "variant: gates of t for gates of t-1": (
        "t, -1) if q.reverse else range(t)", "t, -1) if q.reverse else range(t + 1)",
        RECURRENT, "y",
    ),
    "variant: gates from the wrong side": (
        "range(q.T - 1, t, -1) if q.reverse else range(t)", "range(t)", RECURRENT_REVERSE, "y",
    ),
    "variant: no gradient to the gates before": (
        "(da_ifo @ q.w_fgr).reshape(-1, 3, q.H)", "0", RECURRENT, "dx",
    ),
    "variant: h made of the cell after its zoneout": (
        "i * (g * masks.get(\"candidate\", 1)), s.cell_clip)\n",
        "i * g, s.cell_clip)\n    c = _zone(s.zoneout_c, masks[\"zoneout_c\"], c, c_prev)\n",
        ZONEOUT, "y",
    ),
    "variant: zoneout the other way round": (
        "keep * new + (1 - keep) * old", "keep * old + (1 - keep) * new", ZONEOUT, "y",
    ),
    "variant: no gradient past the step": ("masks.get(\"h\", 1) + dh_old", "1", ZONEOUT, "dx"),
    "variant: dropout of h without its gradient": (
        "(da_h @ w_hh) * masks.get(\"h\", 1)", "(da_h @ w_hh)", DROPPED, "dh0",
    ),
    "variant: dw_hh of what was dropped": (
        "grads[\"w_hh\"] *= q.masks.get(\"weight_drop\", 1)", "pass", DROPPED, "dw_hh",
    ),
    "variant: dh of the weights that were not dropped": (
        "masks, w_hh = masks_at(q, t, on), w_hh_of(q)", "masks, w_hh = masks_at(q, t, on), q.w_hh",
        DROPPED, "dx",
    ),
    "variant: masks of the first step in all": (
        "masks[name][t, on]", "masks[name][0, on]", ZONEOUT, "y",
    ),
    "variant: weights of the gates transposed": (
        "@ q.w_fgr.T)", "@ q.w_fgr)", RECURRENT, "y",
    ),
}  # fmt: skip
# The loops, then the single step: one namespace, in which the later stands
SOURCES = [Path(m.__file__).read_text(encoding="utf-8") for m in (reference, reference_step)]


@cache
def wrong_kernel(old, new):
    """The reference with ``new`` for ``old``."""
    n = sum(source.count(old) for source in SOURCES)
    assert n == 1, f"the reference has {n} times {old!r}"
    module = ModuleType("fastlstm.wrong")
    module.__package__ = "fastlstm"
    for source in SOURCES:
        exec(compile(source.replace(old, new), "wrong_kernel", "exec"), vars(module))
    return module


@pytest.mark.parametrize("name", FAULTS)
def test_oracle_catches(name, dtype):
    old, new, case, tensor = FAULTS[name]
    wrong = run(wrong_kernel(old, new), make_problem(case, dtype))
    with pytest.raises(AssertionError) as caught:
        assert_matches(wrong, expected(case), dtype, case)
    message = str(caught.value)
    assert f"\n{tensor}: " in message, message
    assert str(case) in message
    assert str(dtype) in message


AT = (0, 1, 2)  # within the length of its row

# What a right answer is turned into, and what the message has to say.
RUINS = {
    "all zeros": (lambda a: 0 * a, "largest error"),
    "doubled": (lambda a: 2 * a, "largest error"),
    "constant": (lambda a: np.full_like(a, 0.1), "exactly 0"),
    "one element off": (lambda a: put(a, a[AT] + 1e-3 * np.abs(a).max()), "at (0, 1, 2)"),
    "one element nan": (lambda a: put(a, np.nan), "finite"),
    "one element inf": (lambda a: put(a, np.inf), "finite"),
    "rows exchanged": (lambda a: a[:, [0, 3, 2, 1]], "exactly 0"),
    "steps exchanged": (lambda a: a[::-1], "exactly 0"),
    "half precision": (lambda a: a.astype(np.float16).astype(a.dtype), "largest error"),
    "transposed": (lambda a: a.swapaxes(0, 1), "expected shape"),
    "a step short": (lambda a: a[:-1], "expected shape"),
    "broadcast": (lambda a: a[:1, :1, :1], "expected shape"),
    "float16": (lambda a: a.astype(np.float16), "expected dtype"),
    "big-endian": (lambda a: a.astype(a.dtype.newbyteorder(">")), "expected dtype"),
    "a list": (lambda a: a.tolist(), "expected an ndarray"),
    "nothing": (lambda a: None, "expected an ndarray"),
    "tiny numbers in the padding": (lambda a: np.where(a, a, a.dtype.type(1e-30)), "exactly 0"),
}


def put(a, value):
    """A copy of ``a`` with one element changed."""
    a = a.copy()
    a[AT] = value
    return a


@pytest.mark.parametrize("name", RUINS)
@pytest.mark.parametrize("tensor", ["y", "dx"])
def test_oracle_catches_a_result_that_is(name, tensor, dtype):
    ruin, says = RUINS[name]
    results = run(reference, make_problem(CASE, dtype))
    assert_matches(results, expected(CASE), dtype, CASE)
    with pytest.raises(AssertionError) as caught:
        assert_matches(results | {tensor: ruin(results[tensor])}, expected(CASE), dtype, CASE)
    line = next(line for line in str(caught.value).split("\n") if line.startswith(f"{tensor}: "))
    assert says in line


@pytest.mark.parametrize("change", ["missing", "superfluous"])
def test_oracle_catches_names(change):
    results = run(reference, make_problem(CASE))
    if change == "missing":
        del results["dh0"]
    else:
        results["dw_proj"] = np.zeros(3)
    with pytest.raises(AssertionError, match=r"dh0|dw_proj"):
        assert_matches(results, expected(CASE), np.float64, CASE)


def test_oracle_catches_float32_inside_float64():
    """A kernel that loses precision is wrong, not just less good."""
    problem = make_problem(CASE)
    narrow = run(reference, problem.astype(np.float32))
    wide = {name: a.astype(np.float64) for name, a in narrow.items()}
    with pytest.raises(AssertionError, match=r"\ny: largest error .* are wrong"):
        assert_matches(wide, expected(CASE), np.float64, CASE)


def test_oracle_catches_one_bit_where_bits_count():
    results = run(reference, make_problem(CASE))
    other = results | {"dx": put(results["dx"], np.nextafter(results["dx"][AT], 9))}
    assert_identical(results, dict(results), CASE)
    with pytest.raises(AssertionError, match="dx of case"):
        assert_identical(results, other, CASE)


@pytest.mark.parametrize("case", [CASE, REVERSE, PROJECTED], ids=str)
def test_oracle_accepts_what_is_right(case, dtype):
    right = SimpleNamespace(
        lstm_forward=reference.lstm_forward, lstm_backward=reference.lstm_backward
    )
    assert_matches(run(right, make_problem(case, dtype)), expected(case), dtype, case)
