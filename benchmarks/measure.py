# SPDX-License-Identifier: MIT
"""Times ours and the peers by turns: one worker per engine, one of them working at a time."""

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import cases, machine, oracle
from .peers import ENGINES
from .worker import Worker, WorkerFailed

NAP, NAPS = 0.01, 50  # after its turn an engine gets up to 50 naps of 10 ms to stop spinning
QUIET = 0.05  # it is quiet when it burns less than this part of a nap
PROBE_SLOTS = 3  # of the probe's turn in a round, which takes about as long as an engine's


@dataclass(frozen=True)
class Settings:
    """How long to time: in each of `rounds`, every engine in turn for `seconds`."""

    rounds: int = 7
    seconds: float = 0.1


class Answers:
    """The right answers, computed once per problem and handed to the workers as a file."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._last = None, None

    def file(self, case, dtype, what):
        key = case, dtype, what
        if self._last[0] != key:
            if self._last[1]:
                self._last[1].unlink()
            path = self.folder / "answer.npz"
            np.savez(path, **oracle.expected(cases.Problem.make(case, dtype, what)))
            self._last = key, path
        return str(self._last[1])


def start_workers(names, threads, log):
    """The workers that came up, and what their engines are: ({name: Worker}, {name: info})."""
    workers, versions = {}, {}
    for name in names:
        worker = Worker(name, threads)
        try:
            versions[name] = worker.ask("start")
            workers[name] = worker
        except WorkerFailed as problem:
            log(f"{name} is left out: {problem}")
            worker.close()
    return workers, versions


def measure_row(workers, case, dtype, what, threads, answers, settings, probe):
    """One row of the report: every engine that can do it, timed by turns, as is the machine.

    Returns
    -------
    dict
        `case`, `what`, `dtype`, `threads`, `flops`, `engines`: for each engine either `us`
        (median of the rounds' medians), `min_us`, `rounds`, `how`, `error_eps`, `idle_cpu`, or
        `skipped`, the reason; `probe`, the medians of what the machine could do in each round,
        or None; and `foreign_cpu`, how many CPUs other processes kept busy.
    """
    row = {
        "case": case.name,
        "what": what,
        "dtype": dtype,
        "threads": threads,
        "flops": case.flops(what),
        "engines": {},
    }
    ready = []
    for name, worker in workers.items():
        if not ENGINES[name].supports(dtype, what):
            continue
        try:
            how, error = worker.ask("prepare", case, dtype, what, answers.file(case, dtype, what))
        except WorkerFailed as problem:
            row["engines"][name] = {"skipped": str(problem)}
            continue
        row["engines"][name] = {
            "how": how,
            "error_eps": round(error, 2),
            "rounds": [],
            "min_us": float("inf"),
            "idle_cpu": 0.0,
        }
        ready.append(name)
    _take_turns({name: workers[name] for name in ready}, row, settings, probe)
    for name in ready:
        entry = row["engines"][name]
        if entry.get("rounds"):
            entry["us"] = statistics.median(entry["rounds"])
            workers[name].ask("release")
    return row


def _take_turns(workers, row, settings, probe):
    names, own, burnt, probes = list(workers), 0.0, dict.fromkeys(workers, 0.0), []
    for worker in workers.values():
        _settle(worker)
    total_before, began, self_before = machine.cpu_seconds(), time.perf_counter(), _own_cpu()
    for turn in range(settings.rounds):
        first = turn % len(names) if names else 0
        for name in names[first:] + names[:first]:
            try:
                samples, idle, busy = workers[name].ask("time", settings.seconds)
                own += idle + busy + _settle(workers[name])
            except WorkerFailed as problem:  # the others go on
                row["engines"][name] = {"skipped": str(problem)}
                names.remove(name)
                continue
            burnt[name] += idle
            entry = row["engines"][name]
            entry["rounds"].append(round(statistics.median(samples), 4))
            entry["min_us"] = round(min(entry["min_us"], *samples), 4)
        probes.append(probe.measure(row["threads"], PROBE_SLOTS))
    wall = time.perf_counter() - began
    own += _own_cpu() - self_before
    row["probe"] = _medians(probes)
    for name in names:
        row["engines"][name]["idle_cpu"] = round(burnt[name] / wall, 4)
    if total_before is not None:
        row["foreign_cpu"] = round(max(0.0, machine.cpu_seconds() - total_before - own) / wall, 3)


def _own_cpu():
    """CPU seconds of this process and of the probes that it waited for."""
    return sum(os.times()[:4])


def _medians(probes):
    """The median of each figure in the probes; None where there are none."""
    if not probes or probes[0] is None:
        return None
    return {
        name: round(statistics.median(probe[name] for probe in probes), 2)
        for name in probes[0]
        if name.endswith(("_gflops", "_gbytes"))
    }


def _settle(worker):
    """Wait until the threads of a worker sleep; the CPU seconds that they burnt meanwhile.

    After a parallel region OpenMP's threads spin for some ms, ONNX Runtime's and OpenBLAS's for
    20 to 60 ms: on the CPUs that the next engine is to be measured on.
    """
    burnt = 0.0
    for _ in range(NAPS):
        time.sleep(NAP)
        idle = worker.ask("idle")
        burnt += idle
        if idle < QUIET * NAP:
            break
    return burnt


def measure(
    whats, dtypes, thread_counts, names=None, settings=None, engines=None, save=None, log=None
):
    """A whole run.

    Parameters
    ----------
    whats, dtypes : sequences of str - of `cases.WHATS` and `cases.DTYPES`
    thread_counts : sequence of int
    names : sequence of str, optional - the cases; all that apply without it
    settings : Settings, optional
    engines : sequence of str, optional - of `peers.ENGINES`; all without it
    save : callable, optional - given the run so far after each block of rows
    log : callable, optional - given lines of progress and warnings; prints to stderr without it

    Returns
    -------
    dict
        JSON-able: `machine`, `probes` by thread count, `versions`, `settings`, `warnings`, `rows`.
    """
    settings = settings or Settings()
    if log is None:

        def log(line):
            print(line, file=sys.stderr, flush=True)

    warnings = list(filter(None, [machine.load_warning()]))
    for line in warnings:
        log(f"warning: {line}")
    run = {
        "machine": machine.description(),
        "probes": {},
        "versions": {},
        "settings": vars(settings),
        "warnings": warnings,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        answers, probe = Answers(folder), machine.Probe(folder)
        for threads in thread_counts:
            run["probes"][str(threads)] = probe.measure(threads)
            workers, versions = start_workers(engines or ENGINES, threads, log)
            run["versions"] |= versions
            try:
                for what in whats:
                    for dtype in dtypes:
                        for case in cases.selection(what, dtype, names):
                            row = measure_row(
                                workers, case, dtype, what, threads, answers, settings, probe
                            )
                            run["rows"].append(row)
                            log(_progress(row))
                        if save:
                            save(run)
            finally:
                for worker in workers.values():
                    worker.close()
    return run


def _progress(row):
    parts = [f"{row['what']} {row['dtype']} {row['threads']} thr {row['case']}:"]
    for name, entry in row["engines"].items():
        parts.append(f"{name} {entry['us']:.4g}" if "us" in entry else f"{name} {entry['skipped']}")
    return "  ".join(parts)
