# SPDX-License-Identifier: MIT
"""Times a whole epoch of training, of the tutorial's network, beside PyTorch and Keras.

    python -m benchmarks.epoch                     one thread, seven rounds
    python -m benchmarks.epoch --threads 2 --rounds 3 --sides fastlstm torch

Every side has a process of its own, and they take turns. Before it is timed each one trains an
epoch without dropout, in order, from the same weights: the predictions after it must agree.
"""

import argparse
import statistics
import sys
import time
from importlib import metadata

import numpy as np

from . import machine
from .epoch_sides import SIDES, Fastlstm
from .worker import Worker, WorkerFailed, main

# PyTorch comes to 3e-7 of ours, Keras to 3e-3: its Adam adds eps before the correction. With a
# bias too many it is 7e-2.
TOLERANCE = 1e-2


class _Session:
    """The commands of a worker."""

    def __init__(self, side, threads):
        self.side, self.threads = SIDES[side], threads

    def start(self, weights):
        """The package's version, and the predictions after the epoch that is compared."""
        try:
            version = metadata.version(self.side.package)
        except metadata.PackageNotFoundError:
            version = "from its source"
        self.side = self.side(self.threads)
        self.side.build(0.0, weights)
        self.side.epoch(shuffle=False)
        answer = np.array(self.side.predict())
        self.side.build(0.2, weights)
        self.side.epoch(shuffle=True)  # the first epoch compiles, packs and allocates
        return version, answer

    def time(self):
        """(wall seconds, CPU seconds) of an epoch."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.side.epoch(shuffle=True)
        return time.perf_counter() - wall, time.process_time() - cpu

    def share(self):
        return self.side.share()


def measure(sides, threads, rounds, log):
    """{side: (version, [(wall, cpu), ...])}, and the part of ours outside the recurrent layers."""
    weights = Fastlstm(threads).network(0.0).state_dict()
    workers, versions, answers = {}, {}, {}
    for side in sides:
        worker = Worker(side, threads, "benchmarks.epoch")
        try:
            versions[side], answers[side] = worker.ask("start", weights)
            workers[side] = worker
        except WorkerFailed as problem:
            log(f"{side} is left out: {problem}")
            worker.close()
    try:
        reference = next(iter(answers))
        for side, answer in answers.items():
            worst = np.abs(answer - answers[reference]).max()
            if not worst < TOLERANCE:
                raise ValueError(f"{side} trains otherwise than {reference}: {worst:g} apart")
        times = {side: [] for side in workers}
        for _ in range(rounds):
            for side, worker in workers.items():
                times[side].append(worker.ask("time"))
        share = workers["fastlstm"].ask("share") if "fastlstm" in workers else None
    finally:
        for worker in workers.values():
            worker.close()
    return {side: (versions[side], times[side]) for side in workers}, share


def report(results, share, threads):
    """The lines that are printed."""
    ours = results.get("fastlstm")
    yield f"An epoch of 4 x LSTM 45, 40 steps, 1216 windows, batch 32, Adam; {threads} thread(s)."
    yield f"{'':24}{'wall s':>10}{'CPU s':>10}{'x ours, wall':>14}{'CPU':>8}"
    for side, (version, times) in results.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        line = f"{side + ' ' + version:24}{wall:>10.3f}{cpu:>10.3f}"
        if ours:
            own = [statistics.median(column) for column in zip(*ours[1], strict=True)]
            line += f"{wall / own[0]:>14.2f}{cpu / own[1]:>8.2f}"
        yield line
    if share is not None:
        yield f"outside the recurrent layers (masks, head, loss, Adam, ...): {share:.1%} of ours"


def run(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.epoch", description=__doc__)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    arguments = p.parse_args(argv)

    def log(line):
        print(line, file=sys.stderr, flush=True)

    warning = machine.load_warning()
    if warning:
        log(f"warning: {warning}")
    results, share = measure(arguments.sides, arguments.threads, arguments.rounds, log)
    print(*report(results, share, arguments.threads), sep="\n")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in SIDES:
        main(lambda: _Session(sys.argv[1], int(sys.argv[2])))
    else:
        run()
