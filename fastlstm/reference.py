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

Short, slow and obviously right. The engine has the same functions, names and results.
"""

import numpy as np

from . import checks
from .spec import Spec
from .tape import Tape

__all__ = ["lstm_backward", "lstm_forward", "sigmoid"]


def sigmoid(a):
    """The logistic function 1 / (1 + exp(-a)), without overflow.

    Examples
    --------
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    e = np.exp(-np.abs(a))
    return np.where(a < 0, e, 1) / (1 + e)


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
    reverse=False,
    spec=Spec(),
    save=True,
    out=None,
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
    w_peephole, w_fgr, ln_x, ln_h, ln_c : array_like, optional
        Weights of variants that ``spec`` asks for.
    w_proj : array_like (P, H), optional
        Projection, as PyTorch's weight_hr: h has P numbers then.
    lengths : array_like (B,) of int, optional
        Row b has ``lengths[b]`` steps, 0 to T, in any order. Beyond them y is 0 and x is not
        looked at; a row of length 0 returns (h0, c0).
    reverse : bool
        Run from the end to the start, inside each length; y stays aligned with x.
    spec : Spec
        The variant of the cell.
    save : bool
        Keep what `lstm_backward` needs. False: less memory, and the tape is None.
    out : ndarray (T, B, H|P), optional
        Write y here. It must not overlap an input.

    Returns
    -------
    y : ndarray (T, B, H|P)
        The hidden state after each step.
    (h_n, c_n) : pair of ndarray (B, H|P), (B, H)
        The state after the last step of each row.
    tape : Tape or None
        For `lstm_backward`, and to look at: ``tape.h``, ``tape.c``, ``tape.gates``.

    Raises
    ------
    TypeError
        An array is not float32 or float64, or not all are of one dtype; lengths are no
        integers; state is no pair.
    ValueError
        A shape does not fit, a length is outside [0, T], or out overlaps an input.
    NotImplementedError
        A variant that cannot be computed yet; the message names the field of ``spec``.

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
    n = np.full(B, T) if q.lengths is None else q.lengths
    h, c = np.zeros((T + 1, B, q.P), q.x.dtype), np.zeros((T + 1, B, H), q.x.dtype)
    gates, m = np.zeros((T, B, 4, H), q.x.dtype), np.zeros((T, B, H), q.x.dtype)
    q.y[...] = 0
    first, last = (n, 0 * n) if q.reverse else (0 * n, n)  # slots of the initial, final state
    h[first, np.arange(B)], c[first, np.arange(B)] = q.h0, q.c0

    for t in reversed(range(T)) if q.reverse else range(T):
        on = t < n  # (B,) the rows that have a step t
        before, after = (t + 1, t) if q.reverse else (t, t + 1)
        a = q.x[t, on] @ q.w_ih.T + h[before, on] @ q.w_hh.T + (0 if q.b is None else q.b)
        a_i, a_f, a_g, a_o = np.split(a, 4, axis=1)
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
        c[after, on] = f * c[before, on] + i * g
        m[t, on] = o * np.tanh(c[after, on])
        h[after, on] = m[t, on] if q.w_proj is None else m[t, on] @ q.w_proj.T
        q.y[t, on] = h[after, on]
        gates[t, on] = np.stack([i, f, g, o], axis=1)

    state = h[last, np.arange(B)], c[last, np.arange(B)]
    return q.y, state, Tape(q, h, c, gates[:, :, None], m) if save else None


def lstm_backward(tape, dy=None, dstate=None, *, keep=False):
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

    Returns
    -------
    dx : ndarray (T, B, I)
        Gradient with respect to x: exactly 0 beyond a row's length.
    (dh0, dc0) : pair of ndarray (B, H|P), (B, H)
        Gradient with respect to the initial state.
    grads : dict of str to ndarray
        Gradients of the weights by their names in `lstm_forward`: w_ih, w_hh, b, w_proj,
        those that were given.

    Raises
    ------
    RuntimeError
        The tape was consumed before.
    TypeError, ValueError
        The tape is None, or an array has the wrong dtype or shape.

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
    h, c, m = tape.h, tape.c, tape.h_raw
    gates = tape.consume(keep)[:, :, 0]  # (T, B, 4, H)
    T, B, H = q.T, q.B, q.H
    n = np.full(B, T) if q.lengths is None else q.lengths
    dx = np.zeros_like(q.x, subok=False, order="C")
    dw_ih, dw_hh = np.zeros_like(q.w_ih, order="C"), np.zeros_like(q.w_hh, order="C")
    db = np.zeros(4 * H, q.x.dtype)
    dw_proj = np.zeros((q.P, H), q.x.dtype)

    for t in range(T) if q.reverse else reversed(range(T)):
        on = t < n  # a row waits with its dh_n, dc_n until its last step is reached
        before, after = (t + 1, t) if q.reverse else (t, t + 1)
        i, f, g, o = gates[t, on].swapaxes(0, 1)
        tanh_c = np.tanh(c[after, on])
        dh_t = dh[on] if dy is None else dh[on] + dy[t, on]  # y[t] is h[t]
        dm = dh_t if q.w_proj is None else dh_t @ q.w_proj  # h = W_proj m
        dw_proj += dh_t.T @ m[t, on]
        dc_t = dc[on] + dm * o * (1 - tanh_c**2)  # m = o tanh(c)
        do = dm * tanh_c
        di, df, dg = dc_t * g, dc_t * c[before, on], dc_t * i  # c = f c[t-1] + i g
        dc[on] = dc_t * f
        da = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)]
        da = np.concatenate(da, axis=1)  # i f o = sigmoid(a), g = tanh(a)
        dx[t, on] = da @ q.w_ih  # a = W_ih x + W_hh h[t-1] + b
        dh[on] = da @ q.w_hh
        dw_ih += da.T @ q.x[t, on]
        dw_hh += da.T @ h[before, on]
        db += da.sum(axis=0)
        gates[t, on] = da.reshape(-1, 4, H)

    grads = dict(w_ih=dw_ih, w_hh=dw_hh, b=db, w_proj=dw_proj)
    given = dict(b=q.b, w_proj=q.w_proj)
    return dx, (dh, dc), {k: v for k, v in grads.items() if given.get(k, v) is not None}
