# SPDX-License-Identifier: MIT
"""The fastest and most complete LSTM core for CPUs: NumPy in, NumPy out."""

from . import reference
from ._version import __version__
from .backend import info, select
from .layer import LSTM
from .spec import Spec

lstm_forward, lstm_backward = select().lstm_forward, select().lstm_backward

__all__ = [
    "LSTM",
    "Spec",
    "__version__",
    "info",
    "lstm_backward",
    "lstm_forward",
    "reference",
]
