# SPDX-License-Identifier: MIT
"""The fastest and most complete LSTM core for CPUs: NumPy in, NumPy out."""

from . import _second_order, losses, optim, reference, schedules
from ._stream import Stream
from ._version import __version__
from .backend import get_num_threads, info, select, set_num_threads
from .fit import DivergenceError, EarlyStopping, History, evaluate, fit
from .io import load, save
from .layer import LSTM
from .modules import (
    Activation,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    LastState,
    Masking,
    MergeDirections,
    Reverse,
    Sequential,
)
from .spec import Spec

lstm_forward, lstm_backward = select().lstm_forward, select().lstm_backward
_second = reference if select() is reference else _second_order
lstm_jvp, lstm_hvp = _second.lstm_jvp, _second.lstm_hvp

__all__ = [
    "LSTM",
    "Activation",
    "Dense",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Flatten",
    "History",
    "LastState",
    "Masking",
    "MergeDirections",
    "Reverse",
    "Sequential",
    "Spec",
    "Stream",
    "__version__",
    "evaluate",
    "fit",
    "get_num_threads",
    "info",
    "load",
    "losses",
    "lstm_backward",
    "lstm_forward",
    "lstm_hvp",
    "lstm_jvp",
    "optim",
    "reference",
    "save",
    "schedules",
    "set_num_threads",
]
