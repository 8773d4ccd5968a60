# SPDX-License-Identifier: MIT
"""PyTorch: `LSTM`, a module that takes the place of torch.nn.LSTM, and `patch` for a model.

    import fastlstm.torch as ft

    model.lstm = ft.LSTM.from_module(model.lstm)  # one layer, or
    model = ft.patch(model)                       # all of them

Needs the extra ``fastlstm[torch]``. The LSTM runs on the CPU in float32 or float64.
"""

import torch
from torch.nn.utils.rnn import PackedSequence

from . import layer
from .spec import Spec
from .torch_ops import lstm, lstm_op
from .torch_run import plan_for, spec_text, variant_parameters

__all__ = ["LSTM", "patch"]

_DTYPES = (torch.float32, torch.float64)


class LSTM(torch.nn.RNNBase):
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
    of derivatives (``create_graph=True``) and the transforms of ``torch.func`` are right, but
    run step by step in PyTorch's own operations (`fastlstm.torch_expression`). Under
    ``torch.compile`` it is the operation ``torch.ops.fastlstm.lstm``; with a PackedSequence,
    the graph breaks.

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

    spec, _spec_text = Spec(), ""  # what a torch.nn.LSTM computes

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
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device, dtype,
        )  # fmt: skip
        self.spec, self._spec_text = spec, spec_text(spec)
        for name, value in self._variant_values():
            setattr(self, name, torch.nn.Parameter(value.to(self.weight_ih_l0)))
        for names in self._all_weights:  # of one cell
            suffix = names[0].removeprefix("weight_ih")
            names += [name + suffix for name in variant_parameters(spec)]
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self._init_flat_weights()

    @classmethod
    def from_module(cls, module):
        """An LSTM in the place of a torch.nn.LSTM: with the same Parameter objects and hooks.

        An optimiser that was made before stays valid.

        Parameters
        ----------
        module : torch.nn.LSTM
            Not a subclass: it may compute something else.

        Raises
        ------
        TypeError
            It is no torch.nn.LSTM.

        Examples
        --------
        >>> theirs = torch.nn.LSTM(3, 4)
        >>> ours = LSTM.from_module(theirs)
        >>> ours.weight_hh_l0 is theirs.weight_hh_l0
        True
        """
        if type(module) is not torch.nn.LSTM:
            raise TypeError(f"module must be a torch.nn.LSTM, got {type(module).__qualname__}")
        state = module.__getstate__()
        self = cls.__new__(cls)
        self.__setstate__(
            {k: v.copy() if isinstance(v, (dict, list, set)) else v for k, v in state.items()}
        )
        return self

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

    def forward(self, input, hx=None):
        """The outputs and the final state.

        Parameters
        ----------
        input : Tensor (T, B, I), with batch_first (B, T, I), or unbatched (T, I); PackedSequence
        hx : pair of Tensor (L*D, B, H|P), (L*D, B, H), unbatched without B, optional
            The initial state h0, c0. None: zeros.

        Returns
        -------
        output : Tensor (T, B, D*(H|P)), or as ``input``
        (h_n, c_n) : pair of Tensor
            Of the shapes of ``hx``.

        Raises
        ------
        TypeError
            A parameter, the input or the state is not on the CPU, or not float32 or float64.
        ValueError, RuntimeError
            A shape or dtype does not fit: PyTorch's own types and texts.
        """
        if isinstance(input, PackedSequence):
            compiling = torch.compiler.is_compiling()
            return (_forward_packed_apart if compiling else _forward_packed)(self, input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead")
        if input.dim() == 2:
            T, B = len(input), 1
        else:
            T, B = input.shape[1::-1] if self.batch_first else input.shape[:2]
        if T == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        weights = self._weights()
        input, h0, c0 = self._checked(input, hx, weights[0].dtype, B)
        masks = self._masks(T, B, like=input)
        if torch.compiler.is_compiling():
            save = torch.is_grad_enabled() and any(
                t is not None and t.requires_grad for t in (input, h0, c0, *weights)
            )
            output, h_n, c_n, _ = lstm_op(
                input, h0, c0, weights, masks, *self._arguments(), save=save
            )
        else:
            output, h_n, c_n = lstm(plan_for(*self._arguments()), input, h0, c0, weights, masks)
        return output, (h_n, c_n)

    def _arguments(self):
        """What `plan_for` and the operation take."""
        return (
            self.hidden_size, self.proj_size, self.num_layers, self.bias, self.bidirectional,
            self.batch_first, self._spec_text,
        )  # fmt: skip

    def _weights(self):
        """The parameters, or what stands for them at the moment: a parametrisation, a hook."""
        names, parameters = self._flat_weights_names, self._parameters
        weights = [parameters[n] if n in parameters else getattr(self, n) for n in names]
        for w in weights:
            if w.dtype not in _DTYPES or not w.is_cpu:
                raise _foreign(names[[v is w for v in weights].index(True)], w)
        return weights

    def _masks(self, *shape, like):
        """The dropout masks as torch.nn.LSTM draws them, ``shape`` before D*(H|P)."""
        if not (self.training and self.dropout):
            return []
        size = (1 + self.bidirectional) * (self.proj_size or self.hidden_size)
        keep = 1 - self.dropout
        return [
            like.new_empty(*shape, size).bernoulli_(keep).div_(keep)
            if keep
            else like.new_zeros(*shape, size)
            for _ in range(self.num_layers - 1)
        ]

    def _checked(self, input, hx, dtype, batch, packed=False):
        """The input and the states h0, c0 or None; refuses what does not fit."""
        h0, c0 = (None, None) if hx is None else hx
        if not input.is_cpu:
            raise _foreign("input", input)
        if torch.is_autocast_enabled("cpu"):
            input, h0, c0 = (None if t is None else t.to(dtype) for t in (input, h0, c0))
        if input.dtype != dtype:
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
                f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
            )
        if packed and input.dim() != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {input.dim()}")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, "
                f"got {input.shape[-1]}"
            )
        if hx is not None:
            self._check_states(h0, c0, input, batch, batched=packed or input.dim() == 3)
        return input, h0, c0

    def _check_states(self, h0, c0, input, batch, batched):
        dimensions = 3 if batched else 2
        if h0.dim() != dimensions or c0.dim() != dimensions:
            kind = "batched 3-D" if batched else "unbatched 2-D"
            raise RuntimeError(
                f"For {kind} input, hx and cx should also be {dimensions}-D but got "
                f"({h0.dim()}-D, {c0.dim()}-D) tensors"
            )
        cells = self.num_layers * (1 + self.bidirectional)
        for k, (s, size) in enumerate(
            ((h0, self.proj_size or self.hidden_size), (c0, self.hidden_size))
        ):
            if not s.is_cpu:
                raise _foreign(f"hx[{k}]", s)
            got = s.shape if batched else (s.shape[0], 1, s.shape[1])
            if got != (cells, batch, size):
                raise RuntimeError(
                    f"Expected hidden[{k}] size {(cells, batch, size)}, got {list(got)}"
                )
            if s.dtype != input.dtype:
                raise RuntimeError(
                    f"Input and hidden tensors are not the same dtype, found input tensor with "
                    f"{input.dtype} and hidden tensor with {s.dtype}"
                )


