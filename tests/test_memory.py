# SPDX-License-Identifier: MIT
"""Out of memory: let the n-th allocation fail, for every n, and see that nothing else breaks.

Two counters: the engine's own (`_memory.fail_allocation`), where every failure must be a
MemoryError; and malloc itself in a process of its own (failing_malloc.c, by LD_PRELOAD), which
reaches NumPy, Cython and Python. They swallow some failures, as of a cache that cannot grow: then
the result must be right.
"""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import fastlstm as fl
from fastlstm import _memory, backend

ISAS = [name for name in backend.implementations() if name != "reference"]
MOST = 10_000  # allocations of one operation


@pytest.fixture(params=ISAS)
def isa(request):
    with backend.using_isa(request.param):
        yield request.param


@pytest.fixture
def counter():
    yield _memory.fail_allocation
    _memory.fail_allocation(0)


def operations(tmp_path):
    """name -> function that does one thing from the start and returns what it computed."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 5, 7), np.float32)
    lengths = [6, 0, 3, 1, 6]
    lstm = fl.LSTM(7, 17, num_layers=2, seed=0)
    projected = fl.LSTM(7, 17, proj_size=4, bidirectional=True, seed=0)
    path = tmp_path / "lstm.safetensors"
    fl.save(path, lstm)

    def train(layer, lengths):
        y, _, tape = layer.forward(x, lengths=lengths)
        dx, _, grads = layer.backward(tape, y)
        return dx, grads.flat

    def stream():
        stream = lstm.stream(5)
        return [stream.step(x[t]) for t in range(6)]

    def fit():
        layer = fl.LSTM(7, 9, batch_first=True, seed=0)
        model = fl.Sequential([layer, fl.LastState(), fl.Dense(9, 1, seed=1)])
        fl.fit(model, x, x[:, -1, :1], epochs=2, batch_size=4, seed=0, progress=False)
        return (model.flat,)

    def functional():
        w = lstm.parameters()
        y, state, tape = fl.lstm_forward(x, w["weight_ih_l0"], w["weight_hh_l0"], lengths=lengths)
        dx, _, grads = fl.lstm_backward(tape, y)
        return (y, *state, dx, *grads.values())

    return {
        "forward": lambda: lstm(x)[:1],
        "forward of rows of any length": lambda: lstm(x, lengths=lengths)[:1],
        "forward of a projection": lambda: projected(x)[:1],
        "training": lambda: train(lstm, None),
        "training on rows of any length": lambda: train(lstm, lengths),
        "training of a projection": lambda: train(projected, lengths),
        "functional": functional,
        "stream": stream,
        "fit": fit,
        "load": lambda: (fl.load(path).flat,),
    }


NAMES = list(operations(Path(os.environ.get("TMPDIR", "/tmp"))))  # one file there, written again


@pytest.mark.parametrize("name", NAMES)
def test_memory_native_allocation_fails(isa, tmp_path, counter, name):
    """Every failure is a MemoryError, and the same call works afterwards."""
    answer = operations(tmp_path)[name]()
    failures = 0
    for n in range(1, MOST):
        work = operations(tmp_path)[name]
        counter(n)
        try:
            results = work()
        except MemoryError as error:
            assert counter(0) == 0, "nothing has failed"
            said = str(error)
            failures += 1
            results = work()
            assert "cannot allocate" in said
        else:
            assert counter(0) == n - failures, "a failure was swallowed"
        for a, b in zip(results, answer, strict=True):
            np.testing.assert_array_equal(a, b)
        if failures < n:
            break
    assert failures >= (0 if name == "load" else 1)


def test_memory_a_failed_backward_leaves_the_tape(isa, counter):
    x = np.ones((6, 5, 7), np.float32)

    def gradient(fails):
        lstm = fl.LSTM(7, 17, seed=0)  # a new one, which has no scratch memory yet
        y, _, tape = lstm.forward(x)
        counter(int(fails))
        if fails:
            with pytest.raises(MemoryError):
                lstm.backward(tape, y)
        return lstm.backward(tape, y)[0]

    np.testing.assert_array_equal(gradient(True), gradient(False))


def test_memory_steps_that_multiply_x_reserve_no_gates(isa, counter):
    """Without a tape their gates stay in registers: what a call works in is two steps' h and c."""
    B, H = 3, 32

    def asked(I):
        layer = fl.LSTM(I, H, seed=0)
        counter(1)
        with pytest.raises(MemoryError, match="for scratch memory") as raised:
            layer(np.ones((6, B, I), np.float32))
        return int(re.search("cannot allocate ([0-9]+) bytes", str(raised.value)).group(1))

    states, step = 2 * B * 2 * H * 4, B * 4 * H * 4
    assert asked(20) >= states + step  # x is projected into the gates before
    if isa == "none":
        assert asked(4) >= states + step
    else:
        assert asked(4) <= states + 128  # a cache line at either end


