# SPDX-License-Identifier: MIT
"""The GRU in plain NumPy: one layer, one direction.

For every step t and every row that moves (`reference_loop`), the rows of the weights in PyTorch's
order r z n::

    r    = sigmoid(W_r x[t] + b_r + U_r h[t-1] + b'_r)
    z    = sigmoid(W_z x[t] + b_z + U_z h[t-1] + b'_z)
    n    = tanh(W_n x[t] + b_n + r * (U_n h[t-1] + b'_n))       reset_after: PyTorch, cuDNN, Keras
    n    = tanh(W_n x[t] + b_n + U_n (r * h[t-1]) + b'_n)       without it: as published
    h[t] = (1 - z) * n + z * h[t-1]

b is b_ih, b' is b_hh; ``gate`` and ``candidate`` replace sigmoid and tanh, and ``clip`` clips what
they see. reset_after is what ONNX calls linear_before_reset. Cho et al. (2014).
"""

import numpy as np

from .activations import activation
from .reference_loop import backward, forward
from .reference_rnn import bias, clipped
from .siblings import GRUCell, forward_inputs

__all__ = ["gru_backward", "gru_forward"]


def gru_forward(
    x, w_ih, w_hh, b_ih=None, b_hh=None, state=None, *, reset_after=True, gate="sigmoid",
    candidate="tanh", clip=None, lengths=None, mask=None, reset=None, reverse=False, save=True,
    out=None,
):  # fmt: skip
    """The outputs, the final state and the tape of one GRU layer in one direction.

    Parameters
    ----------
    x : array_like (T, B, I), float32 or float64
    w_ih, w_hh : array_like (3H, I), (3H, H)
        As PyTorch's weight_ih and weight_hh: the rows of the gates in the order r z n.
    b_ih, b_hh : array_like (3H,), optional
        As PyTorch's bias_ih and bias_hh, of which the third of n cannot be summed with
        ``reset_after``. None: zeros.
    state : array_like (B, H), optional
        h0. None: zeros.
    reset_after : bool
        Whether r multiplies W_hh h + b_hh (PyTorch), or h before the product (Cho et al. 2014).
    gate, candidate : str or tuple
        The activations of r and z, and of n, as `Spec` writes them.
    clip : float, optional
        What the activations see is clipped to [-clip, clip]; no gradient where it is.
    lengths, mask, reset, reverse, save, out
        As for `rnn_forward`.

    Returns
    -------
    y : ndarray (T, B, H)
    h_n : ndarray (B, H)
        The state after the last step of each row.
    tape : SiblingTape or None

    Raises
    ------
    TypeError
        An array is not float32 or float64, or not all are of one dtype; lengths are no
        integers, mask or reset are no bools.
    ValueError
        A shape does not fit, a length is outside [0, T], out overlaps an input, or there is no
        such activation.

    Notes
    -----
    h[t] = (1 - z) n + z h[t-1] (Cho et al. 2014); it takes 6 H (I + H) T B floating-point
    operations, and a tape of 5 H T B numbers.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, w_ih, w_hh = (rng.standard_normal(s) for s in [(5, 2, 3), (12, 3), (12, 4)])
    >>> y, h_n, tape = gru_forward(x, w_ih, w_hh, lengths=[5, 2])
    >>> y.shape, bool((y[2:, 1] == 0).all()), bool((h_n[1] == y[1, 1]).all())
    ((5, 2, 4), True, True)
    """
    weights = dict(w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    q = forward_inputs(GRUCell(reset_after, gate, candidate, clip), x, weights, state, lengths,
                       mask, reset, reverse, out)  # fmt: skip
    y, (h_n,), tape = forward(q, step, save)
    return y, h_n, tape


def gru_backward(tape, dy=None, dstate=None, *, keep=False):
    """The gradients of one GRU layer: back-propagation through time.

    Parameters
    ----------
    tape : SiblingTape
        From `gru_forward`. It is consumed.
    dy, dstate, keep
        As for `rnn_backward`.

    Returns
    -------
    dx : ndarray (T, B, I)
    dh0 : ndarray (B, H)
    grads : dict of str to ndarray
        Gradients of the weights by their names in `gru_forward`, those that were given.

    Raises
    ------
    RuntimeError
        The tape was consumed before.
    TypeError, ValueError
        The tape is None or of another function, or an array has the wrong dtype or shape.

    Examples
    --------
    >>> y, _, tape = gru_forward(np.ones((5, 2, 3)), np.ones((12, 3)), np.ones((12, 4)))
    >>> dx, dh0, grads = gru_backward(tape, np.ones_like(y))
    >>> dx.shape, dh0.shape, sorted(grads)
    ((5, 2, 3), (2, 4), ['w_hh', 'w_ih'])
    """
    dx, (dh0,), grads = backward("gru", step_backward, tape, dy, dstate, keep)
    return dx, dh0, grads


def step(q, x, start):
    """One step of n rows (`reference_loop`)."""
    H, w_hh = q.H, q.weights["w_hh"]
    (gate, _), (candidate, _) = activation(q.cell.gate), activation(q.cell.candidate)
    (h,) = start
    a = x @ q.weights["w_ih"].T + bias(q, "b_ih")
    u = h @ w_hh.T + bias(q, "b_hh")
    a_rz, beyond_rz = clipped(a[:, : 2 * H] + u[:, : 2 * H], q.cell.clip)
    r, z = np.split(gate(a_rz), 2, axis=1)
    if q.cell.reset_after:
        inner = u[:, 2 * H :]
        a_n = a[:, 2 * H :] + r * inner
    else:
        inner = r * h
        a_n = a[:, 2 * H :] + inner @ w_hh[2 * H :].T
        a_n = a_n + (0 if q.weights["b_hh"] is None else q.weights["b_hh"][2 * H :])
    a_n, beyond_n = clipped(a_n, q.cell.clip)
    n = candidate(a_n)
    kept = {"inner": inner, "clipped": np.hstack([beyond_rz, beyond_n])}
    return ((1 - z) * n + z * h,), np.stack([r, z, n], axis=1), kept


def step_backward(q, x, start, end, gates, kept, dend):
    """The gradients of `step`."""
    H, w_hh, inner = q.H, q.weights["w_hh"], kept["inner"]
    (_, d_gate), (_, d_candidate) = activation(q.cell.gate), activation(q.cell.candidate)
    r, z, n = gates.swapaxes(0, 1)
    (h,), (dh,) = start, dend
    beyond_r, beyond_z, beyond_n = np.split(kept["clipped"], 3, axis=1)
    da_n = np.where(beyond_n, 0, d_candidate(n, dh * (1 - z)))  # h[t] = (1 - z) n + z h
    da_z = np.where(beyond_z, 0, d_gate(z, dh * (h - n)))
    dh = dh * z
    if q.cell.reset_after:  # a_n += r (U_n h + b'_n)
        dr, du_n = da_n * inner, da_n * r
        dh, left = dh + du_n @ w_hh[2 * H :], h
    else:  # a_n += U_n (r h) + b'_n
        dinner, du_n = da_n @ w_hh[2 * H :], da_n
        dr, dh, left = dinner * h, dh + dinner * r, inner
    da_r = np.where(beyond_r, 0, d_gate(r, dr))
    da_rz = np.hstack([da_r, da_z])
    da, du = np.hstack([da_rz, da_n]), np.hstack([da_rz, du_n])
    grads = dict(
        w_ih=da.T @ x, w_hh=np.vstack([da_rz.T @ h, du_n.T @ left]),
        b_ih=da.sum(axis=0), b_hh=du.sum(axis=0),
    )  # fmt: skip
    return da @ q.weights["w_ih"], (dh + da_rz @ w_hh[: 2 * H],), da, grads
