# SPDX-License-Identifier: MIT
"""PyTorch: `LSTM`, `GRU`, `RNN`, in the place of torch.nn's, and `patch` for a model.

    import fastlstm.torch as ft

    model.lstm = ft.LSTM.from_module(model.lstm)  # one layer, or
    model = ft.patch(model)                       # all of them

Needs the extra ``fastlstm[torch]``. They run on the CPU in float32 or float64.
"""

import torch

from . import layer
from .siblings import RNNCell
from .spec import Spec
from .torch_module import Module
from .torch_run import cell_text, variant_parameters

__all__ = ["GRU", "LSTM", "RNN", "patch"]


class LSTM(Module):
    """torch.nn.LSTM, computed by fastlstm.

    The parameters, their names, ``state_dict`` and the results are those of torch.nn.LSTM; so
    are, after the same torch.manual_seed, the initial parameters and the dropout.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        L layers, each reads the output of the one below.
    bias : bool
    batch_first : bool
        x and y are (B, T, .) instead of (T, B, .); the states are not affected.
    dropout : float
        Probability with which an output of each layer but the last is zeroed in training mode.
    bidirectional : bool
        D = 2 directions, their outputs concatenated; else D = 1.
    proj_size : int
        P > 0: h is projected to P < H numbers.
    device, dtype : optional
        Of the parameters.
    spec : fastlstm.Spec
        The variant of the cell. Its own parameters have names as weight_peephole_l0.

    Raises
    ------
    TypeError, ValueError
        As torch.nn.LSTM; spec is no Spec.

    Notes
    -----
    Gradients are PyTorch's: the module works with every optimiser, hook and wrapper. Derivatives
    of derivatives (``create_graph=True``) are computed by `fastlstm.lstm_hvp`'s code where that
    knows the variant. Third derivatives, and the transforms of ``torch.func``, are right, but
    run step by step in PyTorch's own operations (`fastlstm.torch_expression`). Under
    ``torch.compile`` it is the operation ``torch.ops.fastlstm.recurrent``; with a
    PackedSequence, the graph breaks.

    Examples
    --------
    >>> lstm = LSTM(8, 16, num_layers=2, batch_first=True)
    >>> y, (h_n, c_n) = lstm(torch.randn(3, 5, 8))
    >>> tuple(y.shape), tuple(h_n.shape)
    ((3, 5, 16), (2, 3, 16))
    >>> y.sum().backward()
    >>> tuple(lstm.weight_ih_l0.grad.shape)
    (64, 8)
    """

    _theirs = torch.nn.LSTM
    _kind, _states = "LSTM", 2
    spec = Spec()  # what a torch.nn.LSTM computes

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        proj_size=0,
        device=None,
        dtype=None,
        *,
        spec=Spec(),
    ):
        if not isinstance(spec, Spec):
            raise TypeError(f"spec must be a fastlstm.Spec, got {type(spec).__name__}")
        if spec.draws:
            raise NotImplementedError(
                f"fastlstm.torch.LSTM draws no masks of the cell, fastlstm.LSTM does: {spec}"
            )
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device, dtype,
        )  # fmt: skip
        self.spec, self._cell_text = spec, cell_text(spec)
        for name, value in self._variant_values():
            setattr(self, name, torch.nn.Parameter(value.to(self.weight_ih_l0)))
        for names in self._all_weights:  # of one cell
            suffix = names[0].removeprefix("weight_ih")
            names += [name + suffix for name in variant_parameters(spec)]
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self._init_flat_weights()

    def reset_parameters(self):
        """Draw the parameters anew, those that torch.nn.LSTM has as it does."""
        super().reset_parameters()
        with torch.no_grad():
            for name, value in self._variant_values():
                getattr(self, name).copy_(value)

    def _variant_values(self):
        """Name and first value of the variant's own parameters, as fastlstm.LSTM draws them."""
        own = variant_parameters(self.spec)
        if not own:
            return
        drawn = layer.LSTM(
            self.input_size, self.hidden_size, self.num_layers, bidirectional=self.bidirectional,
            spec=self.spec, seed=int(torch.randint(2**31, ())),
        )  # fmt: skip
        for name, value in drawn.parameters().items():
            if name.rsplit("_l", 1)[0] in own:
                yield name, torch.from_numpy(value)

    def extra_repr(self):
        """The arguments that are not the default."""
        spec = f", spec={self.spec!r}" if self.spec.changed else ""
        return super().extra_repr() + spec


