# SPDX-License-Identifier: MIT
"""Which implementation runs: the reference or the engine, and on which instruction set."""

import os
import platform
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from . import (
    _engine,
    _kernels,
    _siblings,
    reference,
    reference_gru,
    reference_loop,
    reference_rnn,
    reference_slstm,
)
from ._version import __version__
from .siblings import Inputs

__all__ = [
    "SiblingDirection",
    "direction",
    "elementwise",
    "functions",
    "implementations",
    "info",
    "select",
    "using_isa",
]

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


def direction(spec, frozen, backend=None):
    """What runs one direction of a layer: `_engine.Direction`, or the reference in its shape."""
    module = select(backend)
    return _engine.Direction(spec, frozen) if module is _engine else _ReferenceDirection(spec)


class _ReferenceDirection:
    """The reference with the methods of `_engine.Direction`."""

    def __init__(self, spec):
        self.spec = spec

    def forward(self, x, weights, start, y, end, lengths=None, reverse=False, save=False, **steps):
        """Write y and the final state to ``end``; returns the tape, or None without ``save``."""
        h_n, c_n = end
        _, (h_n[...], c_n[...]), tape = reference.lstm_forward(
            x, **weights, state=start, lengths=lengths, reverse=reverse, spec=self.spec,
            save=save, out=y, **steps,
        )  # fmt: skip
        return tape

    def backward(self, tape, dy, dend, dstart, dw, keep=False):
        """Write dstart and the gradients dw of the weights; returns dx."""
        dh0, dc0 = dstart
        dx, (dh0[...], dc0[...]), grads = reference.lstm_backward(tape, dy, dend, keep=keep)
        for name, d in grads.items():
            dw[name][...] = d
        return dx


_MATHS = {"gru": reference_gru, "rnn": reference_rnn, "slstm": reference_slstm}


def functions(backend=None):
    """The functions of the functional API by name, as `lstm_forward`; see `select`."""
    modules = dict.fromkeys(_MATHS, _siblings) | {"lstm": _engine}
    if select(backend) is reference:
        modules = dict.fromkeys(modules, reference)
    names = [(module, f"{cell}_{way}") for cell, module in modules.items()
             for way in ("forward", "backward")]  # fmt: skip
    return {name: getattr(module, name) for module, name in names}


class SiblingDirection:
    """One direction of a GRU, RNN or sLSTM layer, with the methods of `_engine.Direction`.

    Parameters
    ----------
    cell : siblings.GRUCell, RNNCell or SLSTMCell
    backend : {"engine", "reference"}, optional
    """

    def __init__(self, cell, backend=None):
        self.cell = cell
        self._maths = _MATHS[cell.name] if select(backend) is reference else None

    def forward(self, x, weights, start, y, end, lengths=None, reverse=False, save=False,
                mask=None, reset=None):  # fmt: skip
        """Write y and the final state to ``end``; returns the tape, or None without ``save``."""
        q = Inputs(self.cell, x, weights, start, lengths, mask, reset, reverse, y)
        if self._maths is None:
            return _siblings.run_forward(q, end, save)
        return reference_loop.run_forward(q, self._maths.step, end, save)

    def backward(self, tape, dy, dend, dstart, dw, keep=False):
        """Write dstart and the gradients dw of the weights; returns dx."""
        if self._maths is None:
            return _siblings.run_backward(tape, dy, dend, dstart, dw, keep)
        step = self._maths.step_backward
        return reference_loop.run_backward(tape, step, dy, dend, dstart, dw, keep)


@contextmanager
def using_isa(isa):
    """Run what is inside on the kernels of another instruction set: for tests and benchmarks."""
    before = _kernels.set_isa(isa)
    try:
        yield
    finally:
        _kernels.set_isa(before)


def elementwise(name, x, isa):
    """sigmoid or tanh (``name``) of the array ``x`` as this instruction set computes it."""
    with using_isa(isa):
        return _kernels.elementwise(name, np.ascontiguousarray(x))


def implementations():
    """All implementations of the functional API on this machine, for tests and benchmarks.

    Returns
    -------
    dict of str to namespace
        "reference", and the engine on each instruction set: "avx512", ..., "none".
    """
    every = {"reference": reference}
    for isa in _kernels.isas():
        engine = {name: _on(isa, f) for name, f in functions("engine").items()}
        every[isa] = SimpleNamespace(**engine)
    return every


def _on(isa, function):
    def call(*args, **kwargs):
        with using_isa(isa):
            return function(*args, **kwargs)

    return call


def info():
    """What a bug report should say: versions, processor and choices.

    Returns
    -------
    dict of str to str

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
        "isa": _kernels.get_isa(),
        "isas": ", ".join(_kernels.isas()),
        "threads": str(_kernels.get_threads()),
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
    _kernels.set_isa(os.environ["FASTLSTM_ISA"])
select()  # a wrong FASTLSTM_BACKEND is told at import, not at the first call
