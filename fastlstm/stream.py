# SPDX-License-Identifier: MIT
"""The streaming step on the reference: the oracle of `_stream.Stream`."""

import numpy as np

from . import checks

__all__ = ["ReferenceStream"]


class ReferenceStream:
    """`Stream` with every step through a layer on the reference backend.

    Parameters
    ----------
    lstm : LSTM
    batch_size : int
    """

    def __init__(self, lstm, batch_size=1):
        if lstm.bidirectional:
            raise ValueError(
                "a bidirectional LSTM cannot be streamed: its other direction starts at the end"
            )
        self.batch_size = checks.integer("batch_size", batch_size, 1)
        self.input_size, self.output_size = lstm.input_size, lstm.output_size
        changes = {"batch_first": False, "backend": lstm.backend}
        self._lstm = type(lstm).from_config({**lstm.config, **changes})
        self._lstm.flat[...] = lstm.flat
        self._lstm.freeze()
        self.reset()

    def reset(self):
        """Set the state to zeros."""
        L, B, lstm = self._lstm.num_layers, self.batch_size, self._lstm
        self._state = (
            np.zeros((L, B, lstm.output_size), lstm.dtype),
            np.zeros((L, B, lstm.hidden_size), lstm.dtype),
        )

    @property
    def state(self):
        """(h, c), copies of shape (L, B, H|P) and (L, B, H); assign to set them."""
        return tuple(s.copy() for s in self._state)

    @state.setter
    def state(self, value):
        names = ("h", "c")
        shapes = tuple(s.shape for s in self._state)
        like = ("stream", self._state[0])
        symbols = ("L, B, H|P", "L, B, H")
        h, c = checks.state_pair("state", value, names, symbols, shapes, like)
        self._state = h.copy(), c.copy()

    def step(self, x_t, out=None):
        """The output of one step.

        Parameters
        ----------
        x_t : array_like (B, I), or (I,) where B = 1
        out : ndarray (B, H|P), or (H|P,), optional
            Write the output here.

        Returns
        -------
        y_t : ndarray (B, H|P), or (H|P,) where x_t is (I,)

        Raises
        ------
        TypeError, ValueError
            The dtype or shape of x_t or of out does not fit.
        """
        x_t = checks.array("x_t", x_t)
        single = x_t.ndim == 1 and self.batch_size == 1
        expected = (self.input_size,) if single else (self.batch_size, self.input_size)
        checks.shape("x_t", x_t, "I" if single else "B, I", expected)
        if x_t.dtype != self._lstm.dtype:
            raise TypeError(f"x_t is {x_t.dtype} but the stream is {self._lstm.dtype}")
        if out is not None:  # before the state moves on
            size, symbols = self.output_size, "H|P" if single else "B, H|P"
            expected = (size,) if single else (self.batch_size, size)
            out = checks.output_array(out, expected, symbols, {"x": x_t})
        y, self._state = self._lstm(x_t.reshape(1, self.batch_size, -1), self._state)
        y_t = y[0, 0] if single else y[0]
        if out is None:
            return y_t
        out[...] = y_t
        return out
