# SPDX-License-Identifier: MIT
"""How fast is fast enough: the bars, and whether a run meets them."""

from collections.abc import Callable
from dataclasses import dataclass

from . import cases
from .peers import PEERS
from .rows import geometric_mean, microseconds, peak_fraction, ratio


@dataclass(frozen=True)
class Bar:
    """A bar over some rows of one block.

    Attributes
    ----------
    text : str
    block : (what, dtype)
    cases : tuple of Case - the rows that it is about
    value : callable (run, row) -> float or None
    every, mean : float or None - what each row, and the geometric mean, must reach
    threads : tuple of int - the thread counts that it holds for
    """

    text: str
    block: tuple
    cases: tuple
    value: Callable
    every: float | None = None
    mean: float | None = None
    threads: tuple = (1, 2)


@dataclass(frozen=True)
class Outcome:
    """What a run says to a bar: `passed` is None where rows are missing that it needs."""

    text: str
    passed: bool | None
    detail: str


def _against(*peers):
    return lambda run, row: ratio(row, peers)


def _scaling(run, row):
    """One thread's time over this row's."""
    for other in run["rows"]:
        if other["threads"] == 1 and all(other[k] == row[k] for k in ("what", "dtype", "case")):
            one, now = microseconds(other), microseconds(row)
            return one / now if one and now else None
    return None


_SMALL_STEP = tuple(case for case in cases.STEP_CASES if case.H <= 64)
_LARGE_STEP = tuple(case for case in cases.STEP_CASES if case.H > 64)
_TORCH, _ORT = _against("pytorch"), _against("onnxruntime")

BARS = (
    Bar(
        "forward against the best peer",
        ("forward", "float32"),
        cases.BAR_CASES,
        _against(*PEERS),
        every=1.0,
        mean=1.5,
    ),
    Bar(
        "forward + backward against PyTorch",
        ("training", "float32"),
        cases.BAR_CASES,
        _TORCH,
        every=1.1,
        mean=2.0,
    ),
    Bar(
        "forward + backward against PyTorch, the 8 smaller",
        ("training", "float64"),
        cases.SMALL_CASES,
        _TORCH,
        every=2.0,
        mean=4.0,
    ),
    Bar(
        "stream().step(), H = 64, against ONNX Runtime",
        ("step", "float32"),
        _SMALL_STEP,
        _ORT,
        every=4.0,
    ),
    Bar(
        "stream().step(), H = 256 and 512, against ONNX Runtime",
        ("step", "float32"),
        _LARGE_STEP,
        _ORT,
        every=1.3,
    ),
    Bar(
        "fraction of the FMA peak, forward",
        ("forward", "float32"),
        cases.PEAK_CASES,
        peak_fraction,
        every=0.90,
        threads=(1,),
    ),
    Bar(
        "fraction of the FMA peak, forward + backward",
        ("training", "float32"),
        cases.PEAK_CASES,
        peak_fraction,
        every=0.80,
        threads=(1,),
    ),
    Bar(
        "two threads against one, forward",
        ("forward", "float32"),
        cases.SCALING_CASES,
        _scaling,
        every=1.8,
        threads=(2,),
    ),
    Bar(
        "two threads against one, forward + backward",
        ("training", "float32"),
        cases.SCALING_CASES,
        _scaling,
        every=1.8,
        threads=(2,),
    ),
)


def judge(run):
    """The `Outcome` of every bar, for each thread count that it holds for."""
    return [
        outcome
        for bar in BARS
        for threads in bar.threads
        for outcome in _judge_one(run, bar, threads)
    ]


def _judge_one(run, bar, threads):
    what, dtype = bar.block
    wanted = {case.name for case in bar.cases}
    found = {}
    for row in run["rows"]:
        same = (row["what"], row["dtype"], row["threads"]) == (what, dtype, threads)
        value = bar.value(run, row) if same and row["case"] in wanted else None
        if value is not None:
            found[row["case"]] = value
    text = f"{bar.text}, {dtype}, {threads} thread{'s' * (threads > 1)}"
    missing = len(wanted) - len(found)
    note = f" ({missing} of {len(wanted)} rows not run)" if missing else ""
    if bar.every is not None:
        low = {name: value for name, value in found.items() if value < bar.every}
        passed = False if low else None if missing else True
        worst = min(found, key=found.get, default=None)
        detail = f"worst {found[worst]:.2f} at {worst}{note}" if found else "not run"
        if len(low) > 1:
            detail += f"; {len(low)} rows below"
        yield Outcome(f"{text}: every row >= {bar.every:g}", passed, detail)
    if bar.mean is not None:
        mean = geometric_mean(found.values())
        passed = None if missing else mean >= bar.mean
        detail = f"{mean:.2f}{note}" if found else "not run"
        yield Outcome(f"{text}: geometric mean >= {bar.mean:g}", passed, detail)
