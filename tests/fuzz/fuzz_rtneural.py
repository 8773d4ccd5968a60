# SPDX-License-Identifier: MIT
"""Fuzz `fastlstm.rtneural.load`: any bytes give a model that runs, or a FormatError."""

import json
import os
import random
import tempfile

import atheris

with atheris.instrument_imports(include=["fastlstm"]):
    import fastlstm as fl
    from fastlstm import rtneural

import numpy as np
from fuzz_safetensors import changed
from harness import run


def use(path):
    model = rtneural.load(path)
    first = model.modules[0]
    size = getattr(first, "input_size", getattr(first, "in_features", 3))
    if size < 1000:
        y = model(np.ones((1, 2, size), "f4"))
        assert y.shape[:2] == (1, 2)


def mutate(data, most, seed):
    """Change the JSON as JSON; else bytes."""
    rng = random.Random(seed)
    try:
        if rng.random() < 0.3:
            raise ValueError
        return json.dumps(changed(json.loads(data), rng)).encode()[:most]
    except (ValueError, RecursionError):
        return atheris.Mutate(data, most)


def seeds():
    models = [
        fl.Sequential([fl.LSTM(1, 2, batch_first=True, seed=0), fl.Dense(2, 1, activation="tanh")]),
        fl.Sequential([fl.Dense(2, 3), fl.Activation("softmax"), fl.GRU(3, 2, batch_first=True)]),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            rtneural.save(model, folder + "/seed.json")
            with open(folder + "/seed.json", "rb") as file:
                yield file.read()


if __name__ == "__main__":
    os.environ.setdefault("FASTLSTM_NUM_THREADS", "1")
    run(".json", list(seeds()), use, rtneural.FormatError, mutate)
