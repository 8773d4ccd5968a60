# SPDX-License-Identifier: MIT
"""The sLSTM in plain NumPy: exponential gates, a stabiliser, a recurrence within heads.

For every step t and every row that moves (`reference_loop`), the rows of the weights in the order
i f z o, every unit for itself but for the recurrent product, which stays within its head::

    i~ f~ z~ o~ = W x[t] + R h[t-1] + b
    p    = logsigmoid(f~) + m[t-1]
    m[t] = max(p, i~)
    i'   = exp(i~ - m[t]);   f' = exp(p - m[t])           one of the two is 1, none is larger
    c[t] = f' c[t-1] + i' tanh(z~)
    n[t] = f' n[t-1] + i'                                 with ``floor``: max(that, 1)
    h[t] = sigmoid(o~) c[t] / n[t]

A row whose n is zero in all units has no past: m[t] = i~ and f' = 0 there, as if m[t-1] were minus
infinity. It is decided row by row; xLSTM's own code decides it for the whole batch.

Without ``floor`` h does not depend on m: a larger m makes c and n smaller alike. With it, as in
FlashRNN, it does. The gradient is that of the formulas as they stand, also with respect to m.

Beck et al. (2024), arXiv:2405.04517.
"""

import numpy as np

from .activations import sigmoid
from .reference_loop import backward, forward
from .reference_rnn import bias
from .siblings import SLSTMCell, forward_inputs

__all__ = ["slstm_backward", "slstm_forward"]


def slstm_forward(
    x, w_ih, w_hh, b=None, state=None, *, floor=False, lengths=None, mask=None, reset=None,
    reverse=False, save=True, out=None,
):  # fmt: skip
    """The outputs, the final state and the tape of one sLSTM layer in one direction.

    Parameters
    ----------
    x : array_like (T, B, I), float32 or float64
    w_ih : array_like (4H, I)
        Input weights, the rows of the gates in the order i f z o.
    w_hh : array_like (N, 4, D, D)
        Recurrent weights of N heads of D = H / N units: from the units of a head (last axis)
        to its gates i f z o.
    b : array_like (4H,), optional
        Bias. None: zeros.
    state : tuple (h0, c0, n0, m0) of array_like (B, H), optional
        None, also for one of them: zeros. A row whose n0 is zero has no past but h0.
    floor : bool
        n[t] = max(f' n[t-1] + i', 1), as FlashRNN does it; without it as xLSTM does.
    lengths, mask, reset, reverse, save, out
        As for `rnn_forward`.

    Returns
    -------
    y : ndarray (T, B, H)
    state : tuple (h_n, c_n, n_n, m_n) of ndarray (B, H)
        The state after the last step of each row.
    tape : SiblingTape or None

    Raises
    ------
    TypeError
        An array is not float32 or float64, or not all are of one dtype; lengths are no
        integers, mask or reset are no bools; state is no tuple of four.
    ValueError
        A shape does not fit, a length is outside [0, T], or out overlaps an input.

    Notes
    -----
    h[t] = sigmoid(o~) c[t] / n[t] with exponential input gates (Beck et al. 2024).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, w_ih, w_hh = (rng.standard_normal(s) for s in [(5, 2, 3), (16, 3), (2, 4, 2, 2)])
    >>> y, (h_n, c_n, n_n, m_n), tape = slstm_forward(x, w_ih, w_hh)
    >>> y.shape, bool((h_n == y[-1]).all()), bool((np.abs(y) < 1).all())
    ((5, 2, 4), True, True)
    """
    heads = np.shape(w_hh)[0] if np.ndim(w_hh) == 4 else 1
    weights = dict(w_ih=w_ih, w_hh=w_hh, b=b)
    q = forward_inputs(SLSTMCell(max(heads, 1), floor), x, weights, state, lengths, mask, reset,
                       reverse, out)  # fmt: skip
    return forward(q, step, save)


