# SPDX-License-Identifier: MIT
"""The benchmarks themselves: shapes, the refusal of wrong results, the report. Nothing is timed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import fastlstm as fl

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks import (
    bars,
    busy,
    cases,
    epoch,
    machine,
    measure,
    oracle,
    render,
    report,
    rows,
    worker,
)
from benchmarks.engine import Call, Engine
from benchmarks.numpy_loop import NumpyLSTM
from benchmarks.peers import ENGINES

TINY = [
    cases.Case(5, 3, 4, 7),
    cases.Case(1, 1, 2, 5),
    cases.Case(4, 2, 3, 5, num_layers=2, bidirectional=True),
]


# -- cases ------------------------------------------------------------------------------------


def test_cases_are_the_17_shapes_and_two_more():
    assert len(cases.BAR_CASES) == 17
    assert all(case.single for case in cases.BAR_CASES)
    assert [case.name for case in cases.EXTRA_CASES] == ["40,32,1,45,L4", "100,32,64,128,bi"]
    assert len({case.name for case in cases.CASES}) == 19


def test_case_is_found_by_its_name():
    assert all(cases.by_name(case.name) is case for case in cases.CASES)
    with pytest.raises(ValueError, match=r"no case '7,7,7,7'; there are: 1,1,16,64  "):
        cases.by_name("7,7,7,7")


def test_case_flops_and_bytes_by_hand():
    case = cases.Case(2, 3, 4, 5)
    assert case.flops("forward") == 8 * 5 * (4 + 5) * 2 * 3
    assert case.flops("training") == 3 * case.flops("forward")
    assert case.flops("step") == 8 * 5 * (4 + 5) * 3
    assert case.weight_bytes("float64") == 8 * 4 * 5 * (4 + 2 * 5)
    stacked = cases.Case(2, 3, 4, 5, num_layers=2, bidirectional=True)
    assert stacked.flops("forward") == 8 * 5 * 2 * ((4 + 5) + (10 + 5)) * 2 * 3


def test_selection_keeps_what_applies():
    assert cases.selection("forward", "float32") == list(cases.CASES)
    assert cases.selection("training", "float64") == list(cases.SMALL_CASES)
    assert len(cases.SMALL_CASES) == 8
    assert cases.selection("step", "float32") == list(cases.STEP_CASES)
    assert cases.selection("step", "float32", ["100,1,8,32", "1,1,16,64"]) == [
        cases.by_name("1,1,16,64")
    ]


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_problem_is_reproducible_random_and_read_only(dtype):
    case = cases.EXTRA_CASES[1]
    one, two = (cases.Problem.make(case, dtype, "training") for _ in range(2))
    assert one.x.shape == (100, 32, 64)
    assert one.dy.shape == (100, 32, 256)
    assert one.weights["weight_ih_l0_reverse"].shape == (512, 64)
    for name, array in (one.weights | {"x": one.x, "dy": one.dy}).items():
        other = (two.weights | {"x": two.x, "dy": two.dy})[name]
        assert array.dtype == dtype
        assert np.array_equal(array, other)
        assert array.std() > 0
        assert not array.flags.writeable


# -- the oracle -------------------------------------------------------------------------------


def numpy_result(problem):
    lstm = NumpyLSTM(problem)
    y, (h_n, c_n), tapes = lstm.forward(problem.x, save=True)
    dx, grads = lstm.backward(tapes, problem.dy)
    return {"y": y, "h_n": h_n, "c_n": c_n, "dx": dx, **grads}


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("case", TINY, ids=lambda case: case.name)
def test_numpy_loop_matches_the_reference(case, dtype):
    problem = cases.Problem.make(case, dtype, "training")
    result, answer = numpy_result(problem), oracle.expected(problem)
    assert set(result) == set(answer)
    assert oracle.check(result, answer, dtype) < 100


def test_numpy_step_streams():
    problem = cases.Problem.make(TINY[1], "float32", "step")
    (call,) = ENGINES["numpy"].calls(problem, 1).values()
    call.run()
    result = call.result()
    assert result["y"].shape == (cases.STEPS_CHECKED, 1, 5)
    oracle.check(result, oracle.expected(problem), "float32")


def swapped_gates(array):
    return np.roll(array.reshape(4, -1), 1, axis=0).reshape(array.shape)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("y", np.zeros_like, "y is off by"),
        ("y", lambda y: y * np.float32(1 + 2**-8), "y is off by"),
        ("y", lambda y: y.astype(np.float64), "y must be float32"),
        ("y", lambda y: y.transpose(1, 0, 2), r"y must be float32 \(5, 3, 7\)"),
        ("y", lambda y: np.where(y == y[-1, -1, -1], np.nan, y), "y is off by nan"),
        ("c_n", np.zeros_like, "c_n is off by"),
        ("dx", lambda dx: np.concatenate([0 * dx[:1], dx[1:]]), "dx is off by"),
        ("weight_hh_l0", swapped_gates, "weight_hh_l0 is off by"),
        ("bias_l0", lambda b: None, "bias_l0 is missing"),
    ],
)
def test_check_refuses_a_wrong_result(name, spoil, message):
    problem = cases.Problem.make(TINY[0], "float32", "training")
    result, answer = numpy_result(problem), oracle.expected(problem)
    result[name] = spoil(result[name])
    if result[name] is None:
        del result[name]
    with pytest.raises(oracle.WrongResult, match=message):
        oracle.check(result, answer, "float32")


class HereWorker:
    """A `Worker` without a process, on an engine of the test's own."""

    def __init__(self, engine, monkeypatch):
        monkeypatch.setitem(ENGINES, engine.name, engine)
        self.session = worker._Session(engine.name, 1)
        self.asked = []

    def ask(self, command, *arguments):
        self.asked.append(command)
        try:
            return getattr(self.session, command)(*arguments)
        except Exception as problem:
            raise worker.WorkerFailed(f"{type(problem).__name__}: {problem}") from problem


