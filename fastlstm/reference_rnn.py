# SPDX-License-Identifier: MIT
"""The simple recurrent cell in plain NumPy: one layer, one direction.

For every step t and every row that moves (`reference_loop`)::

    a    = W_ih x[t] + W_hh h[t-1] + b          H numbers, with ``clip`` within these limits
    h[t] = nonlinearity(a)

Elman (1990).
"""

import numpy as np

from .activations import activation
from .reference_loop import backward, forward
from .siblings import RNNCell, forward_inputs

__all__ = ["rnn_backward", "rnn_forward"]


def rnn_forward(
    x, w_ih, w_hh, b=None, state=None, *, nonlinearity="tanh", clip=None, lengths=None, mask=None,
    reset=None, reverse=False, save=True, out=None,
):  # fmt: skip
    """The outputs, the final state and the tape of one simple recurrent layer in one direction.

    Parameters
    ----------
    x : array_like (T, B, I), float32 or float64
    w_ih, w_hh : array_like (H, I), (H, H)
        As PyTorch's weight_ih, weight_hh.
    b : array_like (H,), optional
        PyTorch's bias_ih + bias_hh. None: zeros.
    state : array_like (B, H), optional
        h0. None: zeros.
    nonlinearity : str or tuple
        "tanh", "relu", or any activation as `Spec` writes them.
    clip : float, optional
        What the nonlinearity sees is clipped to [-clip, clip]; no gradient where it is.
    lengths : array_like (B,) of int, optional
        Row b has ``lengths[b]`` steps, 0 to T, in any order; beyond them y is 0.
    mask : array_like (T, B) of bool, optional
        Where it is False, the row stands still: its state is carried over, y says it again.
    reset : array_like (T, B) of bool, optional
        Where it is True, the state of the row is set to zeros before the step.
    reverse : bool
        Run from the end to the start, inside each length; y stays aligned with x.
    save : bool
        Keep what `rnn_backward` needs. False: the tape is None.
    out : ndarray (T, B, H), optional
        Write y here. It must not overlap an input.

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
    h[t] = nonlinearity(W_ih x[t] + W_hh h[t-1] + b) (Elman 1990).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, w_ih, w_hh = (rng.standard_normal(s) for s in [(5, 2, 3), (4, 3), (4, 4)])
    >>> y, h_n, tape = rnn_forward(x, w_ih, w_hh, nonlinearity="relu")
    >>> y.shape, bool((h_n == y[-1]).all())
    ((5, 2, 4), True)
    """
    q = forward_inputs(RNNCell(nonlinearity, clip), x, dict(w_ih=w_ih, w_hh=w_hh, b=b), state,
                       lengths, mask, reset, reverse, out)  # fmt: skip
    y, (h_n,), tape = forward(q, step, save)
    return y, h_n, tape


def rnn_backward(tape, dy=None, dstate=None, *, keep=False):
    """The gradients of one simple recurrent layer: back-propagation through time.

    Parameters
    ----------
    tape : SiblingTape
        From `rnn_forward`. It is consumed.
    dy : array_like (T, B, H), optional
        Gradient of the loss with respect to y. None: zeros.
    dstate : array_like (B, H), optional
        dh_n, the gradient with respect to the final state. None: zeros.
    keep : bool
        Leave the tape as it is.

    Returns
    -------
    dx : ndarray (T, B, I)
    dh0 : ndarray (B, H)
    grads : dict of str to ndarray
        Gradients of the weights by their names in `rnn_forward`, those that were given.

    Raises
    ------
    RuntimeError
        The tape was consumed before.
    TypeError, ValueError
        The tape is None or of another function, or an array has the wrong dtype or shape.

    Examples
    --------
    >>> y, _, tape = rnn_forward(np.ones((5, 2, 3)), np.ones((4, 3)), np.ones((4, 4)))
    >>> dx, dh0, grads = rnn_backward(tape, np.ones_like(y))
    >>> dx.shape, dh0.shape, sorted(grads)
    ((5, 2, 3), (2, 4), ['w_hh', 'w_ih'])
    """
    dx, (dh0,), grads = backward("rnn", step_backward, tape, dy, dstate, keep)
    return dx, dh0, grads


def clipped(a, limit):
    """``a`` within the limits, and where it was beyond them."""
    if limit is None:
        return a, np.zeros(a.shape, bool)
    return np.clip(a, -limit, limit), np.abs(a) >= limit


def bias(q, name):
    """A bias, 0 where there is none."""
    return 0 if q.weights[name] is None else q.weights[name]


def step(q, x, start):
    """One step of n rows (`reference_loop`)."""
    nonlinearity, _ = activation(q.cell.nonlinearity)
    a = x @ q.weights["w_ih"].T + start[0] @ q.weights["w_hh"].T + bias(q, "b")
    a, beyond = clipped(a, q.cell.clip)
    h = nonlinearity(a)
    return (h,), h[:, None], {"clipped": beyond}


def step_backward(q, x, start, end, gates, kept, dend):
    """The gradients of `step`."""
    _, d_nonlinearity = activation(q.cell.nonlinearity)
    da = np.where(kept["clipped"], 0, d_nonlinearity(gates[:, 0], dend[0]))
    grads = dict(w_ih=da.T @ x, w_hh=da.T @ start[0], b=da.sum(axis=0))
    return da @ q.weights["w_ih"], (da @ q.weights["w_hh"],), da, grads
