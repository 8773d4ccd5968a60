# SPDX-License-Identifier: MIT
"""Ctrl-C in the middle of long work: KeyboardInterrupt within 0.5 s, and everything as before.

Each case runs in a process of its own. It makes work that takes `SECONDS` (or a quarter of the
memory), lets a signal come at a fraction of it, and tells how long the exception took to arrive.
"""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import fastlstm as fl
from fastlstm import backend

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer here"),
]
LIMIT = 0.5  # seconds: the promise
SECONDS = float(os.environ.get("FASTLSTM_INTERRUPT_SECONDS", "4"))
ISAS = [name for name in backend.implementations() if name != "reference"]
# B, I, H: rows shared by the team, units shared by it, a gradient that takes as long as the loop
SHAPES = {"rows": (16, 8, 256), "units": (2, 16, 512), "gradient": (64, 200, 96)}

PROGRAM = """
import os, resource, signal, sys, time
import numpy as np, fastlstm as fl
kind, B, I, H = sys.argv[1], *map(int, sys.argv[2:5])
fraction, seconds, share = map(float, sys.argv[5:])
lstm = fl.LSTM(I, H, seed=0)

def prepare(T):
    x = np.broadcast_to(np.float32(0.1), (T, B, I)).copy()
    if kind == "forward":
        return lambda: lstm(x)
    y, _, tape = lstm.forward(x)
    return lambda: lstm.backward(tape, y)

def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

def probe():
    work = prepare(7)()
    return [np.array(a) for a in ((work[0],) if kind == "forward" else (work[0], work[2].flat))]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before, base, T, took = probe(), peak(), 64, 0
while took < 0.3:
    T *= 2
    took = timed(prepare(T))
# no more steps than fit in a quarter of the memory
quarter = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4
seconds = min(seconds, took * quarter / max(1, peak() - base))
work = prepare(max(1, int(T * seconds / took)))

def handler(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, handler)
wait = fraction * seconds * share
signal.setitimer(signal.ITIMER_REAL, wait)
start = time.perf_counter()
try:
    work()
    signal.setitimer(signal.ITIMER_REAL, 0)  # or it ends this process, after the handlers are gone
    print("ended", (time.perf_counter() - start) / wait)
except KeyboardInterrupt:
    print("stopped", time.perf_counter() - start - wait)
assert all((a == b).all() for a, b in zip(before, probe())), "another result than before"
"""


def run(*arguments, program=PROGRAM, **environment):
    """("stopped", how many seconds after the signal) or ("ended", after how much of the wait)."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    how, number = done.stdout.split()
    return how, float(number)


def assert_in_time(*arguments, **named):
    """One of some tries: the machine may be busy with something else, also while the work's size
    is found. Work that ended before the signal is left as long as it is, for it takes memory: the
    signal comes earlier."""
    late, share = [], 1.0
    while len(late) < 3 and share > 0.1:
        how, number = run(*arguments, share, **named)
        if how == "ended":
            assert number < 1, f"the work ran to its end, {number} of the wait for the signal"
            share *= 0.95 * number
        elif number < LIMIT:
            return
        else:
            late.append(number)
    pytest.fail(f"KeyboardInterrupt came {late} s after the signal, expected {LIMIT} s; the last "
                f"signal at {share:.2f} of its time")  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fraction"), [("forward", 0.3), ("backward", 0.3), ("backward", 0.8)]
)
@pytest.mark.parametrize("layer", ["GRU", "RNN", "SLSTM"])
def test_interrupt_siblings(layer, kind, fraction):
    program = PROGRAM.replace("fl.LSTM", f"fl.{layer}")
    assert_in_time(kind, *SHAPES["gradient"], fraction, SECONDS, program=program,
                   OPENBLAS_NUM_THREADS="1")  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("isa", ISAS)
def test_interrupt_forward(isa, shape, threads):
    assert_in_time("forward", *SHAPES[shape], 0.3, SECONDS, FASTLSTM_ISA=isa,
                   FASTLSTM_NUM_THREADS=str(threads))  # fmt: skip


@pytest.mark.parametrize("fraction", [0.2, 0.6])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("isa", ISAS)
def test_interrupt_backward(isa, shape, fraction):
    """In the loop over time, and in the products for the weights after it."""
    assert_in_time("backward", *SHAPES[shape], fraction, SECONDS, FASTLSTM_ISA=isa,
                   FASTLSTM_NUM_THREADS="2")  # fmt: skip


@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_interrupt_directions_side_by_side(kind):
    """The signal is seen by one of them, the other ends too."""
    program = PROGRAM.replace("seed=0", "bidirectional=True, seed=0")
    assert_in_time(kind, 2, 16, 96, 0.3, SECONDS, program=program, FASTLSTM_NUM_THREADS="2")


# The team serves another caller: this thread does all shares itself, one after the other.
ALONE = PROGRAM.replace(
    "signal.signal(",
    """
import threading
other = fl.LSTM(I, H, seed=1)
much = np.broadcast_to(np.float32(0.1), (2 * int(T * seconds / took), B, I)).copy()
threading.Thread(target=other, args=(much,), daemon=True).start()
time.sleep(0.1)
signal.signal(""",
    1,
)


@pytest.mark.parametrize("fraction", [0.2, 1.2])
def test_interrupt_while_another_thread_has_the_team(fraction):
    assert "Thread(" in ALONE
    assert_in_time("forward", *SHAPES["rows"], fraction, SECONDS, program=ALONE,
                   FASTLSTM_NUM_THREADS="2")  # fmt: skip


FIT = """
import signal, sys, time
import numpy as np, fastlstm as fl
path, wait = sys.argv[1], float(sys.argv[2])
rng = np.random.default_rng(0)
x = rng.standard_normal((512, 60, 4), dtype=np.float32)
y = rng.standard_normal((512, 1), dtype=np.float32)
lstm = fl.LSTM(4, 128, batch_first=True, seed=0)
model = fl.Sequential([lstm, fl.LastState(), fl.Dense(128, 1, seed=1)])
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, wait)
start = time.perf_counter()
try:
    fl.fit(model, x, y, epochs=100000, batch_size=64, seed=0, checkpoint=path, progress=False)
    print("ended", (time.perf_counter() - start) / wait)
except KeyboardInterrupt:
    print("stopped", time.perf_counter() - start - wait)
signal.setitimer(signal.ITIMER_REAL, 0)
assert np.isfinite(model(x[:8])).all() and np.isfinite(model.flat).all()
fl.fit(model, x[:64], y[:64], epochs=1, batch_size=64, seed=0, progress=False)
"""


def test_interrupt_fit(tmp_path):
    """The model goes on being one, and the checkpoint is that of the last epoch that ended."""
    path = tmp_path / "training"
    assert_in_time(path, 0.5 * SECONDS, program=FIT)
    lstm = fl.LSTM(4, 16, batch_first=True, seed=0)
    again = fl.Sequential([lstm, fl.LastState(), fl.Dense(16, 1, seed=1)])
    with pytest.raises(ValueError, match="is of another run"):  # so it is one, and whole
        fl.fit(again, np.zeros((8, 5, 4), "f"), np.zeros((8, 1), "f"), epochs=1,
               checkpoint=path, resume=True)  # fmt: skip