def slstm_backward(tape, dy=None, dstate=None, *, keep=False):
    """The gradients of one sLSTM layer: back-propagation through time.

    Parameters
    ----------
    tape : SiblingTape
        From `slstm_forward`. It is consumed.
    dy : array_like (T, B, H), optional
        Gradient of the loss with respect to y. None: zeros.
    dstate : tuple (dh_n, dc_n, dn_n, dm_n) of array_like (B, H), optional
        Gradient with respect to the final state. None, also for one of them: zeros.
    keep : bool
        Leave the tape as it is, at the price of a copy of the gates.

    Returns
    -------
    dx : ndarray (T, B, I)
    (dh0, dc0, dn0, dm0) : tuple of ndarray (B, H)
        Those of c0, n0 and m0 are 0 for a row that has no past.
    grads : dict of str to ndarray
        Gradients of the weights by their names in `slstm_forward`, those that were given.

    Raises
    ------
    RuntimeError
        The tape was consumed before.
    TypeError, ValueError
        The tape is None or of another function, or an array has the wrong dtype or shape.

    Examples
    --------
    >>> y, _, tape = slstm_forward(np.ones((5, 2, 3)), np.ones((16, 3)), np.ones((2, 4, 2, 2)))
    >>> dx, (dh0, dc0, dn0, dm0), grads = slstm_backward(tape, np.ones_like(y))
    >>> dx.shape, dm0.shape, grads["w_hh"].shape
    ((5, 2, 3), (2, 4), (2, 4, 2, 2))
    """
    return backward("slstm", step_backward, tape, dy, dstate, keep)


def step(q, x, start):
    """One step of n rows (`reference_loop`)."""
    h, c, n, m = start
    w_hh, H = q.weights["w_hh"], q.H
    N, D = w_hh.shape[0], w_hh.shape[3]
    inner = np.einsum("bnd,ngjd->bgnj", h.reshape(-1, N, D), w_hh).reshape(-1, 4 * H)
    a = x @ q.weights["w_ih"].T + inner + bias(q, "b")
    a_i, a_f, a_z, a_o = np.split(a, 4, axis=1)
    p = np.minimum(a_f, 0) - np.log1p(np.exp(-np.abs(a_f))) + m  # logsigmoid(f~) + m[t-1]
    new = ~n.any(axis=1, keepdims=True)  # the rows without a past
    m = np.where(new, a_i, np.maximum(p, a_i))
    i, f = np.exp(a_i - m), np.exp(np.where(new, -np.inf, p - m))
    z, o = np.tanh(a_z), sigmoid(a_o)
    c = f * c + i * z
    n = f * n + i
    n = np.maximum(n, 1) if q.cell.floor else n
    return (o * c / n, c, n, m), np.stack([i, f, z, o], axis=1), {"open": sigmoid(-a_f)}


def step_backward(q, x, start, end, gates, kept, dend):
    """The gradients of `step`."""
    i, f, z, o = gates.swapaxes(0, 1)
    (h, c_prev, n_prev, _), (_, c, n, _) = start, end
    dh, dc, dn, dm = dend
    w_hh = q.weights["w_hh"]
    N, D = w_hh.shape[0], w_hh.shape[3]
    do = dh * c / n  # h = o c / n
    dc = dc + dh * o / n
    dn = dn - dh * o * c / n**2
    if q.cell.floor:
        dn = np.where(f * n_prev + i > 1, dn, 0)
    dz = dc * i  # c = f c[t-1] + i z;  n = f n[t-1] + i
    df = (dc * c_prev + dn * n_prev) * f  # through f' = exp(p - m)
    di = (dc * z + dn) * i  # through i' = exp(i~ - m)
    dm = dm - df - di
    past = f == 1  # m = max(p, i~) was p
    da_i = di + np.where(past, 0, dm)
    dp = df + np.where(past, dm, 0)
    da = np.stack([da_i, dp * kept["open"], dz * (1 - z**2), do * o * (1 - o)], axis=1)
    by_head = da.reshape(-1, 4, N, D)
    da = da.reshape(-1, 4 * q.H)
    dh = np.einsum("bgnj,ngjd->bnd", by_head, w_hh).reshape(-1, q.H)
    grads = dict(
        w_ih=da.T @ x, w_hh=np.einsum("bgnj,bnd->ngjd", by_head, h.reshape(-1, N, D)),
        b=da.sum(axis=0),
    )  # fmt: skip
    return da @ q.weights["w_ih"], (dh, dc * f, dn * f, dp), da, grads
