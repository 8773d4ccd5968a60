# SPDX-License-Identifier: MIT
"""Time in pieces: resets within a sequence, checkpointed and truncated back-propagation."""

import subprocess
import sys

import numpy as np
import pytest
from cases import Case, make_problem, run
from comparison import assert_identical, assert_matches

import fastlstm as fl
from fastlstm import Spec, backend, reference

RAGGED = (7, 3, 0, 1, 6, 7, 2)
CASES = (
    Case(T=11, B=3),
    Case(T=11, B=3, reverse=True),
    Case(T=7, B=7, I=12, H=20, lengths=RAGGED),
    Case(T=7, B=7, I=3, H=20, lengths=RAGGED, reverse=True),
    Case(T=10, B=4, P=5, H=19),
    Case(T=10, B=4, H=19, spec=Spec(peepholes="ifo", cell_clip=0.8)),
    Case(T=9, B=5, H=17, lengths=(9, 0, 4, 2, 7), spec=Spec(coupled=True, peepholes="io")),
    Case(T=9, B=3, spec=Spec(layer_norm=True, gate=("hard_sigmoid", 0.2, 0.5))),
    Case(T=40, B=14, I=9, H=70),
    Case(T=6, B=3, I=20, H=150),
    Case(T=9, B=1, I=1, H=19),  # pieces of one step, on weights that are not packed
    Case(T=9, B=3, I=4, H=19),
)
cases = pytest.mark.parametrize("case", CASES, ids=str)
SIMD = [name for name in backend.implementations() if name not in ("reference", "none")]


def arguments(case, dtype, reset=False):
    """The problem and its forward arguments, with resets at a third of the steps."""
    problem = make_problem(case, dtype)
    given = problem.forward()
    if reset:
        given["reset"] = np.random.default_rng(1).random((case.T, case.B)) < 0.3
    return problem, given


def gradients(implementation, problem, given, **options):
    """All results by name, the tape aside."""
    given = {k: v for k, v in given.items() if k not in options}
    forward = {k: options.pop(k) for k in ("checkpoint", "rng") if k in options}
    y, (h_n, c_n), tape = implementation.lstm_forward(**given, **forward)
    dx, (dh0, dc0), grads = implementation.lstm_backward(
        tape, problem.dy, problem.dstate, **options
    )
    named = {f"d{name}": d for name, d in grads.items()}
    return dict(y=y, h_n=h_n, c_n=c_n, dx=dx, dh0=dh0, dc0=dc0) | named


def wide(results):
    return {name: a.astype(np.float64) for name, a in results.items()}


# -- reset -------------------------------------------------------------------------------------


@cases
def test_reset_matches_reference(implementation, dtype, case):
    problem, given = arguments(case, dtype, reset=True)
    answer = gradients(reference, *arguments(case, "float64", reset=True))
    assert_matches(gradients(implementation, problem, given), answer, dtype, case)


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("fgr", [False, True], ids=["", "fgr"])
def test_reset_under_a_mask_matches_reference(implementation, dtype, reverse, fgr):
    spec = Spec(full_gate_recurrence=fgr)
    case = Case(T=9, B=6, lengths=(9, 4, 0, 7, 9, 2), reverse=reverse, spec=spec)
    rng = np.random.default_rng(3)
    flags = dict(mask=rng.random((9, 6)) < 0.6, reset=rng.random((9, 6)) < 0.3)
    problem, given = arguments(case, dtype)
    exact, exact_given = arguments(case, "float64")
    answer = gradients(reference, exact, exact_given | flags)
    assert_matches(gradients(implementation, problem, given | flags), answer, dtype, case)


def test_reset_is_a_new_sequence(implementation, dtype):
    """Two episodes of one row are two calls, forward and backward."""
    case = Case(T=9, B=1)
    problem = make_problem(case, dtype)
    given = problem.forward()
    reset = np.zeros((9, 1), bool)
    reset[4] = True
    y, state, tape = implementation.lstm_forward(**given, reset=reset)
    dx, dstart, _ = implementation.lstm_backward(tape, problem.dy, problem.dstate)
    first = given | dict(x=problem.x[:4])
    second = given | dict(x=problem.x[4:], state=None)
    y1, _, tape1 = implementation.lstm_forward(**first)
    y2, end, tape2 = implementation.lstm_forward(**second)
    dx1, dstart1, _ = implementation.lstm_backward(tape1, problem.dy[:4])
    dx2, _, _ = implementation.lstm_backward(tape2, problem.dy[4:], problem.dstate)
    expected = dict(y=np.concatenate([y1, y2]), h_n=end[0], c_n=end[1],
                    dx=np.concatenate([dx1, dx2]), dh0=dstart1[0], dc0=dstart1[1])  # fmt: skip
    results = dict(y=y, h_n=state[0], c_n=state[1], dx=dx, dh0=dstart[0], dc0=dstart[1])
    assert_matches(results, wide(expected), dtype, case)


