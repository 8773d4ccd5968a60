# SPDX-License-Identifier: MIT
"""LSTM layers for the CPU, forward and backward: NumPy in, NumPy out."""

from . import _second_order, losses, optim, reference, schedules
from ._stream import Stream
from ._version import __version__
from .backend import functions as _functions
from .backend import info, select
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
    ZeroMasked,
)
from .sibling_layers import GRU, RNN, SLSTM
from .spec import Spec
from .threads import get_num_threads, set_num_threads

_chosen = _functions()
lstm_forward, lstm_backward = _chosen["lstm_forward"], _chosen["lstm_backward"]
gru_forward, gru_backward = _chosen["gru_forward"], _chosen["gru_backward"]
rnn_forward, rnn_backward = _chosen["rnn_forward"], _chosen["rnn_backward"]
slstm_forward, slstm_backward = _chosen["slstm_forward"], _chosen["slstm_backward"]
_second = reference if select() is reference else _second_order
lstm_jvp, lstm_hvp = _second.lstm_jvp, _second.lstm_hvp

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
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
    "ZeroMasked",
    "__version__",
    "evaluate",
    "fit",
    "get_num_threads",
    "gru_backward",
    "gru_forward",
    "info",
    "load",
    "losses",
    "lstm_backward",
    "lstm_forward",
    "lstm_hvp",
    "lstm_jvp",
    "optim",
    "reference",
    "rnn_backward",
    "rnn_forward",
    "save",
    "schedules",
    "set_num_threads",
    "slstm_backward",
    "slstm_forward",
]
