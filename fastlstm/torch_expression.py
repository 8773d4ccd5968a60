# SPDX-License-Identifier: MIT
"""Recurrent layers in PyTorch's own operations, step by step: slow, differentiable without end.

`fastlstm.torch` takes it for derivatives of derivatives that `torch_second_order` has not, and
under the transforms of ``torch.func``. The equations are those of `fastlstm.reference`,
`reference_gru` and `reference_rnn`.
"""

import torch
from torch.nn import functional

from .siblings import GRUCell, RNNCell
from .spec import Spec

__all__ = ["expression"]


def expression(plan, x, states, weights, masks, batch_sizes):
    """y and the final states as `fastlstm.torch_run.run_forward` computes them.

    Parameters
    ----------
    plan : Plan
    x : Tensor (T, B, I), (B, T, I), (T, I), or packed (N, I)
    states : sequence of Tensor (L*D, B, H|P), (L*D, B, H), unbatched without B; or None: zeros
    weights : sequence of Tensor
        ``len(plan.arguments)`` for each cell.
    masks : sequence of Tensor
        For all layers but the last, or empty: no dropout.
    batch_sizes : Tensor (T,) or None
        Of a packed x.
    """
    on = None  # (T, B): which rows have a step t
    unbatched = batch_sizes is None and x.dim() == 2
    if batch_sizes is not None:
        on = torch.arange(int(batch_sizes[0])) < batch_sizes[:, None]
        x = x.new_zeros(*on.shape, x.shape[1]).index_put((on,), x)
        masks = [m.new_zeros(*on.shape, m.shape[1]).index_put((on,), m) for m in masks]
    elif unbatched:
        x = x.unsqueeze(1)
        states = [None if s is None else s.unsqueeze(1) for s in states]
    elif plan.batch_first:
        x = x.transpose(0, 1)
    n, D = len(plan.arguments), plan.directions
    ends = []
    for layer in range(plan.num_layers):
        outputs = []
        for d in range(D):
            k = layer * D + d
            w = _by_name(plan.arguments, weights[k * n : (k + 1) * n])
            start = [
                x.new_zeros(x.shape[1], size) if s is None else s[k]
                for s, size in zip(states, plan.widths[layer], strict=True)
            ]
            y, end = _cell(plan.cell, x, start, w, on, reverse=d == 1)
            outputs.append(y)
            ends.append(end)
        x = torch.cat(outputs, 2)
        if layer < len(masks):
            x = x * masks[layer]
    ends = [torch.stack(s) for s in zip(*ends, strict=True)]
    if batch_sizes is not None:
        return x[on], *ends
    if unbatched:
        return x.squeeze(1), *(s.squeeze(1) for s in ends)
    return (x.transpose(0, 1) if plan.batch_first else x), *ends


def _by_name(arguments, weights):
    """The weights of a cell by the arguments of lstm_forward; the two biases are summed."""
    named = {}
    for name, w in zip(arguments, weights, strict=True):
        named[name] = named[name] + w if name in named else w
    return named


