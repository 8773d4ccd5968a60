# SPDX-License-Identifier: MIT
"""Tensors in, tensors out: a stack of recurrent layers run by the engine, forward and backward.

Tensors become arrays and back without a copy. Nothing here knows about autograd: `torch_ops` does.
"""

import json
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from . import backend, layer, sibling_layers
from ._stack import by_cell, stack_backward, stack_forward
from .siblings import GRUCell, RNNCell
from .spec import Spec

__all__ = [
    "LAYERS",
    "Layout",
    "Plan",
    "Record",
    "array",
    "cell_text",
    "plan_for",
    "run_backward",
    "run_forward",
    "variant_parameters",
]


# -- what is computed --------------------------------------------------------------------------


LAYERS = {"LSTM": layer.LSTM, "GRU": sibling_layers.GRU, "RNN": sibling_layers.RNN}


@dataclass(frozen=True, slots=True)
class Plan:
    """The hyperparameters of a stack."""

    kind: str  # a name of LAYERS
    hidden_size: int
    proj_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    batch_first: bool
    cell: object  # which variant: a Spec, GRUCell or RNNCell
    arguments: tuple  # of each cell's function as lstm_forward, weight by weight

    @property
    def directions(self):
        """D."""
        return 1 + self.bidirectional

    @property
    def states(self):
        """S: 2 where a cell has h and c, 1 where it has h."""
        return len(LAYERS[self.kind]._states)

    @property
    def widths(self):
        """The sizes of the states, layer by layer."""
        sizes = self.proj_size or self.hidden_size, self.hidden_size
        return [sizes[: self.states]] * self.num_layers

    def split(self, tensors):
        """x, the states and the weights out of one sequence."""
        return tensors[0], tensors[1 : 1 + self.states], tensors[1 + self.states :]

    def by_cell(self, states):
        """For each cell its part of these states; None where there is none."""
        n = self.num_layers * self.directions
        return by_cell([[None] * n if s is None else s for s in states])


def cell_text(cell):
    """A Spec, GRUCell or RNNCell as text, as an operation of PyTorch can take it."""
    changed = {f.name: getattr(cell, f.name) for f in fields(cell)}
    changed = {f.name: changed[f.name] for f in fields(cell) if changed[f.name] != f.default}
    return json.dumps(changed) if changed else ""


_CELLS = {"LSTM": Spec, "GRU": GRUCell, "RNN": RNNCell}


def _cell_of(kind, text):
    values = json.loads(text or "{}")
    return _CELLS[kind](**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@lru_cache(maxsize=256)
def plan_for(kind, hidden_size, proj_size, num_layers, bias, bidirectional, batch_first, cell):
    """The Plan; ``cell`` is a text of `cell_text`."""
    cell = _cell_of(kind, cell)
    biases = ["b", "b"] if LAYERS[kind]._sums_biases else ["b_ih", "b_hh"]
    arguments = ["w_ih", "w_hh"] + biases * bias + ["w_proj"] * bool(proj_size)
    arguments += variant_parameters(cell).values()
    return Plan(kind, hidden_size, proj_size, num_layers, bias, bidirectional, batch_first, cell,
                tuple(arguments))  # fmt: skip


def variant_parameters(cell):
    """Name -> argument of the parameters, as "weight_peephole", that torch.nn.LSTM has not."""
    if not isinstance(cell, Spec) or not cell.changed:
        return {}
    arguments = {name: argument for argument, name in layer.LSTM._arguments.items()}
    common = {"weight_ih", "weight_hh", "bias", "weight_hr"}
    names = (name.removesuffix("_l0") for name in layer.LSTM(1, 2, spec=cell).parameters())
    return {name: arguments[name] for name in names if name not in common}


# -- tensors <-> arrays (T, B, .) ----------------------------------------------------------------


def array(tensor):
    """The tensor's numbers as an array, without a copy."""
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).numpy()


class Layout:
    """How the caller's x and y lie: (T, B, .), (B, T, .), (T, .) or packed (N, .)."""

    __slots__ = ("batch_first", "lengths", "on", "packed", "unbatched")

    def __init__(self, plan, dimensions, batch_sizes):
        self.packed = self.on = self.lengths = None
        self.unbatched = batch_sizes is None and dimensions == 2
        self.batch_first = batch_sizes is None and dimensions == 3 and plan.batch_first
        if batch_sizes is not None:
            sizes = array(batch_sizes)
            self.packed = len(sizes), int(sizes[0])  # T, B
            if sizes[-1] != sizes[0]:
                self.on = np.arange(sizes[0]) < sizes[:, None]  # (T, B), in the packed order
                self.lengths = self.on.sum(axis=0)

    def to_steps(self, a):
        """The caller's ``a`` as (T, B, .)."""
        if self.on is not None:
            padded = np.zeros((*self.packed, a.shape[1]), a.dtype)
            padded[self.on] = a
            return padded
        if self.packed:
            return a.reshape(*self.packed, a.shape[1])
        if self.unbatched:
            return a[:, None]
        return a.swapaxes(0, 1) if self.batch_first else a

    def from_steps(self, a):
        """``a`` (T, B, .) as the caller's."""
        if self.on is not None:
            return a[self.on]
        if self.packed:
            return a.reshape(-1, a.shape[2])
        if self.unbatched:
            return a[:, 0]
        return a.swapaxes(0, 1) if self.batch_first else a

    def state(self, tensor):
        """A state (L*D, B, .) as an array."""
        if tensor is None:
            return None
        return array(tensor)[:, None] if self.unbatched else array(tensor)

    def from_state(self, a):
        """A state (L*D, B, .) as the caller's tensor."""
        return torch.from_numpy(a[:, 0] if self.unbatched else a)


