# SPDX-License-Identifier: MIT
"""The GRU, RNN and sLSTM layers: what `Recurrent` is to be told of their cells."""

from typing import ClassVar

from . import backend as backends
from .recurrent import Recurrent
from .siblings import GRUCell, RNNCell, SLSTMCell

__all__ = ["GRU", "RNN", "SLSTM"]

# The arguments of rnn_forward -> the names of the parameters
_ARGUMENTS = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b": "bias"}


class _Sibling(Recurrent):
    """A layer whose cells are described by a value of siblings.py, its `_cell`."""

    def _describe(self, cell):
        """Take over the cell's fields, in the form in which it has checked them."""
        self._cell = cell
        for name in self._options:
            setattr(self, name, getattr(cell, name))

    def _cell_shapes(self, H, size):
        shapes = {self._arguments[n]: s for n, (_, s) in self._cell.shapes(H, size).items()}
        return {n: s for n, s in shapes.items() if self.bias or not n.startswith("bias")}

    def _direction(self, frozen):
        return backends.SiblingDirection(self._cell, self.backend)


class GRU(_Sibling):
    """A stack of GRU layers with the arguments and results of ``torch.nn.GRU``.

    Parameters
    ----------
    input_size : int
        I.
    hidden_size : int or sequence of int
        H; or one for each layer, whose states are then tuples of L arrays (D, B, H).
    num_layers : int, optional
        L layers. None: one, or as many as ``hidden_size`` has.
    bias : bool
        PyTorch's two for each layer and direction.
    batch_first, dropout, bidirectional, learn_state, dtype, seed, backend
        As for `LSTM`.
    reset_after : bool
        Whether r multiplies W_hh h + b_hh (PyTorch; Keras and ONNX by choice), or h before the
        product (Cho et al. 2014).
    gate, candidate : str or tuple
        The activations of r and z, and of n, as `Spec` writes them.
    clip : float, optional
        What they see is clipped to [-clip, clip].

    Raises
    ------
    TypeError, ValueError
        An argument has a wrong type or value; the message names it.

    Notes
    -----
    h[t] = (1 - z) n + z h[t-1], see `gru_forward` (Cho et al. 2014). The parameters start as
    PyTorch's. The state is the array h (L*D, B, H).

    Examples
    --------
    >>> import numpy as np
    >>> gru = GRU(8, 16, bidirectional=True, seed=0)
    >>> y, h_n = gru(np.zeros((5, 3, 8), np.float32))
    >>> y.shape, h_n.shape
    ((5, 3, 32), (2, 3, 16))
    """

    _type = "GRU"
    _symbols: ClassVar = {
        "h": "H", "weight_ih": "3*H, I", "weight_hh": "3*H, H", "bias_ih": "3*H", "bias_hh": "3*H",
    }  # fmt: skip
    _arguments: ClassVar = {
        "w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh",
    }  # fmt: skip
    _options: ClassVar = {
        "reset_after": True, "gate": "sigmoid", "candidate": "tanh", "clip": None,
    }  # fmt: skip

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
        reset_after=True,
        gate="sigmoid",
        candidate="tanh",
        clip=None,
        learn_state=False,
        dtype="float32",
        seed=None,
        backend=None,
    ):
        self._describe(GRUCell(reset_after, gate, candidate, clip))
        super().__init__(
            input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first,
            dropout=dropout, bidirectional=bidirectional, learn_state=learn_state, dtype=dtype,
            seed=seed, backend=backend,
        )  # fmt: skip


