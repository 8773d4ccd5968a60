# SPDX-License-Identifier: MIT
"""The loops over time of GRU, RNN and sLSTM: one layer, one direction, on BLAS.

`gru_forward` and the others have the arguments and results of `fastlstm.reference`, which says what
they compute. As in the engine, rows are put in order of length, longest first, so that the rows
with a step t are the first ``active[t]``; W_ih x[t] is formed for a chunk of time at once, into the
rows of the tape; and after the backward loop one product each gives dx and the gradients of the
weights. A step is one of `_sibling_cells`.
"""

from libc.string cimport memcpy, memset

import numpy as np

from . import reference
from ._engine import aligned, by_length, sorted_input
from .activations import ACTIVATIONS
from .siblings import (
    GRUCell, RNNCell, SiblingTape, SLSTMCell, backward_inputs, forward_inputs,
)

from ._activations cimport Activation
from ._arrays cimport View, address, view_of
from ._engine cimport blas_gemm, squash
from ._sibling_cells cimport (
    GRU, RNN, SLSTM, STATES, Sibling, gemm, gru_backward as gru_step_backward,
    gru_forward as gru_step, rnn_backward as rnn_step_backward, rnn_forward as rnn_step,
    slstm_backward as slstm_step_backward, slstm_forward as slstm_step,
)

__all__ = [
    "gru_backward", "gru_forward", "rnn_backward", "rnn_forward", "run_backward", "run_forward",
    "slstm_backward", "slstm_forward",
]

cdef extern from "Python.h":
    int PyErr_CheckSignals()  # without Cython's check: Sibling.interrupted keeps the answer

ctypedef fused real:
    float
    double

cdef enum Task:
    FORWARD, BACKWARD, GRADIENTS

_KINDS = {name: kind for kind, name in enumerate(ACTIVATIONS)}
cdef Py_ssize_t CHUNK = 1 << 18  # numbers in one chunk of the projection


# -- the loops -----------------------------------------------------------------------------------

cdef inline real *slot(const real *tag, const Sibling *q, int k, Py_ssize_t t) noexcept nogil:
    """State k in this slot of time."""
    return <real *>q.states[k] + t % q.slots * q.B * q.H


cdef inline void look_for_ctrl_c(Sibling *q) noexcept nogil:
    with gil:
        q.interrupted = PyErr_CheckSignals() != 0


cdef inline Py_ssize_t patience_of(const Sibling *q) noexcept nogil:
    """Rows in about 50 ms of work at 10 GFLOP/s: how often Ctrl-C is looked for."""
    return 1 + 500000000 // (2 * q.G * (q.I + q.H) + 1)


cdef inline void enter(
    const real *tag, const Sibling *q, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1
) noexcept nogil:
    """Rows r0 <= r < r1 start: their initial states go to this slot."""
    cdef Py_ssize_t n = (r1 - r0) * q.H
    cdef int k
    if r1 <= r0:
        return
    for k in range(q.S):
        if q.initial[k] == NULL:
            memset(slot(tag, q, k, t) + r0 * q.H, 0, n * sizeof(real))
        else:
            memcpy(slot(tag, q, k, t) + r0 * q.H, <const real *>q.initial[k] + r0 * q.H,
                   n * sizeof(real))


cdef inline void leave(
    const real *tag, const Sibling *q, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1
) noexcept nogil:
    """Rows r0 <= r < r1 end: their final states come from this slot."""
    cdef int k
    if r1 <= r0:
        return
    for k in range(q.S):
        memcpy(<real *>q.final[k] + r0 * q.H, slot(tag, q, k, t) + r0 * q.H,
               (r1 - r0) * q.H * sizeof(real))


cdef inline void find_states(
    const real *tag, const Sibling *q, Py_ssize_t t, real **start, real **end
) noexcept nogil:
    """Where step t finds its states and where it leaves them; zeros where a row is reset."""
    cdef Py_ssize_t r, n = q.active[t]
    cdef int k
    cdef bint any_reset = False
    for k in range(q.S):
        start[k] = slot(tag, q, k, t + q.reverse)
        end[k] = slot(tag, q, k, t + 1 - q.reverse)
    if q.reset == NULL:
        return
    for r in range(n):
        any_reset = any_reset or q.reset[t * q.B + r] != 0
    if not any_reset:
        return
    for k in range(q.S):
        memcpy(<real *>q.start + k * q.B * q.H, start[k], n * q.H * sizeof(real))
        start[k] = <real *>q.start + k * q.B * q.H
        for r in range(n):
            if q.reset[t * q.B + r]:
                memset(start[k] + r * q.H, 0, q.H * sizeof(real))