class Record:
    """What a forward pass leaves for the backward pass; None for ``tapes`` once it is consumed."""

    __slots__ = ("cells", "layout", "masks", "tapes")

    def __init__(self, layout, cells, masks, tapes):
        self.layout, self.cells, self.masks, self.tapes = layout, cells, masks, tapes


_directions = WeakTensorKeyDictionary()  # weight_hh -> cell, the direction that keeps it packed


def _direction(plan, weight_hh):
    """What runs a cell with these weights."""
    cell, direction = _directions.get(weight_hh, (None, None))
    if cell is not plan.cell:
        lstm = plan.kind == "LSTM"
        direction = (backend.direction(plan.cell, False) if lstm
                     else backend.SiblingDirection(plan.cell))  # fmt: skip
        _directions[weight_hh] = plan.cell, direction
    return direction


def _cell(plan, weights):
    """A cell as `stack_forward` takes it; two biases of one name are summed."""
    named = dict.fromkeys(LAYERS[plan.kind]._arguments)
    for name, w in zip(plan.arguments, weights, strict=True):
        w = w.numpy()
        named[name] = w if named[name] is None else named[name] + w
    return _direction(plan, weights[1]), named


# -- forward and backward ------------------------------------------------------------------------


def run_forward(plan, x, states, weights, masks, batch_sizes, save):
    """The results as new tensors, and the record. No tensor may require a gradient.

    Parameters
    ----------
    plan : Plan
    x : Tensor (T, B, I), (B, T, I), (T, I), or packed (N, I)
    states : sequence of S Tensor (L*D, B, H|P), (L*D, B, H), unbatched without B; or None: zeros
        The initial states: h0, and of an LSTM c0.
    weights : sequence of Tensor
        ``len(plan.arguments)`` for each cell.
    masks : sequence of Tensor (T, B, D*(H|P)), or packed
        For all layers but the last, or empty: no dropout.
    batch_sizes : Tensor (T,) or None
        Of a packed x.
    save : bool
        Whether a backward pass follows.

    Returns
    -------
    y : Tensor
    ends : tuple of S Tensor
    record : Record or None
    """
    layout, n, D = Layout(plan, x.dim(), batch_sizes), len(plan.arguments), plan.directions
    cells = [_cell(plan, weights[k : k + n]) for k in range(0, len(weights), n)]
    cells = [cells[k : k + D] for k in range(0, len(cells), D)]
    masks = [layout.to_steps(array(m)) if layout.packed else array(m) for m in masks]
    masks += [None] * (plan.num_layers - len(masks))
    x, out = layout.to_steps(array(x)), None
    if layout.batch_first:  # y shall be contiguous for the caller
        size = D * (plan.proj_size or plan.hidden_size)
        out = np.empty((x.shape[1], x.shape[0], size), x.dtype).swapaxes(0, 1)
    y, ends, tapes = stack_forward(
        cells, x, plan.widths, plan.by_cell([layout.state(s) for s in states]),
        layout.lengths, masks, save, out,
    )  # fmt: skip
    record = Record(layout, cells, masks, tapes) if save else None
    return torch.from_numpy(layout.from_steps(y)), tuple(map(layout.from_state, ends)), record


def run_backward(plan, record, dy, dends):
    """dx, the S gradients of the initial states and the list of the weights' gradients.

    It consumes the record.
    """
    layout, tapes, record.tapes = record.layout, record.tapes, None
    grads = [
        {name: np.empty_like(w, order="C") for name, w in weights.items() if w is not None}
        for directions in record.cells
        for _, weights in directions
    ]
    dx, dstarts = stack_backward(
        record.cells, tapes, plan.widths, record.masks,
        None if dy is None else layout.to_steps(array(dy)),
        plan.by_cell([layout.state(s) for s in dends]), grads,
    )  # fmt: skip
    dweights = []
    for cell in grads:
        for name in plan.arguments:
            dw = cell[name]
            dweights.append(torch.from_numpy(dw))
            if name == "b":  # the second bias must not share the memory of the first
                cell[name] = dw.copy()
    dx = torch.from_numpy(layout.from_steps(dx))
    return dx, tuple(map(layout.from_state, dstarts)), dweights