class Zeros(Engine):
    """Fast and wrong."""

    name = label = "zeros"
    package = "numpy"

    def forward(self, problem, threads):
        case = problem.case
        y = np.zeros((case.T, case.B, case.D * case.H), problem.dtype)
        return {"zeros": Call(lambda: y, lambda: {"y": y})}


class Machine:
    """A probe whose figures are known: in each round another."""

    def __init__(self):
        self.peaks = [90.0, 100.0, 80.0]

    def measure(self, threads, slots):
        return {
            "isa": "avx2",
            "threads": threads,
            "float32_gflops": self.peaks.pop(),
            "l2_gbytes": 7,
        }


class NoMachine:
    """A probe without a compiler."""

    def measure(self, threads, slots):
        return None


def test_wrong_peer_is_not_timed(monkeypatch, tmp_path):
    case = TINY[0]
    monkeypatch.setitem(cases._BY_NAME, case.name, case)
    workers = {
        "zeros": HereWorker(Zeros(), monkeypatch),
        "numpy": HereWorker(ENGINES["numpy"], monkeypatch),
    }
    settings = measure.Settings(rounds=2, seconds=0)
    answers = measure.Answers(tmp_path)
    row = measure.measure_row(
        workers, case, "float32", "forward", 1, answers, settings, NoMachine()
    )
    assert row["engines"]["zeros"]["skipped"].startswith("WrongResult: y is off by")
    assert "time" not in workers["zeros"].asked
    assert row["engines"]["numpy"]["us"] > 0
    assert row["flops"] == case.flops("forward")
    assert row["probe"] is None


def test_machine_has_its_turn_in_every_round(monkeypatch, tmp_path):
    case = TINY[0]
    monkeypatch.setitem(cases._BY_NAME, case.name, case)
    workers = {"numpy": HereWorker(ENGINES["numpy"], monkeypatch)}
    settings = measure.Settings(rounds=3, seconds=0)
    row = measure.measure_row(
        workers, case, "float32", "forward", 1, measure.Answers(tmp_path), settings, Machine()
    )
    assert row["probe"] == {"float32_gflops": 90, "l2_gbytes": 7}