cdef void forward_loop(const real *tag, Sibling *q) noexcept nogil:
    cdef Py_ssize_t s, t, t0, t1, r, rows, rows_next, chunk = -1, size, H = q.H, done = 0
    cdef Py_ssize_t patience = patience_of(q)
    cdef real *start[STATES]
    cdef real *end[STATES]
    cdef real *gates
    cdef int k
    size = max(1, min(q.gate_slots, CHUNK // (q.K * q.B + 1)))
    t = q.T - 1 if q.reverse else 0
    rows = q.active[t]
    enter(tag, q, t + q.reverse, 0, rows)
    for s in range(q.T):
        t = q.T - 1 - s if q.reverse else s
        if t // size != chunk:
            chunk = t // size
            t0, t1 = chunk * size, min(q.T, (chunk + 1) * size)
            gemm(q, False, True, (t1 - t0) * q.B, q.G, q.I, <const real *>q.x + t0 * q.B * q.I,
                 q.I, <const real *>q.w_ih, q.I, <real>0,
                 <real *>q.gates + t0 % q.gate_slots * q.B * q.K, q.K)
        gates = <real *>q.gates + t % q.gate_slots * q.B * q.K
        find_states(tag, q, t, start, end)
        if q.kind == GRU:
            gru_step(tag, q, t, start, end, gates)
        elif q.kind == RNN:
            rnn_step(tag, q, t, start, end, gates)
        else:
            slstm_step(tag, q, t, start, end, gates)
        for r in range(rows):
            if q.mask != NULL and not q.mask[t * q.B + r]:
                memset(gates + r * q.K, 0, q.K * sizeof(real))
                for k in range(q.S):
                    memcpy(end[k] + r * H, start[k] + r * H, H * sizeof(real))
            memcpy(<real *>q.y + t * q.y_t + r * q.y_b, end[0] + r * H, H * sizeof(real))
        rows_next = 0 if s + 1 == q.T else q.active[t - 1 if q.reverse else t + 1]
        leave(tag, q, t + 1 - q.reverse, rows_next, rows)
        enter(tag, q, t + 1 - q.reverse, rows, rows_next)
        rows = rows_next
        done += q.B
        if done >= patience:
            done = 0
            look_for_ctrl_c(q)
            if q.interrupted:
                return


cdef void backward_loop(const real *tag, Sibling *q) noexcept nogil:
    cdef Py_ssize_t s, t, r, j, H = q.H, done = 0, patience = patience_of(q)
    cdef real *start[STATES]
    cdef real *end[STATES]
    cdef real *gates
    cdef real *dh = <real *>q.d[0]
    cdef const real *dy
    cdef int k
    for s in range(q.T):
        t = s if q.reverse else q.T - 1 - s
        gates = <real *>q.gates + t * q.B * q.K
        if q.dy != NULL:  # y[t] is h[t]
            for r in range(q.active[t]):
                dy = <const real *>q.dy + t * q.dy_t + r * q.dy_b
                for j in range(H):
                    dh[r * H + j] += dy[j]
        find_states(tag, q, t, start, end)
        if q.kind == GRU:
            gru_step_backward(tag, q, t, start, end, gates)
        elif q.kind == RNN:
            rnn_step_backward(tag, q, t, start, end, gates)
        else:
            slstm_step_backward(tag, q, t, start, end, gates)
        if q.reset != NULL:
            for r in range(q.active[t]):
                if q.reset[t * q.B + r]:
                    for k in range(q.S):
                        memset(<real *>q.d[k] + r * H, 0, H * sizeof(real))
        done += q.B
        if done >= patience:
            done = 0
            look_for_ctrl_c(q)
            if q.interrupted:
                return


cdef void gradients(const real *tag, Sibling *q) noexcept nogil:
    """dx, dw_ih, dw_hh, db from the tape, in pieces between which Ctrl-C is looked for."""
    cdef Py_ssize_t N = q.T * q.B, K = q.K, r0 = 0, r1, r, j, piece = max(512, patience_of(q))
    cdef const real *h = slot(tag, q, 0, q.reverse)
    cdef real *db = <real *>q.db
    cdef real *a
    cdef real beta = 0
    if db != NULL:
        memset(db, 0, K * sizeof(real))
    while r0 < N:
        r1 = min(N, r0 + piece)
        a = <real *>q.gates + r0 * K
        gemm(q, False, False, r1 - r0, q.I, q.G, a, K, <const real *>q.w_ih, q.I, <real>0,
             <real *>q.dx + r0 * q.I, q.I)
        gemm(q, True, False, q.G, q.I, r1 - r0, a, K, <const real *>q.x + r0 * q.I, q.I, beta,
             <real *>q.dw_ih, q.I)
        recurrent_gradient(q, r1 - r0, a, h + r0 * q.H, beta)
        if db != NULL:
            for r in range(r1 - r0):
                for j in range(K):
                    db[j] += a[r * K + j]
        r0, beta = r1, 1
        look_for_ctrl_c(q)
        if q.interrupted:
            return


cdef void recurrent_gradient(
    Sibling *q, Py_ssize_t n, const real *a, const real *h, real beta
) noexcept nogil:
    """dw_hh += of n rows of the tape and the states before them."""
    cdef Py_ssize_t H = q.H, D = q.H // q.N, k, g
    cdef real *dw = <real *>q.dw_hh
    if q.kind == RNN:
        gemm(q, True, False, H, H, n, a, H, h, H, beta, dw, H)
    elif q.kind == GRU:
        gemm(q, True, False, 2 * H, H, n, a, 4 * H, h, H, beta, dw, H)
        if q.reset_after:
            gemm(q, True, False, H, H, n, a + 3 * H, 4 * H, h, H, beta, dw + 2 * H * H, H)
        else:
            gemm(q, True, False, H, H, n, a + 2 * H, 4 * H, a + 3 * H, 4 * H, beta,
                 dw + 2 * H * H, H)
    else:
        for k in range(q.N):
            for g in range(4):
                gemm(q, True, False, D, D, n, a + g * H + k * D, 5 * H, h + k * D, H, beta,
                     dw + (4 * k + g) * D * D, D)


cdef int run(Sibling *q, int task) except -1:
    """A loop or the gradients of the weights, without the GIL; raises KeyboardInterrupt."""
    with nogil:
        if q.is_f64:
            do_task(<double *>NULL, q, task)
        else:
            do_task(<float *>NULL, q, task)
    return -1 if q.interrupted else 0  # with the exception of the signal handler


cdef void do_task(const real *tag, Sibling *q, int task) noexcept nogil:
    if task == FORWARD:
        forward_loop(tag, q)
    elif task == BACKWARD:
        backward_loop(tag, q)
    else:
        gradients(tag, q)


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
