# SPDX-License-Identifier: MIT
"""Steps that a model passes over: who marks them, and how a recurrent layer leaves them out.

A mask is False where a step is left out: the state is carried over it, as if it were not there.
So the steps that count are moved to the front (`sequences.Steps`), the layer runs on them with
``lengths``, and its outputs are moved back. In a step that is left out a layer in one direction
says its last output again, and zero before the first; one in two directions says zero. These are
Keras' rules.
"""

import numpy as np

from . import checks
from .heads import Module
from .sequences import Steps

__all__ = ["Masking", "ZeroMasked", "around"]


class Masking(Module):
    """Marks the steps in which all features have one value: the recurrent layers pass over them.

    Inside a Sequential the mask goes with the sequence up to a `LastState` or a `Flatten`. By
    itself it only sets these steps to zero.

    Parameters
    ----------
    mask_value : float

    Raises
    ------
    TypeError
        `mask_value` is no number.

    Notes
    -----
    The losses of `fit` count every step: give them a ``sample_weight``.

    Examples
    --------
    >>> import fastlstm as fl
    >>> lstm = fl.LSTM(1, 2, batch_first=True, seed=0)
    >>> model = fl.Sequential([Masking(-1.0), lstm, fl.LastState()])
    >>> x = np.array([[[0.5], [-1.0], [0.2]]], "float32")
    >>> bool(np.allclose(model(x), lstm(x[:, [0, 2]])[0][:, -1]))
    True
    """

    def __init__(self, mask_value=0.0):
        if isinstance(mask_value, bool) or not isinstance(mask_value, (int, float)):
            raise TypeError(f"mask_value must be a number, got {mask_value!r}")
        self.mask_value = float(mask_value)
        super().__init__({}, None)

    @property
    def config(self):
        """``mask_value``, with ``"type"``."""
        return {"type": "Masking", "mask_value": self.mask_value}

    def mask_of(self, x):
        """Return a bool for each step of x (..., F): whether it counts."""
        x = checks.array("x", x)
        if x.ndim == 0:
            raise ValueError("x must have shape (..., F), got ()")
        return (x != x.dtype.type(self.mask_value)).any(axis=-1)

    def __call__(self, x):
        """Return x with zeros in the steps that do not count."""
        return self.forward(x)[0]

    def forward(self, x, rng=None):
        """Return y, shaped as x, and the tape: which steps count."""
        counts = self.mask_of(x)[..., None]
        return np.where(counts, x, x.dtype.type(0)), counts

    def backward(self, tape, dy):
        """Return dx, zero in the steps that do not count, and no gradients."""
        return np.where(tape, dy, dy.dtype.type(0)), self.parameters()


class ZeroMasked(Module):
    """Zeros in the steps that do not count, where a layer in one direction repeats its output.

    Inside a Sequential it is given the mask of a `Masking` or an `Embedding` before it: Keras'
    ``zero_output_for_mask=True``. By itself it gives back what it is given.

    Examples
    --------
    >>> import numpy as np
    >>> ZeroMasked()(np.ones((1, 2, 1)), mask=np.array([[True, False]]))
    array([[[1.],
            [0.]]])
    """

    def __init__(self):
        super().__init__({}, None)

    @property
    def config(self):
        """Only the ``"type"``."""
        return {"type": "ZeroMasked"}

    def __call__(self, x, mask=None):
        """Return y; see `forward`."""
        return self.forward(x, mask=mask)[0]

    def forward(self, x, rng=None, mask=None):
        """Return y, shaped as x (..., F), and the tape: the mask.

        Parameters
        ----------
        x : ndarray (..., F), float32 or float64
        rng : Generator, optional
            Not used.
        mask : ndarray (...) of bool, optional
        """
        x = checks.array("x", x)
        if mask is None:
            return x, None
        checks.shape("mask", mask, "as x without its last axis", x.shape[:-1])
        return x * mask[..., None], mask

    def backward(self, tape, dy):
        """Return dx for dy, and no gradients."""
        return (dy if tape is None else dy * tape[..., None]), self.parameters()


def around(layer, mask):
    """What runs a recurrent layer under a mask: the layer itself where there is none."""
    return layer if mask is None or not hasattr(layer, "hidden_size") else _Around(layer, mask)


class _Around:
    """A recurrent layer that passes over the steps where ``mask`` is False.

    Parameters
    ----------
    layer : recurrent layer
    mask : ndarray of bool
        (T, B), with ``batch_first`` (B, T), without a batch (T,).
    """

    def __init__(self, layer, mask):
        self.layer, self.hidden_size = layer, layer.hidden_size
        self._batched, self._swaps = mask.ndim == 2, mask.ndim == 2 and layer.batch_first
        self._steps = Steps(self._by_step(mask), None, False, whole=self._batched)

    def __call__(self, x, state=None, lengths=None):
        """As the layer's."""
        y, state = self.layer(self._to_front(x), state=state, lengths=self._lengths(lengths))
        return self._back(y), state

    def forward(self, x, state=None, lengths=None, rng=None):
        """As the layer's."""
        lengths = self._lengths(lengths)
        y, state, tape = self.layer.forward(self._to_front(x), state, lengths, rng)
        return self._back(y), state, tape

    def backward(self, tape, dy=None, dstate=None):
        """As the layer's."""
        dy = None if dy is None else self._gradient_to_front(dy)
        dx, dstart, grads = self.layer.backward(tape, dy, dstate)
        return self._gradient_back(dx), dstart, grads

    def _lengths(self, lengths):
        """How many steps of each row count; without a batch there are only these."""
        if lengths is not None:
            raise ValueError("lengths cannot go with a mask")
        return self._steps.counts if self._batched else None

    def _by_step(self, a):
        """``a`` in the layer's layout -> (T, B, ...)."""
        if self._swaps:
            return a.swapaxes(0, 1)
        return a if self._batched else a[:, None]

    def _in_layout(self, a):
        """``a`` (T, B, F) -> in the layer's layout."""
        if self._swaps:
            return np.ascontiguousarray(a.swapaxes(0, 1))
        return a if self._batched else a[:, 0]

    def _to_front(self, x):
        """x with the steps that count first."""
        return self._in_layout(self._steps.front(self._by_step(x)))

    def _back(self, h):
        """The output of the layer, each step in its place."""
        h = self._by_step(h)
        y = self._steps.back(h) if self.layer.bidirectional else self._steps.spread(h)
        return self._in_layout(y)

    def _gradient_to_front(self, dy):
        """The gradient of `_back`."""
        dy = self._by_step(dy)
        dh = self._steps.front(dy) if self.layer.bidirectional else self._steps.collect(dy)[0]
        return self._in_layout(dh)

    def _gradient_back(self, dx):
        """The gradient of `_to_front`."""
        return self._in_layout(self._steps.back(self._by_step(dx)))