def _cell(cell, x, states, w, on, reverse):
    """y (T, B, H|P) and the final states of one layer in one direction."""
    project, step = _STEPS[type(cell)]
    a_x = project(cell, x, w)
    kept = None  # what a step leaves for the next beside its states
    y = [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        after, kept = step(cell, a_x[t], states, kept, w)
        if on is None:
            y[t], states = after[0], after
        else:
            has_step = on[t, :, None]
            y[t] = torch.where(has_step, after[0], 0)
            states = [torch.where(has_step, a, s) for a, s in zip(after, states, strict=True)]
            kept = None if kept is None else torch.where(has_step, kept, 0)
    return torch.stack(y), states


# -- LSTM ----------------------------------------------------------------------------------------


def _lstm_project(spec, x, w):
    a_x = functional.linear(x, w["w_ih"])
    if spec.layer_norm:
        a_x = _norm(spec, a_x, w["ln_x"])
    return a_x + w["b"] if "b" in w else a_x


def _lstm_step(spec, a_x, states, gates, w):
    """h, c, and the gates i, f, o side by side, after one step."""
    h, c = states
    gate, candidate, output = map(_activation, (spec.gate, spec.candidate, spec.output))
    a_h = functional.linear(h, w["w_hh"])
    if spec.layer_norm:
        a_h = _norm(spec, a_h, w["ln_h"])
    a_i, a_f, a_g, a_o = (a_x + a_h).chunk(4, 1)
    if spec.full_gate_recurrence and gates is not None:
        r_i, r_f, r_o = functional.linear(gates, w["w_fgr"]).chunk(3, 1)
        a_i, a_f, a_o = a_i + r_i, a_f + r_f, a_o + r_o
    peephole = w.get("w_peephole")
    a_i = a_i + peephole[0] * c if "i" in spec.peepholes else a_i
    a_f = a_f + peephole[1] * c if "f" in spec.peepholes else a_f
    one = torch.ones_like(a_i)
    i = gate(_clip(a_i, spec.clip)) if spec.input_gate else one
    f = gate(_clip(a_f, spec.clip)) if spec.forget_gate else one
    f = 1 - i if spec.coupled else f
    g = candidate(_clip(a_g, spec.clip))
    c = _clip(f * c + i * g, spec.cell_clip)
    a_o = a_o + peephole[2] * c if "o" in spec.peepholes else a_o
    o = gate(_clip(a_o, spec.clip)) if spec.output_gate else one
    m = o * output(functional.layer_norm(c, c.shape[1:], *w["ln_c"]) if spec.layer_norm else c)
    h = functional.linear(m, w["w_proj"]) if "w_proj" in w else m
    return (h, c), torch.cat((i, f, o), 1)


def _clip(a, limit):
    return a if limit is None else a.clamp(-limit, limit)


def _norm(spec, a, gain):
    """gain * LN(a) over those of the 4H numbers that belong to a gate which is computed."""
    live = [k for k in range(4) if spec.live[k]]
    parts, gains = a.chunk(4, -1), gain.chunk(4)
    normed = torch.cat([parts[k] for k in live], -1)
    normed = functional.layer_norm(
        normed, normed.shape[-1:], torch.cat([gains[k] for k in live])
    ).chunk(len(live), -1)
    return torch.cat(
        [normed[live.index(k)] if k in live else torch.zeros_like(parts[k]) for k in range(4)], -1
    )


# -- GRU, RNN ------------------------------------------------------------------------------------


def _gru_project(cell, x, w):
    return functional.linear(x, w["w_ih"], w.get("b_ih"))


def _gru_step(cell, a_x, states, _, w):
    """h after one step; r is applied after the product, as PyTorch has it."""
    (h,) = states
    (x_r, x_z, x_n), (h_r, h_z, h_n) = (
        a.chunk(3, 1) for a in (a_x, functional.linear(h, w["w_hh"], w.get("b_hh")))
    )
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return ((1 - z) * n + z * h,), None


def _rnn_project(cell, x, w):
    return functional.linear(x, w["w_ih"], w.get("b"))


def _rnn_step(cell, a_x, states, _, w):
    (h,) = states
    return (_activation(cell.nonlinearity)(a_x + functional.linear(h, w["w_hh"])),), None


_STEPS = {
    Spec: (_lstm_project, _lstm_step),
    GRUCell: (_gru_project, _gru_step),
    RNNCell: (_rnn_project, _rnn_step),
}


# -- activations ---------------------------------------------------------------------------------

# As fastlstm.activations.ACTIVATIONS
_ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "identity": lambda x: x,
    "hard_sigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "thresholded_relu": lambda x, alpha: torch.where(x <= alpha, 0, x),
    "elu": functional.elu,
    "scaled_tanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "softsign": functional.softsign,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
}


def _activation(value):
    """The function of an activation as `Spec` writes it."""
    name, *numbers = (value,) if isinstance(value, str) else value
    return lambda x: _ACTIVATIONS[name](x, *numbers)
