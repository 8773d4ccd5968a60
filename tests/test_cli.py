# SPDX-License-Identifier: MIT
"""The command line: what it prints, and one line for whatever the user can get wrong."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from fastlstm import cli, cli_demo, cli_forecast, forecast, quickbench
from fastlstm.fit import DivergenceError
from fastlstm.heads import Dense
from fastlstm.io import load, save

pytest.importorskip("matplotlib")

SMALL = ["--epochs", "1", "--hidden", "4", "--layers", "1", "--window", "8"]
FORECAST = ["forecast", "prices.csv", "--column", "close"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with prices.csv, 80 rows, in it."""
    monkeypatch.chdir(tmp_path)
    days = np.datetime64("2004-08-19") + np.arange(80)
    rows = [f"{day},{100 + 10 * np.sin(k / 5):.2f}" for k, day in enumerate(days)]
    (tmp_path / "prices.csv").write_text("\n".join(["day,close", *rows, ""]))
    return tmp_path


@pytest.fixture
def run(capsys):
    """run(*arguments) in this process -> (status, stdout, stderr)."""

    def call(*arguments):
        status = cli.main(list(arguments))
        return status, *capsys.readouterr()

    return call


@contextlib.contextmanager
def spawn(*arguments, env=None, **keywords):
    """Python -m fastlstm in a process of its own, which ends with the block."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    env = inherited | {"PYTHONPATH": str(Path(fastlstm.__file__).parents[1])} | (env or {})
    keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | keywords
    command = [sys.executable, "-m", "fastlstm", *arguments]
    with subprocess.Popen(command, env=env, **keywords) as process:
        try:
            yield process
        finally:
            process.kill()


def spawn_and_wait(*arguments, **keywords):
    """(status, stdout, stderr) of `spawn`."""
    with spawn(*arguments, **keywords) as process:
        out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def image_size(path):
    """(width, height) of a PNG, from its header."""
    data = path.read_bytes()
    assert data.startswith(PNG)
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


# -- forecast ------------------------------------------------------------------------------------


def test_forecast_prints_errors_beside_baselines_and_the_next_values(run):
    status, out, err = run(
        "forecast", "prices.csv", "--column", "close", "--date-column", "day", "--horizon", "2",
        *SMALL,
    )  # fmt: skip
    assert (status, err) == (0, "")
    number = r" +-?[\d.e+-]+"
    for name in ("persistence", "linear autoregression", "LSTM"):
        assert re.search(rf"^  {name}{number}{number}$", out, re.M), name
    assert "prices.csv: close, 80 rows (2004-11-06).\n" in out
    assert "55 windows of 8 to train on, 15 unseen ones after them" in out
    assert re.search(r"^By RMSE .* wins; ", out, re.M) and re.search(r"^By MAE .* wins", out, re.M)
    assert "The next 2 after the last row (2004-11-06), by the LSTM:\n" in out
    future = re.findall(rf"^  \+([12])({number})$", out, re.M)
    assert [k for k, _ in future] == ["1", "2"]
    assert all(abs(float(value) - 100) < 30 for _, value in future)


def test_forecast_prints_what_the_job_found(run):
    _, out, _ = run("forecast", "prices.csv", "--column", "close", "--seed", "3", *SMALL)
    series = forecast.Series("close", cli_forecast.read_series("prices.csv", "close").values)
    settings = forecast.Settings(window=8, hidden=4, layers=1, epochs=1, seed=3)
    report = forecast.run(series, settings)
    for name, (rmse, mae) in report.errors.items():
        assert f"  {name:<34}{rmse:>12.5g}{mae:>12.5g}\n" in out
    assert f"  +1      {report.future[0]:.6g}\n" in out


def test_forecast_hands_every_option_to_the_job(run, monkeypatch):
    seen = []

    def stop(series, settings):
        seen.append(settings)
        raise forecast.InputError("seen")

    monkeypatch.setattr(cli_forecast, "run", stop)
    run(
        "forecast", "prices.csv", "--column", "close", "--window", "9", "--horizon", "3",
        "--test-fraction", "0.25", "--hidden", "7", "--layers", "2", "--scaling", "minmax",
        "--epochs", "6", "--seed", "5",
    )  # fmt: skip
    assert seen == [
        forecast.Settings(
            window=9, horizon=3, test_fraction=0.25, hidden=7, layers=2, scaling="minmax",
            epochs=6, seed=5,
        )
    ]  # fmt: skip


def test_forecast_writes_picture_and_network(run, folder):
    status, out, _ = run(
        "forecast", "prices.csv", "--column", "close", "--plot", "out.png", "--save",
        "model.safetensors", *SMALL,
    )  # fmt: skip
    assert status == 0
    assert "wrote out.png\n" in out and "wrote model.safetensors\n" in out
    assert min(image_size(folder / "out.png")) > 500
    assert load("model.safetensors").modules[0].hidden_size == 4


def test_forecast_draws_numbered_dates(run, folder):
    rows = "".join(f"{1700 + k};{k % 11}\n" for k in range(80))
    (folder / "spots.csv").write_text("year;spots\n" + rows)
    status, out, err = run(
        "forecast", "spots.csv", "--column", "spots", "--date-column", "year", "--plot", "o.svg",
        *SMALL,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "after the last row (1779)" in out


def test_forecast_shows_no_progress_in_a_pipe():
    status, out, err = spawn_and_wait(*FORECAST, *SMALL)
    assert (status, err) == (0, "")
    assert "\r" not in out


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_forecast_shows_progress_on_a_terminal():
    pytest.importorskip("tqdm")
    import pty
    import termios

    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    with spawn(*FORECAST, *SMALL, stderr=slave) as process:
        os.close(slave)
        shown = b""
        while chunk := _read(master):
            shown += chunk
        process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 0
    assert b"56.0/56.0" in shown and b"loss=" in shown


def _read(descriptor):
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux: the other end of the terminal is closed
        return b""


# -- what forecast has beside the table ---------------------------------------------------------


def test_forecast_with_an_interval_says_its_ends_and_what_lies_in_it(run):
    status, out, err = run(*FORECAST, "--interval", "0.8", "--horizon", "2", *SMALL)
    assert (status, err) == (0, "")
    assert "Adam, quantile loss, batches" in out
    assert re.search(r"^[\d.]+% of the true values lie in the 80% interval\.$", out, re.M)
    steps = re.findall(r"^  \+[12] +([\d.]+)   ([\d.]+) to ([\d.]+)$", out, re.M)
    assert len(steps) == 2
    assert all(float(low) <= float(value) <= float(high) for value, low, high in steps)


def test_forecast_prints_json(run, folder):
    (folder / "two.csv").write_text("x,y\n" + "".join(f"{k % 7},{k % 5}\n" for k in range(90)))
    arguments = ["forecast", "two.csv", "--column", "x", "--exog", "y", "--horizon", "2", *SMALL]
    status, out, err = run(*arguments, "--interval", "0.5", "--json", "--save", "m.safetensors")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert (found["column"], found["rows"], found["cell"]) == ("x", 90, "lstm")
    assert [step["step"] for step in found["forecast"]] == [1, 2]
    assert all(s["lower"] <= s["value"] <= s["upper"] for s in found["forecast"])
    assert list(found["errors"]) == ["persistence", "linear autoregression", "LSTM"]
    assert 0 <= found["coverage"] <= 1 and found["interval"] == 0.5
    assert "folds" not in found
    again = json.loads(run("forecast", "two.csv", "--model", "m.safetensors", "--json")[1])
    assert again["forecast"] == found["forecast"]
    assert "errors" not in again


def test_forecast_prints_csv(run):
    status, out, err = run(*FORECAST, "--horizon", "3", "--csv", *SMALL)
    assert (status, err) == (0, "")
    head, *rows = out.splitlines()
    assert head == "step,value"
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3"]
    _, table, _ = run(*FORECAST, "--horizon", "3", *SMALL)
    for row in rows:
        assert f"{float(row.split(',')[1]):.6g}\n" in table
    _, out, _ = run(*FORECAST, "--interval", "0.9", "--csv", *SMALL)
    assert out.startswith("step,value,lower,upper\n1,")


def test_forecast_walks_forward(run, folder):
    status, out, err = run(
        *FORECAST, "--backtest", "2", "--season", "7", "--date-column", "day", "--plot", "b.png",
        *SMALL,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "Trained anew for each of 2 folds, on all values before it.\n" in out
    for name in ("persistence", "linear autoregression", "seasonal naive", "LSTM"):
        assert re.search(rf"^{name}( +[\d.e+-]+){{4}}$", out, re.M), name  # RMSE MAE two folds
    assert re.search(r"^  \+1 ", out, re.M)
    assert min(image_size(folder / "b.png")) > 500
    found = json.loads(run(*FORECAST, "--backtest", "2", "--json", *SMALL)[1])
    assert len(found["folds"]) == 2


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_forecast_by_other_cells(run, cell):
    status, out, err = run(*FORECAST, "--cell", cell, "--save", "m.safetensors", *SMALL)
    assert (status, err) == (0, "")
    assert f"Network: 1 x {cell.upper()} of 4 units" in out
    assert re.search(rf"^  {cell.upper()}( +[\d.e+-]+){{2}}$", out, re.M)
    _, again, _ = run("forecast", "prices.csv", "--model", "m.safetensors")
    assert again.splitlines()[-1] in out.splitlines()


def test_forecast_with_a_model_trains_nothing(run, folder, monkeypatch):
    _, out, _ = run(*FORECAST, "--horizon", "2", "--save", "m.safetensors", *SMALL)
    monkeypatch.setattr(cli_forecast, "run", None)
    status, again, err = run("forecast", "prices.csv", "--model", "m.safetensors")
    assert (status, err) == (0, "")
    assert "Network: m.safetensors, trained on close.\n" in again
    assert again.splitlines()[-2:] == [line for line in out.splitlines() if "  +" in line]
    # another column of another file, and one row more
    rows = (folder / "prices.csv").read_text().replace("close", "open") + "2005-01-01,100\n"
    (folder / "new.csv").write_text(rows)
    _, other, _ = run("forecast", "new.csv", "--model", "m.safetensors", "--column", "open")
    assert "new.csv: open, 81 rows." in other
    assert other.splitlines()[-2:] != again.splitlines()[-2:]


# -- errors --------------------------------------------------------------------------------------

ERRORS = {
    "missing file": (["forecast", "nowhere.csv", "--column", "close"],
                     "nowhere.csv does not exist"),
    "directory": (["forecast", ".", "--column", "close"],
                  ". is a directory, a CSV file is expected"),
    "newline in a name": (["forecast", "a\nb", "--column", "close"], r"a\nb does not exist"),
    "not UTF-8": (["forecast", "latin.csv", "--column", "close"],
                  "latin.csv, line 1: byte 0xe9 is not UTF-8 text"),
    "empty": (["forecast", "empty.csv", "--column", "close"],
              "empty.csv is empty; a header line and rows of numbers are expected"),
    "column": (["forecast", "prices.csv", "--column", "Close"],
               "prices.csv has no column 'Close'; it has 'day', 'close'"),
    "date column": ([*FORECAST, "--date-column", "date"],
                    "prices.csv has no column 'date'; it has 'day', 'close'"),
    "too few rows": ([*FORECAST, "--window", "70"],
                     "close has 80 rows; a window of 70, a horizon of 1 and a test fraction of 0.2 "
                     "need at least 100"),
    "cell": (["forecast", "cell.csv", "--column", "close"],
             "cell.csv, line 3: close must be a number, got 'n/a'"),
    "missing cell": (["forecast", "missing.csv", "--column", "close"],
                     "missing.csv, line 3: close is empty, a number is expected"),
    "infinity": (["forecast", "inf.csv", "--column", "close"],
                 "inf.csv, line 3: close must be finite, up to 1e+100, got 'inf'"),
    "order": (["forecast", "order.csv", "--column", "close", "--date-column", "day"],
              "order.csv, line 3: day must ascend, got '2004-08-18' after '2004-08-19'; sort the "
              "file, oldest row first"),
    "plot suffix": ([*FORECAST, "--plot", "out.gif"],
                    "out.gif must end in one of .png, .pdf, .svg, .jpg"),
    "plot folder": ([*FORECAST, "--plot", "no/where.png"],
                    "no/where.png cannot be written: its folder does not exist"),
    "plot below a file": ([*FORECAST, "--plot", "prices.csv/o.png"],
                          "prices.csv/o.png cannot be written: Not a directory"),
    "save directory": ([*FORECAST, "--save", "."], ". cannot be written: it is a directory"),
    "save nothing": ([*FORECAST, "--save", ""], "the name of an output file is empty"),
    "save over the input": ([*FORECAST, "--save", "./prices.csv"],
                            "./prices.csv is named twice: it would be overwritten"),
    "save over the plot": ([*FORECAST, "--plot", "o.png", "--save", "o.png"],
                           "o.png is named twice: it would be overwritten"),
    "demo output": (["demo", "--output", "no/where.png"],
                    "no/where.png cannot be written: its folder does not exist"),
    "no command": ([], "the following arguments are required: COMMAND (see fastlstm --help)"),
    "no column": (["forecast", "prices.csv"],
                  "the following arguments are required: --column (see fastlstm forecast --help)"),
    "window": ([*FORECAST, "--window", "1"],
               "argument --window: must be an integer from 2 to 100000, got '1' "
               "(see fastlstm forecast --help)"),
    "epochs": ([*FORECAST, "--epochs", "many"],
               "argument --epochs: must be an integer from 1 to 1000000, got 'many' "
               "(see fastlstm forecast --help)"),
    "fraction": ([*FORECAST, "--test-fraction", "nan"],
                 "argument --test-fraction: must be a number from 0.01 to 0.9, got 'nan' "
                 "(see fastlstm forecast --help)"),
    "interval": ([*FORECAST, "--interval", "1"],
                 "argument --interval: must be a number from 0.01 to 0.999, got '1' "
                 "(see fastlstm forecast --help)"),
    "exog": ([*FORECAST, "--exog", "volume"],
             "prices.csv has no column 'volume'; it has 'day', 'close'"),
    "exog twice": ([*FORECAST, "--exog", "close"], "--exog close names a column twice"),
    "season": ([*FORECAST, "--season", "7"],
               "--season is of the baselines of --backtest, which is not given"),
    "long season": ([*FORECAST, "--window", "8", "--backtest", "1", "--season", "41"],
                    "season must be at most 40, the first past, got 41"),
    "folds": ([*FORECAST, "--window", "20", "--backtest", "20"],
              "close has 80 rows: too few for 20 folds, a window of 20 and a horizon of 1; take "
              "fewer folds"),
    "two outputs": ([*FORECAST, "--json", "--csv"],
                    "argument --csv: not allowed with argument --json "
                    "(see fastlstm forecast --help)"),
    "no model": (["forecast", "prices.csv", "--model", "m.safetensors"],
                 "m.safetensors cannot be read: No such file or directory"),
    "another model": (["forecast", "prices.csv", "--model", "other.safetensors"],
                      "other.safetensors is no network of fastlstm forecast: it lacks "
                      "'fastlstm.forecast'"),
    "no safetensors": (["forecast", "prices.csv", "--model", "empty.csv"],
                       "empty.csv is no network of fastlstm forecast: empty.csv: not a safetensors "
                       "file: 0 bytes are too few"),
    "training a model": (["forecast", "prices.csv", "--model", "m", "--hidden", "3", "--plot",
                          "a.png", "--exog", "x"],
                         "--model trains nothing, so it takes no --hidden, --exog, --plot"),
    "option": (["info", "--frobnicate"],
               "unrecognized arguments: --frobnicate (see fastlstm --help)"),
}  # fmt: skip


@pytest.fixture
def faulty_files(folder):
    """The files that ERRORS speaks of."""
    (folder / "latin.csv").write_bytes(b"caf\xe9\n1\n")
    (folder / "empty.csv").write_bytes(b"")
    save(folder / "other.safetensors", Dense(1, 1))
    (folder / "cell.csv").write_text("close\n1\nn/a\n2\n")
    (folder / "missing.csv").write_text("day,close\n1,1\n2,\n")
    (folder / "inf.csv").write_text("close\n1\ninf\n")
    (folder / "order.csv").write_text("day,close\n2004-08-19,1\n2004-08-18,2\n")


@pytest.mark.usefixtures("faulty_files")
@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_cli_says_in_one_line_what_is_wrong(run, folder, monkeypatch, arguments, message):
    def never(*_, **__):
        raise AssertionError("the training began")

    for module in (cli_demo, cli_forecast):
        monkeypatch.setattr(module, "run", never)
    before = sorted(folder.iterdir())
    status, out, err = run(*arguments)
    assert err == f"fastlstm: error: {message}\n"
    assert (status, out) == (2, "")
    assert sorted(folder.iterdir()) == before


def test_cli_error_in_a_process_of_its_own():
    result = spawn_and_wait("forecast", "nowhere.csv", "--column", "close")
    assert result == (2, "", "fastlstm: error: nowhere.csv does not exist\n")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_cli_refuses_a_folder_without_permission(run, folder):
    (folder / "locked").mkdir(mode=0o500)
    _, _, err = run(*FORECAST, "--save", "locked/model.safetensors")
    assert err == (
        "fastlstm: error: locked/model.safetensors cannot be written: Permission denied\n"
    )


def test_cli_refuses_an_existing_file_without_permission(run, folder, monkeypatch):
    (folder / "old.png").write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write
    status, _, err = run(*FORECAST, "--plot", "old.png")
    assert (status, err) == (2, "fastlstm: error: old.png cannot be written: Permission denied\n")


def test_cli_keeps_what_stood_in_an_output_when_nothing_is_written(run, folder):
    (folder / "old.png").write_bytes(b"old")
    assert run(*FORECAST, "--plot", "old.png", "--window", "70")[0] == 2
    assert (folder / "old.png").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("arguments", "who"),
    [(["demo"], "a picture"), ([*FORECAST, "--plot", "o.png"], "a picture")],
    ids=["demo", "forecast"],
)
def test_cli_says_how_to_install_matplotlib(run, monkeypatch, arguments, who):
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    status, _, err = run(*arguments)
    assert status == 2
    assert err == f'fastlstm: error: {who} needs matplotlib: pip install "fastlstm[plot]"\n'


def test_cli_says_that_the_sample_data_is_absent(run, monkeypatch):
    def absent(name):
        raise FileNotFoundError(2, "No such file or directory", name)

    monkeypatch.setattr("matplotlib.cbook.get_sample_data", absent)
    status, _, err = run("demo")
    assert status == 2
    assert err == (
        "fastlstm: error: this matplotlib has no sample data: [Errno 2] No such file or "
        "directory: 'goog.npz'\n"
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (MemoryError(), "not enough memory: try a smaller network or window"),
        (MemoryError("Unable to allocate 9 GiB"), "not enough memory: Unable to allocate 9 GiB"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (DivergenceError(1, 2, float("inf"), 3.0, 0.1),
         "training diverged in epoch 1, batch 2 (counted from 0): the loss is inf, the last "
         "gradient norm 3, the learning rate 0.1. Try a smaller learning rate, clip_norm=1.0, or "
         "inputs and targets scaled to about [-1, 1]"),
    ],
    ids=["memory", "allocation", "disk", "divergence"],
)  # fmt: skip
def test_cli_tells_what_stops_the_training(run, monkeypatch, fault, message):
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(cli_forecast, "run", fail)
    status, _, err = run(*FORECAST)
    assert (status, err) == (2, f"fastlstm: error: {message}\n")


def test_cli_does_not_hide_a_bug(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(cli_forecast, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(FORECAST)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_cli_ends_with_130_on_ctrl_c():
    def notice():  # shells let what they start in the background ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with spawn(*FORECAST, "--epochs", "1000000", preexec_fn=notice) as process:
        assert process.stdout.readline().startswith("prices.csv: close, 80 rows")
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "fastlstm: interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_cli_ends_quietly_when_its_reader_leaves():
    with spawn(*FORECAST, *SMALL) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has /dev/full")
def test_cli_tells_that_its_output_cannot_be_written():
    with open("/dev/full", "w") as full:
        result = spawn_and_wait("info", stdout=full)
    assert result == (2, None, "fastlstm: error: [Errno 28] No space left on device\n")


def test_cli_prints_letters_that_the_terminal_lacks(folder):
    rows = "".join(f"{k % 7}\n" for k in range(80))
    (folder / "kurs.csv").write_text("Schlußkurs\n" + rows, encoding="utf-8")
    status, out, err = spawn_and_wait(
        "forecast", "kurs.csv", "--column", "Schlußkurs", *SMALL,
        env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert r"Schlu\xdfkurs" in out


# -- the other commands ----------------------------------------------------------------------------


def test_info_prints_every_fact(run):
    status, out, err = run("info")
    assert (status, err) == (0, "")
    facts = dict(line.split(None, 1) for line in out.splitlines())
    assert facts == {name: str(value) for name, value in fastlstm.info().items()}


def test_bench_prints_a_row_for_each_shape(run, monkeypatch):
    monkeypatch.setattr(quickbench, "SHAPES", ((3, 2, 4, 5), (2, 1, 1, 1)))
    monkeypatch.setattr(quickbench, "SECONDS", 0.0)
    status, out, err = run("bench")
    assert (status, err) == (0, "")
    for shape in ("3, 2, 4, 5", "2, 1, 1, 1"):
        assert re.search(rf"^ +{shape}( +[\d.]+){{6}}$", out, re.M)
    assert "The full benchmark,\nwith other libraries, is in the repository's benchmarks/" in out


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["forecast", "--help"]], ids=" ".join
)
def test_cli_prints_version_and_help(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    if arguments == ["--version"]:
        assert out == f"fastlstm {fastlstm.__version__}\n"
    else:
        assert out.startswith("usage: fastlstm ")


def test_demo_prints_both_networks_beside_the_baselines(run, folder, monkeypatch):
    """The whole of the demo on a small network, in little time."""
    small = {"hidden": 3, "layers": 1, "window": 5}
    real = forecast.Settings
    monkeypatch.setattr(cli_demo, "Settings", lambda **given: real(**(small | given)))
    status, out, err = run("demo", "--epochs", "1", "--save", "model.safetensors")
    assert (status, err) == (0, "")
    check_demo(out, folder)
    assert load("model.safetensors").modules[0].hidden_size == 3


@pytest.mark.slow
def test_demo_runs_whole(folder):
    status, out, err = spawn_and_wait("demo")
    assert (status, err) == (0, "")
    errors = check_demo(out, folder)
    # Known of these prices; a network far above persistence would have learned nothing.
    assert errors["persistence"] == pytest.approx(14.982, abs=1e-3)
    assert errors["linear autoregression"] == pytest.approx(15.132, abs=1e-3)
    assert errors["LSTM on changes"] < 1.05 * errors["persistence"]
    assert errors["LSTM on scaled prices"] < 4 * errors["persistence"]


def check_demo(out, folder):
    """What must be in the demo's output; return name -> RMSE."""
    rows = re.findall(r"^  (\S.*\S) +([\d.]+) +([\d.]+)$", out, re.M)
    errors = {name: float(rmse) for name, rmse, _ in rows}
    assert list(errors) == [
        "persistence", "linear autoregression", "LSTM on changes", "LSTM on scaled prices",
    ]  # fmt: skip
    winner = min(errors, key=errors.get)
    assert f"\nBy RMSE {winner} wins; " in out
    assert "1047 days from 2004-08-19 to 2008-10-14" in out
    time = re.search(r"Time per epoch of \d+ batches: ([\d.]+) s, NumPy reference ([\d.]+) s", out)
    assert time is not None
    losses = re.search(r"loss over them ([\d.]+) and ([\d.]+)\.", out)
    assert float(losses[1]) == pytest.approx(float(losses[2]), rel=1e-4)
    assert "wrote forecast.png\n" in out
    width, height = image_size(folder / "forecast.png")
    assert 500 < width < 3000 and 500 < height < 3000
    return errors
