# SPDX-License-Identifier: MIT
"""The LSTM in plain NumPy: the specification of this package, and its oracle.

One layer, one direction. For every step t and every row whose length exceeds t::

    a      = W_ih x[t] + W_hh h[t-1] + b             a = (a_i, a_f, a_g, a_o), 4H numbers
    i f o  = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)
    g      = tanh(a_g)
    c[t]   = f * c[t-1] + i * g
    m[t]   = o * tanh(c[t])
    h[t]   = W_proj m[t]                              without a projection: h[t] = m[t]

Hochreiter & Schmidhuber (1997); forget gate: Gers, Schmidhuber & Cummins (2000); projection:
Sak, Senior & Beaufays (2014); back-propagation through time: Werbos (1990).

A `Spec` changes single lines of it (reference_step.py has them in their place)::

    gate, candidate, output      other functions for sigmoid, the tanh of g, the tanh of c[t]
    layer_norm                   a = ln_x LN(W_ih x[t]) + ln_h LN(W_hh h[t-1]) + b, and
                                 m[t] = o * tanh(ln_c LN(c[t]))     Ba, Kiros & Hinton (2016)
    full_gate_recurrence         (a_i, a_f, a_o) += W_fgr (i, f, o)[t-1]   Greff et al. (2017)
    peepholes                    a_i += p_i c[t-1];  a_f += p_f c[t-1];  a_o += p_o c[t]
    clip, cell_clip              a, c[t] within these limits
    input_gate=False ...         i = 1 ...
    coupled                      f = 1 - i
    weight_drop                  W_hh = M * W_hh, one M for the call          Merity et al. (2018)
    recurrent_dropout            m * h[t-1] for h[t-1] in a, one m for each row, or with
                                 on="candidate" m * g for g in c[t]
    zoneout_c, zoneout_h         last, c[t] = M * c[t] + (1 - M) * c[t-1], M drawn for each step;
                                 likewise h[t], which is made of c[t] before that

Short, slow and obviously right. The engine has the same functions, names and results. Here are the
loops over time, in reference_step.py a single step; GRU, RNN and sLSTM are in reference_gru.py,
reference_rnn.py and reference_slstm.py.
"""

import numpy as np

from . import checks
from .activations import sigmoid
from .masks import cell_masks
from .reference_gru import gru_backward, gru_forward
from .reference_rnn import rnn_backward, rnn_forward
from .reference_slstm import slstm_backward, slstm_forward
from .reference_step import (
    IFO,
    cell_backward,
    masks_at,
    product_backward,
    step,
    unzone,
    w_hh_of,
)
from .spec import Spec
from .tape import StepNorms, Tape

__all__ = [
    "gru_backward",
    "gru_forward",
    "lstm_backward",
    "lstm_forward",
    "lstm_hvp",
    "lstm_jvp",
    "rnn_backward",
    "rnn_forward",
    "sigmoid",
    "slstm_backward",
    "slstm_forward",
]