class GRU(Module):
    """torch.nn.GRU, computed by fastlstm.

    The parameters, their names, ``state_dict`` and the results are those of torch.nn.GRU; so
    are, after the same torch.manual_seed, the initial parameters and the dropout.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        As for `LSTM`, and as for torch.nn.GRU.

    Raises
    ------
    TypeError, ValueError
        As torch.nn.GRU.

    Notes
    -----
    As for `LSTM`; second derivatives run in PyTorch's own operations.

    Examples
    --------
    >>> gru = GRU(8, 16, bidirectional=True)
    >>> y, h_n = gru(torch.randn(5, 3, 8))
    >>> tuple(y.shape), tuple(h_n.shape)
    ((5, 3, 32), (2, 3, 16))
    """

    _theirs, _kind = torch.nn.GRU, "GRU"

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        device=None,
        dtype=None,
    ):
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip


class RNN(Module):
    """torch.nn.RNN, computed by fastlstm.

    The parameters, their names, ``state_dict`` and the results are those of torch.nn.RNN; so
    are, after the same torch.manual_seed, the initial parameters and the dropout.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        As for `LSTM`, and as for torch.nn.RNN.
    nonlinearity : {"tanh", "relu"}

    Raises
    ------
    TypeError, ValueError
        As torch.nn.RNN.

    Notes
    -----
    As for `LSTM`; second derivatives run in PyTorch's own operations.

    Examples
    --------
    >>> rnn = RNN(8, 16, nonlinearity="relu")
    >>> y, h_n = rnn(torch.randn(5, 3, 8))
    >>> tuple(y.shape), tuple(h_n.shape)
    ((5, 3, 16), (1, 3, 16))
    """

    _theirs, _kind = torch.nn.RNN, "RNN"

    def __init__(
        self,
        input_size,
        hidden_size,
        num_layers=1,
        nonlinearity="tanh",
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        device=None,
        dtype=None,
    ):
        if nonlinearity not in _NONLINEARITIES:
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        self.nonlinearity = nonlinearity
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first,
            dropout, bidirectional, 0, device, dtype,
        )  # fmt: skip

    @property
    def _cell_text(self):
        return _NONLINEARITIES[self.nonlinearity]


_NONLINEARITIES = {name: cell_text(RNNCell(name)) for name in ("tanh", "relu")}
_OURS = {cls._theirs: cls for cls in (LSTM, GRU, RNN)}


def patch(model):
    """The model with an `LSTM`, `GRU` or `RNN` in the place of every one of torch.nn.

    The model is changed in place, its Parameter objects stay: an optimiser that was made before
    stays valid. A subclass of torch.nn's stays as it is, since it may compute something else.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    torch.nn.Module
        ``model``; where that is such a module itself, what stands in its place.

    Examples
    --------
    >>> model = patch(torch.nn.ModuleList([torch.nn.LSTM(3, 4), torch.nn.GRU(3, 4)]))
    >>> type(model[0]) is LSTM, type(model[1]) is GRU
    (True, True)
    """
    if type(model) in _OURS:
        return _OURS[type(model)].from_module(model)
    replaced = {}  # a module may stand in several places
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if type(child) in _OURS:
                if child not in replaced:
                    replaced[child] = _OURS[type(child)].from_module(child)
                parent._modules[name] = replaced[child]
    return model
