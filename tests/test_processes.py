# SPDX-License-Identifier: MIT
"""Processes and threads around the engine: forks, pools of joblib, many threads, interpreters."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from stacks import Stack, make_stack_problem, with_weights

import fastlstm as fl
from fastlstm import _stack

WIDE = Stack(T=12, B=14, I=9, H=40, L=2, bidirectional=True)


@pytest.fixture(autouse=True)
def two_threads(threads):
    """A team, also where only one processor is there."""
    threads(2)


def together(n, work):
    """[work(0), ..., work(n - 1)] in n threads that begin at the same time."""
    gate, results, faults = threading.Barrier(n), [None] * n, []

    def body(k):
        try:
            gate.wait()
            results[k] = work(k)
        except BaseException as fault:  # it is raised again below
            faults.append(fault)

    threads = [threading.Thread(target=body, args=(k,)) for k in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for fault in faults:
        raise fault
    return results


def train(lstm, problem):
    y, state, tape = lstm.forward(problem.x, problem.state)
    dx, _, grads = lstm.backward(tape, problem.dy, problem.dstate)
    return [y, *state, dx, grads.flat]


@pytest.mark.parametrize("shared", [True, False], ids=["one-layer", "eight-layers"])
def test_processes_eight_threads(make_layer, dtype, shared):
    """Inference and training at the same time, on one layer object and on one each."""
    problems = [make_stack_problem(WIDE, dtype, seed) for seed in range(8)]
    layers = [with_weights(make_layer, problems[0]) for _ in range(1 if shared else 8)]
    alone = [train(layers[0], problem) for problem in problems]

    def work(k):
        layer = layers[k % len(layers)]
        for _ in range(3):
            y, state = layer(problems[k].x, problems[k].state)
            results = train(layer, problems[k])
            for a, b in zip([y, *state], results[:3], strict=True):
                np.testing.assert_array_equal(a, b)
        return results

    for results, answer in zip(together(8, work), alone, strict=True):
        for a, b in zip(results, answer, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(fl.info()["isa"] == "none", reason="one thread does the BLAS step")
def test_processes_directions_run_side_by_side(threads, monkeypatch):
    """Those whose weights fit in L2; in one thread, or with others, one after the other."""
    log = []

    class Recorder(_stack.Beside):
        def get(self):
            log.append(self.done)
            return super().get()

    monkeypatch.setattr(_stack, "Beside", Recorder)
    x = np.ones((600, 1, 16), np.float32)
    small, large = (fl.LSTM(16, H, bidirectional=True, seed=0) for H in (64, 400))
    for layer, n, beside in ((small, 2, True), (small, 1, False), (large, 2, False)):
        threads(n)
        y, _, tape = layer.forward(x)
        layer.backward(tape, y)
        assert log == [beside] * 2
        log.clear()


def test_processes_one_tape_for_all(threads):
    """With `keep` it may be read by several at once, also where rows were reset."""
    threads(1)
    rng = np.random.default_rng(0)
    lstm, x = fl.LSTM(16, 128, seed=0), rng.standard_normal((120, 4, 16), np.float32)
    w_ih, w_hh, bias = (lstm.parameters()[f"{n}_l0"] for n in ("weight_ih", "weight_hh", "bias"))
    reset, dy = rng.random((120, 4)) < 0.3, rng.standard_normal((120, 4, 128), np.float32)
    _, _, tape = fl.lstm_forward(x, w_ih, w_hh, bias, reset=reset)
    answer = fl.lstm_backward(tape, dy, keep=True)[0]

    def work(k):
        return [fl.lstm_backward(tape, dy, keep=True)[0] for _ in range(30)]

    for results in together(4, work):
        for dx in results:
            np.testing.assert_array_equal(dx, answer)


def test_processes_eight_threads_on_weights_that_change(make_layer, dtype):
    """Packed weights are replaced while others use them: each result is that of some weights."""
    problem = make_stack_problem(Stack(T=5, B=3, I=9, H=40), dtype)
    lstm = with_weights(make_layer, problem)
    kept = lstm.flat.copy()
    answers = {}
    for factor in (1, 2):
        lstm.flat[...] = kept * dtype.type(factor)
        answers[factor] = lstm(problem.x)[0]

    def work(k):
        mine = with_weights(make_layer, problem)
        for turn in range(20):
            factor = 1 + (k + turn) % 2
            mine.flat[...] = kept * dtype.type(factor)
            np.testing.assert_array_equal(mine(problem.x)[0], answers[factor])

    together(8, work)


def test_processes_eight_threads_with_a_stream_each(make_layer, dtype):
    stack = Stack(T=20, B=2, I=16, H=160, L=2)  # large enough to give up the GIL
    problem = make_stack_problem(stack, dtype)
    lstm = with_weights(make_layer, problem)

    def work(_):
        stream = lstm.stream(2)
        return np.stack([stream.step(x_t) for x_t in problem.x])

    answer = work(0)
    for y in together(8, work):
        np.testing.assert_array_equal(y, answer)


def test_processes_threads_in_one_stream_are_told(dtype):
    """One at a time: the other gets RuntimeError, or its turn; never a mixture."""
    lstm = fl.LSTM(16, 400, dtype=dtype, seed=0)
    x_t = np.ones((8, 16), dtype)
    alone, answers = lstm.stream(8), set()
    for _ in range(200):
        answers.add(alone.step(x_t).tobytes())
    shared, told = lstm.stream(8), []

    def work(_):
        for _ in range(50):
            try:
                assert shared.step(x_t).tobytes() in answers
            except RuntimeError as error:
                told.append(str(error))

    together(4, work)
    assert all("in another thread" in text for text in told)


def output(code, **named):
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, timeout=120, check=False,
        **named,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


JOBLIB = """
import numpy as np, fastlstm as fl
from joblib import Parallel, delayed
if __name__ == "__main__":
    fl.set_num_threads(2)
    lstm = fl.LSTM(9, 40, seed=0)
    x = np.random.default_rng(0).standard_normal((8, 12, 14, 9), np.float32)
    answer = [lstm(part)[0] for part in x]
    results = Parallel(n_jobs=2, backend={backend!r})(delayed(lstm)(part) for part in x)
    print(all((y == a).all() for (y, _), a in zip(results, answer)))
