# SPDX-License-Identifier: MIT
"""Fuzz `fastlstm.load`: any bytes give a model that runs, or a FormatError; see harness.py."""

import json
import os
import random
import tempfile

import atheris

with atheris.instrument_imports(include=["fastlstm"]):
    import fastlstm as fl
    from fastlstm.io import FormatError

import numpy as np
from harness import run

NUMBERS = [0, 1, -1, 2, 3, 5, 20, 2**31, 2**63, 1.5, None, True, "x", [], {}]


def use(path):
    model = fl.load(path)
    assert type(model).__name__ in fl.modules.MODULES
    assert np.array_equal(np.concatenate([a.ravel() for a in model.parameters().values()] or [[]]),
                          model.flat, equal_nan=True)  # fmt: skip


def changed(value, rng):
    """A JSON value with one thing in it replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        k = rng.randrange(len(value))
        return [*value[:k], changed(value[k], rng), *value[k + 1 :]]
    if isinstance(value, int) and rng.random() < 0.4:
        return value + rng.choice([-1, 1, 8])
    return rng.choice(NUMBERS)


def mutate(data, most, seed):
    """Change the header, or the config in it, as JSON; else bytes."""
    rng = random.Random(seed)
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        if rng.random() < 0.3:
            raise ValueError
        metadata = header.get("__metadata__", {})
        if rng.random() < 0.6 and "fastlstm" in metadata:
            config = changed(json.loads(metadata["fastlstm"]), rng)
            metadata["fastlstm"] = json.dumps(config)
        else:
            header = changed(header, rng)
        text = json.dumps(header).encode()
        return (len(text).to_bytes(8, "little") + text + data[8 + length :])[:most]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return atheris.Mutate(data, most)


def seeds():
    models = [
        fl.LSTM(2, 3, 2, bidirectional=True, seed=0),
        fl.LSTM(2, 4, proj_size=2, spec=fl.Spec(peepholes="ifo"), dtype="float64"),
        fl.Sequential([fl.GRU(2, [3, 2], learn_state=True), fl.RNN(2, 2), fl.SLSTM(2, 2)]),
        fl.Sequential([fl.Embedding(5, 2, mask_zero=True), fl.LSTM(2, 3, batch_first=True),
                       fl.LastState(), fl.Dropout(0.1), fl.Dense(3, 1, activation="tanh"),
                       fl.Activation(("elu", 0.5))]),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            fl.save(folder + "/seed.safetensors", model)
            with open(folder + "/seed.safetensors", "rb") as file:
                yield file.read()


if __name__ == "__main__":
    os.environ.setdefault("FASTLSTM_NUM_THREADS", "1")
    run(".safetensors", list(seeds()), use, FormatError, mutate)
