# SPDX-License-Identifier: MIT
"""One process per engine and thread count, of which only one works at any time.

Runtimes that share a process disturb each other: OpenMP's workers spin after their region, the
allocator and flush-to-zero flags are global. So each engine has a process of its own, started once,
blocked on a pipe while another one is measured. `Worker` is the parent's end, `main` the child's.
"""

import contextlib
import gc
import os
import pickle
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

#: Removed from every worker: set on some machines, they pick a slower OpenBLAS kernel or blocking.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "FASTLSTM_NUM_THREADS",
)
SAMPLE_SECONDS = 20e-6  # one sample times as many calls as take this long
PICK_SECONDS = 0.02  # how long each way is timed to find the fastest


def environment(threads, base=None):
    """The environment of a worker that uses `threads` threads."""
    variables = dict(os.environ if base is None else base)
    for name in UNSET:
        variables.pop(name, None)
    return variables | dict.fromkeys(THREAD_VARIABLES, str(threads))


class WorkerFailed(RuntimeError):
    """The engine could not do what it was asked; the text says why."""


class Worker:
    """A process that runs one engine.

    Parameters
    ----------
    engine : str - a name in `peers.ENGINES`, or what `module` knows
    threads : int
    module : str - the child runs it; it calls `main` with a session of its own
    """

    def __init__(self, engine, threads, module="benchmarks.worker"):
        self.engine = engine
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, engine, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[1],
            env=environment(threads),
        )

    @property
    def pid(self):
        return self._process.pid

    def ask(self, command, *arguments):
        """The worker's answer to a command of `_Session`.

        Raises
        ------
        WorkerFailed
            The command raised over there, or the process ended.
        """
        try:
            pickle.dump((command, arguments), self._process.stdin)
            self._process.stdin.flush()
            status, answer = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as problem:
            raise WorkerFailed(f"the process ended ({type(problem).__name__})") from problem
        if status == "error":
            raise WorkerFailed(answer)
        return answer

    def close(self):
        """End the process."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def sample(run, seconds, number):
    """Microseconds per call: samples of `number` calls each, for `seconds` and at least one.

    The calls of the first fifth, at least one sample, refill the caches and wake the threads; they
    are thrown away.
    """
    clock, repeats, times = time.perf_counter_ns, range(number), []
    warm_until = clock() + int(seconds * 0.2e9)
    while True:
        for _ in repeats:
            run()
        if clock() >= warm_until:
            break
    until = clock() + int(seconds * 1e9)
    while not times or clock() < until:
        start = clock()
        for _ in repeats:
            run()
        times.append((clock() - start) / number / 1e3)
    return times


def _calls_per_sample(microseconds):
    return max(1, int(SAMPLE_SECONDS * 1e6 / microseconds))


class _Session:
    """The commands of a worker: methods without an underscore."""

    def __init__(self, engine, threads):
        from .peers import ENGINES

        self.engine, self.threads = ENGINES[engine], threads
        self.call, self.number = None, 1
        self.cpu = time.process_time()

    def start(self):
        """The engine's version; its first import happens here."""
        version = self.engine.version()
        if version is None:
            raise WorkerFailed("not installed")
        self.engine.set_threads(self.threads)
        return version

    def prepare(self, case, dtype, what, answer_file):
        """Set up and check every way to do it, keep the fastest: (its name, error in eps)."""
        from . import oracle
        from .cases import Problem

        self.call = None
        with np.load(answer_file) as stored:
            answer = dict(stored)
        calls = self.engine.calls(Problem.make(case, dtype, what), self.threads)
        errors = {name: oracle.check(call.result(), answer, dtype) for name, call in calls.items()}
        speeds = {name: sample(call.run, 0, 1)[0] for name, call in calls.items()}
        if len(calls) > 1:
            for name, call in calls.items():
                seconds, number = PICK_SECONDS, _calls_per_sample(speeds[name])
                speeds[name] = statistics.median(sample(call.run, seconds, number))
        name = min(speeds, key=speeds.get)
        self.call, self.number = calls[name], _calls_per_sample(speeds[name])
        return name, errors[name]

    def idle(self):
        """CPU seconds that this process, all threads, burnt since its last answer."""
        before, self.cpu = self.cpu, time.process_time()
        return self.cpu - before

    def time(self, seconds):
        """(samples in us, CPU seconds burnt since the last answer, CPU seconds burnt now)."""
        idle = self.idle()
        gc.collect()
        gc.disable()
        try:
            samples = sample(self.call.run, seconds, self.number)
        finally:
            gc.enable()
        return samples, idle, self.idle()

    def release(self):
        """Forget the problem and its memory."""
        self.call = None
        gc.collect()
        return self.idle()


def main(make):
    """Answer commands from stdin on stdout until stdin ends; ``make()`` gives their object."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever an engine prints goes to stderr
    session = make()
    while True:
        try:
            command, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = "ok", getattr(session, command)(*arguments)
        except Exception as problem:  # whatever an engine raises is the parent's to report
            answer = "error", f"{type(problem).__name__}: {problem}".splitlines()[0]
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main(lambda: _Session(sys.argv[1], int(sys.argv[2])))
