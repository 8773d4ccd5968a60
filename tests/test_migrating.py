# SPDX-License-Identifier: MIT
"""The code on docs/migrating.md runs, section by section, from top to bottom."""

import os
import re
import textwrap
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "migrating.md"


def blocks(section):
    """The Python blocks of a section, those in lists included."""
    text = PAGE.read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    found = re.findall(r"^ *```python\n(.*?)^ *```$", body, re.S | re.M)
    return [textwrap.dedent(block) for block in found]


def run(section):
    names = {}
    for block in blocks(section):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_migrating_from_numpy_runs():
    names = run("From a NumPy loop")
    x, w = names["np"].arange(8.0), names["to_ifgo"]
    assert w(x, "figo").tolist() == [2, 3, 0, 1, 4, 5, 6, 7]


@pytest.mark.parity
def test_migrating_from_pytorch_runs():
    pytest.importorskip("torch")
    names = run("From PyTorch")
    assert type(names["model"].lstm).__module__ == "fastlstm.torch"


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras'
def test_migrating_from_keras_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    pytest.importorskip("keras", minversion="3")
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    names = run("From Keras")
    kinds = [type(m).__name__ for m in names["model"].modules]
    assert kinds == ["Masking", "LSTM", "LSTM", "LastState", "Dense", "Activation"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.keras", "model.weights.h5", "ours.keras",
    ]  # fmt: skip


@pytest.mark.parity
def test_migrating_from_onnxruntime_runs(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    names = run("From ONNX Runtime")
    assert type(names["session"]).__module__ == "fastlstm.onnx"


@pytest.mark.parity
def test_migrating_from_jax_runs():
    pytest.importorskip("jax")
    names = run("From JAX")
    assert all(bool((g != 0).any()) for g in names["grads"])