def lstm_forward(
    x,
    w_ih,
    w_hh,
    b=None,
    state=None,
    *,
    w_peephole=None,
    w_proj=None,
    w_fgr=None,
    ln_x=None,
    ln_h=None,
    ln_c=None,
    lengths=None,
    mask=None,
    reset=None,
    reverse=False,
    spec=Spec(),
    save=True,
    checkpoint=False,
    out=None,
    rng=None,
):
    """The outputs, the final state and the tape of one LSTM layer in one direction.

    Parameters
    ----------
    x : array_like (T, B, I), float32 or float64
        The input: T steps, B rows, I features.
    w_ih : array_like (4H, I)
        Input weights, the rows of the gates in the order i f g o, as PyTorch's weight_ih.
    w_hh : array_like (4H, H) or (4H, P)
        Recurrent weights, as PyTorch's weight_hh.
    b : array_like (4H,), optional
        Bias; PyTorch's bias_ih + bias_hh. None: zeros.
    state : pair (h0, c0), optional
        The initial state, (B, H|P) and (B, H). None: zeros.
    w_peephole : array_like (3, H)
        With ``spec.peepholes``: the rows of i, f, o; those of gates without one are ignored.
    w_proj : array_like (P, H), optional
        Projection, as PyTorch's weight_hr: h has P numbers then.
    w_fgr : array_like (3H, 3H)
        With ``spec.full_gate_recurrence``: from the gates i f o of t-1 to those of t.
    ln_x, ln_h, ln_c : array_like (4H,), (4H,), (2, H)
        With ``spec.layer_norm``: the gains for W_ih x and W_hh h; gain and bias for c.
    lengths : array_like (B,) of int, optional
        Row b has ``lengths[b]`` steps, 0 to T, in any order. Beyond them y is 0 and x is not
        looked at; a row of length 0 returns (h0, c0).
    mask : array_like (T, B) of bool, optional
        Where it is False a row stands still: its state is carried over that step, and y is h
        again, that of the step before which counts, or h0. x is not looked at.
    reset : array_like (T, B) of bool, optional
        Where it is True, the state of the row is set to zeros before that step: episodes.
    reverse : bool
        Run from the end to the start, inside each length; y stays aligned with x.
    spec : Spec
        The variant of the cell.
    save : bool
        Keep what `lstm_backward` needs. False: less memory, and the tape is None.
    checkpoint : bool or int
        Keep the state at every so many steps only (True: about sqrt(T)), and let
        `lstm_backward` run what lies between again: for long sequences. The gradients are
        those of a whole tape, to the bit on the SIMD steps. (The reference keeps all.)
    out : ndarray (T, B, H|P), optional
        Write y here. It must not overlap an input.
    rng : numpy.random.Generator, optional
        Training: draws the masks that ``spec`` asks for (`masks.cell_masks`). None: inference,
        zoneout by its expectation and no dropout.

    Returns
    -------
    y : ndarray (T, B, H|P)
        The hidden state after each step.
    (h_n, c_n) : pair of ndarray (B, H|P), (B, H)
        The state after the last step of each row.
    tape : Tape or None
        For `lstm_backward`, and to look at: ``tape.h``, ``tape.c``, ``tape.gates``,
        ``tape.masks``.

    Raises
    ------
    TypeError
        An array is not float32 or float64, or not all are of one dtype; lengths are no
        integers; state is no pair.
    ValueError
        A shape does not fit, a length is outside [0, T], out overlaps an input, the weights
        are not those that ``spec`` asks for, or ``checkpoint`` is asked of full gate recurrence,
        whose gates are state too.

    Notes
    -----
    a = W_ih x[t] + W_hh h[t-1] + b; c[t] = f c[t-1] + i g; h[t] = W_proj (o tanh c[t])
    (Hochreiter & Schmidhuber 1997, Gers et al. 2000, Sak et al. 2014). It takes
    8 H (I + H) T B floating-point operations without a projection; a tape of (5H + H|P) T B
    numbers.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, w_ih, w_hh = (rng.standard_normal(s) for s in [(5, 2, 3), (16, 3), (16, 4)])
    >>> y, (h_n, c_n), tape = lstm_forward(x, w_ih, w_hh, lengths=[5, 2])
    >>> y.shape, bool((y[2:, 1] == 0).all()), bool((h_n[1] == y[1, 1]).all())
    ((5, 2, 4), True, True)
    """
    variants = dict(w_peephole=w_peephole, w_fgr=w_fgr, ln_x=ln_x, ln_h=ln_h, ln_c=ln_c)
    q = checks.forward_inputs(
        x, w_ih, w_hh, b, state, variants, w_proj, lengths, reverse, spec, out
    )
    T, B, H = q.T, q.B, q.H
    q.mask = checks.flags("mask", mask, "T, B", (T, B))
    q.masks = cell_masks(spec, checks.generator(rng), (T, B, H), q.P, q.x.dtype)
    q.reset = checks.flags("reset", reset, "T, B", (T, B))
    checks.checkpoint(checkpoint, spec)
    n = np.full(B, T) if q.lengths is None else q.lengths
    h, c = np.zeros((T + 1, B, q.P), q.x.dtype), np.zeros((T + 1, B, H), q.x.dtype)
    gates, m = np.zeros((T, B, 4, H), q.x.dtype), np.zeros((T, B, H), q.x.dtype)
    c_new, kept = np.zeros_like(m), [{}] * T  # what only variants need for the backward pass
    q.y[...] = 0
    first, last = (n, 0 * n) if q.reverse else (0 * n, n)  # slots of the initial, final state
    h[first, np.arange(B)], c[first, np.arange(B)] = q.h0, q.c0

    for t in reversed(range(T)) if q.reverse else range(T):
        on = t < n  # (B,) the rows that have a step t
        before, after = (t + 1, t) if q.reverse else (t, t + 1)
        h[before, _fresh(q, t, on)] = c[before, _fresh(q, t, on)] = 0
        on, still = _split(q, on, t)
        h[after, on], c[after, on], gates[t, on], m[t, on], c_new[t, on], kept[t] = step(
            q, q.x[t, on], h[before, on], c[before, on], _gates_before(q, gates, t)[on],
            masks_at(q, t, on),
        )  # fmt: skip
        q.y[t, on] = h[after, on]
        h[after, still], c[after, still] = h[before, still], c[before, still]
        q.y[t, still] = h[before, still]

    state = h[last, np.arange(B)], c[last, np.arange(B)]
    return q.y, state, Tape(q, h, c, gates[:, :, None], m, kept=(c_new, kept)) if save else None


