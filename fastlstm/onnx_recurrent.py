# SPDX-License-Identifier: MIT
"""The nodes LSTM, GRU and RNN of an ONNX graph, computed by this package.

Where the specification is silent or ONNX Runtime differs from it, this follows ONNX Runtime:

* ``clip`` limits what the activations of gates and candidate see, after bias and peepholes, not
  the cell on its way out;
* ``input_forget`` makes f = 1 - i, and the rows of f in W, R, B and P are ignored;
* beyond a row's length Y is 0, and a row of length 0 ends with states of 0, not with its initial
  ones;
* ``activation_alpha`` and ``activation_beta`` have an entry for each activation that takes one, in
  order; where the list ends, ONNX's defaults follow.

Unlike there, ``layout=1``, float64, an empty batch and a missing ``hidden_size`` are fine.
"""

from dataclasses import replace

import numpy as np

from . import backend as backends
from . import checks
from .activations import ACTIVATIONS
from .siblings import GRUCell, RNNCell
from .spec import Spec
from .tensorfile import FormatError
from .weights import from_layout

__all__ = ["RECURRENT", "RecurrentNode"]

_ACTIVATIONS = {name.replace("_", ""): name for name in ACTIVATIONS if name != "identity"}
_DEFAULTS = {
    "hard_sigmoid": (0.2, 0.5),
    "leaky_relu": (0.01,),
    "thresholded_relu": (1.0,),
    "elu": (1.0,),
}


class RecurrentNode:
    """A node; a call with its inputs gives its outputs.

    Parameters
    ----------
    attributes : dict
        By name, with the schema's defaults.
    label : str
        What messages call the node.
    room : callable
        Refuses an array that would be too large.
    """

    states = 1
    default_activations = ()

    def __init__(self, attributes, label, room):
        self.label, self.room = label, room
        directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        direction = attributes["direction"]
        if direction not in directions:
            raise FormatError(
                f"{label}: direction must be one of {', '.join(directions)}, got {direction[:40]!r}"
            )
        self.reverse = directions[direction]
        self.layout = attributes.get("layout", 0)
        if self.layout not in (0, 1):
            raise FormatError(f"{label}: layout must be 0 or 1, got {self.layout}")
        self.hidden_size = attributes.get("hidden_size")
        self.clip = attributes.get("clip")
        self.cells = None  # made once where the weights are constants
        try:
            self.kinds = [self.kind(a, attributes) for a in self._activations(attributes)]
        except (TypeError, ValueError) as error:
            raise FormatError(f"{label}: {error}") from None

    def _activations(self, attributes):
        """For each direction its activations, as `Spec` writes them."""
        n, D = len(self.default_activations), len(self.reverse)
        names = attributes.get("activations") or self.default_activations * D
        if len(names) != n * D:
            raise ValueError(f"activations must be {n * D} names, got {len(names)}")
        numbers = {
            name: iter(attributes.get(f"activation_{name}", ())) for name in ("alpha", "beta")
        }
        found = []
        for given in names:
            name = _ACTIVATIONS.get(given.lower())
            if name is None:
                raise ValueError(f"the activation {given[:40]!r} is not supported")
            parameters = ACTIVATIONS[name].parameters
            defaults = _DEFAULTS.get(name, (None,) * len(parameters))
            values = [next(numbers[p], d) for p, d in zip(parameters, defaults, strict=True)]
            if None in values:
                raise ValueError(f"{name} needs {' and '.join(parameters)}")
            found.append((name, *values) if values else name)
        return [found[d * n : d * n + n] for d in range(D)]

    def kind(self, activations, attributes):
        """What makes a cell, beside its weights."""
        raise NotImplementedError

    def make_cell(self, kind, arrays):
        """What runs one direction, and its weights; ``arrays`` by ONNX's names."""
        raise NotImplementedError

    def pack(self, w, r, b=None, p=None):
        """The cells for these weights, one a direction.

        Raises
        ------
        ValueError, TypeError
            A shape or dtype does not fit.
        """
        D = len(self.reverse)
        arrays = {name: a for name, a in dict(W=w, R=r, B=b, P=p).items() if a is not None}
        for name, a in arrays.items():
            if a.ndim != (3 if name in "WR" else 2) or len(a) != D:
                raise ValueError(f"{name} must begin with {D} directions, got shape {a.shape}")
        H = r.shape[2]
        if self.hidden_size not in (None, H):
            raise ValueError(f"hidden_size is {self.hidden_size}, but R has shape {r.shape}")
        with np.errstate(all="ignore"):  # biases may be inf and -inf
            return [
                self.make_cell(kind, {name: a[d : d + 1] for name, a in arrays.items()})
                for d, kind in enumerate(self.kinds)
            ]

    def __call__(self, x, w, r, b=None, lengths=None, h0=None, c0=None, p=None):
        """Y, Y_h and, for the LSTM, Y_c."""
        cells = self.pack(w, r, b, p) if self.cells is None else self.cells
        if x.ndim != 3:
            raise ValueError(f"X must have 3 dimensions, got shape {x.shape}")
        x = x.swapaxes(0, 1) if self.layout else x
        (T, B, I), D = x.shape, len(cells)
        weights = cells[0][1]
        H = weights["w_hh"].shape[1]
        if weights["w_ih"].shape[1] != I:
            raise ValueError(f"X must have {weights['w_ih'].shape[1]} features, got {I}")
        if x.dtype != weights["w_ih"].dtype:
            raise ValueError(f"X is {x.dtype}, but W is {weights['w_ih'].dtype}")
        if lengths is not None:
            none = np.flatnonzero(lengths == 0)
            lengths = checks.lengths_array(lengths, T, B)
        given = (("initial_h", h0), ("initial_c", c0))[: self.states]
        starts = [self._start(name, s, (D, B, H), x.dtype) for name, s in given]
        self.room((T, D, B, H), x.dtype)
        if self.layout:
            y = np.empty((B, T, D, H), x.dtype).transpose(1, 2, 0, 3)
        else:
            y = np.empty((T, D, B, H), x.dtype)
        ends = [np.empty((D, B, H), x.dtype) for _ in range(self.states)]
        for d, (cell, weights) in enumerate(cells):
            start = tuple(None if s is None else s[d] for s in starts)
            end = tuple(s[d] for s in ends)
            cell.forward(x, weights, start, y[:, d], end, lengths, self.reverse[d])
        for s in ends:
            if T == 0:
                s[...] = 0
            elif lengths is not None:
                s[:, none] = 0
        if self.layout:
            return y.transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in ends)
        return y, *ends

    def _start(self, name, state, expected, dtype):
        """An initial state (D, B, H), checked; None: zeros."""
        if state is None:
            return None
        state = state.swapaxes(0, 1) if self.layout and state.ndim == 3 else state
        if state.shape != expected or state.dtype != dtype:
            raise ValueError(
                f"{name} must be {dtype} with (D, B, H) = {expected}, "
                f"got {state.dtype} {state.shape}"
            )
        return state


