# SPDX-License-Identifier: MIT
"""Fuzz `fastlstm.keras.load`: any bytes give a model that runs, or a FormatError; see harness.py.

The first byte of the data says what the rest is: the zip itself, its config.json, or its HDF5
file; the other members are then those of a valid model.
"""

import io
import json
import os
import random
import tempfile
import zipfile

import atheris

with atheris.instrument_imports(include=["fastlstm"]):
    import fastlstm as fl
    import fastlstm.keras

import h5py
import numpy as np
from fuzz_safetensors import changed
from harness import run

ZIP, CONFIG, HDF5 = range(3)
WORDS = ["LSTM", "GRU", "SimpleRNN", "Dense", "Bidirectional", "Masking", "InputLayer",
         "Lambda", "relu", "keras.layers", "builtins", "softmax", "sum", "float64",
         [None, 5, 3]]  # fmt: skip


def model():
    return fl.Sequential([
        fl.Masking(-1.0),
        fl.LSTM(3, 2, batch_first=True, bidirectional=True, seed=0),
        fl.MergeDirections("sum"),
        fl.GRU(2, 3, batch_first=True, reset_after=False, seed=1),
        fl.RNN(3, 2, batch_first=True, bidirectional=True, nonlinearity="relu", seed=1),
        fl.Reverse(batch_first=True),
        fl.GRU(4, 2, batch_first=True, seed=1),
        fl.LastState(),
        fl.Dense(2, 1, activation="tanh", seed=2),
        fl.Activation(("leaky_relu", 0.3)),
    ])  # fmt: skip


def members():
    with tempfile.TemporaryDirectory() as folder:
        fl.keras.save(model(), folder + "/seed.keras")
        with zipfile.ZipFile(folder + "/seed.keras") as archive:
            return {name: archive.read(name) for name in archive.namelist()}


MEMBERS = members()


def packed(parts):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def pack(data):
    """The file that a piece of data stands for."""
    kind, data = (data[0] % 3, bytes(data[1:])) if data else (ZIP, b"")
    if kind == ZIP:
        return data
    name = {CONFIG: "config.json", HDF5: "model.weights.h5"}[kind]
    return packed({**MEMBERS, name: data})


def use(path):
    loaded = fl.keras.load(path)
    first = next((m for m in loaded.modules if hasattr(m, "input_size")), None)
    if first is not None and first.input_size < 1000 and loaded.modules[0].dtype is None:
        loaded(np.ones((1, 4, first.input_size), loaded.dtype))


use.pack = pack


def mutate(data, most, seed):
    """Change the config as JSON; else bytes."""
    rng = random.Random(seed)
    if data and data[0] % 3 == CONFIG and rng.random() < 0.8:
        try:
            config = json.loads(data[1:])
            if rng.random() < 0.3:  # a word that means something
                text = json.dumps(config)
                config = json.loads(text.replace(json.dumps(rng.choice(WORDS)),
                                                 json.dumps(rng.choice(WORDS)), 1))  # fmt: skip
            config = changed(config, rng)
            return (data[:1] + json.dumps(config).encode())[:most]
        except (ValueError, RecursionError):
            pass
    return data[:1] + atheris.Mutate(bytes(data[1:]), most - 1) if data else bytes([ZIP])


def seeds():
    yield bytes([ZIP]) + packed(MEMBERS)
    yield bytes([CONFIG]) + MEMBERS["config.json"]
    yield bytes([HDF5]) + MEMBERS["model.weights.h5"]
    buffer = io.BytesIO()  # as newer versions of the format have it
    with (
        h5py.File(buffer, "w", libver="latest") as new,
        h5py.File(io.BytesIO(MEMBERS["model.weights.h5"])) as old,
    ):
        for name in old:
            old.copy(name, new)
    yield bytes([HDF5]) + buffer.getvalue()


if __name__ == "__main__":
    os.environ.setdefault("FASTLSTM_NUM_THREADS", "1")
    run(".keras", list(seeds()), use, fl.keras.FormatError, mutate)
