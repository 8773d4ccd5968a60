# SPDX-License-Identifier: MIT
"""The same bits: for any number of threads, and on SIMD for any batch and chunk around a row."""

from dataclasses import replace

import numpy as np
import pytest
from cases import CASES, LARGE_CASES, Case, make_problem, run
from comparison import assert_identical, assert_matches
from stacks import Stack, make_stack_problem, run_layer

from fastlstm import backend

ISAS = [name for name in backend.implementations() if name not in ("reference", "none")]
BATCHES = (
    Case(B=13, I=3, H=20), Case(B=13, I=12, H=20), Case(B=9, I=12, H=70, T=12),
    Case(B=7, I=12, H=20, lengths=(7, 3, 0, 1, 6, 7, 2)),
    Case(B=7, I=3, H=20, lengths=(7, 3, 0, 1, 6, 7, 2), reverse=True),
    Case(T=40, B=33, I=9, H=70), Case(T=5, B=4, I=20, H=150),
    Case(T=40, B=5, I=9, H=200),  # three chunks of time
    Case(T=3, B=26, I=300, H=270), Case(T=4, B=27, I=20, H=40),  # x is multiplied in the steps
    Case(B=9, I=12, H=70, P=37), Case(B=7, I=3, H=20, P=9, lengths=(7, 3, 0, 1, 6, 7, 2)),
)  # fmt: skip
batches = pytest.mark.parametrize("case", BATCHES, ids=str)


@pytest.fixture(params=ISAS)
def simd(request):
    """The implementations that promise the same bits."""
    return backend.implementations()[request.param]


@pytest.mark.parametrize("case", LARGE_CASES + CASES[:9], ids=str)
def test_determinism_any_number_of_threads(simd, dtype, threads, case):
    problem = make_problem(case, dtype)
    threads(1)
    answer = run(simd, problem)
    for n in (2, 3, 7):
        threads(n)
        assert_identical(run(simd, problem), answer, f"{case} with {n} threads")


@pytest.mark.parametrize(
    "stack",
    [
        Stack(T=12, B=14, I=9, H=40, L=2, bidirectional=True),
        Stack(T=60, B=2, I=16, H=33, L=2, bidirectional=True),  # the directions side by side
        Stack(T=60, B=3, I=9, H=40, P=11, bidirectional=True),
        Stack(T=60, B=3, I=9, H=40, bidirectional=True, lengths=(60, 0, 17)),
    ],
    ids=str,
)
def test_determinism_layers_with_any_number_of_threads(make_layer, dtype, threads, stack):
    problem = make_stack_problem(stack, dtype)
    threads(1)
    answer = run_layer(make_layer, problem)
    for n in (2, 5):
        threads(n)
        assert_identical(run_layer(make_layer, problem), answer, f"{stack} with {n} threads")


@pytest.mark.parametrize("T", [1, 2, 3])
@pytest.mark.parametrize("B", [1, 2])
def test_determinism_a_call_does_not_depend_on_the_one_before(make_layer, dtype, T, B):
    """It begins with the panels that the last one ended with."""
    lstm = make_layer(9, 150, seed=0, dtype=dtype)
    x = np.random.default_rng(1).standard_normal((T, B, 9)).astype(dtype)
    for _ in range(2):
        first, second = lstm(x), lstm(x)
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
        lstm.parameters()  # from now on a step reads the weights as they are


@batches
def test_determinism_a_row_does_not_depend_on_its_batch(simd, dtype, case):
    problem = make_problem(case, dtype)
    whole, (h_n, c_n), _ = simd.lstm_forward(**problem.forward())
    for rows in ([0], [case.B - 1], [1, 2], [3, 0, 2], range(case.B - 1)):
        rows = list(rows)
        arguments = problem.forward() | dict(
            x=problem.x[:, rows], state=tuple(a[rows] for a in problem.state),
            lengths=case.lengths and [case.lengths[r] for r in rows],
        )  # fmt: skip
        y, (h, c), _ = simd.lstm_forward(**arguments)
        some = dict(y=whole[:, rows], h_n=h_n[rows], c_n=c_n[rows])
        assert_identical(dict(y=y, h_n=h, c_n=c), some, f"{case} rows {rows}")


@pytest.mark.parametrize("I", [1, 3, 4, 8])
def test_determinism_gradients_of_a_row_in_one_step(simd, dtype, I):
    """Of more rows the weights are packed."""
    problem = make_problem(Case(T=1, B=9, I=I, H=33), dtype)
    whole = run(simd, problem)
    for rows in ([0], [3, 5], [8, 1, 2]):
        state = tuple(a[rows] for a in problem.state)
        _, _, tape = simd.lstm_forward(
            **problem.forward() | dict(x=problem.x[:, rows], state=state)
        )
        dend = tuple(a[rows] for a in problem.dstate)
        dx, (dh0, dc0), _ = simd.lstm_backward(tape, problem.dy[:, rows], dend)
        some = dict(dx=whole["dx"][:, rows], dh0=whole["dh0"][rows], dc0=whole["dc0"][rows])
        assert_identical(dict(dx=dx, dh0=dh0, dc0=dc0), some, f"I = {I}, rows {rows}")


@batches
def test_determinism_saving_a_tape_does_not_matter(simd, dtype, case):
    problem = make_problem(case, dtype)
    y, (h_n, c_n), _ = simd.lstm_forward(**problem.forward())
    other, (h, c), _ = simd.lstm_forward(**problem.forward(), save=False)
    assert_identical(dict(y=other, h_n=h, c_n=c), dict(y=y, h_n=h_n, c_n=c_n), case)


@batches
def test_determinism_time_may_be_cut_anywhere(simd, dtype, case):
    """A step alone, in a short sequence, in a long one: the same sum in the same order."""
    if case.lengths or case.reverse:
        case = replace(case, lengths=None, reverse=False)
    problem = make_problem(case, dtype)
    whole, (h_n, c_n), _ = simd.lstm_forward(**problem.forward())
    for cuts in ([1], [3, 4], range(1, case.T)):
        state, parts = problem.state, []
        for x in np.split(problem.x, list(cuts)):
            arguments = problem.forward() | dict(x=x, state=state)
            y, state, _ = simd.lstm_forward(**arguments, save=False)
            parts.append(y)
        results = dict(y=np.concatenate(parts), h_n=state[0], c_n=state[1])
        assert_identical(results, dict(y=whole, h_n=h_n, c_n=c_n), f"{case} cut at {list(cuts)}")


def test_determinism_isas_agree(dtype):
    """Not in their bits, but as closely as each agrees with the reference."""
    every = backend.implementations()
    for case in (Case(H=33, I=17), Case(P=4, B=4, lengths=(2, 7, 0, 5), reverse=True)):
        problem = make_problem(case, dtype)
        answer = run(every["none"], problem)
        wide = {name: a.astype(np.float64) for name, a in answer.items()}
        for name in ISAS:
            assert_matches(run(every[name], problem), wide, dtype, case)