class Recorder:
    """A `Worker` that says when it was asked to time, and fails the n-th time."""

    def __init__(self, name, log, fails_at=99):
        self.name, self.log, self.fails_at, self.turns = name, log, fails_at, 0

    def ask(self, command, *arguments):
        if command == "prepare":
            return "x", 1.0
        if command != "time":
            return 0.0
        self.log.append(self.name)
        self.turns += 1
        if self.turns == self.fails_at:
            raise worker.WorkerFailed("the process ended (EOFError)")
        return [7.0], 0.0, 0.0


def take_turns(workers, tmp_path):
    return measure.measure_row(
        workers, cases.CASES[0], "float32", "forward", 1, measure.Answers(tmp_path),
        measure.Settings(rounds=3, seconds=0), NoMachine(),
    )  # fmt: skip


def test_engines_take_turns(tmp_path):
    log = []
    names = ["fastlstm", "pytorch", "numpy"]
    take_turns({name: Recorder(name, log) for name in names}, tmp_path)
    assert log == names + names[1:] + names[:1] + names[2:] + names[:2]


def test_engine_that_ends_in_its_turn_does_not_end_the_run(tmp_path):
    log = []
    workers = {"fastlstm": Recorder("fastlstm", log), "pytorch": Recorder("pytorch", log, 2)}
    row = take_turns(workers, tmp_path)
    assert row["engines"]["pytorch"] == {"skipped": "the process ended (EOFError)"}
    assert row["engines"]["fastlstm"]["us"] == 7
    assert log.count("fastlstm") == 3


def test_busy_tries_one_thread_and_all(monkeypatch, capsys, threads):
    threads(2)
    seen = []
    monkeypatch.setattr(
        busy, "mean_us", lambda call, seconds: seen.append(fl.get_num_threads()) or 5
    )
    assert busy.main(["--busy", "0", "1"]) == 1
    assert seen == [1, 2] * busy.TURNS * len(busy.CASES) * 2 * 2
    assert fl.get_num_threads() == 2
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("1 busy") for line in lines) == 2 * len(busy.CASES)


def test_readme_shows_a_run_that_is_kept():
    root = Path(__file__).resolve().parents[1]
    shown = (root / "README.md").read_text(encoding="utf-8")
    shown = shown.split(render.BEGIN)[1].split(render.END)[0].strip()
    runs = sorted((root / "benchmarks" / "results").glob("*.json"))
    tables = [render.readme_table(json.loads(path.read_text())).strip() for path in runs]
    assert shown in tables


def test_probe_measures_every_figure(tmp_path):
    found = machine.Probe(tmp_path).measure(2, slots=1)
    assert found.pop("isa") in ("avx512", "avx2", "baseline")
    assert found.pop("threads") == 2
    figures = ["float32_gflops", "float64_gflops", "l1_gbytes", "l2_gbytes", "l3_gbytes"]
    assert [name for name, value in found.items() if value > 0] == figures