class _LSTM(RecurrentNode):
    states = 2
    default_activations = ("Sigmoid", "Tanh", "Tanh")

    def kind(self, activations, attributes):
        """A Spec, as yet without peepholes."""
        gate, candidate, output = activations
        coupled = attributes["input_forget"]
        if coupled not in (0, 1):
            raise ValueError(f"input_forget must be 0 or 1, got {coupled}")
        return Spec(
            gate=gate, candidate=candidate, output=output, clip=self.clip, coupled=bool(coupled)
        )

    def make_cell(self, spec, arrays):
        """A direction of an LSTM, whose peepholes are there where the input P is."""
        if "P" in arrays:
            spec = replace(spec, peepholes="io" if spec.coupled else "ifo")
        weights = from_layout("onnx", arrays)
        return backends.direction(spec, True), {"b": None, "w_proj": None, **weights}


class _GRU(RecurrentNode):
    default_activations = ("Sigmoid", "Tanh")

    def kind(self, activations, attributes):
        """A GRUCell."""
        after = attributes["linear_before_reset"]
        if after not in (0, 1):
            raise ValueError(f"linear_before_reset must be 0 or 1, got {after}")
        return GRUCell(bool(after), *activations, clip=self.clip)

    def make_cell(self, cell, arrays):
        """A direction of a GRU."""
        weights = from_layout("onnx", arrays, cell="gru")
        return backends.SiblingDirection(cell), {"b_ih": None, "b_hh": None, **weights}


class _RNN(RecurrentNode):
    default_activations = ("Tanh",)

    def _activations(self, attributes):
        if attributes.get("activations") == ["Tanh", "Tanh"]:  # the schema's default for any D
            attributes = attributes | {"activations": None}
        return super()._activations(attributes)

    def kind(self, activations, attributes):
        """An RNNCell."""
        return RNNCell(*activations, clip=self.clip)

    def make_cell(self, cell, arrays):
        """A direction of an RNN."""
        return backends.SiblingDirection(cell), {
            "b": None, **from_layout("onnx", arrays, cell="rnn"),
        }  # fmt: skip


# By operator and the version that introduced its meaning, as `onnx_ops.KERNELS`
RECURRENT = {
    (name, version): node
    for name, node in (("LSTM", _LSTM), ("GRU", _GRU), ("RNN", _RNN))
    for version in (7, 14, 22)
}
