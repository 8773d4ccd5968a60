# SPDX-License-Identifier: MIT
"""What all recurrent layers compute: stacked layers, two directions, states, dropout.

A subclass says what its cells are (see `LayerValue`); the loop around them is in _stack.pyx.
"""

import numpy as np

from . import checks
from ._stack import by_argument, by_cell, new_states, stack_backward, stack_forward
from .layer_value import LayerValue
from .masks import dropout_mask
from .segments import Checkpointed, truncated_backward
from .stream import LayerStream

__all__ = ["LayerTape", "Recurrent"]


class LayerTape:
    """The record of a recurrent layer's `forward`: ``tapes[layer][direction]`` is that of a cell.

    ``masks[layer]`` is the dropout mask (T, B, D*(H|P)) that multiplied the output of that
    layer, or None.
    """

    def __init__(self, layer, batched, learned, cells, tapes, masks):
        self.layer, self.cells = layer, cells
        self.batched = batched
        self.learned = learned  # of each state: whether it started from the layer's parameters
        self.tapes = tapes
        self.masks = masks


class Recurrent(LayerValue):
    """A stack of recurrent layers with the arguments and results of those of ``torch.nn``."""

    _tape = LayerTape

    def _use(self, parameters, unseen=False, frozen=False):
        super()._use(parameters, unseen, frozen)
        # the initial states of each cell where they are zeros
        self._zeros = [(None,) * len(self._states)] * len(self._suffixes)

    # -- forward and backward ----------------------------------------------------------------

    def __call__(self, x, state=None, lengths=None, *, mask=None, reset=None):
        """The outputs and the final state: inference, without dropout and without a tape.

        Parameters
        ----------
        x : array_like (T, B, I), with batch_first (B, T, I), or unbatched (T, I)
            Of the layer's dtype.
        state : array_like or tuple of array_like, optional
            The initial state: h0 (L*D, B, H), unbatched without B; where the cell has more than
            one, the tuple of them: (h0, c0). Layers of different sizes have, in place of
            each array, a tuple of L arrays (D, B, H). None, also for one of them: zeros, or
            with ``learn_state`` the layer's own.
        lengths : array_like (B,) of int, optional
            Row b has lengths[b] steps; in any order, 0 allowed.
        mask : array_like (T, B) of bool, with batch_first (B, T), unbatched (T,), optional
            Where it is False a row stands still: its state is carried over that step, and y
            says again what h was.
        reset : array_like of bool, optional
            As ``mask``. Where it is True, the state of the row is set to zeros before that step.

        Returns
        -------
        y : ndarray (T, B, D*H), or as x
        state : ndarray or tuple, as ``state``
            The final state: h_n, or (h_n, c_n).

        Raises
        ------
        TypeError, ValueError
            The dtype, a shape or a length does not fit.
        """
        y, state, _ = self._run(x, state, lengths, mask, reset, None, False)
        return y, state

    def forward(
        self, x, state=None, lengths=None, rng=None, *, mask=None, reset=None, checkpoint=False
    ):
        """The outputs, the final state and the tape: training, with dropout.

        Parameters
        ----------
        x, state, lengths, mask, reset
            As for a call of the layer.
        rng : numpy.random.Generator, optional
            Draws all masks: of dropout, then cell by cell. None: the layer's own, seeded by
            ``seed``.
        checkpoint : bool or int
            Keep the states at every so many steps only (True: about sqrt(T)) and the outputs of
            each layer, and let `backward` run the rest again: for long sequences.

        Returns
        -------
        y, state
            As for a call of the layer.
        tape : LayerTape
            For `backward`.
        """
        rng = self._rng if rng is None else rng
        return self._run(x, state, lengths, mask, reset, rng, True, checkpoint)

    def _run(self, x, state, lengths, mask, reset, rng, save, checkpoint=False):
        if save and self._unseen:  # the tape refers to the weights
            self._give_out()
        x = checks.array("x", x)
        batched = x.ndim == 3
        x = self._as_batch(x, lengths)
        T, B, _ = x.shape
        starts, learned = self._zeros, ()
        if state is not None or self.learn_state:
            starts, learned = self._starts(state, x, batched)
        if lengths is not None:
            lengths = checks.lengths_array(lengths, T, B)
        steps = None
        if mask is not None or reset is not None:
            steps = self._flags(T, B, batched, mask=mask, reset=reset)
        if save and self._draws:
            steps = {**(steps or {}), "rng": rng}
        masks, out = [None] * self.num_layers, None
        if save and self.dropout:
            widths = [sizes[0] * len(self._directions) for sizes in self.state_widths[:-1]]
            masks[:-1] = [
                dropout_mask(rng, self.dropout, (T, B, size), self.dtype) for size in widths
            ]
        if self.batch_first:  # y shall be contiguous for the caller
            out = np.empty((B, T, self.output_size), self.dtype).swapaxes(0, 1)
        cells, every = self._cells, checks.checkpoint(checkpoint, getattr(self, "spec", None))
        if every is not None:
            cells = [[(Checkpointed(cell, every), w) for cell, w in layer] for layer in cells]
        y, finals, tapes = stack_forward(
            cells, x, self.state_widths, starts, lengths, masks, save, out, steps
        )
        tape = self._tape(self, batched, learned, cells, tapes, masks) if save else None
        return self._as_given(y, batched), self._states_as_given(finals, batched), tape

    def backward(self, tape, dy=None, dstate=None, *, k1=None, k2=None):
        """The gradients: back-propagation through time.

        Parameters
        ----------
        tape : LayerTape
            From `forward`; it is consumed.
        dy : array_like, optional
            Gradient with respect to y, of its shape. None: zeros.
        dstate : array_like or tuple of array_like, optional
            Gradient with respect to the final state, of its form: dh_n, or (dh_n, dc_n).
            None, also for one of them: zeros.
        k1, k2 : int, optional
            Truncated back-propagation: after every k1 steps the gradient of what came in through
            dy in these goes k2 >= k1 steps back, through all layers, and no further. None: the
            whole way; k2 None: k1.

        Returns
        -------
        dx : ndarray
            Of x's shape.
        dstate : ndarray or tuple
            Gradient with respect to the initial state, of its form: dh0, or (dh0, dc0).
        grads : Parameters
            Gradients with the names and shapes of `parameters`, ``grads.flat`` as `flat`.
            Those of a learned state are sums over the batch, 0 where another was passed.

        Raises
        ------
        RuntimeError
            The tape was consumed before.
        TypeError, ValueError
            The tape is not from this layer, or an array has the wrong dtype or shape; k1 and k2
            are not 1 <= k1 <= k2, or the layer is bidirectional with them.
        """
        k1, k2 = checks.truncation(k1, k2, getattr(self, "spec", None))
        if k1 is not None and self.bidirectional:
            raise ValueError("k1 cuts time in one direction, but this layer is bidirectional")
        if not isinstance(tape, self._tape) or tape.layer is not self:
            raise TypeError(
                f"tape must be the {self._tape.__name__} that forward of this layer returned"
            )
        x, dends = tape.tapes[0][0].inputs.x, self._zeros
        T, B, _ = x.shape
        if dy is not None:
            y_shape = self._y_shape(T, B, tape.batched)
            dy = self._as_steps(checks.gradient("dy", dy, *y_shape, ("x", x)))
        if dstate is not None:
            dends = self._by_cell(
                self.check_state("dstate", dstate, "d{}_n", B, ("x", x), tape.batched)
            )
        grads = self._parameters.empty_like()
        dw = by_argument(grads, self._names)
        given = tape.cells, tape.tapes, self.state_widths, tape.masks, dy, dends, dw
        if k1 is None:
            dx, dstarts = stack_backward(*given)
        else:
            dx, cells = truncated_backward(*given, k1, k2)
            dstarts = new_states(self.state_widths, 1, B, self.dtype)
            for to, of_cell in zip(by_cell(dstarts), cells, strict=True):
                for d, value in zip(to, of_cell, strict=True):
                    d[...] = value
        if self.learn_state:
            self._state_gradients(grads, tape.learned, by_cell(dstarts))
        return self._as_given(dx, tape.batched), self._states_as_given(dstarts, tape.batched), grads

    def stream(self, batch_size=1):
        """A stream that runs this layer step by step with the weights it has now."""
        return LayerStream(self, batch_size)

    # -- states ------------------------------------------------------------------------------

    def initial_state(self, batch_size=1):
        """The state that a call without one starts from: zeros, or with ``learn_state`` the own.

        Returns
        -------
        ndarray or tuple
            As the ``state`` of a call with B = ``batch_size`` rows.
        """
        return self._states_as_given(self._own_states(batch_size), True)

    def _own_states(self, B):
        states = new_states(self.state_widths, len(self._directions), B, self.dtype)
        for suffix, cell in zip(self._suffixes, by_cell(states), strict=True):
            for name, a in zip(self._states, cell, strict=True):
                a[...] = self._parameters[f"{name}0{suffix}"] if self.learn_state else 0
        return states

    def _starts(self, state, x, batched):
        """The initial states cell by cell, and of which states they are the layer's own."""
        B, given = x.shape[1], [None] * len(self._states)
        if state is not None:
            given = self.check_state("state", state, "{}0", B, ("x", x), batched)
        learned = [self.learn_state and a is None for a in given]
        if any(learned):
            own = zip(self._own_states(B), given, learned, strict=True)
            given = [a if use else other for a, other, use in own]
        return self._by_cell(given), learned

    def _state_gradients(self, grads, learned, dstarts):
        """The gradients of the own initial states: each row of the batch started from them."""
        for suffix, cell in zip(self._suffixes, dstarts, strict=True):
            for name, use, d in zip(self._states, learned, cell, strict=True):
                grads[f"{name}0{suffix}"][...] = d.sum(axis=0) if use else 0

    def _by_cell(self, states):
        return by_cell([[None] * len(self._suffixes) if s is None else s for s in states])

    def check_state(self, name, value, names, B, like, batched=True, cells="L*D"):
        """A state of this layer, or its gradient, checked: for each of its states None or arrays.

        Parameters
        ----------
        name : str
            What the caller calls the whole, as "state".
        value : array_like, tuple or None
        names : str
            What its parts are called, as "{}0" or "d{}_n".
        B : int
        like : tuple (str, ndarray)
            The array whose dtype the states must have, and its name.
        batched : bool
            False: the states have no axis of the batch; it is put in.
        cells : str
            How the first axis is written.
        """
        names = [names.format(s) for s in self._states]
        parts = (value,) if len(names) == 1 else checks.parts(name, value, ", ".join(names))
        checked = []
        for k, (part, a) in enumerate(zip(names, parts, strict=True)):
            symbols = ("B, " if batched else "") + self._symbols[self._states[k]]
            sizes = [widths[k] for widths in self.state_widths]
            rows = (B,) if batched else ()
            if a is None:
                checked.append(None)
            elif isinstance(self.hidden_size, int):
                shape = (len(self._suffixes), *rows, sizes[0])
                checked.append(_state(part, a, f"{cells}, {symbols}", shape, like))
            else:
                shapes = [(len(self._directions), *rows, size) for size in sizes]
                layers = checks.layers(part, a, len(sizes), f"D, {symbols}")
                checked.append(tuple(
                    _state(f"{part}[{i}]", layer, f"D, {symbols}", shape, like)
                    for i, (layer, shape) in enumerate(zip(layers, shapes, strict=True))
                ))  # fmt: skip
        return checked

    def top(self, state):
        """h_n (D, B, H) of the last layer, of a state as a call returns it."""
        h = state[0] if len(self._states) > 1 else state
        return h[-1] if isinstance(h, tuple) else h[-len(self._directions) :]

    def top_gradient(self, state, dh):
        """The gradient of a whole ``state`` where that of its `top` is ``dh`` and all else is 0."""
        h = state[0] if len(self._states) > 1 else state
        if isinstance(h, tuple):
            dh_n = (*map(np.zeros_like, h[:-1]), dh)
        else:
            dh_n = np.zeros_like(h)
            dh_n[-len(dh) :] = dh
        return (dh_n, *[None] * (len(self._states) - 1)) if len(self._states) > 1 else dh_n

    # -- between the caller's shapes and (T, B, I) ---------------------------------------------

    def _as_batch(self, x, lengths):
        """x as (T, B, I)."""
        if x.ndim not in (2, 3):
            layout = "B, T, I" if self.batch_first else "T, B, I"
            raise ValueError(
                f"x must have shape ({layout}), or (T, I) without a batch, got {x.shape}"
            )
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"x must have input_size = {self.input_size} features on its last axis, "
                f"got shape {x.shape}"
            )
        if x.dtype != self.dtype:
            raise TypeError(f"x is {x.dtype} but the layer is {self.dtype}; convert one of them")
        if x.ndim == 2 and lengths is not None:
            raise ValueError("lengths needs a batch: x must have 3 dimensions, got 2")
        return self._as_steps(x)

    def _as_steps(self, a):
        """The caller's ``a`` as (T, B, .)."""
        if a.ndim == 2:
            return a[:, None]
        return a.swapaxes(0, 1) if self.batch_first else a

    def _flags(self, T, B, batched, **flags):
        """mask and reset, those that were given, as (T, B)."""
        steps = {}
        for name, value in flags.items():
            if value is None:
                continue
            if not batched:
                steps[name] = checks.flags(name, value, "T", (T,))[:, None]
            elif self.batch_first:
                steps[name] = checks.flags(name, value, "B, T", (B, T)).T
            else:
                steps[name] = checks.flags(name, value, "T, B", (T, B))
        return steps

    def _y_shape(self, T, B, batched):
        """How the shape of y is written, and what it is."""
        size = self.output_size
        if not batched:
            return "T, D*H", (T, size)
        return ("B, T, D*H", (B, T, size)) if self.batch_first else ("T, B, D*H", (T, B, size))

    def _as_given(self, y, batched):
        """y (T, B, .) in the layout in which x came."""
        if not batched:
            return y[:, 0]
        return y.swapaxes(0, 1) if self.batch_first else y

    @staticmethod
    def _states_as_given(states, batched):
        """The states as the caller has them: alone where there is one."""
        if not batched:
            states = tuple(
                tuple(a[:, 0] for a in s) if isinstance(s, tuple) else s[:, 0] for s in states
            )
        return states if len(states) > 1 else states[0]


def _state(name, value, symbols, expected, like):
    """A state as an array of this shape; without an axis of the batch, it gets one."""
    a = checks.array(name, value)
    checks.shape(name, a, symbols, expected)
    checks.same_dtype(like, **{name: a})
    return a if len(expected) == 3 else a[:, None]
