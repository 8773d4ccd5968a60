# SPDX-License-Identifier: MIT
"""Which implementation runs: the reference or the engine, and on which instruction set."""

import os
import platform
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from . import _engine, reference
from ._version import __version__

__all__ = ["elementwise", "implementations", "info", "select", "using_isa"]

_BACKENDS = {"engine": _engine, "reference": reference}


def select(backend=None):
    """The module with `lstm_forward` and `lstm_backward` of this name.

    Parameters
    ----------
    backend : {"engine", "reference"}, optional
        None: the environment's FASTLSTM_BACKEND, or the engine.

    Raises
    ------
    ValueError
        There is no backend of this name.
    """
    name = os.environ.get("FASTLSTM_BACKEND", "engine") if backend is None else backend
    if name not in _BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, got {name!r}")
    return _BACKENDS[name]


@contextmanager
def using_isa(isa):
    """Run what is inside on the kernels of another instruction set: for tests and benchmarks."""
    before = _engine.set_isa(isa)
    try:
        yield
    finally:
        _engine.set_isa(before)


def elementwise(name, x, isa):
    """sigmoid or tanh (``name``) of the array ``x`` as this instruction set computes it."""
    with using_isa(isa):
        return _engine.elementwise(name, np.ascontiguousarray(x))


def implementations():
    """All implementations of the functional API on this machine, for tests and benchmarks.

    Returns
    -------
    dict of str to namespace
        "reference", and the engine on each instruction set: "avx512", ..., "none".
    """
    every = {"reference": reference}
    for isa in _engine.isas():
        every[isa] = SimpleNamespace(
            lstm_forward=_on(isa, _engine.lstm_forward),
            lstm_backward=_on(isa, _engine.lstm_backward),
        )
    return every


def _on(isa, function):
    def call(*args, **kwargs):
        with using_isa(isa):
            return function(*args, **kwargs)

    return call


def info():
    """What a bug report should say: versions, processor and choices, as a dict of str.

    Examples
    --------
    >>> info()["fastlstm"] == __version__
    True
    """
    return {
        "fastlstm": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "backend": select().__name__.rsplit(".", 1)[-1].lstrip("_"),
        "isa": _engine.get_isa(),
        "isas": ", ".join(_engine.isas()),
    }


def _processor():
    """The processor's name as the system knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if os.environ.get("FASTLSTM_ISA"):
    _engine.set_isa(os.environ["FASTLSTM_ISA"])
select()  # a wrong FASTLSTM_BACKEND is told at import, not at the first call
