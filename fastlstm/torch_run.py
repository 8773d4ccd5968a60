# SPDX-License-Identifier: MIT
"""Tensors in, tensors out: a stack of LSTM layers run by the engine, forward and backward.

Tensors become arrays and back without a copy. Nothing here knows about autograd: `torch_ops` does.
"""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from . import backend, layer
from ._stack import by_cell, stack_backward, stack_forward
from .spec import Spec

__all__ = [
    "Layout",
    "Plan",
    "Record",
    "plan_for",
    "run_backward",
    "run_forward",
    "spec_text",
    "variant_parameters",
]


# -- what is computed --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """The hyperparameters of a stack; ``arguments``: those of lstm_forward, weight by weight."""

    hidden_size: int
    proj_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    batch_first: bool
    spec: Spec
    arguments: tuple

    @property
    def directions(self):
        """D."""
        return 1 + self.bidirectional

    @property
    def widths(self):
        """The sizes of h and c, layer by layer."""
        return [(self.proj_size or self.hidden_size, self.hidden_size)] * self.num_layers

    def by_cell(self, states):
        """For each cell its part of these two states; None where there is none."""
        n = self.num_layers * self.directions
        return by_cell([[None] * n if s is None else s for s in states])


def spec_text(spec):
    """A Spec as text, as an operation of PyTorch can take it: "" for the default."""
    return json.dumps(asdict(spec)) if spec.changed else ""


def _spec(text):
    fields = json.loads(text or "{}")
    return Spec(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


@lru_cache(maxsize=256)
def plan_for(hidden_size, proj_size, num_layers, bias, bidirectional, batch_first, spec):
    """The Plan; ``spec`` is a text."""
    arguments = ["w_ih", "w_hh"] + ["b", "b"] * bias + ["w_proj"] * bool(proj_size)
    spec = _spec(spec)
    arguments += variant_parameters(spec).values()
    return Plan(hidden_size, proj_size, num_layers, bias, bidirectional, batch_first, spec,
                tuple(arguments))  # fmt: skip


def variant_parameters(spec):
    """Name -> argument of the parameters, as "weight_peephole", that torch.nn.LSTM has not."""
    if not spec.changed:
        return {}
    arguments = {name: argument for argument, name in layer._ARGUMENTS.items()}
    common = {"weight_ih", "weight_hh", "bias", "weight_hr"}
    names = (name.removesuffix("_l0") for name in layer.LSTM(1, 2, spec=spec).parameters())
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


_directions = WeakTensorKeyDictionary()  # weight_hh -> spec, the direction that keeps it packed


def _cell(plan, weights):
    """A cell as `stack_forward` takes it; the two biases are summed."""
    spec, direction = _directions.get(weights[1], (None, None))
    if spec is not plan.spec:
        direction = backend.direction(plan.spec, False)
        _directions[weights[1]] = plan.spec, direction
    named = dict.fromkeys(layer._ARGUMENTS)
    for name, w in zip(plan.arguments, weights, strict=True):
        w = w.numpy()
        named[name] = w if named[name] is None else named[name] + w
    return direction, named


# -- forward and backward ------------------------------------------------------------------------


def run_forward(plan, x, h0, c0, weights, masks, batch_sizes, save):
    """The results as new tensors, and the record. No tensor may require a gradient.

    Parameters
    ----------
    plan : Plan
    x : Tensor (T, B, I), (B, T, I), (T, I), or packed (N, I)
    h0, c0 : Tensor (L*D, B, H|P), (L*D, B, H), unbatched without B; or None: zeros
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
    y, h_n, c_n : Tensor
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
    y, h_n, c_n, tapes = stack_forward(
        cells, x, plan.widths, plan.by_cell([layout.state(h0), layout.state(c0)]),
        layout.lengths, masks, save, out,
    )  # fmt: skip
    results = torch.from_numpy(layout.from_steps(y)), layout.from_state(h_n), layout.from_state(c_n)
    return *results, Record(layout, cells, masks, tapes) if save else None


def run_backward(plan, record, dy, dh_n, dc_n):
    """dx, dh0, dc0 and the list of the weights' gradients; consumes the record."""
    layout, tapes, record.tapes = record.layout, record.tapes, None
    grads = [
        {name: np.empty_like(w, order="C") for name, w in weights.items() if w is not None}
        for directions in record.cells
        for _, weights in directions
    ]
    dx, dh0, dc0 = stack_backward(
        record.cells, tapes, plan.widths, record.masks,
        None if dy is None else layout.to_steps(array(dy)),
        plan.by_cell([layout.state(dh_n), layout.state(dc_n)]), grads,
    )  # fmt: skip
    dweights = []
    for cell in grads:
        for name in plan.arguments:
            dw = cell[name]
            dweights.append(torch.from_numpy(dw))
            if name == "b":  # the second bias must not share the memory of the first
                cell[name] = dw.copy()
    dx = torch.from_numpy(layout.from_steps(dx))
    return dx, layout.from_state(dh0), layout.from_state(dc0), dweights
