# SPDX-License-Identifier: MIT
"""Times fastlstm and its peers, and says what came out.

    python -m benchmarks.report                        everything: about 20 minutes
    python -m benchmarks.report --quick --what forward --threads 1
    python -m benchmarks.report --compare benchmarks/results/OLD.json
    python -m benchmarks.report --update-readme        README's table, and the plot
    python -m benchmarks.report --load benchmarks/results/RUN.json --update-readme

The exit status is 1 when `--compare` finds a loss, or `--strict` a bar that is missed.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from . import bars, cases, machine, measure, render, rows
from .peers import ENGINES

RESULTS = Path(__file__).resolve().parent / "results"
README = RESULTS.parents[1] / "README.md"
QUICK = measure.Settings(rounds=3, seconds=0.03)


def parser():
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__.split("\n")[0],
        epilog=f"cases: {'  '.join(case.name for case in cases.CASES)}",
    )
    p.add_argument("--quick", action="store_true", help="3 short rounds instead of 7")
    p.add_argument(
        "--threads",
        type=int,
        nargs="+",
        metavar="N",
        help="thread counts (default: 1, and 2 where there are two CPUs)",
    )
    p.add_argument(
        "--dtype",
        nargs="+",
        choices=cases.DTYPES,
        default=list(cases.DTYPES),
        help="float64 means the 8 smaller cases unless --cases names others",
    )
    p.add_argument("--what", nargs="+", choices=cases.WHATS, default=list(cases.WHATS))
    p.add_argument("--cases", nargs="+", metavar="T,B,I,H", help="only these")
    p.add_argument("--engines", nargs="+", choices=list(ENGINES), help="only these")
    p.add_argument("--load", metavar="RUN.json", help="report an earlier run instead of timing")
    p.add_argument("--compare", metavar="OLD.json", help="flag rows that lost more than 10 %%")
    p.add_argument("--update-readme", action="store_true", help="rewrite README's table, and plot")
    p.add_argument("--strict", action="store_true", help="fail when a bar is missed")
    p.add_argument(
        "--output",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help="where JSON and plot go (default: benchmarks/results)",
    )
    p.add_argument("--readme", type=Path, default=README, help=argparse.SUPPRESS)
    return p


def load(path):
    """The run stored at `path`.

    Raises
    ------
    ValueError
        It is no run of this program; the text says why.
    """
    try:
        run = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ValueError(f"cannot read the run {path}: {problem}") from problem
    missing = {"machine", "probes", "versions", "rows"} - set(run if isinstance(run, dict) else ())
    if missing:
        raise ValueError(f"{path} is no benchmark run: it lacks {', '.join(sorted(missing))}")
    return run


def file_name(arguments, description):
    """`<date>-<cpu>-<what>.json`, made of letters that every file system takes."""
    parts = [
        description["date"].replace(":", "").replace(" ", "-"),
        description["cpu"],
        *(arguments.what if len(arguments.what) < len(cases.WHATS) else ["all"]),
    ]
    if arguments.quick:
        parts.append("quick")
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts)).strip("-") + ".json"


def _measure(arguments):
    threads = arguments.threads or [n for n in (1, 2) if n <= machine.usable_cpus()]
    path = arguments.output / file_name(arguments, machine.description())
    arguments.output.mkdir(parents=True, exist_ok=True)

    def save(run):
        path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")

    whats_dtypes = [dtype for dtype in cases.DTYPES if dtype in arguments.dtype]
    settings = QUICK if arguments.quick else measure.Settings()
    run = measure.measure(
        arguments.what, whats_dtypes, threads, arguments.cases, settings, arguments.engines, save
    )
    print(f"saved {path}\n", file=sys.stderr)
    return run


def comparison(old, new):
    """(lines, losses): ours then and now, losses marked."""
    pairs = rows.compare(old, new)
    lines = [f"ours, against the run of {old['machine']['date']}:"]
    if old["machine"]["cpu"] != new["machine"]["cpu"]:
        lines.append(f"  note: that was another processor, {old['machine']['cpu']}")
    for threads, probe in new["probes"].items():
        before = old["probes"].get(threads)
        if probe and before:
            change = probe["float32_gflops"] / before["float32_gflops"]
            lines.append(f"  the machine itself, {threads} thr: {change:.2f} x its FMA peak then")
    for (what, dtype, threads, case), then, now, loss in pairs:
        lines.append(
            f"  {what:8} {dtype} {threads} thr {case:22} {then:10.4g} -> {now:10.4g} us"
            f"  {then / now:5.2f} x{'  LOSS' if loss else ''}"
        )
    losses = sum(loss for *_, loss in pairs)
    lines.append(f"  {losses} of {len(pairs)} rows lost more than 10 %")
    return lines, losses


def main(argv=None):
    """Run the command line; the exit status."""
    p = parser()
    arguments = p.parse_args(argv)
    try:
        for name in arguments.cases or ():
            cases.by_name(name)
        if any(n < 1 for n in arguments.threads or ()):
            raise ValueError(f"--threads must be at least 1, got {min(arguments.threads)}")
        old = load(arguments.compare) if arguments.compare else None
        run = load(arguments.load) if arguments.load else _measure(arguments)
    except ValueError as problem:
        p.error(str(problem))
    print(render.text_report(run))
    outcomes = bars.judge(run)
    print("Bars")
    for outcome in outcomes:
        mark = {True: "pass", False: "FAIL", None: "  - "}[outcome.passed]
        print(f"{mark}  {outcome.text}: {outcome.detail}")
    failed = arguments.strict and any(outcome.passed is not True for outcome in outcomes)
    if old:
        lines, losses = comparison(old, run)
        print("", *lines, sep="\n")
        failed |= losses > 0
    if arguments.update_readme:
        render.update_readme(arguments.readme, run)
        render.plot(run, arguments.output / "speed.png")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
