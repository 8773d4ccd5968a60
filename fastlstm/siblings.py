# SPDX-License-Identifier: MIT
"""GRU, RNN and sLSTM: which variant of the cell, the checked arguments, the record of a pass.

A cell is a frozen value that also says how it is written: its states, its gates, its weights.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from . import checks
from .spec import check_activation, check_limit
from .tape import Tape

__all__ = ["GRUCell", "Inputs", "RNNCell", "SLSTMCell", "SiblingTape", "backward_inputs",
           "forward_inputs"]  # fmt: skip


def _validated(cell, activations=(), limits=(), flags=()):
    """Bring the fields of a cell into their one form, or refuse them."""
    for name in activations:
        object.__setattr__(cell, name, check_activation(name, getattr(cell, name)))
    for name in limits:
        object.__setattr__(cell, name, check_limit(name, getattr(cell, name)))
    for name in flags:
        if not isinstance(getattr(cell, name), bool):
            raise TypeError(f"{name} must be True or False, got {getattr(cell, name)!r}")


@dataclass(frozen=True)
class GRUCell:
    """The variant of a GRU; see `reference_gru`."""

    reset_after: bool = True
    gate: str | tuple = "sigmoid"
    candidate: str | tuple = "tanh"
    clip: float | None = None

    name: ClassVar = "gru"
    states: ClassVar = ("h",)
    gates: ClassVar = "rzn"

    def __post_init__(self):
        _validated(self, ("gate", "candidate"), ("clip",), ("reset_after",))

    def shapes(self, H, I):
        """The weights: name -> how their shape is written, and what it is."""
        bias = ("3*H", (3 * H,))
        return {"w_ih": ("3*H, I", (3 * H, I)), "w_hh": ("3*H, H", (3 * H, H)),
                "b_ih": bias, "b_hh": bias}  # fmt: skip


@dataclass(frozen=True)
class RNNCell:
    """The variant of a simple recurrent cell; see `reference_rnn`."""

    nonlinearity: str | tuple = "tanh"
    clip: float | None = None

    name: ClassVar = "rnn"
    states: ClassVar = ("h",)
    gates: ClassVar = "h"

    def __post_init__(self):
        _validated(self, ("nonlinearity",), ("clip",))

    def shapes(self, H, I):
        """The weights: name -> how their shape is written, and what it is."""
        return {"w_ih": ("H, I", (H, I)), "w_hh": ("H, H", (H, H)), "b": ("H", (H,))}


@dataclass(frozen=True)
class SLSTMCell:
    """The variant of an sLSTM; see `reference_slstm`."""

    num_heads: int = 1
    floor: bool = False

    name: ClassVar = "slstm"
    states: ClassVar = ("h", "c", "n", "m")
    gates: ClassVar = "ifzo"

    def __post_init__(self):
        _validated(self, flags=("floor",))
        object.__setattr__(self, "num_heads", checks.integer("num_heads", self.num_heads, 1))

    def shapes(self, H, I):
        """The weights: name -> how their shape is written, and what it is."""
        N = self.num_heads
        if H % N:
            raise ValueError(
                f"num_heads must divide the hidden size H = {H} into equal heads, got {N}"
            )
        return {"w_ih": ("4*H, I", (4 * H, I)), "w_hh": ("N, 4, D, D", (N, 4, H // N, H // N)),
                "b": ("4*H", (4 * H,))}  # fmt: skip


@dataclass(slots=True)
class Inputs(checks.Sized):
    """The checked arguments of a forward pass; T, B, I, H are read off their shapes."""

    cell: object
    x: np.ndarray  # (T, B, I)
    weights: dict  # name -> array; None: zeros
    start: tuple  # the initial states (B, H); None: zeros
    lengths: np.ndarray | None  # (B,) intp; None: all T
    mask: np.ndarray | None  # (T, B) bool; False: the row stands still
    reset: np.ndarray | None  # (T, B) bool; True: the state is set to zeros before the step
    reverse: bool
    y: np.ndarray  # (T, B, H), to be written

    @property
    def H(self):
        """Hidden size."""
        return self.y.shape[2]


def forward_inputs(cell, x, weights, state, lengths, mask, reset, reverse, out):
    """The arguments of `gru_forward` and its like, checked.

    ``weights`` holds them by name, in the order of ``cell.shapes``; a bias may be None.
    """
    x, w_ih = checks.array("x", x), checks.array("w_ih", weights["w_ih"])
    checks.dimensions("x", x, "T, B, I")
    T, B, I = x.shape
    n = len(cell.gates)
    symbols = cell.shapes(cell.num_heads if cell.name == "slstm" else 1, I)["w_ih"][0]
    checks.dimensions("w_ih", w_ih, symbols)
    H, rest = divmod(w_ih.shape[0], n)
    if rest or H == 0:
        raise ValueError(
            f"w_ih must have shape ({symbols}) with H >= 1, its rows the gates "
            f"{' '.join(cell.gates)}, got {w_ih.shape}"
        )
    checked = {}
    for name, (symbols, expected) in cell.shapes(H, I).items():
        a = weights[name]
        if a is None and name.startswith("b"):
            checked[name] = None
            continue
        checked[name] = a = checks.array(name, a)
        checks.shape(name, a, symbols, expected)
    checks.same_dtype(("x", x), **checked)
    start = _states("state", state, [f"{s}0" for s in cell.states], (B, H), ("x", x))
    lengths = checks.lengths_array(lengths, T, B)
    flags = {
        name: None if a is None else checks.flags(name, a, "T, B", (T, B))
        for name, a in (("mask", mask), ("reset", reset))
    }
    named = dict(x=x, **checked, **{f"{s}0": a for s, a in zip(cell.states, start, strict=True)})
    y = checks.output_array(out, (T, B, H), "T, B, H", named)
    return Inputs(cell, x, checked, start, lengths, flags["mask"], flags["reset"], bool(reverse), y)


def _states(name, value, names, expected, like):
    """The states, alone where there is one, as a tuple; None stands for zeros."""
    value = (value,) if len(names) == 1 else value
    symbols = ("B, H",) * len(names)
    return checks.state_pair(name, value, names, symbols, (expected,) * len(names), like)


def backward_inputs(tape, dy, dstate, name):
    """The arguments of a backward pass, checked: dy or None, and what it writes to.

    Returns
    -------
    dy : ndarray (T, B, H) or None
    dend, dstart : tuples of ndarray (B, H)
        Gradients of the final states; those of the initial states, to be written.
    dw : dict of str to ndarray
        Those of the weights, to be written.
    """
    if not isinstance(tape, SiblingTape) or tape.inputs.cell.name != name:
        raise TypeError(
            f"tape must be the SiblingTape that {name}_forward returned (with save=True), "
            f"got {type(tape).__name__}"
        )
    q = tape.inputs
    dy = checks.gradient("dy", dy, "T, B, H", (q.T, q.B, q.H), ("x", q.x))
    names = [f"d{s}_n" for s in q.cell.states]
    dend = _states("dstate", dstate, names, (q.B, q.H), ("x", q.x))
    dstart = tuple([np.empty((q.B, q.H), q.x.dtype) for _ in dend])
    dw = {n: np.empty(w.shape, w.dtype) for n, w in q.weights.items() if w is not None}
    return dy, dend, dstart, dw


class SiblingTape(Tape):
    """The record of one forward pass of a GRU, RNN or sLSTM: one layer, one direction.

    The backward pass consumes it. It refers to ``x`` and to the weights without a copy, so both
    must stay as they were until then.

    Attributes
    ----------
    h, c, n, m : ndarray (T+1, B, H)
        All values of the states that the cell has, in the slots of `Tape`: what each step ended
        with. Where a row was ``reset`` its next step started from zeros instead.
    gates : ndarray (T, B, n, H)
        What was activated: r, z, n of a GRU; h of an RNN; i', f', z, o of an sLSTM.
    """

    def __init__(self, inputs, states, gates, order=None, x=None, kept=None):
        super().__init__(inputs, states[0], None, gates, order=order, x=x, kept=kept)
        self.states = states  # tuple of (T+1, B, H) in the row order of the engine
        self._name = f"{inputs.cell.name}_backward"

    def _all(self, name):
        cell = self.inputs.cell
        if name not in cell.states:
            raise AttributeError(f"a {cell.name} has no state {name}")
        k = cell.states.index(name)
        return self._rows(self.states[k], self.inputs.start[k])

    @property
    def h(self):
        """All hidden states (T+1, B, H)."""
        return self._all("h")

    @property
    def c(self):
        """All cell states (T+1, B, H)."""
        return self._all("c")

    @property
    def n(self):
        """All normalisers (T+1, B, H)."""
        return self._all("n")

    @property
    def m(self):
        """All stabilisers (T+1, B, H)."""
        return self._all("m")

    def _by_gate(self):
        T, B, _ = self._gates.shape
        n, H = len(self.inputs.cell.gates), self.inputs.H
        return self._rows(self._gates[:, :, : n * H].reshape(T, B, n, H))