def test_reset_gradients_are_those_of_differences():
    case = Case(T=5, B=3, H=4, I=2, lengths=(5, 2, 4), spec=Spec(peepholes="ifo"))
    problem, given = arguments(case, "float64", reset=True)
    results = gradients(reference, problem, given)

    def loss():
        y, (h_n, c_n), _ = reference.lstm_forward(**given, save=False)
        return (y * problem.dy).sum() + sum(
            (s * d).sum() for s, d in zip((h_n, c_n), problem.dstate, strict=True)
        )

    h0, c0 = given["state"]
    named = dict(dx=given["x"], dh0=h0, dc0=c0)
    named |= {f"d{name}": given[name] for name in ("w_ih", "w_hh", "b", "w_peephole")}
    for name, a in named.items():
        for index in np.ndindex(a.shape):
            kept, sides = a[index], []
            for step in (1e-5, -1e-5):
                a[index] = kept + step
                sides.append(loss())
            a[index] = kept
            numeric = (sides[0] - sides[1]) / 2e-5
            assert abs(numeric - results[name][index]) <= 1e-6 * max(1, abs(numeric)), name


def test_reset_must_be_flags_of_each_step():
    problem = make_problem(Case())
    with pytest.raises(TypeError, match="reset must be an array of bool, got int64"):
        fl.lstm_forward(**problem.forward(), reset=np.zeros((7, 3), int))
    with pytest.raises(ValueError, match=r"reset must have shape \(T, B\) = \(7, 3\)"):
        fl.lstm_forward(**problem.forward(), reset=np.zeros((3, 7), bool))


# -- checkpoints -------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [True, 1, 4, 100])
@pytest.mark.parametrize("reset", [False, True], ids=["", "reset"])
@cases
def test_checkpoint_gradients_are_those_of_a_tape(implementation, dtype, case, every, reset):
    problem, given = arguments(case, dtype, reset=reset)
    answer = gradients(implementation, problem, given)
    results = gradients(implementation, problem, given, checkpoint=every)
    on_simd = implementation.name in SIMD and not case.spec.layer_norm
    if on_simd and not (reset and "o" in case.spec.peepholes):
        assert_identical(results, answer, f"{case} every {every}")
    else:
        assert_matches(results, wide(answer), dtype, case)


def test_checkpoint_takes_a_state_in_any_order(implementation, dtype):
    """Strides of Fortran are those of a transposed array."""
    case = Case(T=10, B=3, I=8, H=8)
    problem, given = arguments(case, dtype)
    answer = gradients(implementation, problem, given)
    given["state"] = tuple(np.asfortranarray(s) for s in given["state"])
    results = gradients(implementation, problem, given, checkpoint=3)
    assert_matches(results, wide(answer), dtype, case)


STOCHASTIC = Spec(zoneout_h=0.3, zoneout_c=0.2, recurrent_dropout=0.4, weight_drop=0.3)


@pytest.mark.parametrize("options", [dict(checkpoint=3), dict(k1=100)], ids=str)
def test_pieces_have_the_random_masks_of_the_whole(implementation, dtype, options):
    case = Case(T=8, B=4, H=11, lengths=(3, 8, 0, 5), spec=STOCHASTIC)
    problem, given = arguments(case, dtype)
    answer = gradients(implementation, problem, given, rng=np.random.default_rng(5))
    results = gradients(implementation, problem, given, rng=np.random.default_rng(5), **options)
    assert_matches(results, wide(answer), dtype, case)


def test_checkpointed_tape_may_be_used_again_and_shows_no_steps():
    problem, given = arguments(Case(T=11, B=3), "float32")
    _, _, tape = fl.lstm_forward(**given, checkpoint=True)
    first, second = (fl.lstm_backward(tape, problem.dy)[0] for _ in range(2))
    assert np.array_equal(first, second)
    with pytest.raises(RuntimeError, match="checkpoint"):
        _ = tape.gates


@pytest.mark.parametrize(
    "options", [dict(), dict(bidirectional=True), dict(num_layers=3, dropout=0.3)]
)
def test_checkpoint_layers(make_layer, dtype, options):
    rng = np.random.default_rng(0)
    lstm = make_layer(5, 19, dtype=dtype, seed=1, **options)
    x = rng.standard_normal((23, 4, 5)).astype(dtype)
    dy = rng.standard_normal((23, 4, lstm.output_size)).astype(dtype)
    answers = []
    for every in (False, True):
        y, _, tape = lstm.forward(
            x, lengths=[23, 0, 5, 11], rng=np.random.default_rng(2), checkpoint=every
        )
        dx, _, grads = lstm.backward(tape, dy)
        answers.append(dict(y=y, dx=dx, grads=grads.flat))
    assert_matches(answers[1], wide(answers[0]), dtype, Case(T=23, B=4, H=19))


# -- truncated ---------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [(3, 3), (3, 5), (1, 4), (4, 100)], ids=str)
@pytest.mark.parametrize("checkpoint", [False, 4], ids=["tape", "checkpoint"])
@cases
def test_truncated_matches_reference(implementation, dtype, case, k, checkpoint):
    k1, k2 = k
    problem, given = arguments(case, dtype)
    answer = gradients(reference, *arguments(case, "float64"), k1=k1, k2=k2)
    results = gradients(implementation, problem, given, k1=k1, k2=k2, checkpoint=checkpoint)
    assert_matches(results, answer, dtype, case)


