# SPDX-License-Identifier: MIT
"""Recurrent layers as operations of PyTorch: for autograd, and for torch.compile.

`recurrent` is what runs normally, and `recurrent_op`, which is ``torch.ops.fastlstm.recurrent``,
the same for graphs that torch.compile makes.
"""

from collections.abc import Sequence
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from .torch_expression import expression
from .torch_run import LAYERS, plan_for, run_backward, run_forward
from .torch_second_order import batched, differentiable_gradients, expression_gradients

__all__ = ["recurrent", "recurrent_op"]


# -- for autograd --------------------------------------------------------------------------------


def recurrent(plan, x, states, weights, masks, batch_sizes=None):
    """y and the final states; see `run_forward`. Differentiable in x, states and weights."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return expression(plan, x, states, weights, masks, batch_sizes)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (*weights, x, *states)
    ):
        return RecurrentFunction.apply(plan, batch_sizes, masks, x, *states, *weights)
    y, ends, _ = run_forward(plan, x, states, weights, masks, batch_sizes, save=False)
    return y, *ends


class RecurrentFunction(torch.autograd.Function):
    """(plan, batch_sizes, masks, x, *states, *weights) -> y, *ends: see `run_forward`."""

    @staticmethod
    def forward(ctx, plan, batch_sizes, masks, *tensors):
        """Run the engine and keep its record."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.plan, ctx.batch_sizes, ctx.masks = plan, batch_sizes, masks
        given = plan.split(tensors)
        y, ends, ctx.record = run_forward(plan, *given, masks, batch_sizes, save=True)
        return y, *ends

    @staticmethod
    def backward(ctx, *upstream):
        """Run the engine back; under ``create_graph`` by what can be differentiated again."""
        tensors = ctx.saved_tensors  # refuses a freed graph, and changed tensors
        plan, masks, batch_sizes = ctx.plan, ctx.masks, ctx.batch_sizes
        wanted = ctx.needs_input_grad[3:]
        given = plan, tensors, masks, batch_sizes, upstream, wanted
        if batched(upstream):
            return None, None, None, *expression_gradients(*given)
        if torch.is_grad_enabled():
            return None, None, None, *differentiable_gradients(*given, ctx.record)
        if ctx.record.tapes is None:  # retain_graph: the pass before has consumed it
            split = plan.split(tensors)
            *_, ctx.record = run_forward(plan, *split, masks, batch_sizes, save=True)
        dx, dstarts, dweights = run_backward(plan, ctx.record, upstream[0], upstream[1:])
        gradients = zip((dx, *dstarts, *dweights), wanted, strict=True)
        return None, None, None, *(g if want else None for g, want in gradients)


# -- for torch.compile -------------------------------------------------------------------------


# A graph hands tensors from its forward to its backward part: ``tape`` is a byte whose memory
# owns the record, and the record is found by its address. Where it is not found, or was
# consumed, the forward pass runs again.
_records = WeakValueDictionary()


class _Owner(np.ndarray):
    record = None


def _tape_of(record):
    owner = np.zeros(1, np.uint8).view(_Owner)
    owner.record = record
    tape = torch.from_numpy(owner)
    _records[tape.data_ptr()] = owner
    return tape


def _record_of(tape):
    owner = _records.get(tape.data_ptr())
    return None if owner is None or owner.record.tapes is None else owner.record


@torch.library.custom_op("fastlstm::recurrent", mutates_args=())
def recurrent_op(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], masks: Sequence[Tensor],
    kind: str, hidden_size: int, proj_size: int, num_layers: int, bias: bool, bidirectional: bool,
    batch_first: bool, cell: str, save: bool,
) -> list[Tensor]:  # fmt: skip
    """y and the final states as `run_forward` computes them, and the tape.

    No ``states``: zeros; ``cell`` is a `cell_text`.
    """
    plan = plan_for(
        kind, hidden_size, proj_size, num_layers, bias, bidirectional, batch_first, cell
    )
    given = states or (None,) * plan.states
    with torch.no_grad():
        y, ends, record = run_forward(plan, x, given, weights, masks, None, save)
    return [y, *ends, _tape_of(record) if save else torch.empty(0, dtype=torch.uint8)]


def _fake_states(x, kind, hidden_size, proj_size, num_layers, bidirectional, batch_first):
    batch = () if x.dim() == 2 else (x.shape[0 if batch_first else 1],)
    cells, sizes = num_layers * (1 + bidirectional), (proj_size or hidden_size, hidden_size)
    return [x.new_empty(cells, *batch, n) for n in sizes[: len(LAYERS[kind]._states)]]


@recurrent_op.register_fake
def _(
    x, states, weights, masks, kind, hidden_size, proj_size, num_layers, bias, bidirectional,
    batch_first, cell, save,
):  # fmt: skip
    ends = _fake_states(x, kind, hidden_size, proj_size, num_layers, bidirectional, batch_first)
    y = x.new_empty(*x.shape[:-1], (1 + bidirectional) * (proj_size or hidden_size))
    return [y, *ends, x.new_empty(int(save), dtype=torch.uint8)]


@torch.library.custom_op("fastlstm::recurrent_backward", mutates_args=())
def recurrent_backward_op(
    tape: Tensor, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, x: Tensor,
    states: Sequence[Tensor], weights: Sequence[Tensor], masks: Sequence[Tensor], kind: str,
    hidden_size: int, proj_size: int, num_layers: int, bias: bool, bidirectional: bool,
    batch_first: bool, cell: str,
) -> list[Tensor]:  # fmt: skip
    """dx, the gradients of the initial states and of the weights; dc_n only for an LSTM."""
    plan = plan_for(
        kind, hidden_size, proj_size, num_layers, bias, bidirectional, batch_first, cell
    )
    with torch.no_grad():
        record = _record_of(tape)
        if record is None:
            given = states or (None,) * plan.states
            *_, record = run_forward(plan, x, given, weights, masks, None, save=True)
        dx, dstarts, dweights = run_backward(plan, record, dy, (dh_n, dc_n)[: plan.states])
    return [*(g.contiguous() for g in (dx, *dstarts)), *dweights]


@recurrent_backward_op.register_fake
def _(
    tape, dy, dh_n, dc_n, x, states, weights, masks, kind, hidden_size, proj_size, num_layers,
    bias, bidirectional, batch_first, cell,
):  # fmt: skip
    dstarts = _fake_states(x, kind, hidden_size, proj_size, num_layers, bidirectional, batch_first)
    return [x.new_empty(x.shape), *dstarts, *(w.new_empty(w.shape) for w in weights)]


def _setup_context(ctx, inputs, output):
    x, states, weights, masks, *ctx.arguments, _ = inputs
    ctx.counts = len(states), len(weights), len(masks)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[-1], x, *states, *weights, *masks)


def _backward(ctx, gradients):
    tape, x, *rest = ctx.saved_tensors
    n_states, n_weights, n_masks = ctx.counts
    states, rest = rest[:n_states], rest[n_states:]
    weights, masks = rest[:n_weights], rest[n_weights:]
    dy, dh_n, *more, _ = gradients
    dx, *rest = recurrent_backward_op(
        tape, dy, dh_n, *(more or [None]), x, states, weights, masks, *ctx.arguments
    )
    n_ends = 1 + len(more)
    dstates = rest[:n_ends] if n_states else []
    return dx, dstates, rest[n_ends:], [None] * n_masks, *[None] * 9


recurrent_op.register_autograd(_backward, setup_context=_setup_context)