def _foreign(name, tensor):
    return TypeError(
        f"fastlstm.torch.LSTM computes on the CPU in float32 or float64; {name} is "
        f"{tensor.dtype} on {tensor.device}"
    )


def _forward_packed(module, packed, hx):
    """`LSTM.forward` for a PackedSequence."""
    data, batch_sizes, sorted_indices, unsorted_indices = packed
    weights = module._weights()
    data, h0, c0 = module._checked(data, hx, weights[0].dtype, int(batch_sizes[0]), packed=True)
    if sorted_indices is not None and hx is not None:
        h0, c0 = h0.index_select(1, sorted_indices), c0.index_select(1, sorted_indices)
    masks = module._masks(len(data), like=data)
    output, h_n, c_n = lstm(
        plan_for(*module._arguments()), data, h0, c0, weights, masks, batch_sizes
    )
    if unsorted_indices is not None:
        h_n, c_n = h_n.index_select(1, unsorted_indices), c_n.index_select(1, unsorted_indices)
    return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), (h_n, c_n)


_forward_packed_apart = torch.compiler.disable(_forward_packed)


def patch(model):
    """The model with an `LSTM` in the place of every torch.nn.LSTM.

    The model is changed in place, its Parameter objects stay: an optimiser that was made before
    stays valid. A subclass of torch.nn.LSTM stays as it is, since it may compute something else.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    torch.nn.Module
        ``model``; where that is a torch.nn.LSTM itself, what stands in its place.

    Examples
    --------
    >>> model = patch(torch.nn.Sequential(torch.nn.LSTM(3, 4)))
    >>> type(model[0]) is LSTM
    True
    """
    if type(model) is torch.nn.LSTM:
        return LSTM.from_module(model)
    replaced = {}  # a module may stand in several places
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if type(child) is torch.nn.LSTM:
                if child not in replaced:
                    replaced[child] = LSTM.from_module(child)
                parent._modules[name] = replaced[child]
    return model
