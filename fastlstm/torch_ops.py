# SPDX-License-Identifier: MIT
"""The LSTM as operations of PyTorch: for autograd, and for torch.compile.

`lstm` is what runs normally, and `lstm_op`, which is ``torch.ops.fastlstm.lstm``, the same for
graphs that torch.compile makes.
"""

from collections.abc import Sequence
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from .torch_expression import lstm_expression
from .torch_run import plan_for, run_backward, run_forward
from .torch_second_order import batched, differentiable_gradients, expression_gradients

__all__ = ["lstm", "lstm_op"]


# -- for autograd --------------------------------------------------------------------------------


def lstm(plan, x, h0, c0, weights, masks, batch_sizes=None):
    """y, h_n, c_n; see `run_forward`. Differentiable in x, h0, c0 and the weights."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return lstm_expression(plan, x, h0, c0, weights, masks, batch_sizes)
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (*weights, x, h0, c0)
    ):
        return LSTMFunction.apply(plan, batch_sizes, masks, x, h0, c0, *weights)
    return run_forward(plan, x, h0, c0, weights, masks, batch_sizes, save=False)[:3]


class LSTMFunction(torch.autograd.Function):
    """(plan, batch_sizes, masks, x, h0, c0, *weights) -> y, h_n, c_n: see `run_forward`."""

    @staticmethod
    def forward(ctx, plan, batch_sizes, masks, x, h0, c0, *weights):
        """Run the engine and keep its record."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h0, c0, *weights)
        ctx.plan, ctx.batch_sizes, ctx.masks = plan, batch_sizes, masks
        *results, ctx.record = run_forward(plan, x, h0, c0, weights, masks, batch_sizes, save=True)
        return tuple(results)

    @staticmethod
    def backward(ctx, dy, dh_n, dc_n):
        """Run the engine back; under ``create_graph`` by what can be differentiated again."""
        x, h0, c0, *weights = ctx.saved_tensors  # refuses a freed graph, and changed tensors
        plan, masks, batch_sizes = ctx.plan, ctx.masks, ctx.batch_sizes
        wanted = ctx.needs_input_grad[3:]
        given, upstream = (plan, (x, h0, c0, *weights), masks, batch_sizes), (dy, dh_n, dc_n)
        if batched(upstream):
            return None, None, None, *expression_gradients(*given, upstream, wanted)
        if torch.is_grad_enabled():
            gradients = differentiable_gradients(*given, upstream, wanted, ctx.record)
            return None, None, None, *gradients
        if ctx.record.tapes is None:  # retain_graph: the pass before has consumed it
            *_, ctx.record = run_forward(plan, x, h0, c0, weights, masks, batch_sizes, save=True)
        dx, dh0, dc0, dweights = run_backward(plan, ctx.record, dy, dh_n, dc_n)
        gradients = zip((dx, dh0, dc0, *dweights), wanted, strict=True)
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


@torch.library.custom_op("fastlstm::lstm", mutates_args=())
def lstm_op(
    x: Tensor, h0: Tensor | None, c0: Tensor | None, weights: Sequence[Tensor],
    masks: Sequence[Tensor], hidden_size: int, proj_size: int, num_layers: int, bias: bool,
    bidirectional: bool, batch_first: bool, spec: str, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, h_n, c_n as `run_forward` computes them, and the tape; ``spec`` is a `spec_text`."""
    plan = plan_for(hidden_size, proj_size, num_layers, bias, bidirectional, batch_first, spec)
    with torch.no_grad():
        *results, record = run_forward(plan, x, h0, c0, weights, masks, None, save)
    return *results, _tape_of(record) if save else torch.empty(0, dtype=torch.uint8)


@lstm_op.register_fake
def _(
    x, h0, c0, weights, masks, hidden_size, proj_size, num_layers, bias, bidirectional,
    batch_first, spec, save,
):  # fmt: skip
    cells, width = num_layers * (1 + bidirectional), proj_size or hidden_size
    batch = () if x.dim() == 2 else (x.shape[0 if batch_first else 1],)
    return (
        x.new_empty(*x.shape[:-1], (1 + bidirectional) * width),
        x.new_empty(cells, *batch, width),
        x.new_empty(cells, *batch, hidden_size),
        x.new_empty(int(save), dtype=torch.uint8),
    )


@torch.library.custom_op("fastlstm::lstm_backward", mutates_args=())
def lstm_backward_op(
    tape: Tensor, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, x: Tensor,
    h0: Tensor | None, c0: Tensor | None, weights: Sequence[Tensor], masks: Sequence[Tensor],
    hidden_size: int, proj_size: int, num_layers: int, bias: bool, bidirectional: bool,
    batch_first: bool, spec: str,
) -> list[Tensor]:  # fmt: skip
    """dx, dh0, dc0 and the weights' gradients."""
    plan = plan_for(hidden_size, proj_size, num_layers, bias, bidirectional, batch_first, spec)
    with torch.no_grad():
        record = _record_of(tape)
        if record is None:
            *_, record = run_forward(plan, x, h0, c0, weights, masks, None, save=True)
        *gradients, dweights = run_backward(plan, record, dy, dh_n, dc_n)
    return [*(g.contiguous() for g in gradients), *dweights]


@lstm_backward_op.register_fake
def _(
    tape, dy, dh_n, dc_n, x, h0, c0, weights, masks, hidden_size, proj_size, num_layers, bias,
    bidirectional, batch_first, spec,
):  # fmt: skip
    batch = () if x.dim() == 2 else (x.shape[0 if batch_first else 1],)
    cells = num_layers * (1 + bidirectional)
    states = (x.new_empty(cells, *batch, n) for n in (proj_size or hidden_size, hidden_size))
    return [x.new_empty(x.shape), *states, *(w.new_empty(w.shape) for w in weights)]


def _setup_context(ctx, inputs, output):
    x, h0, c0, weights, masks, *ctx.arguments, _ = inputs
    ctx.n_weights, ctx.n_masks = len(weights), len(masks)
    ctx.set_materialize_grads(False)
    states = () if h0 is None else (h0, c0)
    ctx.save_for_backward(output[3], x, *weights, *masks, *states)


def _backward(ctx, dy, dh_n, dc_n, _):
    tape, x, *rest = ctx.saved_tensors
    weights, rest = rest[: ctx.n_weights], rest[ctx.n_weights :]
    masks, states = rest[: ctx.n_masks], rest[ctx.n_masks :]
    dx, dh0, dc0, *dweights = lstm_backward_op(
        tape, dy, dh_n, dc_n, x, *(states or (None, None)), weights, masks, *ctx.arguments
    )
    states = (dh0, dc0) if states else (None, None)
    return dx, *states, dweights, [None] * ctx.n_masks, *[None] * 8


lstm_op.register_autograd(_backward, setup_context=_setup_context)
