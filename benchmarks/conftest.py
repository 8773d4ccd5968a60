# SPDX-License-Identifier: MIT
"""`pytest benchmarks`: fixtures that set up one engine on one case, checked, in this process.

For figures that compare engines use `python -m benchmarks.report`, which gives each a process of
its own; these are for working on one engine: `--benchmark-autosave`, `--benchmark-compare`, `-k`.
"""

import functools

import numpy as np
import pytest

from benchmarks import cases, oracle
from benchmarks.engine import Call, Engine
from benchmarks.peers import ENGINES


class Reference(Engine):
    """fastlstm.reference itself: what the oracle costs."""

    name = label = "reference"
    package = "numpy"
    dtypes = cases.DTYPES
    whats = ("forward", "training")

    def _call(self, problem, threads):
        def run():
            return oracle.expected(problem)

        def result():
            return {name: np.asarray(a, problem.dtype) for name, a in run().items()}

        return {"reference": Call(run, result)}

    forward = training = _call


_ENGINES = ENGINES | {"reference": Reference()}
_REFERENCE_LIMIT = 2e9  # FLOPs of a case; above, the reference would take seconds a call


def pytest_addoption(parser):
    parser.addoption("--threads", type=int, default=1, help="threads for every engine (default 1)")


@functools.lru_cache(maxsize=4)
def _answer(case, dtype, what):
    return oracle.expected(cases.Problem.make(case, dtype, what))


@pytest.fixture
def time_it(benchmark, request):
    """A function (engine, case, dtype, what) that checks all ways and times the fastest."""

    def run(engine_name, case, dtype, what):
        from .worker import sample

        engine, threads = _ENGINES[engine_name], request.config.getoption("--threads")
        if engine.version() is None:
            pytest.skip(f"{engine_name} is not installed")
        if engine_name == "reference" and case.flops(what) > _REFERENCE_LIMIT:
            pytest.skip("too slow to be timed often")
        engine.set_threads(threads)
        problem = cases.Problem.make(case, dtype, what)
        calls = engine.calls(problem, threads)
        for call in calls.values():
            oracle.check(call.result(), _answer(case, dtype, what), dtype)
        name = min(calls, key=lambda name: min(sample(calls[name].run, 0.005, 1)))
        benchmark.group = f"{what} {dtype} {case.name} {threads} thr"
        benchmark.extra_info["how"] = name
        benchmark(calls[name].run)

    return run


def _identifier(case):
    """The case in letters that `pytest -k` takes: T60_B32_I1_H50."""
    T, B, I, H, *others = case.name.split(",")
    return "_".join([f"T{T}", f"B{B}", f"I{I}", f"H{H}", *others])


def pytest_generate_tests(metafunc):
    """Parametrise a test over (case, dtype, engine) for what its module's WHAT says."""
    what = getattr(metafunc.module, "WHAT", None)
    if what is None or "engine" not in metafunc.fixturenames:
        return
    found = [
        pytest.param(case, dtype, name, id=f"{_identifier(case)}-{dtype}-{name}")
        for dtype in cases.DTYPES
        for case in cases.selection(what, dtype)
        for name, engine in _ENGINES.items()
        if engine.supports(dtype, what)
    ]
    metafunc.parametrize(("case", "dtype", "engine"), found)
