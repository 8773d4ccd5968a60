# SPDX-License-Identifier: MIT
"""The LSTM layer: parameters, stacked layers, two directions, dropout between layers."""

from copy import deepcopy
from dataclasses import asdict

import numpy as np

from . import backend as backends
from . import checks, reference
from ._stream import Stream
from .masks import dropout_mask
from .parameters import Parameters
from .spec import Spec
from .stream import ReferenceStream

__all__ = ["LSTM", "LSTMTape"]


class LSTMTape:
    """The record of `LSTM.forward`: ``tapes[layer][direction]`` is a `Tape`.

    ``masks[layer]`` is the dropout mask (T, B, D*(H|P)) that multiplied the output of that
    layer, or None.
    """

    def __init__(self, lstm, batched, tapes, masks):
        self.lstm = lstm
        self.batched = batched
        self.tapes = tapes
        self.masks = masks


class LSTM:
    """A stack of LSTM layers with the arguments and results of ``torch.nn.LSTM``.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L layers, each reads the output of the one below.
    bias : bool
        One bias per layer and direction: the sum of PyTorch's two.
    batch_first : bool
        x and y are (B, T, .) instead of (T, B, .); the states are not affected.
    dropout : float
        Probability with which an output of each layer but the last is zeroed in `forward`.
    bidirectional : bool
        D = 2 directions, their outputs concatenated; else D = 1.
    proj_size : int
        P > 0: h is projected to P < H numbers.
    spec : Spec
        The variant of the cell.
    dtype : {"float32", "float64"}
    seed : int, optional
        For the initial parameters and, where `forward` gets no ``rng``, the dropout.
    backend : {"engine", "reference"}, optional
        None: as the environment's FASTLSTM_BACKEND says, else the engine.

    Attributes
    ----------
    flat : ndarray (n,)
        All parameters in one contiguous buffer.

    Raises
    ------
    TypeError, ValueError
        An argument has a wrong type or value; the message names it.

    Notes
    -----
    The parameters start uniform in [-1/sqrt(H), 1/sqrt(H)], a bias as the sum of two of those:
    PyTorch's distribution. Hochreiter & Schmidhuber (1997), Gers et al. (2000).

    Examples
    --------
    >>> lstm = LSTM(8, 16, num_layers=2, seed=0)
    >>> x = np.zeros((5, 3, 8), np.float32)
    >>> y, (h_n, c_n) = lstm(x)
    >>> y.shape, h_n.shape
    ((5, 3, 16), (2, 3, 16))
    """

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        *,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        proj_size=0,
        spec=Spec(),
        dtype="float32",
        seed=None,
        backend=None,
    ):
        self.input_size = checks.integer("input_size", input_size, 0)
        self.hidden_size = checks.integer("hidden_size", hidden_size, 1)
        self.num_layers = checks.integer("num_layers", num_layers, 1)
        self.proj_size = checks.integer("proj_size", proj_size, 0)
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size must be less than hidden_size = {hidden_size}, got {proj_size}"
            )
        self.dropout = checks.probability("dropout", dropout)
        self.bias, self.batch_first = bool(bias), bool(batch_first)
        self.bidirectional = bool(bidirectional)
        if not isinstance(spec, Spec):
            raise TypeError(f"spec must be a fastlstm.Spec, got {type(spec).__name__}")
        checks.supported(spec)
        self.spec = spec
        self.dtype = checks.float_dtype("dtype", dtype)
        self.backend = backend
        self._rng = np.random.default_rng(seed)
        self._initialise()

    # -- sizes and names ---------------------------------------------------------------------

    @property
    def _directions(self):
        return ("", "_reverse") if self.bidirectional else ("",)

    @property
    def output_size(self):
        """Numbers in y per step: D * (P or H)."""
        return (self.proj_size or self.hidden_size) * len(self._directions)

    def _shapes(self):
        """Name -> shape of the parameters, in their order in `flat`."""
        H, P = self.hidden_size, self.proj_size or self.hidden_size
        shapes = {}
        for layer in range(self.num_layers):
            for direction in self._directions:
                suffix = f"_l{layer}{direction}"
                size = self.input_size if layer == 0 else self.output_size
                shapes["weight_ih" + suffix] = (4 * H, size)
                shapes["weight_hh" + suffix] = (4 * H, P)
                if self.bias:
                    shapes["bias" + suffix] = (4 * H,)
                if self.proj_size:
                    shapes["weight_hr" + suffix] = (P, H)
        return shapes

    def _initialise(self):
        self._use(Parameters(self._shapes(), self.dtype))
        bound = self.hidden_size**-0.5
        for name, value in self._parameters.items():
            value[...] = self._rng.uniform(-bound, bound, value.shape)
            if name.startswith("bias"):  # the sum of PyTorch's two
                value += self._rng.uniform(-bound, bound, value.shape)

    def _use(self, parameters):
        """Let the layer live in these parameters."""
        self._parameters = parameters
        frozen = not parameters.flat.flags.writeable
        # _cells[layer][direction]: (index of its state, what runs it, its weights by the names
        # of lstm_forward)
        self._cells = [
            [
                (
                    layer * len(self._directions) + d,
                    backends.direction(self.spec, frozen, self.backend),
                    self._arguments(parameters, layer, direction),
                )
                for d, direction in enumerate(self._directions)
            ]
            for layer in range(self.num_layers)
        ]

    @staticmethod
    def _arguments(parameters, layer, direction):
        """The arrays of one direction by the names of lstm_forward; None where it has none."""
        return {
            argument: parameters.get(f"{name}_l{layer}{direction}")
            for argument, name in _ARGUMENTS.items()
        }

    # -- parameters --------------------------------------------------------------------------

    @property
    def flat(self):
        """All parameters in one contiguous 1-D buffer."""
        return self._parameters.flat

    @flat.setter
    def flat(self, value):  # so that ``lstm.flat += step`` works; the buffer stays the same
        if value is not self.flat:
            self.flat[...] = value

    def parameters(self):
        """The parameters by name, as views into `flat`.

        Returns
        -------
        Parameters
            weight_ih_l0 (4H, I), weight_hh_l0 (4H, H|P), bias_l0 (4H,), weight_hr_l0 (P, H),
            then the same with _l0_reverse, _l1, ...; those that the layer has.
        """
        return Parameters(self._shapes(), self.dtype, self.flat)

    def bind(self, flat):
        """Move the parameters into the buffer ``flat``: their values are copied there."""
        parameters = Parameters(self._shapes(), self.dtype, flat)
        flat[...] = self.flat
        self._use(parameters)

    def freeze(self):
        """Make the parameters read-only; views that were taken before are cut off.

        Returns
        -------
        LSTM
            The layer itself.
        """
        flat = self.flat.copy()
        flat.flags.writeable = False
        self._use(Parameters(self._shapes(), self.dtype, flat))
        return self

    def state_dict(self):
        """Copies of the parameters under PyTorch's names.

        The bias goes to bias_ih, and bias_hh is zero, so that torch.nn.LSTM loads it.
        """
        state = {}
        for name, value in self._parameters.items():
            if name.startswith("bias"):
                state[name.replace("bias", "bias_ih")] = value.copy()
                state[name.replace("bias", "bias_hh")] = np.zeros_like(value)
            else:
                state[name] = value.copy()
        return state

    def load_state_dict(self, state):
        """Take the parameters from PyTorch's names; bias_ih and bias_hh are summed.

        Parameters
        ----------
        state : dict of str to array_like
            Also torch tensors. Their dtype may differ from the layer's.

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape does not fit. The layer is not changed.
        """
        values = {name: checks.array(name, value) for name, value in state.items()}
        loaded = {}
        for name, target in self._parameters.items():
            parts = [name]
            if name.startswith("bias") and name not in values:
                parts = [name.replace("bias", part) for part in ("bias_ih", "bias_hh")]
            for part in parts:
                if part not in values:
                    raise ValueError(f"state_dict has no {part}; it has {', '.join(state)}")
                checks.shape(part, values[part], checks.SYMBOLS[name.rsplit("_l", 1)[0]],
                             target.shape)  # fmt: skip
            loaded[name] = sum(values.pop(part).astype(self.dtype) for part in parts)
        if values:
            raise ValueError(
                f"state_dict has {', '.join(values)}, which this layer does not have: {self!r}"
            )
        for name, value in loaded.items():
            self._parameters[name][...] = value

    # -- forward and backward ----------------------------------------------------------------

    def __call__(self, x, state=None, lengths=None):
        """The outputs and the final state: inference, without dropout and without a tape.

        Parameters
        ----------
        x : array_like (T, B, I), with batch_first (B, T, I), or unbatched (T, I)
            Of the layer's dtype.
        state : pair (h0, c0), optional
            (L*D, B, H|P) and (L*D, B, H), unbatched without B. None: zeros.
        lengths : array_like (B,) of int, optional
            Row b has lengths[b] steps; in any order, 0 allowed.

        Returns
        -------
        y : ndarray (T, B, D*(H|P)), or as x
        (h_n, c_n) : pair of ndarray (L*D, B, H|P), (L*D, B, H)

        Raises
        ------
        TypeError, ValueError
            The dtype, a shape or a length does not fit.
        """
        y, state, _ = self._run(x, state, lengths, None, save=False)
        return y, state

    def forward(self, x, state=None, lengths=None, rng=None):
        """The outputs, the final state and the tape: training, with dropout.

        Parameters
        ----------
        x, state, lengths
            As for a call of the layer.
        rng : numpy.random.Generator, optional
            Draws the dropout masks. None: the layer's own, seeded by ``seed``.

        Returns
        -------
        y, (h_n, c_n)
            As for a call of the layer.
        tape : LSTMTape
            For `backward`.
        """
        return self._run(x, state, lengths, self._rng if rng is None else rng, save=True)

    def _run(self, x, state, lengths, rng, save):
        if type(x) is not np.ndarray or x.dtype is not self.dtype:
            x = checks.array("x", x)
        batched = x.ndim == 3
        x, state = self._as_batch(x, state, lengths)
        (T, B, _), H, P = x.shape, self.hidden_size, self.proj_size or self.hidden_size
        D, L = len(self._directions), self.num_layers
        h0 = c0 = [None] * (L * D)
        if state is not None:
            h0, c0 = checks.state_pair(
                "state", state, ("h0", "c0"), ("L*D, B, H|P", "L*D, B, H"),
                ((L * D, B, P), (L * D, B, H)), ("x", x),
            )  # fmt: skip
        if lengths is not None:
            lengths = checks.lengths_array(lengths, T, B)
        h_n, c_n = np.empty((L * D, B, P), self.dtype), np.empty((L * D, B, H), self.dtype)
        tapes, masks = [], []
        for layer, cells in enumerate(self._cells):
            last = layer == L - 1
            if last and self.batch_first:
                y = np.empty((B, T, D * P), self.dtype).swapaxes(0, 1)
            else:
                y = np.empty((T, B, D * P), self.dtype)
            tapes.append([
                cell.forward(x, weights, h0[k], c0[k], y if D == 1 else y[:, :, d * P : d * P + P],
                             h_n[k], c_n[k], lengths, d == 1, save)
                for d, (k, cell, weights) in enumerate(cells)
            ])  # fmt: skip
            mask = None
            if save and self.dropout and not last:
                mask = dropout_mask(rng, self.dropout, y.shape, self.dtype)
                y *= mask
            masks.append(mask)
            x = y
        tape = LSTMTape(self, batched, tapes, masks) if save else None
        return self._as_given(y, batched), self._states_as_given(h_n, c_n, batched), tape

    def backward(self, tape, dy=None, dstate=None):
        """The gradients: back-propagation through time.

        Parameters
        ----------
        tape : LSTMTape
            From `forward`; it is consumed.
        dy : array_like, optional
            Gradient with respect to y, of its shape. None: zeros.
        dstate : pair (dh_n, dc_n), optional
            Gradient with respect to the final states, of their shapes. None: zeros.

        Returns
        -------
        dx : ndarray
            Of x's shape.
        (dh0, dc0) : pair of ndarray
            Of the states' shapes.
        grads : Parameters
            Gradients with the names and shapes of `parameters`, ``grads.flat`` as `flat`.

        Raises
        ------
        RuntimeError
            The tape was consumed before.
        TypeError, ValueError
            The tape is not from this layer, or an array has the wrong dtype or shape.
        """
        if not isinstance(tape, LSTMTape) or tape.lstm is not self:
            raise TypeError("tape must be the LSTMTape that forward of this layer returned")
        first = tape.tapes[0][0].inputs
        T, B, H, P = first.T, first.B, self.hidden_size, self.proj_size or self.hidden_size
        D, L = len(self._directions), self.num_layers
        like = ("x", first.x)
        if dy is not None:
            dy = checks.array("dy", dy)
            expected, symbols = self._y_shape(T, B, tape.batched)
            checks.shape("dy", dy, symbols, expected)
            checks.same_dtype(like, dy=dy)
            dy = self._as_batch(dy, None, None, "dy")[0]
        if not tape.batched:
            dstate = _unsqueezed("dstate", dstate)
        dh_n = dc_n = [None] * (L * D)
        if dstate is not None:
            dh_n, dc_n = checks.state_pair(
                "dstate", dstate, ("dh_n", "dc_n"), ("L*D, B, H|P", "L*D, B, H"),
                ((L * D, B, P), (L * D, B, H)), like,
            )  # fmt: skip
        dh0, dc0 = np.empty((L * D, B, P), self.dtype), np.empty((L * D, B, H), self.dtype)
        grads = self._parameters.empty_like()
        for layer in reversed(range(L)):
            if tape.masks[layer] is not None:
                dy = dy * tape.masks[layer]
            dx = None
            for d, (k, cell, _) in enumerate(self._cells[layer]):
                dw = self._arguments(grads, layer, self._directions[d])
                dx_d = cell.backward(
                    tape.tapes[layer][d],
                    dy if dy is None or D == 1 else dy[:, :, d * P : (d + 1) * P],
                    dh_n[k], dc_n[k], dh0[k], dc0[k],
                    {name: a for name, a in dw.items() if a is not None},
                )  # fmt: skip
                dx = dx_d if dx is None else np.add(dx, dx_d, out=dx)
            dy = dx
        return self._as_given(dx, tape.batched), \
            self._states_as_given(dh0, dc0, tape.batched), grads  # fmt: skip

    def stream(self, batch_size=1):
        """A `Stream` that runs this layer step by step with the weights it has now."""
        on_engine = backends.select(self.backend) is not reference
        return (Stream if on_engine else ReferenceStream)(self, batch_size)

    def cell_weights(self):
        """The weights of each layer and direction by the names of `lstm_forward`; views."""
        return [weights for cells in self._cells for _, _, weights in cells]

    # -- between the caller's shapes and (T, B, I) ---------------------------------------------

    def _as_batch(self, x, state, lengths, name="x"):
        """x as (T, B, I), and the state that belongs to it."""
        if x.ndim not in (2, 3):
            layout = "B, T, I" if self.batch_first else "T, B, I"
            raise ValueError(
                f"{name} must have shape ({layout}), or (T, I) without a batch, got {x.shape}"
            )
        if name == "x":
            if x.shape[-1] != self.input_size:
                raise ValueError(
                    f"x must have input_size = {self.input_size} features on its last axis, "
                    f"got shape {x.shape}"
                )
            if x.dtype != self.dtype:
                raise TypeError(
                    f"x is {x.dtype} but the layer is {self.dtype}; convert one of them"
                )
        if x.ndim == 2:
            if lengths is not None:
                raise ValueError("lengths needs a batch: x must have 3 dimensions, got 2")
            return x[:, None], _unsqueezed("state", state)
        return (x.swapaxes(0, 1) if self.batch_first else x), state

    def _y_shape(self, T, B, batched):
        size = self.output_size
        if not batched:
            return (T, size), "T, D*H"
        return ((B, T, size), "B, T, D*H") if self.batch_first else ((T, B, size), "T, B, D*H")

    def _as_given(self, y, batched):
        """y (T, B, .) in the layout in which x came."""
        if not batched:
            return y[:, 0]
        return y.swapaxes(0, 1) if self.batch_first else y

    @staticmethod
    def _states_as_given(h, c, batched):
        return (h, c) if batched else (h[:, 0], c[:, 0])

    # -- the layer as a value ------------------------------------------------------------------

    @property
    def config(self):
        """The arguments that build this layer again, and its type; fit for JSON."""
        return {
            "type": "LSTM",
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "bias": self.bias,
            "batch_first": self.batch_first,
            "dropout": self.dropout,
            "bidirectional": self.bidirectional,
            "proj_size": self.proj_size,
            "spec": asdict(self.spec),
            "dtype": self.dtype.name,
        }

    @classmethod
    def from_config(cls, config):
        """A new layer with the arguments in ``config``, as `config` gives them."""
        arguments = {k: v for k, v in config.items() if k != "type"}
        return cls(**{**arguments, "spec": Spec(**arguments.get("spec", {}))})

    def __getstate__(self):
        """What pickle and copy keep: arguments, values, and where the dropout's generator is."""
        arguments = {**self.config, "backend": self.backend}
        frozen = not self.flat.flags.writeable
        return {"arguments": arguments, "flat": self.flat, "rng": self._rng, "frozen": frozen}

    def __setstate__(self, state):
        arguments = {k: v for k, v in state["arguments"].items() if k != "type"}
        self.__init__(**{**arguments, "spec": Spec(**arguments["spec"])})
        self.flat[...] = state["flat"]
        self._rng = deepcopy(state["rng"])  # two layers on one generator would disturb each other
        if state["frozen"]:
            self.freeze()

    def __repr__(self):
        given = {k: v for k, v in self.config.items() if k not in ("type", "spec")}
        given["spec"] = self.spec if self.spec.changed else None
        default = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
                   "bidirectional": False, "proj_size": 0, "spec": None,
                   "dtype": "float32"}  # fmt: skip
        options = [f"{k}={v!r}" for k, v in given.items() if k in default and v != default[k]]
        return f"LSTM({', '.join([str(self.input_size), str(self.hidden_size), *options])})"


# The arguments of lstm_forward -> the names of the parameters
_ARGUMENTS = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b": "bias", "w_proj": "weight_hr"}


def _unsqueezed(name, state):
    """A pair of unbatched states with a batch of one."""
    if state is None:
        return None
    parts = checks.pair(name, state, "h, c")
    return tuple(None if a is None else checks.array(name, a)[:, None] for a in parts)