@cases
def test_truncated_nowhere_is_the_whole_gradient(implementation, dtype, case):
    problem, given = arguments(case, dtype, reset=True)
    answer = gradients(reference, *arguments(case, "float64", reset=True))
    for k1, k2 in ((case.T, None), (2, case.T)):
        results = gradients(implementation, problem, given, k1=k1, k2=k2)
        assert_matches(results, answer, dtype, case)


def test_truncated_cuts_the_gradient():
    """With k1 = k2 = 1 only the last step has a part in dx[t] of y[t]; of earlier dy nothing."""
    problem, given = arguments(Case(T=6, B=2), "float64")
    dy = np.zeros_like(problem.dy)
    dy[4] = 1
    _, _, tape = fl.lstm_forward(**given)
    dx, (dh0, dc0), _ = fl.lstm_backward(tape, dy, k1=2, k2=3)
    reached = np.abs(dx).sum(axis=(1, 2)) > 0
    assert reached.tolist() == [False, False, False, True, True, False]
    assert not dh0.any() and not dc0.any()


def test_truncated_layers(make_layer, dtype):
    """All layers in one window: the gradient of a stack, not of each layer by itself."""
    rng = np.random.default_rng(0)
    lstm = make_layer(5, 19, num_layers=2, dtype=dtype, seed=1)
    x, dy = (rng.standard_normal((9, 3, n)).astype(dtype) for n in (5, 19))
    _, _, tape = lstm.forward(x)
    dx, _, grads = lstm.backward(tape, dy, k1=3)
    expected, parts, state = 0, [], None
    for t in range(0, 9, 3):
        _, state, tape = lstm.forward(x[t : t + 3], state)
        dx_t, _, part = lstm.backward(tape, dy[t : t + 3])
        parts.append(dx_t)
        expected = expected + part.flat
    answer = dict(dx=np.concatenate(parts), grads=expected)
    assert_matches(dict(dx=dx, grads=grads.flat), wide(answer), dtype, Case(T=9, H=19))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(k1=0), "k1 must be at least 1, got 0"),
        (dict(k1=3, k2=2), "k2 must be at least 3, got 2"),
        (dict(k2=3), "k2 needs k1"),
        (dict(k1=3, step_norms=True), "step_norms"),
    ],
)
def test_truncated_refuses(options, text):
    problem, given = arguments(Case(), "float32")
    _, _, tape = fl.lstm_forward(**given)
    with pytest.raises(ValueError, match=text):
        fl.lstm_backward(tape, problem.dy, **options)


def test_pieces_refuse_gates_that_are_state():
    case = Case(spec=Spec(full_gate_recurrence=True))
    problem, given = arguments(case, "float32")
    with pytest.raises(ValueError, match="full_gate_recurrence"):
        fl.lstm_forward(**given, checkpoint=True)
    _, _, tape = fl.lstm_forward(**given)
    with pytest.raises(ValueError, match="full_gate_recurrence"):
        fl.lstm_backward(tape, problem.dy, k1=3)


def test_run_covers_tapes_of_resets(implementation):
    """What `cases.run` sees of a tape: states before each step, zeros where they were reset."""
    problem = make_problem(Case(T=5, B=2), "float64")
    reset = np.zeros((5, 2), bool)
    reset[2, 1] = True
    _, _, tape = implementation.lstm_forward(**problem.forward(), reset=reset)
    assert not tape.h[2, 1].any() and not tape.c[2, 1].any()
    assert tape.h[2, 0].all()
    assert run(implementation, problem)["y"].shape == (5, 2, 9)


LONG = """
import resource, sys
import numpy as np
import fastlstm as fl

T, H = 100_000, 128
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lstm = fl.LSTM(1, H, seed=0)
x = np.random.default_rng(0).standard_normal((T, 1, 1), dtype=np.float32)
y, _, tape = lstm.forward(x, checkpoint=True)
dx, _, grads = lstm.backward(tape, y)
assert np.isfinite(grads.flat).all() and dx.shape == x.shape
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_checkpoint_long_sequence_trains_in_little_memory():
    """x, y and what backward makes of them are 51 MB each; a tape would be 310 MB more."""
    run = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    assert int(run.stdout) * 1024 < 200e6


def test_layers_reset_rows(make_layer, dtype):
    lstm = make_layer(3, 7, num_layers=2, batch_first=True, dtype=dtype, seed=0)
    x = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(dtype)
    reset = np.zeros((2, 6), bool)
    reset[:, 3] = True
    y, state = lstm(x, reset=reset)
    alone, end = lstm(x[:, 3:])
    assert_matches(
        dict(y=y[:, 3:], h=state[0], c=state[1]), wide(dict(y=alone, h=end[0], c=end[1])),
        dtype, Case(T=6, B=2, H=7),
    )  # fmt: skip