def test_no_probe_without_a_compiler(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CC", "false")
    assert machine.Probe(tmp_path).measure(1) is None
    assert "no probe of the machine" in capsys.readouterr().err


def test_worker_process_answers_and_fails_cleanly(tmp_path):
    case = TINY[0]
    answers = measure.Answers(tmp_path)
    child = worker.Worker("numpy", 1)
    try:
        assert child.ask("start") == np.__version__
        how, error = child.ask(
            "prepare", case, "float32", "forward", answers.file(case, "float32", "forward")
        )
        assert (how, error < 100) == ("loop", True)
        samples, idle, busy = child.ask("time", 0)
        assert len(samples) >= 1
        assert min(samples) > 0
        assert idle >= 0
        assert busy > 0
        with pytest.raises(worker.WorkerFailed, match="FileNotFoundError"):
            child.ask("prepare", case, "float32", "forward", str(tmp_path / "absent"))
        assert child.ask("release") >= 0
        child._process.kill()
        with pytest.raises(worker.WorkerFailed, match="the process ended"):
            child.ask("start")
    finally:
        child.close()


def test_worker_environment():
    base = {
        "OPENBLAS_CORETYPE": "Haswell",
        "OPENBLAS_L2_SIZE": "1",
        "OMP_NUM_THREADS": "7",
        "A": "b",
    }
    found = worker.environment(2, base)
    assert "OPENBLAS_CORETYPE" not in found
    assert "OPENBLAS_L2_SIZE" not in found
    assert found["A"] == "b"
    assert {found[name] for name in worker.THREAD_VARIABLES} == {"2"}


# -- the report -------------------------------------------------------------------------------


def make_row(case, ours, what="forward", dtype="float32", threads=1, **others):
    times = {"fastlstm": ours, **others}
    engines = {
        name: {
            "us": us,
            "min_us": us,
            "rounds": [us] * 3,
            "how": "x",
            "error_eps": 1,
            "idle_cpu": 0,
        }
        for name, us in times.items()
    }
    flops = cases.by_name(case).flops(what)
    return {
        "case": case, "what": what, "dtype": dtype, "threads": threads, "flops": flops,
        "engines": engines, "foreign_cpu": 0.0,
    }  # fmt: skip


@pytest.fixture
def run():
    probe = {"isa": "avx512", "float32_gflops": 200.0, "float64_gflops": 50.0}
    probe |= {"l1_gbytes": 200.0, "l2_gbytes": 100.0, "l3_gbytes": 80.0}
    return {
        "machine": {
            "cpu": "Test 9000", "cpus": 2, "date": "2026-01-02 03:04",
            "caches": {"l1": 32 << 10, "l2": 1 << 20, "l3": 32 << 20},
        },
        "probes": {"1": probe, "2": {**probe, "float32_gflops": 400.0}},
        "versions": {"fastlstm": "0.1", "pytorch": "2.13"},
        "warnings": [],
        "rows": [
            make_row("100,1,16,64", 50.0, pytorch=300.0, onnxruntime=100.0, numpy=1000.0),
            make_row("50,64,512,512", 80000.0, pytorch=60000.0, openvino=70000.0, numpy=90000.0),
            make_row("50,64,512,512", 40000.0, threads=2, pytorch=60000.0),
            make_row("1,1,16,64", 2.0, what="step", onnxruntime=10.0),
        ],
    }  # fmt: skip


def test_rows_derived_figures(run):
    fast, slow = run["rows"][:2]
    assert rows.best_peer(fast) == ("onnxruntime", 100.0)
    assert rows.ratio(fast) == 2.0
    assert rows.ratio(slow) == 0.75
    assert rows.ratio(fast, ("openvino",)) is None
    assert rows.geometric_mean([2, 8]) == pytest.approx(4)
    assert rows.geometric_mean([]) is None
    assert rows.gflops(slow) == pytest.approx(8 * 512 * 1024 * 50 * 64 / 80000 / 1e3)
    assert rows.peak_fraction(run, slow) == pytest.approx(rows.gflops(slow) / 200)
    beside = {**slow, "probe": {"float32_gflops": 160.0}}
    assert rows.peak_fraction(run, beside) == pytest.approx(rows.gflops(slow) / 160)
    gbytes, level, fraction = rows.bandwidth(run, fast)
    assert gbytes == pytest.approx(4 * 4 * 64 * (16 + 100 * 64) / 50 / 1e3)
    assert (level, fraction) == (2, gbytes / 100)
    assert rows.bandwidth(run, slow) is None
    assert rows.bandwidth(run, make_row("100,1,256,512", 50.0))[1] == 3
    assert rows.bandwidth(run, make_row("100,1,8,32", 50.0))[1] == 1


def test_rows_doubts():
    row = make_row("100,1,16,64", 50.0, pytorch=300.0)
    assert rows.doubts(row) == []
    row["engines"]["pytorch"].update(rounds=[100, 100, 130], idle_cpu=0.4)
    row["foreign_cpu"] = 0.5
    assert rows.doubts(row) == [
        "pytorch varies by 1.30x between rounds",
        "pytorch burns 0.40 CPU while blocked",
        "other processes keep 0.50 CPUs busy",
    ]


def test_ratio_is_never_rounded_up():
    assert [render.times(r) for r in (0.999, 1.5, 12.4, None)] == ["0.99", "1.50", "12", "-"]


def test_text_report_shows_every_row(run):
    run["rows"][0]["engines"]["openvino"] = {"skipped": "WrongResult: y is off"}
    text = render.text_report(run)
    assert "Test 9000, 2 CPUs, 2026-01-02; fastlstm 0.1, PyTorch 2.13" in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line[:1].isdigit()}
    assert lines["100,1,16,64"][1:6] == ["50", "300", "100", "-", "1000"]
    assert lines["100,1,16,64"][6:8] == ["2.00", "20"]
    assert "openvino not timed: WrongResult: y is off" in text
    assert "geometric mean of the single-layer rows: 1.22 x best peer" in text


