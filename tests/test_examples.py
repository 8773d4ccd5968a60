# SPDX-License-Identifier: MIT
"""The examples run, on less than they take by themselves, and find what they tell of."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastlstm

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

pytestmark = pytest.mark.slow


def output_of(name, tmp_path, *arguments):
    """What an example prints; its picture must be one."""
    picture = tmp_path / "example.png"
    env = os.environ | {"PYTHONPATH": str(Path(fastlstm.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments, "--plot", picture],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    return done.stdout


def test_every_example_is_listed():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for script in EXAMPLES.glob("*.py"):
        assert f"`{script.name}`" in text


def test_stock_volatility_can_be_forecast_where_prices_cannot(tmp_path):
    pytest.importorskip("arch")
    out = output_of("stock_volatility.py", tmp_path, "--days", "1500", "--folds", "2")
    tables = [
        {name: float(rmse) for name, rmse in re.findall(r"^([a-zA-Z ]+?) +([\d.]+) ", part, re.M)}
        for part in out.split("a day ahead:")[1:3]
    ]
    assert len(tables) == 2
    prices, volatility = tables
    assert prices["LSTM"] > 0.95 * prices["persistence"]
    assert volatility["LSTM"] < 0.95 * volatility["persistence"]
    inside = float(re.search(r"^([\d.]+)% of the days lie in the 90 % interval", out, re.M)[1])
    assert 75 < inside < 99


def test_streaming_sensor_sounds_the_alarm_when_the_load_is_gone(tmp_path):
    out = output_of("streaming_sensor.py", tmp_path)
    learned, persistence = re.search(r": ([\d.]+) on .*,\n([\d.]+) by saying", out).groups()
    assert float(learned) < 0.1 * float(persistence)
    alarms = re.search(r"the first at \[([\d, ]+)\]", out)[1].split(", ")
    assert all(1500 <= int(t) < 1560 for t in alarms)


def test_sequence_classification_reads_most_digits(tmp_path):
    pytest.importorskip("sklearn")
    out = output_of("sequence_classification.py", tmp_path)
    assert float(re.search(r"([\d.]+)% of 450 unseen digits", out)[1]) > 93
    rows = {int(k): int(score) for k, score in re.findall(r"after (\d) rows: (\d+)%", out)}
    assert rows[2] < rows[4] < rows[8]
    assert rows[8] > 80  # another rounding trains another network; ten of them: 84 to 90


def test_gradient_flow_explodes_vanishes_or_is_carried(tmp_path):
    out = output_of("gradient_flow.py", tmp_path)
    rows = re.findall(r"^([A-Z]+, [a-z ]+?)  +(\S+) +(\S+) +(\S+) +(\S+) *$", out, re.M)
    last = {name: float(norms[-1]) for name, *norms in rows}
    assert last["RNN, large weights"] > 1e5
    assert 0.1 < last["LSTM, forget gate open"] < 10
    assert last["RNN, small weights"] < 1e-8
    assert last["LSTM, forget gate half open"] < 1e-15
