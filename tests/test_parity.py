# SPDX-License-Identifier: MIT
"""The same numbers as PyTorch and ONNX Runtime: golden vectors always, live where installed.

Golden vectors are what PyTorch 2.13 computed for random weights (data/make_golden.py). They are
compared with the layer, and with the cells put together by hand, so that neither can hide behind
the other.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from comparison import assert_matches, tolerance
from stacks import STACKS, Stack, StackProblem, compose, make_stack_problem, run_layer

GOLDEN = sorted((Path(__file__).parent / "data").glob("torch_*.npz"))


@cache
def read(path):
    """The problem in float32 and PyTorch's results by dtype, from a golden file."""
    with np.load(path) as file:
        arrays = dict(file)
    stack = json.loads(str(arrays["stack"]))
    stack["lengths"] = stack["lengths"] and tuple(stack["lengths"])

    def part(head):
        return {n.removeprefix(head): a for n, a in arrays.items() if n.startswith(head)}

    inputs = part("input/")
    problem = StackProblem(
        stack=Stack(**stack), dtype=np.dtype("float32"), x=inputs["x"], weights=part("weight/"),
        state=(inputs["h0"], inputs["c0"]) if "h0" in inputs else None,
        dy=inputs["dy"], dstate=(inputs["dh_n"], inputs["dc_n"]),
    )  # fmt: skip
    return problem, {dtype: part(f"{dtype}/") for dtype in ("float32", "float64")}


golden = pytest.mark.parametrize("path", GOLDEN, ids=[p.stem for p in GOLDEN])


def limits(dtype, stack):
    """PyTorch's own rounding errors come on top of ours; a layer carries on those below it."""
    return 2 * stack.L * tolerance(dtype, stack)


def as_in(results, names):
    """Those of ``results`` that PyTorch has too: it has no dh0, dc0 where it was given no state."""
    assert results.keys() - names <= {"dh0", "dc0"}
    return {name: a for name, a in results.items() if name in names}


def test_parity_there_are_golden_vectors():
    assert len(GOLDEN) == len(STACKS)
    assert sum(path.stat().st_size for path in GOLDEN) < 1_000_000


@golden
def test_parity_golden_numbers_are_random(path):
    """Constant or zero weights, states and gradients would hide what is swapped."""
    problem, answers = read(path)
    named = problem.weights | dict(x=problem.x, dy=problem.dy, dh_n=problem.dstate[0])
    for name, a in named.items():
        assert np.unique(a).size == a.size, f"{name} of {path.stem}"
    for name, a in answers["float64"].items():
        assert a.any(), f"{name} of {path.stem}"


@golden
def test_parity_golden_float32_and_float64_agree(path):
    problem, answers = read(path)
    limit = limits(np.float32, problem.stack)
    assert_matches(answers["float32"], answers["float64"], "float32", problem.stack, limit)


@golden
def test_parity_golden_cells(implementation, dtype, path):
    problem, answers = read(path)
    answer = answers["float64"]
    results = as_in(compose(implementation, problem.astype(dtype)), answer.keys())
    assert_matches(results, answer, dtype, problem.stack, limits(dtype, problem.stack))


@golden
@pytest.mark.parametrize("batch_first", [False, True], ids=["TBI", "BTI"])
def test_parity_golden_layer(make_layer, dtype, path, batch_first):
    problem, answers = read(path)
    answer = answers["float64"]
    results = run_layer(make_layer, problem.astype(dtype), batch_first)
    results = as_in(results, answer.keys())
    assert_matches(results, answer, dtype, problem.stack, limits(dtype, problem.stack))


def test_parity_golden_float64_is_close_to_1e_10(make_layer):
    """The promise in plain numbers: the largest error of all golden vectors in float64."""
    worst = 0.0
    for path in GOLDEN:
        problem, answers = read(path)
        results = run_layer(make_layer, problem.astype("float64"))
        for name, a in answers["float64"].items():
            worst = max(worst, np.abs(results[name] - a).max(initial=0))
    assert worst <= 1e-10
    print(f"largest absolute error of all golden vectors in float64: {worst:.3g}")


LIVE = (
    *STACKS,
    Stack(T=50, B=8, I=16, H=64),
    Stack(T=30, B=13, I=3, H=45, L=4),
    Stack(T=20, B=5, I=33, H=70, L=2, bidirectional=True, lengths=(20, 3, 11, 1, 20)),
    Stack(T=20, B=4, I=12, H=48, P=17, L=2, bidirectional=True, lengths=(5, 20, 1, 9)),
)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("stack", LIVE, ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_parity_torch_live(make_layer, dtype, stack, seed):
    pytest.importorskip("torch")
    from peers import run_torch

    problem = make_stack_problem(stack, dtype, seed)
    answer = run_torch(problem.astype("float64"))
    results = as_in(run_layer(make_layer, problem), answer.keys())
    assert_matches(results, answer, dtype, stack, limits(dtype, stack))


@pytest.mark.parity
@pytest.mark.parametrize("stack", LIVE, ids=str)
def test_parity_torch_loads_our_state_dict(make_layer, dtype, stack):
    torch = pytest.importorskip("torch")
    ours = make_layer(**stack.arguments(), dtype=dtype, seed=3)
    arguments = stack.arguments()
    sizes = [arguments.pop(name) for name in ("input_size", "hidden_size", "num_layers")]
    theirs = torch.nn.LSTM(*sizes, **arguments, dtype=getattr(torch, np.dtype(dtype).name))
    theirs.load_state_dict({n: torch.tensor(a) for n, a in ours.state_dict().items()})
    back = make_layer(**stack.arguments(), dtype=dtype, seed=4)
    back.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(back.flat, ours.flat)


@pytest.mark.parity
@pytest.mark.parametrize(
    "stack", [s for s in LIVE if s.L == 1 and not s.P and s.state], ids=str
)  # what ONNX's operator can say
def test_parity_onnxruntime_live(make_layer, stack):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from peers import run_onnxruntime

    problem = make_stack_problem(stack, "float32", seed=5)
    answer = run_onnxruntime(problem)
    results = run_layer(make_layer, problem)
    # its sigmoid and tanh are rational functions, good to about 3e-7 absolute, fed back T times
    limit = 4 * limits(np.float32, stack)
    wide = {name: a.astype(np.float64) for name, a in answer.items()}
    assert_matches({name: results[name] for name in wide}, wide, "float32", stack, limit)
