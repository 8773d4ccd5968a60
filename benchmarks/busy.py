# SPDX-License-Identifier: MIT
"""All threads against one, beside processes that want the processors, too.

    python -m benchmarks.busy                        0, 1, 2 and 4 busy processes
    python -m benchmarks.busy --busy 4 --seconds 3

One and all threads take turns; what counts is the mean: a pause is part of it.
"""

import argparse
import contextlib
import subprocess
import sys
import time

import numpy as np

import fastlstm as fl

from . import machine

TURNS = 3
# T, B, I, H, directions: shared by units, by rows, the directions side by side
CASES = (
    (100, 1, 16, 64, 1),
    (1000, 1, 16, 64, 1),
    (100, 1, 64, 128, 1),
    (100, 1, 128, 256, 1),
    (60, 32, 16, 64, 1),
    (100, 1, 16, 64, 2),
)


@contextlib.contextmanager
def busy(n):
    """n processes that do nothing else than use a processor each."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def calls(case):
    """name -> a call of the layer of this case, forward and with its gradients."""
    T, B, I, H, D = case
    lstm = fl.LSTM(I, H, bidirectional=D == 2, seed=0)
    x = np.random.default_rng(0).standard_normal((T, B, I), np.float32)

    def train():
        y, _, tape = lstm.forward(x)
        lstm.backward(tape, y)

    return {"forward": lambda: lstm(x), "training": train}


def mean_us(call, seconds):
    """How long a call takes, in the mean over some seconds."""
    call()
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call()
        n += 1
    return (time.perf_counter() - start) / n * 1e6


def measure(call, seconds):
    """(us with one thread, us with all of them), each the mean of its turns."""
    before, sums = fl.get_num_threads(), {1: 0.0, fl.get_num_threads(): 0.0}
    try:
        for _ in range(TURNS):
            for n in sums:
                fl.set_num_threads(n)
                sums[n] += mean_us(call, seconds) / TURNS
    finally:
        fl.set_num_threads(before)
    return sums[1], sums[before]


def main(arguments=None):
    """Print a line for each case; returns the largest ratio."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.busy", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4], metavar="N")
    parser.add_argument("--seconds", type=float, default=0.5, help="a turn")
    given = parser.parse_args(arguments)
    print(f"{machine.cpu_name()}, {fl.get_num_threads()} threads against one; us, and their ratio")
    worst = 0.0
    for n in given.busy:
        with busy(n):
            for case in CASES:
                for name, call in calls(case).items():
                    one, every = measure(call, given.seconds)
                    worst = max(worst, every / one)
                    sizes = ",".join(map(str, case[:4])) + " bidirectional" * (case[4] == 2)
                    print(
                        f"{n} busy  {name:8}  {sizes:28} {one:9.0f} {every:9.0f} {every / one:6.2f}"
                    )
    print(f"all threads took at most {worst:.2f} of one thread's time")
    return worst


if __name__ == "__main__":
    main()