"""


@pytest.mark.parametrize("name", ["threading", "loky", "multiprocessing"])
def test_processes_joblib(name):
    pytest.importorskip("joblib")
    assert output(JOBLIB.format(backend=name)) == "True"


START = """
import multiprocessing, numpy as np, fastlstm as fl

def work(lstm, x, queue):
    y, _, tape = lstm.forward(x)
    queue.put((y, lstm.backward(tape, y)[2].flat))

if __name__ == "__main__":
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, by Python 3.12
    fl.set_num_threads(2)
    lstm, x = fl.LSTM(9, 64, seed=0), np.ones((20, 32, 9), np.float32)
    y, _, tape = lstm.forward(x)  # the team is there
    flat = lstm.backward(tape, y)[2].flat
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        children = [context.Process(target=work, args=(lstm, x, queue)) for _ in range(2)]
        for child in children:
            child.start()
        for _ in children:
            other, gradients = queue.get(timeout=60)
            assert (other == y).all() and (gradients == flat).all(), method
        for child in children:
            child.join()
            assert child.exitcode == 0, method
    print("done")
"""


def test_processes_started_in_every_way(tmp_path):
    """fork (after the team has worked), spawn, forkserver: the child computes the same bits."""
    program = tmp_path / "program.py"
    program.write_text(START, encoding="utf-8")
    code = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, program], text=True, capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr + code


FORK_WHILE_WORKING = """
import os, threading, warnings
import numpy as np, fastlstm as fl
warnings.simplefilter("ignore")
fl.set_num_threads(2)
lstm, x = fl.LSTM(9, 64, seed=0), np.ones((20, 32, 9), np.float32)
y = lstm(x)[0]
stop = False
def work():
    while not stop:
        lstm(x)
threads = [threading.Thread(target=work) for _ in range(3)]
for t in threads: t.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if (fl.LSTM(9, 64, seed=0)(x)[0] == y).all() else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop = True
for t in threads: t.join()
print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_processes_fork_while_other_threads_compute():
    """At whatever moment the team was copied, the child makes its own."""
    assert output(FORK_WHILE_WORKING) == "done"


ONE_TEAM = """
import os
import numpy as np, fastlstm as fl
fl.set_num_threads(3)
before = len(os.listdir("/proc/self/task"))
lstm = fl.LSTM(64, 256, num_layers=2, seed=0)
for x in np.zeros((40, 32, 64), np.float32), np.zeros((40, 1, 64), np.float32):
    for _ in range(2):
        lstm.flat[...] *= 0.99  # so that they are packed, and compared
        y, _, tape = lstm.forward(x)
        lstm.backward(tape, y)
        lstm(x)
stream = lstm.stream()
for x_t in x[:, 0]:
    stream.step(x_t)
print(len(os.listdir("/proc/self/task")) - before, fl.info()["isa"])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="/proc does not list threads")
def test_processes_have_one_team():
    """Whatever is shared: the steps, the gradients, packing, the steps of a stream."""
    members, isa = output(ONE_TEAM).split()
    if isa == "none":
        pytest.skip("the BLAS step has no team")
    assert int(members) == 2


SUBINTERPRETER = """
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
import fastlstm
try:
    kind = interpreters.create()
    failure = interpreters.run_string(kind, "import fastlstm")
except Exception as error:
    failure = error
print("refused" if failure is not None else "imported", repr(str(failure))[:500])
import numpy as np
print(float(fastlstm.LSTM(2, 3, seed=0)(np.ones((2, 1, 2), "f"))[0].sum()) != 0)
"""


def test_processes_a_subinterpreter_is_refused():
    """By NumPy, or by Cython's modules: with an exception, and the first one goes on."""
    pytest.importorskip("_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters")
    first, second = output(SUBINTERPRETER).splitlines()[-2:]
    assert first.startswith("refused"), first
    assert second == "True"


def test_processes_the_free_threaded_build_is_not_declared():
    """It was never tested: importing the engine there turns the GIL on again."""
    for source in Path(fl.__path__[0]).glob("*.pyx"):
        assert "freethreading_compatible" not in source.read_text(encoding="utf-8"), source
