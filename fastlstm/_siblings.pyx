# SPDX-License-Identifier: MIT
"""GRU, RNN and sLSTM: one layer, one direction, on BLAS.

`gru_forward` and the others have the arguments and results of `fastlstm.reference`, which says what
they compute. As in the engine, rows are put in order of length, longest first. The loops over time
are in `_sibling_loops`, their steps in `_sibling_cells`.
"""

from libc.string cimport memset

import numpy as np

from . import reference
from .activations import ACTIVATIONS
from .siblings import (
    GRUCell, RNNCell, SiblingTape, SLSTMCell, backward_inputs, forward_inputs,
)
from ._rows import by_length, sorted_input

from ._activations cimport Activation
from ._arrays cimport View, address, view_of
from ._csrc cimport fl_now_ns
from ._job cimport blas_gemm
from ._kernels cimport squash
from ._memory cimport aligned
from ._sibling_cells cimport GRU, RNN, SLSTM, Sibling
from ._sibling_loops cimport BACKWARD, CHUNK, FORWARD, GRADIENTS, do_task

__all__ = [
    "gru_backward", "gru_forward", "rnn_backward", "rnn_forward", "run_backward", "run_forward",
    "slstm_backward", "slstm_forward",
]

_KINDS = {name: kind for kind, name in enumerate(ACTIVATIONS)}


cdef int run(Sibling *q, int task) except -1:
    """A loop or the gradients of the weights, without the GIL; raises KeyboardInterrupt."""
    q.looked = fl_now_ns()
    with nogil:
        if q.is_f64:
            do_task(<double *>NULL, q, task)
        else:
            do_task(<float *>NULL, q, task)
    return -1 if q.interrupted else 0  # with the exception of the signal handler


# -- a call --------------------------------------------------------------------------------------

cdef Activation activation_of(value, bint is_f64) except *:
    """An activation as `Spec` writes it."""
    cdef Activation f
    name, *numbers = (value,) if isinstance(value, str) else value
    f.kind = _KINDS[name]
    f.alpha, f.beta = (*numbers, 0, 0)[:2]
    f.sigmoid, f.tanh = squash(is_f64, False), squash(is_f64, True)
    return f


cdef int describe(Sibling *q, cell, dict weights, Py_ssize_t T, Py_ssize_t B) except -1:
    """The sizes and the weights; the rest 0."""
    memset(q, 0, sizeof(Sibling))
    w_ih = weights["w_ih"]
    q.T, q.B, q.I, q.G, q.N, q.S = T, B, w_ih.shape[1], w_ih.shape[0], 1, len(cell.states)
    q.is_f64 = w_ih.dtype == np.float64
    q.w_ih, q.w_hh, q.b = address(w_ih), address(weights["w_hh"]), address(weights["b"])
    q.gemm = blas_gemm(q.is_f64)
    if cell.name == "gru":
        q.kind, q.H, q.K, q.reset_after = GRU, q.G // 3, q.G // 3 * 4, cell.reset_after
        q.gate = activation_of(cell.gate, q.is_f64)
        q.candidate = activation_of(cell.candidate, q.is_f64)
        q.clip = cell.clip or 0
    elif cell.name == "rnn":
        q.kind, q.H, q.K = RNN, q.G, q.G
        q.candidate = activation_of(cell.nonlinearity, q.is_f64)
        q.clip = cell.clip or 0
    else:
        q.kind, q.H, q.K = SLSTM, q.G // 4, q.G // 4 * 5
        q.N, q.floor = cell.num_heads, cell.floor
        q.candidate = activation_of("tanh", q.is_f64)
    return 0


def packed(q):
    """The weights as a step reads them: contiguous, the biases of a row of the tape as one."""
    weights = {name: a if a is None else np.ascontiguousarray(a) for name, a in q.weights.items()}
    if q.cell.name != "gru":
        return weights
    H, given = q.H, [weights.pop(name) for name in ("b_ih", "b_hh")]
    weights["b"] = None
    if any(b is not None for b in given):
        b_ih, b_hh = (np.zeros(3 * H, q.x.dtype) if b is None else b for b in given)
        weights["b"] = b = np.zeros(4 * H, q.x.dtype)
        b[:3 * H] = b_ih
        b[:2 * H] += b_hh[:2 * H]
        part = slice(3 * H, None) if q.cell.reset_after else slice(2 * H, 3 * H)
        b[part] += b_hh[2 * H:]
    return weights


