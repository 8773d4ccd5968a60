# SPDX-License-Identifier: MIT
"""The LSTM layer."""

from dataclasses import asdict
from typing import ClassVar

from . import backend as backends
from . import checks, reference
from ._stream import Stream
from .recurrent import LayerTape, Recurrent
from .spec import Spec
from .stream import ReferenceStream

__all__ = ["LSTM", "LSTMTape"]

# The arguments of lstm_forward -> the names of the parameters
_ARGUMENTS = {
    "w_ih": "weight_ih",
    "w_hh": "weight_hh",
    "b": "bias",
    "w_proj": "weight_hr",
    "w_peephole": "weight_peephole",
    "w_fgr": "weight_fgr",
    "ln_x": "ln_x",
    "ln_h": "ln_h",
    "ln_c": "ln_c",
}


class LSTMTape(LayerTape):
    """The record of `LSTM.forward`: ``tapes[layer][direction]`` is a `Tape`."""


class LSTM(Recurrent):
    """A stack of LSTM layers with the arguments and results of ``torch.nn.LSTM``.

    Parameters
    ----------
    input_size : int
        I.
    hidden_size : int or sequence of int
        H; or one for each layer.
    num_layers : int, optional
        L layers, each reads the output of the one below. None: one, or as many as
        ``hidden_size`` has.
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
    learn_state : bool
        The state from which a call without one starts is a parameter (h0_l0 (H|P,), c0_l0 (H,),
        ...), zeros at first, instead of zeros.
    dtype : {"float32", "float64"}
    seed : int, optional
        For the initial parameters and, where `forward` gets no ``rng``, the dropout.
    backend : {"engine", "reference"}, optional
        None: as the environment's FASTLSTM_BACKEND says, else the engine.

    Attributes
    ----------
    flat : ndarray (n,)
        All parameters in one contiguous buffer. Whoever has it, or a view of it by `parameters`,
        may write to it: calls then look for changes, until `freeze`.

    Raises
    ------
    TypeError, ValueError
        An argument has a wrong type or value; the message names it.

    Notes
    -----
    Where the layers differ in size their states cannot be one array: h_n and c_n, and what is
    passed as ``state``, are then tuples of L arrays (D, B, H|P), (D, B, H).

    The parameters start uniform in [-1/sqrt(H), 1/sqrt(H)], a bias as the sum of two of those:
    PyTorch's distribution; but gains of a layer norm start at 1, its bias at 0.
    Hochreiter & Schmidhuber (1997), Gers et al. (2000).

    Examples
    --------
    >>> import numpy as np
    >>> lstm = LSTM(8, 16, num_layers=2, seed=0)
    >>> x = np.zeros((5, 3, 8), np.float32)
    >>> y, (h_n, c_n) = lstm(x)
    >>> y.shape, h_n.shape
    ((5, 3, 16), (2, 3, 16))
    """

    _type = "LSTM"
    _states = ("h", "c")
    _symbols: ClassVar = {**checks.SYMBOLS, "h": "H|P", "c": "H"}
    _arguments: ClassVar = _ARGUMENTS
    _sums_biases = True
    _options: ClassVar = {"proj_size": 0, "spec": Spec()}
    _tape = LSTMTape

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=None,
        *,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        proj_size=0,
        spec=Spec(),
        learn_state=False,
        dtype="float32",
        seed=None,
        backend=None,
    ):
        self.proj_size = checks.integer("proj_size", proj_size, 0)
        if not isinstance(spec, Spec):
            raise TypeError(f"spec must be a fastlstm.Spec, got {type(spec).__name__}")
        self.spec, self._draws = spec, spec.draws
        super().__init__(
            input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first,
            dropout=dropout, bidirectional=bidirectional, learn_state=learn_state, dtype=dtype,
            seed=seed, backend=backend,
        )  # fmt: skip

    def _widths(self, H):
        if self.proj_size >= H:
            raise ValueError(f"proj_size must be less than hidden_size = {H}, got {self.proj_size}")
        return self.proj_size or H, H

    def _cell_shapes(self, H, size):
        P, _ = self._widths(H)
        shapes = {"weight_ih": (4 * H, size), "weight_hh": (4 * H, P)}
        if self.bias:
            shapes["bias"] = (4 * H,)
        if self.proj_size:
            shapes["weight_hr"] = (P, H)
        variants = checks.variant_shapes(self.spec, H)
        return shapes | {self._arguments[name]: shape for name, shape in variants.items()}

    def _initialise(self):
        super()._initialise()
        for name, value in self._parameters.items():
            if name.startswith("ln_"):  # gains 1, and the bias of c 0
                value[...] = 1
                if name.startswith("ln_c"):
                    value[1] = 0

    def _direction(self, frozen):
        return backends.direction(self.spec, frozen, self.backend)

    def stream(self, batch_size=1):
        """A `Stream` that runs this layer step by step with the weights it has now.

        Parameters
        ----------
        batch_size : int, >= 1

        Returns
        -------
        Stream, or on the reference ReferenceStream

        Raises
        ------
        TypeError, ValueError
            ``batch_size`` is not an int of at least 1; or the layer reads backwards.
        """
        on_engine = backends.select(self.backend) is not reference
        return (Stream if on_engine else ReferenceStream)(self, batch_size)

    @property
    def config(self):
        """The arguments that build this layer again, and its type; fit for JSON."""
        return {**super().config, "spec": asdict(self.spec)}

    @classmethod
    def _arguments_of(cls, config):
        arguments = super()._arguments_of(config)
        return {**arguments, "spec": Spec(**arguments.get("spec", {}))}
