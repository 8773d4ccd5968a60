# SPDX-License-Identifier: MIT
"""The streaming step by calls of the layer; on the reference the oracle of `_stream.Stream`."""

import numpy as np

from . import checks, reference
from ._stack import by_cell

__all__ = ["LayerStream", "ReferenceStream"]


class LayerStream:
    """Runs any recurrent layer step by step; made by its `stream`.

    The weights are those of the layer at the time of creation: training it later does not change
    a running stream.

    Parameters
    ----------
    layer : Recurrent
        Not bidirectional: the other direction would start at the end.
    batch_size : int

    Raises
    ------
    ValueError
        The layer is bidirectional.
    """

    def __init__(self, layer, batch_size=1):
        if layer.bidirectional:
            raise ValueError(
                f"a bidirectional {type(layer).__name__} cannot be streamed: its other direction "
                "starts at the end"
            )
        self.batch_size = checks.integer("batch_size", batch_size, 1)
        self.input_size, self.output_size = layer.input_size, layer.output_size
        changes = {"batch_first": False, "backend": layer.backend}
        self._layer = type(layer).from_config({**layer.config, **changes})
        self._layer.load_state_dict(layer.state_dict())
        self._layer.freeze()
        self.reset()

    def reset(self):
        """Set the state to that in which the layer starts: zeros, unless it has learned another."""
        self._state = self._layer.initial_state(self.batch_size)

    @property
    def state(self):
        """A copy of the state, as a call of the layer returns it; assign to set it.

        None: as `reset` does.
        """
        return _copy(self._state)

    @state.setter
    def state(self, value):
        like = ("stream", self._layer.flat)
        given = self._layer.check_state("state", value, "{}", self.batch_size, like, cells="L")
        own = self._layer.initial_state(self.batch_size)
        if isinstance(own, tuple) and len(given) > 1:
            self._state = tuple(
                start if a is None else _copy(a) for a, start in zip(given, own, strict=True)
            )
        else:
            self._state = own if given[0] is None else _copy(given[0])

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
        if x_t.dtype != self._layer.dtype:
            raise TypeError(f"x_t is {x_t.dtype} but the stream is {self._layer.dtype}")
        if out is not None:  # before the state moves on
            size, symbols = self.output_size, "H|P" if single else "B, H|P"
            expected = (size,) if single else (self.batch_size, size)
            out = checks.output_array(out, expected, symbols, {"x": x_t})
        y = self._advance(x_t.reshape(self.batch_size, -1))
        y_t = y[0] if single else y
        if out is None:
            return y_t
        out[...] = y_t
        return out

    def _advance(self, x_t):
        """The output (B, H|P) of one step from x_t (B, I); the state moves on."""
        y, self._state = self._layer(x_t[None], self._state)
        return y[0]


class ReferenceStream(LayerStream):
    """`LayerStream` for an LSTM on the reference, step by step by `reference.step`.

    With full gate recurrence it also hands on the gates; they are set to 0, as at a start, where
    the state is assigned or reset.
    """

    def reset(self):
        """Set the state to that in which the layer starts: zeros, unless it has learned another."""
        super().reset()
        self._forget_gates()

    @property
    def state(self):
        """As that of `LayerStream`."""
        return super().state

    @state.setter
    def state(self, value):
        LayerStream.state.fset(self, value)
        self._forget_gates()

    def _forget_gates(self):
        widths = self._layer.state_widths
        self._gates = [np.zeros((self.batch_size, 4, H), self._layer.dtype) for _, H in widths]

    def _advance(self, x_t):
        for k, (weights, state) in enumerate(
            zip(self._layer.cell_weights(), by_cell(self._state), strict=True)
        ):
            q = checks.Inputs(
                x=x_t[None], h0=state[0], c0=state[1], lengths=None, reverse=False,
                spec=self._layer.spec, y=None, **weights,
            )  # fmt: skip
            state[0][...], state[1][...], self._gates[k], *_ = reference.step(
                q, x_t, *state, self._gates[k], reference.masks_at(q, 0, slice(None))
            )
            x_t = state[0].copy()
        return x_t


def _copy(state):
    return tuple(map(_copy, state)) if isinstance(state, tuple) else state.copy()
