# SPDX-License-Identifier: MIT
"""What importing fastlstm does to a process, and what it leaves alone; each in a fresh one."""

import os
import signal

import pytest
from processes import output, run

import fastlstm

HEAVY = {"scipy", "sklearn", "matplotlib", "torch", "onnx", "onnxruntime", "keras", "h5py", "dask"}
HEAVY |= {"pandas", "tqdm", "safetensors", "pytest"}
INFERENCE = """
import numpy as np, fastlstm as fl
x = np.ones((3, 2, 4), np.float32)
y, _ = fl.LSTM(4, 5, seed=0)(x)
"""
TRAINING = (
    INFERENCE
    + """
lstm = fl.LSTM(4, 5, seed=0)
y, _, tape = lstm.forward(x)
dx, _, grads = lstm.backward(tape, y)
"""
)
DENORMALS = """
import numpy as np
def exists(dtype):
    tiny = np.array([np.finfo(dtype).smallest_normal])
    return bool((tiny / 2 != 0).all() and (tiny / 2 * 2 == tiny).all())
def check():
    assert exists(np.float32) and exists(np.float64), "denormals are flushed to zero"
check()
"""


@pytest.mark.parametrize(
    "code", ["import fastlstm", INFERENCE, TRAINING], ids=["import", "run", "bptt"]
)
def test_import_leaves_denormals_alone(code):
    """Code built with -Ofast or linked with crtfastmath.o turns them off for the whole process."""
    output(f"{DENORMALS}\n{code}\ncheck()")


@pytest.mark.parametrize(
    "code", ["import fastlstm", "from fastlstm import *"], ids=["import", "star"]
)
def test_import_loads_no_heavy_module(code):
    loaded = output(f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})")
    assert "numpy" in loaded.split()
    assert not HEAVY & set(loaded.split())


def test_import_prints_nothing_and_starts_no_thread():
    code = "import threading, os, fastlstm; print(threading.active_count())"
    assert output(code) == "1"


def test_import_star_gives_the_public_names():
    for name in fastlstm.__all__:
        assert hasattr(fastlstm, name), name
    assert {"LSTM", "Spec", "lstm_forward", "lstm_backward", "reference"} <= set(fastlstm.__all__)


def test_import_does_not_touch_the_warnings_or_the_error_state():
    code = "import numpy, warnings; a = numpy.geterr(), list(warnings.filters)\nimport fastlstm\n"
    assert output(code + "print(a == (numpy.geterr(), list(warnings.filters)))") == "True"


SIZES = {"small": (3, 2, 4, 5), "rows shared": (20, 32, 16, 64), "units shared": (9, 3, 64, 256)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_import_fork_after_use_works(size):
    """A forked child must not wait for threads that only its parent has."""
    code = f"""
import os, warnings
import numpy as np, fastlstm as fl
warnings.simplefilter("ignore")
T, B, I, H = {size}
x = np.random.default_rng(0).standard_normal((T, B, I)).astype("f")
lstm = fl.LSTM(I, H, seed=0)
y, _, tape = lstm.forward(x)
dx, _, grads = lstm.backward(tape, y)
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        again, _, tape = lstm.forward(x)
        same = (again == y).all() and (lstm.backward(tape, y)[0] == dx).all()
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert (lstm(x)[0] == y).all()
print("done")
"""
    assert output(code, FASTLSTM_NUM_THREADS="2") == "done"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer on this system")
@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("isa", fastlstm.info()["isas"].split(", "))
def test_import_ctrl_c_stops_a_long_sequence(isa, threads):
    """The handler runs in the middle, and the layer works as before afterwards."""
    code = """
import signal, time
import numpy as np, fastlstm as fl
lstm = fl.LSTM(8, 512, seed=0)
short = np.ones((9, 16, 8), "f")
before = lstm(short)[0]
x = np.broadcast_to(np.float32(0.1), (8000, 16, 8)).copy()
start = time.perf_counter()
lstm(x[:800])
whole = 10 * (time.perf_counter() - start)  # else the exception comes too, but after the last step
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
start = time.perf_counter()
try:
    lstm(x)
except KeyboardInterrupt:
    pass
took = time.perf_counter() - start
assert took < 0.2 + 0.5 * whole, f"the sequence ran to its end: {took} of about {whole} s"
assert (lstm(short)[0] == before).all()
print("stopped")
"""
    assert output(code, FASTLSTM_ISA=isa, FASTLSTM_NUM_THREADS=threads) == "stopped"


def test_import_threads_from_the_environment():
    code = "import fastlstm; print(fastlstm.get_num_threads())"
    assert output(code, FASTLSTM_NUM_THREADS="3") == "3"
    assert int(output(code)) >= 1


def test_import_in_a_spawned_pool():
    code = """
import multiprocessing, numpy as np, fastlstm as fl
if __name__ == "__main__":
    lstm = fl.LSTM(4, 5, seed=0)
    x = np.ones((3, 2, 4), np.float32)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        y, _ = pool.apply(lstm, (x,))
    print((y == lstm(x)[0]).all())
"""
    assert output(code) == "True"


@pytest.mark.parametrize("backend", ["reference", "engine"])
def test_import_backend_from_the_environment(backend):
    code = "import fastlstm as fl; print(fl.info()['backend'], fl.lstm_forward.__module__)"
    told, module = output(code, FASTLSTM_BACKEND=backend).split()
    assert told == backend
    assert module.endswith(backend)


@pytest.mark.parametrize(("name", "value"), [("FASTLSTM_BACKEND", "cuda"), ("FASTLSTM_ISA", "mmx")])
def test_import_refuses_an_unknown_choice(name, value):
    done = run("import fastlstm", **{name: value})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: ")
    assert value in last


def test_import_isa_from_the_environment():
    for isa in fastlstm.info()["isas"].split(", "):
        code = INFERENCE + "print(fl.info()['isa'], float(y.sum()))"
        told, total = output(code, FASTLSTM_ISA=isa).split()
        assert told == isa
        assert float(total) == pytest.approx(float(output(code).split()[1]), rel=1e-5)


def test_import_info_is_for_a_bug_report():
    info = fastlstm.info()
    assert all(isinstance(value, str) and value for value in info.values())
    assert info["fastlstm"] == fastlstm.__version__
    assert info["isa"] in info["isas"].split(", ")