# What one operation does under every failure of malloc; prints the number of each outcome.
PROGRAM = """
import ctypes, gc, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_memory
malloc = ctypes.CDLL(sys.argv[3])
malloc.bytes_in_use.restype = ctypes.c_size_t
malloc.malloc_countdown.restype = ctypes.c_void_p
countdown = ctypes.c_long.from_address(malloc.malloc_countdown())


def numpys(error):
    # NumPy 2.4.6 forgets to set the exception in reductions and in a[index]; the second ends a
    # generator, whose values are then missing
    texts = "error return without exception set", "without setting an exc", "need more than"
    return isinstance(error, (SystemError, ValueError)) and any(t in str(error) for t in texts)


every = lambda: test_memory.operations(Path(sys.argv[2]))[sys.argv[4]]
raised = swallowed = 0
answer = every()()
in_use = []
for round in range(3):
    n = 0
    while True:
        n += 1
        work = every()
        failed = results = None
        try:
            countdown.value = n
            results = work()
        except BaseException as error:
            failed = error
        left, countdown.value = countdown.value, 0
        if failed is None and left > 0:
            break
        cause = failed
        while cause is not None and not isinstance(cause, MemoryError) and not numpys(cause):
            cause = cause.__cause__ or cause.__context__
        if failed is None:
            swallowed += 1
        elif cause is None:
            raise failed
        else:
            raised += 1
            results = work()
        assert all(np.array_equal(a, b) for a, b in zip(results, answer, strict=True)), n
        failed = cause = results = None
    gc.collect()
    in_use.append(malloc.bytes_in_use())
print(raised, n, in_use[2] - in_use[1])
"""


@pytest.fixture(scope="session")
def failing_malloc(tmp_path_factory):
    """The library of failing_malloc.c."""
    if not sys.platform.startswith("linux") or "musl" in (sysconfig.get_config_var("SOABI") or ""):
        pytest.skip("needs glibc")
    source = Path(__file__).with_name("failing_malloc.c")
    library = tmp_path_factory.mktemp("malloc") / "failing_malloc.so"
    compiler = (os.environ.get("CC") or "cc").split()
    try:
        built = subprocess.run(
            [*compiler, "-shared", "-fPIC", "-O1", source, "-o", library],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:
        pytest.skip(f"no C compiler {compiler[0]}")
    if "mallinfo2" in built.stderr or "libc_memalign" in built.stderr:
        pytest.skip("needs glibc 2.33")
    assert built.returncode == 0, built.stderr
    return library


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["none", ""])
@pytest.mark.parametrize("name", NAMES)
def test_memory_malloc_fails(failing_malloc, tmp_path, isa, name):
    """Each is a MemoryError or has no effect; what is in use does not grow from round to round."""
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("two libraries cannot both replace malloc")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, Path(__file__).parent, tmp_path, failing_malloc, name],
        env=os.environ | {"LD_PRELOAD": str(failing_malloc), "PYTHONMALLOC": "malloc",
                          "FASTLSTM_NUM_THREADS": "1", "FASTLSTM_ISA": isa,
                          "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    raised, n, growth = map(int, done.stdout.split())
    assert raised > 3
    # Of n failures, each of 512 bytes or more (failing_malloc.c); caches of others grow a little.
    assert growth < max(50_000, 256 * n), f"{growth} bytes more after a round of {n} failures"