def _split(q, on, t):
    """Of the rows with a step t those that take it, and those that the mask lets stand still."""
    return (on, on & False) if q.mask is None else (on & q.mask[t], on & ~q.mask[t])


def _fresh(q, t, on):
    """The rows whose state is set to zeros before step t."""
    return on & q.reset[t] if q.reset is not None else np.zeros_like(on)


def _gates_before(q, gates, t):
    """The gates of the step before t: zeros where t is the first, or the state was reset."""
    last, rows = np.zeros_like(gates[t]), np.ones(q.B, bool)
    if not q.spec.full_gate_recurrence:
        return last  # nobody looks at them
    for s in range(q.T - 1, t, -1) if q.reverse else range(t):
        on = rows if q.mask is None else q.mask[s]  # the last before t that counts
        last[_fresh(q, s, rows)] = 0
        last[on] = gates[s, on]
    last[_fresh(q, t, rows)] = 0
    return last


def lstm_backward(tape, dy=None, dstate=None, *, keep=False, step_norms=False, k1=None, k2=None):
    """The gradients of one LSTM layer in one direction: back-propagation through time.

    Parameters
    ----------
    tape : Tape
        From `lstm_forward`. It is consumed: its gates are overwritten.
    dy : array_like (T, B, H|P), optional
        Gradient of the loss with respect to y. None: zeros. Beyond a row's length it is
        not looked at.
    dstate : pair (dh_n, dc_n), optional
        Gradient with respect to the final state, (B, H|P) and (B, H). None: zeros.
    keep : bool
        Leave the tape as it is, at the price of a copy of the gates.
    step_norms : bool
        Return also how large the gradient is at each step: where it vanishes or explodes.
    k1, k2 : int, optional
        Truncated back-propagation (Williams & Peng 1990): after every k1 steps, the gradient of
        what came in through dy in these goes k2 >= k1 steps back and no further. None: the
        whole way; k2 None: k1. The tape stays as it is.

    Returns
    -------
    dx : ndarray (T, B, I)
        Gradient with respect to x: exactly 0 beyond a row's length.
    (dh0, dc0) : pair of ndarray (B, H|P), (B, H)
        Gradient with respect to the initial state.
    grads : dict of str to ndarray
        Gradients of the weights by their names in `lstm_forward`, those that were given.
        Rows that ``spec`` ignores have gradient 0.
    norms : StepNorms, with ``step_norms``
        ``norms.h`` and ``norms.c`` (T,): the Euclidean norms of dL/dh[t], which has dy[t] in it,
        and of dL/dc[t], over the units of all rows that have a step t.

    Raises
    ------
    RuntimeError
        The tape was consumed before.
    TypeError, ValueError
        The tape is None, or an array has the wrong dtype or shape; k1 and k2 are not
        1 <= k1 <= k2, or come with full gate recurrence or ``step_norms``.

    Notes
    -----
    Each line inverts the step of `lstm_forward` that it names (Werbos 1990). It takes
    16 H (I + H) T B floating-point operations without a projection.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, w_ih, w_hh = (rng.standard_normal(s) for s in [(5, 2, 3), (16, 3), (16, 4)])
    >>> y, _, tape = lstm_forward(x, w_ih, w_hh)
    >>> dx, (dh0, dc0), grads = lstm_backward(tape, dy=np.ones_like(y))
    >>> dx.shape, dh0.shape, sorted(grads)
    ((5, 2, 3), (2, 4), ['w_hh', 'w_ih'])
    """
    q, dy, dh, dc = checks.backward_inputs(tape, dy, dstate)
    k1, k2 = checks.truncation(k1, k2, q.spec, step_norms)
    grads = {name: np.zeros(w.shape, w.dtype) for name, w in q.weights.items()}
    if k1 is not None:
        dx, dh, dc = _truncated_backward(tape, dy, dh, dc, grads, k1, k2)
    else:
        gates = tape.consume(keep)[:, :, 0]  # (T, B, 4, H)
        dx, norms = _steps_backward(tape, gates, dy, dh, dc, grads, range(q.T))
    grads["w_hh"] *= q.masks.get("weight_drop", 1)
    return (dx, (dh, dc), grads, norms) if step_norms else (dx, (dh, dc), grads)


