# SPDX-License-Identifier: MIT
"""Gradients that can be differentiated again: what ``create_graph=True`` asks for.

A gradient is G = J(z)^T u, where z are the input, the states and the weights, and u is what comes
from above. For a direction v its derivatives are two products: with respect to u it is J v, the
tangent of the outputs; with respect to z the Hessian of <J(z) ., u> times v, the tangent of the
gradients. So one pass of tangents forward and one backward, in compiled code, are the whole
double backward. Third derivatives, variants without tangents, and vmap run in PyTorch's own
operations (`torch_expression`).
"""

import numpy as np
import torch

from .tangent_stack import differentiable, stack_hvp, stack_jvp
from .torch_expression import expression
from .torch_run import array, run_backward, run_forward

__all__ = ["batched", "differentiable_gradients", "expression_gradients"]


def differentiable_gradients(plan, inputs, masks, batch_sizes, upstream, wanted, record):
    """The gradients of x, the states and the weights, None where not wanted.

    Parameters
    ----------
    plan, masks, batch_sizes
        As for `run_forward`.
    inputs : sequence of Tensor or None
        x, the states and the weights.
    upstream : sequence of Tensor or None
        dy and the gradients of the final states.
    wanted : sequence of bool
        One for each of ``inputs``.
    record : Record
        Of the forward pass; it is consumed.
    """
    if plan.kind != "LSTM" or not differentiable(plan.cell):
        return expression_gradients(plan, inputs, masks, batch_sizes, upstream, wanted)
    return LSTMGradient.apply(plan, record, masks, batch_sizes, wanted, *upstream, *inputs)


def expression_gradients(plan, inputs, masks, batch_sizes, upstream, wanted):
    """The same, from PyTorch's own operations; differentiable where gradients are enabled."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = _apart(inputs, create)
        results = expression(plan, *plan.split(inputs), masks, batch_sizes)
        return _gradients(results, inputs, upstream, wanted, create)


def _apart(tensors, create):
    """Each its own: one tensor given twice, as h0 and c0, has a gradient for each use."""
    return [
        t if t is None else t.view_as(t) if create else t.detach().requires_grad_() for t in tensors
    ]


def _gradients(results, inputs, upstream, wanted, create):
    """The gradients of those inputs that are wanted, else None; ``upstream`` None: zeros."""
    pairs = [
        (r, g) for r, g in zip(results, upstream, strict=True) if r is not None and g is not None
    ]
    outputs, upstream = zip(*pairs, strict=True)
    asked = [t for t, want in zip(inputs, wanted, strict=True) if want]
    gradients = iter(
        torch.autograd.grad(outputs, asked, upstream, create_graph=create, allow_unused=True)
    )
    return [next(gradients) if want else None for want in wanted]


def batched(tensors):
    """Whether one of them is many at once: what ``is_grads_batched`` and vmap make."""
    is_batched = torch._C._functorch.is_legacy_batchedtensor
    return torch._C._are_functorch_transforms_active() or any(
        t is not None and is_batched(t) for t in tensors
    )


class LSTMGradient(torch.autograd.Function):
    """(plan, record, masks, batch_sizes, wanted, dy, dh_n, dc_n, x, h0, c0, *weights) -> dx, ..."""

    @staticmethod
    def forward(ctx, plan, record, masks, batch_sizes, wanted, *tensors):
        """Run the engine back."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.given = plan, masks, batch_sizes, wanted
        if record.tapes is None:  # retain_graph: the pass before has consumed it
            split = plan.split(tensors[3:])
            *_, record = run_forward(plan, *split, masks, batch_sizes, save=True)
        dx, dstarts, dweights = run_backward(plan, record, tensors[0], tensors[1:3])
        gradients = zip((dx, *dstarts, *dweights), wanted, strict=True)
        return tuple(g if want else None for g, want in gradients)

    @staticmethod
    def backward(ctx, *v):
        """Run tangents forward and back; for third derivatives differentiate the expression."""
        tensors, given = ctx.saved_tensors, ctx.given
        asked = ctx.needs_input_grad[5:]
        if torch.is_grad_enabled() or batched(v):
            gradients = _expression_products(*given, tensors, v, asked)
        else:
            gradients = _products(*given, tensors, v)
        gradients = (g if want else None for g, want in zip(gradients, asked, strict=True))
        return None, None, None, None, None, *gradients


def _products(plan, masks, batch_sizes, wanted, tensors, v):
    """The derivatives of <G, v> with respect to dy, dh_n, dc_n, x, h0, c0 and the weights."""
    split = plan.split(tensors[3:])
    *_, record = run_forward(plan, *split, masks, batch_sizes, save=True)
    layout, n = record.layout, len(plan.arguments)

    def steps(t):
        return None if t is None else layout.to_steps(array(t))

    def states(*pair):
        return plan.by_cell([layout.state(s) for s in pair])

    tweights = [_summed(plan.arguments, v[k : k + n]) for k in range(3, len(v), n)]
    ty, tends, moved = stack_jvp(record.tapes, record.masks, steps(v[0]), states(*v[1:3]), tweights)
    tdx, tdstarts, tgrads = stack_hvp(moved, record.masks, steps(tensors[0]), states(*tensors[1:3]))
    dh_n, dc_n = (layout.from_state(np.stack(s)) for s in zip(*tends, strict=True))
    dh0, dc0 = (layout.from_state(np.stack(s)) for s in zip(*tdstarts, strict=True))
    dweights = [torch.from_numpy(cell[name].copy()) for cell in tgrads for name in plan.arguments]
    dy, dx = (torch.from_numpy(layout.from_steps(a)) for a in (ty, tdx))
    return dy, dh_n, dc_n, dx, dh0, dc0, *dweights


def _summed(arguments, tangents):
    """The tangents of a cell's weights by name; those of the two biases are summed."""
    named = {}
    for name, t in zip(arguments, tangents, strict=True):
        if t is not None:
            named[name] = named[name] + array(t) if name in named else array(t)
    return named


def _expression_products(plan, masks, batch_sizes, wanted, tensors, v, asked):
    """The same, from PyTorch's own operations; differentiable where gradients are enabled."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        tensors = _apart(tensors, create)
        gradients = expression_gradients(plan, tensors[3:], masks, batch_sizes, tensors[:3], wanted)
        return _gradients(gradients, tensors, v, asked, create)