def test_update_readme_replaces_only_between_the_markers(run, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{render.BEGIN}\nold\n{render.END}\nafter\n")
    render.update_readme(readme, run)
    text = readme.read_text()
    assert text.startswith(f"before\n{render.BEGIN}\nTest 9000, 2 CPUs, 2026-01-02")
    assert text.endswith(f"{render.END}\nafter\n")
    assert "old" not in text
    assert "| 50,64,512,512 | 80000 | 60000 PyTorch | 0.75 | 1.12 | 40000 |" in text
    assert "| 100,1,16,64 | 50 | 100 ONNX Runtime | 2.00 | 20 | - | - | - | - |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.count("|") for line in table if "thread" not in line}
    assert widths == {10, 6}  # two thread counts; one
    render.update_readme(readme, run)
    assert readme.read_text() == text


@pytest.mark.parametrize("text", ["", f"{render.BEGIN}", f"{render.END}\n{render.BEGIN}"])
def test_update_readme_needs_its_markers(run, tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md must hold the line <!-- benchmark:begin"):
        render.update_readme(readme, run)
    assert readme.read_text() == text


def test_plot_is_drawn(run, tmp_path):
    pytest.importorskip("matplotlib")
    render.plot(run, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="nothing to plot"):
        render.plot(run | {"rows": []}, tmp_path / "none.png")


def test_bars_pass_fail_and_say_what_is_missing(run):
    outcomes = {outcome.text: outcome for outcome in bars.judge(run)}
    text = "stream().step(), H = 64, against ONNX Runtime, float32, 1 thread: every row >= 4"
    assert outcomes[text] == bars.Outcome(text, True, "worst 5.00 at 1,1,16,64")
    forward = outcomes["forward against the best peer, float32, 1 thread: every row >= 1"]
    assert forward.passed is False
    assert forward.detail == "worst 0.75 at 50,64,512,512 (15 of 17 rows not run)"
    mean = outcomes["forward against the best peer, float32, 1 thread: geometric mean >= 1.5"]
    assert (mean.passed, mean.detail) == (None, "1.22 (15 of 17 rows not run)")
    training = "forward + backward against PyTorch, float32, 1 thread: every row >= 1.1"
    assert outcomes[training] == bars.Outcome(training, None, "not run")
    scaling = outcomes["two threads against one, forward, float32, 2 threads: every row >= 1.8"]
    assert scaling.detail.startswith("worst 2.00 at 50,64,512,512")
    peak = outcomes["fraction of the FMA peak, forward, float32, 1 thread: every row >= 0.9"]
    assert peak.passed is False
    assert peak.detail.startswith("worst 0.84")


def test_bars_of_a_complete_run(run):
    run["rows"] = [
        make_row(case.name, 10.0, pytorch=20.0, onnxruntime=15.0 + 5 * k)
        for k, case in enumerate(cases.BAR_CASES)
    ]
    outcomes = {outcome.text: outcome for outcome in bars.judge(run)}
    name = "forward against the best peer, float32, 1 thread: "
    assert outcomes[name + "every row >= 1"].passed is True
    assert outcomes[name + "geometric mean >= 1.5"].passed is True
    run["rows"][3]["engines"]["fastlstm"]["us"] = 1e6
    outcomes = {outcome.text: outcome for outcome in bars.judge(run)}
    assert outcomes[name + "every row >= 1"].passed is False
    assert outcomes[name + "geometric mean >= 1.5"].passed is False


def stored(folder, name, run):
    path = folder / name
    path.write_text(json.dumps(run))
    return str(path)


def test_report_loads_prints_and_compares(run, tmp_path, capsys):
    old = json.loads(json.dumps(run))
    old["rows"][0]["engines"]["fastlstm"]["us"] = 45.0  # now 50, 11 % more: a loss
    old["rows"][1]["engines"]["fastlstm"]["us"] = 73000.0  # now 80000: within 10 %
    now, then = stored(tmp_path, "now.json", run), stored(tmp_path, "then.json", old)
    assert report.main(["--load", now]) == 0
    assert report.main(["--load", now, "--compare", now]) == 0
    capsys.readouterr()
    assert report.main(["--load", now, "--compare", then]) == 1
    lines = capsys.readouterr().out.splitlines()
    losses = [line for line in lines if line.endswith("LOSS")]
    assert len(losses) == 1
    assert "100,1,16,64" in losses[0]
    assert "  1 of 4 rows lost more than 10 %" in lines
    assert report.main(["--load", now, "--strict"]) == 1


def test_report_updates_readme_and_plot(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    readme = tmp_path / "README.md"
    readme.write_text(f"{render.BEGIN}\n{render.END}\n")
    arguments = ["--load", stored(tmp_path, "now.json", run), "--output", str(tmp_path)]
    assert report.main([*arguments, "--readme", str(readme), "--update-readme"]) == 0
    assert "Test 9000" in readme.read_text()
    assert (tmp_path / "speed.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--load", "absent.json"], "cannot read the run absent.json"),
        (["--cases", "1,2,3,4"], "no case '1,2,3,4'"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
    ],
)
def test_report_says_what_is_wrong(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        report.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_report_refuses_other_json(tmp_path):
    with pytest.raises(ValueError, match="is no benchmark run: it lacks machine, probes, rows"):
        report.load(stored(tmp_path, "other.json", {"versions": {}}))


def test_report_file_name_is_plain():
    arguments = report.parser().parse_args(["--quick", "--what", "step"])
    name = report.file_name(arguments, {"date": "2026-01-02 03:04", "cpu": "AMD EPYC/9 (x)"})
    assert name == "2026-01-02-0304-AMD-EPYC-9-x-step-quick.json"


# -- a whole epoch ----------------------------------------------------------------------------


def test_epoch_report_is_about_medians_beside_ours():
    results = {
        "torch": ("2", [(3.0, 2.0), (9.0, 8.0), (4.0, 1.0)]),
        "fastlstm": ("0", [(2.0, 1.0)]),
    }
    text = "\n".join(epoch.report(results, 0.125, 1))
    assert "torch 2                      4.000     2.000          2.00    2.00" in text
    assert "12.5% of ours" in text


@pytest.mark.slow
def test_epoch_is_timed_and_a_side_that_trains_otherwise_is_refused(monkeypatch):
    results, share = epoch.measure(["fastlstm"], 1, 2, print)
    _, times = results["fastlstm"]
    assert len(times) == 2
    assert all(cpu > 0 for _, cpu in times)
    assert 0 < share < 1
    monkeypatch.setattr(epoch, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="fastlstm trains otherwise than fastlstm"):
        epoch.measure(["fastlstm"], 1, 1, print)


@pytest.mark.parity
def test_epoch_trains_as_torch_does():
    pytest.importorskip("torch")
    results, _ = epoch.measure(["fastlstm", "torch"], 1, 1, print)
    assert set(results) == {"fastlstm", "torch"}