class RNN(_Sibling):
    """A stack of simple recurrent layers with the arguments and results of ``torch.nn.RNN``.

    Parameters
    ----------
    input_size : int
        I.
    hidden_size : int or sequence of int
        H; or one for each layer, whose states are then tuples of L arrays (D, B, H).
    num_layers : int, optional
        L layers. None: one, or as many as ``hidden_size`` has.
    nonlinearity : str or tuple
        "tanh", "relu", or any activation as `Spec` writes them.
    clip : float, optional
        What it sees is clipped to [-clip, clip].
    bias : bool
        One bias per layer and direction: the sum of PyTorch's two.
    batch_first, dropout, bidirectional, learn_state, dtype, seed, backend
        As for `LSTM`.

    Raises
    ------
    TypeError, ValueError
        An argument has a wrong type or value; the message names it.

    Notes
    -----
    h[t] = nonlinearity(W_ih x[t] + W_hh h[t-1] + b), see `rnn_forward` (Elman 1990). The
    parameters start as PyTorch's. The state is the array h (L*D, B, H).

    Examples
    --------
    >>> import numpy as np
    >>> rnn = RNN(8, 16, nonlinearity="relu", seed=0)
    >>> y, h_n = rnn(np.zeros((5, 3, 8), np.float32))
    >>> y.shape, h_n.shape
    ((5, 3, 16), (1, 3, 16))
    """

    _type = "RNN"
    _symbols: ClassVar = {"h": "H", "weight_ih": "H, I", "weight_hh": "H, H", "bias": "H"}
    _arguments: ClassVar = _ARGUMENTS
    _sums_biases = True
    _options: ClassVar = {"nonlinearity": "tanh", "clip": None}

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=None,
        *,
        nonlinearity="tanh",
        clip=None,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        learn_state=False,
        dtype="float32",
        seed=None,
        backend=None,
    ):
        self._describe(RNNCell(nonlinearity, clip))
        super().__init__(
            input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first,
            dropout=dropout, bidirectional=bidirectional, learn_state=learn_state, dtype=dtype,
            seed=seed, backend=backend,
        )  # fmt: skip


class SLSTM(_Sibling):
    """A stack of sLSTM layers: exponential gates, a stabiliser, a recurrence within heads.

    Parameters
    ----------
    input_size : int
        I.
    hidden_size : int or sequence of int
        H; or one for each layer, whose states are then tuples of L arrays (D, B, H).
    num_heads : int
        N heads of H / N units: the recurrent product stays within a head.
    num_layers : int, optional
        L layers. None: one, or as many as ``hidden_size`` has.
    floor : bool
        n[t] = max(f' n[t-1] + i', 1), as FlashRNN does it; without it as xLSTM does.
    bias : bool
        One bias per layer and direction.
    batch_first, dropout, bidirectional, learn_state, dtype, seed, backend
        As for `LSTM`. A learned n starts at zero and stays there, as a row without a past has
        no gradient for it; h learns.

    Raises
    ------
    TypeError, ValueError
        An argument has a wrong type or value; the message names it.

    Notes
    -----
    h[t] = sigmoid(o~) c[t] / n[t] with exponential input gates, see `slstm_forward` (Beck et
    al. 2024). The state is the tuple (h, c, n, m) of arrays (L*D, B, H). Weights and biases are
    uniform in [-1/sqrt(H), 1/sqrt(H)].

    Examples
    --------
    >>> import numpy as np
    >>> slstm = SLSTM(8, 16, num_heads=4, seed=0)
    >>> y, (h_n, c_n, n_n, m_n) = slstm(np.zeros((5, 3, 8), np.float32))
    >>> y.shape, n_n.shape
    ((5, 3, 16), (1, 3, 16))
    """

    _type = "SLSTM"
    _states = ("h", "c", "n", "m")
    _symbols: ClassVar = {
        **dict.fromkeys(_states, "H"), "weight_ih": "4*H, I", "weight_hh": "N, 4, H/N, H/N",
        "bias": "4*H",
    }  # fmt: skip
    _arguments: ClassVar = _ARGUMENTS
    _options: ClassVar = {"num_heads": 1, "floor": False}

    def __init__(
        self,
        input_size,
        hidden_size,
        num_heads=1,
        num_layers=None,
        *,
        floor=False,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        learn_state=False,
        dtype="float32",
        seed=None,
        backend=None,
    ):
        self._describe(SLSTMCell(num_heads, floor))
        super().__init__(
            input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first,
            dropout=dropout, bidirectional=bidirectional, learn_state=learn_state, dtype=dtype,
            seed=seed, backend=backend,
        )  # fmt: skip