def in_order(q, order):
    """x, mask and reset in the engine's rows and contiguous; x zeros where a row has no step."""
    x = q.x if order is None else sorted_input(q.x, q.lengths, order)
    flags = []
    for a in (q.mask, q.reset):
        if a is not None:
            a = np.ascontiguousarray(a if order is None else a[:, order]).view(np.uint8)
        flags.append(a)
    if q.mask is not None:
        x = np.where(flags[0].view(bool)[:, :, None], x, x.dtype.type(0))
    return np.ascontiguousarray(x), *flags


def run_forward(inputs, end, bint save):
    """Write inputs.y and the final states ``end``; returns the tape, or None without ``save``."""
    cdef Sibling q
    cdef View view
    cdef int k
    cell, y, dtype = inputs.cell, inputs.y, inputs.x.dtype
    order, active = by_length(inputs.lengths, inputs.T, inputs.B)
    x, mask, reset = in_order(inputs, order)
    weights = packed(inputs)
    ragged = order is not None
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1]
    describe(&q, cell, weights, T, B)
    q.reverse, q.active = inputs.reverse, <const Py_ssize_t *>address(active)
    q.x = address(x)
    q.mask, q.reset = <unsigned char *>address(mask), <unsigned char *>address(reset)
    initial = [s if s is None else np.ascontiguousarray(s if order is None else s[order])
               for s in inputs.start]
    final = [np.empty((B, q.H), dtype) if ragged or not view_of(s).contiguous else s for s in end]
    to = y
    if ragged or view_of(y).stride[2] != 1:
        to = (np.zeros if ragged else np.empty)((T, B, q.H), dtype)
    q.slots = T + 1 if save else 2
    q.gate_slots = T if save else max(1, min(T, CHUNK // (q.K * B + 1)))
    zeros = save and (ragged or T == 0)
    states = [aligned((q.slots, B, q.H), dtype, zeros) for _ in cell.states]
    gates = aligned((q.gate_slots, B, q.K), dtype, zeros)
    clipped = np.zeros((q.gate_slots, B, q.G), np.uint8) if q.clip else None
    u = aligned((B, q.G), dtype)
    start = aligned((q.S, B, q.H), dtype) if reset is not None else None
    for k in range(q.S):
        q.states[k], q.initial[k] = address(states[k]), address(initial[k])
        q.final[k] = address(final[k])
    q.gates, q.u, q.start = address(gates), address(u), address(start)
    q.clipped = <unsigned char *>address(clipped)
    view = view_of(to)
    q.y, q.y_t, q.y_b = view.data, view.stride[0], view.stride[1]
    if B and T:
        run(&q, FORWARD)
    elif not ragged:
        for s_n, s, s0 in zip(end, states, inputs.start):
            s_n[...] = 0 if s0 is None else s0
            if save:
                s[0] = s_n
    if ragged:
        y[...] = 0
        y[:, order] = to
        for s_n, rows, s0 in zip(end, final, inputs.start):
            s_n[...] = 0 if s0 is None else s0
            s_n[order] = rows
    elif to is not y:
        y[...] = to
    if not save:
        return None
    return SiblingTape(inputs, tuple(states), gates, order, x, (weights, mask, reset, clipped))


def run_backward(tape, dy, dend, dstart, dict dw, keep):
    """Write ``dstart`` and the gradients of the weights ``dw``; returns dx."""
    cdef Sibling q
    cdef View view
    cdef int k
    inputs, order, x, states = tape.inputs, tape.order, tape.x, tape.states
    weights, mask, reset, clipped = tape.kept
    gates = tape.consume(keep)
    _, active = by_length(inputs.lengths, inputs.T, inputs.B)
    ragged, dtype = order is not None, x.dtype
    cdef Py_ssize_t T = x.shape[0], B = x.shape[1]
    describe(&q, inputs.cell, weights, T, B)
    q.reverse, q.active = inputs.reverse, <const Py_ssize_t *>address(active)
    q.x = address(x)
    q.mask, q.reset = <unsigned char *>address(mask), <unsigned char *>address(reset)
    q.slots, q.gate_slots = T + 1, max(1, T)
    d = [np.zeros((B, q.H), dtype) if a is None else
         np.array(a[order] if ragged else a, order="C") for a in dend]
    if dy is not None:
        dy = dy.take(order, axis=1) if ragged else dy
        dy = dy if view_of(dy).stride[2] == 1 else np.ascontiguousarray(dy)
        view = view_of(dy)
        q.dy, q.dy_t, q.dy_b = view.data, view.stride[0], view.stride[1]
    u, row = aligned((B, q.G), dtype), aligned((2 * q.H,), dtype)
    start = aligned((q.S, B, q.H), dtype) if reset is not None else None
    dx, db = np.empty((T, B, q.I), dtype), None
    if any(name.startswith("b") for name in dw):
        db = np.zeros(q.K, dtype)
    for k in range(q.S):
        q.states[k], q.d[k] = address(states[k]), address(d[k])
    q.gates, q.u, q.row, q.start = address(gates), address(u), address(row), address(start)
    q.clipped, q.db = <unsigned char *>address(clipped), address(db)
    q.dx, q.dw_ih, q.dw_hh = address(dx), address(dw["w_ih"]), address(dw["w_hh"])
    if B and T:
        run(&q, BACKWARD)
        h = starts(states[0], reset, inputs.reverse)
        q.states[0] = address(h)
        run(&q, GRADIENTS)
    else:
        dw["w_ih"][...], dw["w_hh"][...] = 0, 0
    spread_bias(inputs, db, dw)
    for d0, rows, d_n in zip(dstart, d, dend):
        if ragged:
            d0[...] = 0 if d_n is None else d_n
            d0[order] = rows
        else:
            d0[...] = rows
    if not ragged:
        return dx
    full = np.zeros((T, inputs.B, q.I), dtype)
    full[:, order] = dx
    return full


def starts(h, reset, reverse):
    """What each step started from, in the slots of h: zeros where a row was reset."""
    if reset is None:
        return h
    h = h.copy()
    h[int(reverse):][:len(reset)][reset.view(bool)] = 0
    return h


def spread_bias(inputs, db, dw):
    """The gradients of the biases from the sums over the tape."""
    H, kind = inputs.H, inputs.cell.name
    if kind != "gru":
        if "b" in dw:
            dw["b"][...] = db[:len(dw["b"])]
        return
    if "b_ih" in dw:
        dw["b_ih"][...] = db[:3 * H]
    if "b_hh" in dw:
        dw["b_hh"][:2 * H] = db[:2 * H]
        dw["b_hh"][2 * H:] = db[3 * H:] if inputs.cell.reset_after else db[2 * H:3 * H]


# -- the functional API --------------------------------------------------------------------------

def call(cell, x, dict weights, state, lengths, mask, reset, reverse, save, out):
    """y, the tuple of final states, and the tape."""
    q = forward_inputs(cell, x, weights, state, lengths, mask, reset, reverse, out)
    end = tuple([np.empty((q.B, q.H), q.x.dtype) for _ in q.start])
    tape = run_forward(q, end, save)
    return q.y, end, tape


def gru_forward(
    x, w_ih, w_hh, b_ih=None, b_hh=None, state=None, *, reset_after=True, gate="sigmoid",
    candidate="tanh", clip=None, lengths=None, mask=None, reset=None, reverse=False, save=True,
    out=None,
):
    weights = dict(w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    cell = GRUCell(reset_after, gate, candidate, clip)
    y, (h_n,), tape = call(cell, x, weights, state, lengths, mask, reset, reverse, save, out)
    return y, h_n, tape


def gru_backward(tape, dy=None, dstate=None, *, keep=False):
    dy, dend, dstart, dw = backward_inputs(tape, dy, dstate, "gru")
    return run_backward(tape, dy, dend, dstart, dw, keep), dstart[0], dw


def rnn_forward(
    x, w_ih, w_hh, b=None, state=None, *, nonlinearity="tanh", clip=None, lengths=None, mask=None,
    reset=None, reverse=False, save=True, out=None,
):
    weights = dict(w_ih=w_ih, w_hh=w_hh, b=b)
    y, (h_n,), tape = call(RNNCell(nonlinearity, clip), x, weights, state, lengths, mask, reset,
                           reverse, save, out)
    return y, h_n, tape


def rnn_backward(tape, dy=None, dstate=None, *, keep=False):
    dy, dend, dstart, dw = backward_inputs(tape, dy, dstate, "rnn")
    return run_backward(tape, dy, dend, dstart, dw, keep), dstart[0], dw


def slstm_forward(
    x, w_ih, w_hh, b=None, state=None, *, floor=False, lengths=None, mask=None, reset=None,
    reverse=False, save=True, out=None,
):
    heads = np.shape(w_hh)[0] if np.ndim(w_hh) == 4 else 1
    return call(SLSTMCell(max(heads, 1), floor), x, dict(w_ih=w_ih, w_hh=w_hh, b=b), state,
                lengths, mask, reset, reverse, save, out)


def slstm_backward(tape, dy=None, dstate=None, *, keep=False):
    dy, dend, dstart, dw = backward_inputs(tape, dy, dstate, "slstm")
    return run_backward(tape, dy, dend, dstart, dw, keep), dstart, dw


for _name in ("gru", "rnn", "slstm"):
    for _way in ("forward", "backward"):
        globals()[f"{_name}_{_way}"].__doc__ = getattr(reference, f"{_name}_{_way}").__doc__
