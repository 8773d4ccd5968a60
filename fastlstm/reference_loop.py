# SPDX-License-Identifier: MIT
"""The loop over time of the reference's GRU, RNN and sLSTM, forward and backward.

For every step t, in turn::

    the state of the rows with reset[t] is set to zeros
    the rows with mask[t] and t < length take the step of the cell
    the rows with t < length but without mask[t] keep their state;  y[t] = h in either case

A cell is two functions::

    step(q, x, start) -> end, gates, kept           of n rows; start, end: tuples of states (n, H)
    step_backward(q, x, start, end, gates, kept, dend) -> dx, dstart, dgates, {weight: gradient}
"""

import numpy as np

from .siblings import SiblingTape, backward_inputs

__all__ = ["backward", "forward", "run_backward", "run_forward"]


def forward(q, step, save):
    """What `gru_forward` and its like return, of checked arguments: y, the final states, tape."""
    end = tuple(np.empty((q.B, q.H), q.x.dtype) for _ in q.start)
    tape = run_forward(q, step, end, save)
    return q.y, end, tape


def backward(name, step_backward, tape, dy, dstate, keep):
    """What `gru_backward` and its like return: dx, those of the initial states, the weights'."""
    dy, dend, dstart, dw = backward_inputs(tape, dy, dstate, name)
    dx = run_backward(tape, step_backward, dy, dend, dstart, dw, keep)
    return dx, dstart, dw


def _rows(q, t):
    """Which rows move at step t, which stand still, which are reset: three (B,) of bool."""
    on = np.full(q.B, True) if q.lengths is None else t < q.lengths
    mask = np.full(q.B, True) if q.mask is None else q.mask[t]
    reset = np.full(q.B, False) if q.reset is None else q.reset[t]
    return on & mask, on & ~mask, on & reset


def _start(states, slot, reset):
    """What a step starts from: the states of this slot, zeros where a row is reset."""
    return tuple(np.where(reset[:, None], 0, s[slot]) for s in states)


def run_forward(q, step, end, save):
    """Write q.y and the final states ``end``; returns the tape, or None without ``save``."""
    T, B, H, dtype = q.T, q.B, q.H, q.x.dtype
    n = np.full(B, T) if q.lengths is None else q.lengths
    states = tuple(np.zeros((T + 1, B, H), dtype) for _ in q.start)
    gates = np.zeros((T, B, len(q.cell.gates), H), dtype)
    kept = [{}] * T
    q.y[...] = 0
    first, last = (n, 0 * n) if q.reverse else (0 * n, n)  # slots of the initial, final state
    for s, s0 in zip(states, q.start, strict=True):
        s[first, np.arange(B)] = 0 if s0 is None else s0

    for t in reversed(range(T)) if q.reverse else range(T):
        on, still, reset = _rows(q, t)
        before, after = (t + 1, t) if q.reverse else (t, t + 1)
        start = _start(states, before, reset)
        new, gates[t, on], kept[t] = step(q, q.x[t, on], tuple(s[on] for s in start))
        for s, s0, a in zip(states, start, new, strict=True):
            s[after, still], s[after, on] = s0[still], a
        q.y[t, on | still] = states[0][after, on | still]

    for s, s_n in zip(states, end, strict=True):
        s_n[...] = s[last, np.arange(B)]
    gates = gates.reshape(T, B, gates.shape[2] * H)
    return SiblingTape(q, states, gates, kept=kept) if save else None


def run_backward(tape, step_backward, dy, dend, dstart, dw, keep):
    """Write ``dstart`` and the gradients of the weights ``dw``; returns dx. Gates become dgates."""
    q, states = tape.inputs, tape.states
    gates = tape.consume(keep).reshape(q.T, q.B, len(q.cell.gates), q.H)
    dx = np.zeros(q.x.shape, q.x.dtype)
    for d, d_n in zip(dstart, dend, strict=True):
        d[...] = 0 if d_n is None else d_n
    for a in dw.values():
        a[...] = 0

    for t in range(q.T) if q.reverse else reversed(range(q.T)):
        on, still, reset = _rows(q, t)
        before, after = (t + 1, t) if q.reverse else (t, t + 1)
        if dy is not None:  # y[t] is h[t]
            dstart[0][on | still] += dy[t, on | still]
        dx[t, on], ds, dgates, grads = step_backward(
            q, q.x[t, on], tuple(s[on] for s in _start(states, before, reset)),
            tuple(s[after, on] for s in states), gates[t, on], tape.kept[t],
            tuple(d[on] for d in dstart),
        )  # fmt: skip
        gates[t, on] = dgates.reshape(gates[t, on].shape)
        for d, a in zip(dstart, ds, strict=True):
            d[on] = a
            d[reset] = 0
        for name, a in grads.items():
            if q.weights[name] is not None:
                dw[name] += a
    return dx
