# SPDX-License-Identifier: MIT
"""Checkpoints of a training run: a safetensors file with the arrays, and the rest as JSON.

    parameters              model.flat
    best_parameters         of the best epoch, with early stopping
    optimizer.NAME          the arrays of the optimiser's state
    __metadata__            {"fastlstm_training": JSON: epoch, history, generator, ...}

JSON writes floats so that they read back with the same bits.
"""

import json
import os
import time

import numpy as np

from .tensorfile import load_tensors, save_tensors

__all__ = ["Checkpoint"]

_KEY = "fastlstm_training"
_FORMAT = 1


class Checkpoint:
    """Where and when a run is written down.

    Parameters
    ----------
    path : path
    minutes : float
        Between two writes; 0 = after every epoch.
    settings : dict, JSON-able
        What must be alike in the run that resumes.
    """

    def __init__(self, path, minutes, settings):
        self.path, self.minutes, self.settings = os.fspath(path), minutes, settings
        self._written = time.monotonic()

    def save(self, run, last):
        """Write the state of a run if it is time, or if this is the ``last`` chance."""
        if not last and time.monotonic() - self._written < 60 * self.minutes:
            return
        arrays, numbers = run.state_dict()
        text = json.dumps({"format": _FORMAT, "settings": self.settings, **numbers})
        save_tensors(self.path, arrays, {_KEY: text})
        self._written = time.monotonic()

    def restore(self, run):
        """Put a run into the state of the file; without a file leave it at its beginning.

        Raises
        ------
        ValueError
            The file is no checkpoint, or one of a run with other settings.
        """
        if not os.path.exists(self.path):
            return
        arrays, metadata = load_tensors(self.path)
        if _KEY not in metadata:
            raise ValueError(f"{self.path} is no checkpoint of a training")
        numbers = json.loads(metadata[_KEY])
        if numbers.pop("format") != _FORMAT:
            raise ValueError(f"{self.path} is a checkpoint of another version")
        before = numbers.pop("settings")
        for name, value in json.loads(json.dumps(self.settings)).items():
            if before.get(name) != value:
                raise ValueError(
                    f"{self.path} is of another run: {name} was {before.get(name)!r} there, "
                    f"is {value!r} here"
                )
        run.load_state_dict({name: np.asarray(a) for name, a in arrays.items()}, numbers)