def _truncated_backward(tape, dy, dh_n, dc_n, grads, k1, k2):
    """dx, dh0, dc0 by a pass of its own for what came in through each k1 steps of the loop."""
    q = tape.inputs
    n = np.full(q.B, q.T) if q.lengths is None else q.lengths
    order = np.arange(q.T)[::-1] if q.reverse else np.arange(q.T)  # as the loop runs
    last, first = (0 * n, n - 1) if q.reverse else (n - 1, 0 * n)  # steps of each row
    dx, dh0, dc0 = (
        np.zeros_like(q.x, subok=False, order="C"),
        np.zeros_like(dh_n),
        np.zeros_like(dc_n),
    )
    for k in range(0, q.T, k1):
        said, window = order[k : k + k1], order[max(0, min(k + k1, q.T) - k2) : k + k1]
        dy_w = None if dy is None else np.zeros_like(dy)
        if dy is not None:
            dy_w[said] = dy[said]
        ends, begins = (np.isin(t, s) & (n > 0) for t, s in ((last, said), (first, window)))
        dh, dc = np.where(ends[:, None], dh_n, 0), np.where(ends[:, None], dc_n, 0)
        gates = tape.consume(True)[:, :, 0]
        dx += _steps_backward(tape, gates, dy_w, dh, dc, grads, window)[0]
        dh0[begins] += dh[begins]
        dc0[begins] += dc[begins]
    dh0[n == 0], dc0[n == 0] = dh_n[n == 0], dc_n[n == 0]
    return dx, dh0, dc0


def _steps_backward(tape, gates, dy, dh, dc, grads, steps):
    """dx and StepNorms; gates become dgates, dh and dc those before the steps; adds to grads."""
    q, h, c, m, (c_new, kept) = tape.inputs, tape.h, tape.c, tape.h_raw, tape.kept
    n = np.full(q.B, q.T) if q.lengths is None else q.lengths
    dx = np.zeros_like(q.x, subok=False, order="C")
    dgates = np.zeros((q.B, 4, q.H), q.x.dtype)  # what reaches the gates from the step after
    norms = StepNorms(np.zeros(q.T, q.x.dtype), np.zeros(q.T, q.x.dtype))

    for t in sorted(steps, reverse=not q.reverse):
        on = t < n  # a row waits with its dh_n, dc_n until its last step is reached
        fresh = _fresh(q, t, on)
        on, still = _split(q, on, t)
        dh[still] += 0 if dy is None else dy[t, still]  # y[t] is the h that is carried
        before = t + 1 if q.reverse else t
        masks, w_hh = masks_at(q, t, on), w_hh_of(q)
        dh_t = dh[on] if dy is None else dh[on] + dy[t, on]  # y[t] is h[t]
        dh_new, dh_old = unzone(q.spec.zoneout_h, masks["zoneout_h"], dh_t)
        dc_new, dc_old = unzone(q.spec.zoneout_c, masks["zoneout_c"], dc[on])
        dm = dh_new
        if q.w_proj is not None:  # h = W_proj m
            dm = dh_new @ q.w_proj
            grads["w_proj"] += dh_new.T @ m[t, on]
        da, dc_prev, dc_all = cell_backward(
            q, gates[t, on], c[before, on], c_new[t, on], kept[t], dgates[on], dm,
            dc_new, masks.get("candidate", 1), grads,
        )  # fmt: skip
        norms.h[t] = np.linalg.norm(dh_t)
        norms.c[t] = np.linalg.norm(dc[on] if q.spec.zoneout_c else dc_all)
        dc[on] = dc_prev + dc_old
        if q.w_fgr is not None:  # a_ifo += W_fgr (i, f, o)[t-1]
            da_ifo = da[:, IFO].reshape(-1, 3 * q.H)
            gates_prev = _gates_before(q, gates, t)[on]
            grads["w_fgr"] += da_ifo.T @ gates_prev[:, IFO].reshape(-1, 3 * q.H)
            dgates[np.ix_(on, IFO)] = (da_ifo @ q.w_fgr).reshape(-1, 3, q.H)
        gates[t, on] = da
        da = da_x = da_h = da.reshape(-1, 4 * q.H)
        if q.spec.layer_norm:
            da_x = product_backward(q, "ln_x", kept[t]["a_x"], da, grads)
            da_h = product_backward(q, "ln_h", kept[t]["a_h"], da, grads)
        dx[t, on] = da_x @ q.w_ih  # a = W_ih x + W_hh h[t-1] + b
        dh[on] = (da_h @ w_hh) * masks.get("h", 1) + dh_old
        grads["w_ih"] += da_x.T @ q.x[t, on]
        grads["w_hh"] += da_h.T @ (h[before, on] * masks.get("h", 1))
        if q.b is not None:
            grads["b"] += da.sum(axis=0)
        dh[fresh], dc[fresh], dgates[fresh] = 0, 0, 0  # nothing passes a reset
    return dx, norms


from .reference_second_order import lstm_hvp, lstm_jvp  # noqa: E402  it is made of the above
