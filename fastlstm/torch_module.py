# SPDX-License-Identifier: MIT
"""What the modules of `fastlstm.torch` have in common: forward, checks, packed sequences."""

import torch
from torch.nn.utils.rnn import PackedSequence

from .torch_ops import recurrent, recurrent_op
from .torch_run import plan_for

__all__ = ["Module"]

_DTYPES = (torch.float32, torch.float64)


class Module(torch.nn.RNNBase):
    """A module of torch.nn, `_theirs`, computed by fastlstm."""

    _theirs = None
    _kind = ""  # "LSTM", "GRU", "RNN"
    _states = 1  # 2 where there are h and c
    _cell_text = ""  # the variant, as of `torch_run.cell_text`

    @classmethod
    def from_module(cls, module):
        """A module in the place of PyTorch's: with the same Parameter objects and hooks.

        An optimiser that was made before stays valid.

        Parameters
        ----------
        module : torch.nn.LSTM, torch.nn.GRU or torch.nn.RNN
            Of this class' name; not a subclass: it may compute something else.

        Raises
        ------
        TypeError
            It is something else.

        Examples
        --------
        >>> from fastlstm.torch import LSTM
        >>> theirs = torch.nn.LSTM(3, 4)
        >>> ours = LSTM.from_module(theirs)
        >>> ours.weight_hh_l0 is theirs.weight_hh_l0
        True
        """
        if type(module) is not cls._theirs:
            raise TypeError(
                f"module must be a torch.nn.{cls._kind}, got {type(module).__qualname__}"
            )
        state = module.__getstate__()
        self = cls.__new__(cls)
        self.__setstate__(
            {k: v.copy() if isinstance(v, (dict, list, set)) else v for k, v in state.items()}
        )
        return self

    def forward(self, input, hx=None):
        """The outputs and the final state.

        Parameters
        ----------
        input : Tensor (T, B, I), with batch_first (B, T, I), or unbatched (T, I); PackedSequence
        hx : Tensor (L*D, B, H), unbatched without B, optional
            The initial state h0; of an LSTM the pair (h0, c0), (L*D, B, H|P) and (L*D, B, H).
            None: zeros.

        Returns
        -------
        output : Tensor (T, B, D*(H|P)), or as ``input``
        h_n, or (h_n, c_n) : Tensor, or pair of Tensor
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
            tensor = " tensor" if self._kind == "RNN" else ""
            raise ValueError(
                f"{self._kind}: Expected input to be 2D or 3D, got {input.dim()}D{tensor} instead"
            )
        if input.dim() == 2:
            T, B = len(input), 1
        else:
            T, B = input.shape[1::-1] if self.batch_first else input.shape[:2]
        if T == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        weights = self._weights()
        input, states = self._checked(input, hx, weights[0].dtype, B)
        masks = self._masks(T, B, like=input)
        if torch.compiler.is_compiling():
            save = torch.is_grad_enabled() and any(
                t is not None and t.requires_grad for t in (input, *states, *weights)
            )
            given = [] if hx is None else states
            output, *ends, _ = recurrent_op(
                input, given, weights, masks, *self._arguments(), save=save
            )
        else:
            output, *ends = recurrent(plan_for(*self._arguments()), input, states, weights, masks)
        return output, tuple(ends) if self._states > 1 else ends[0]

    def _arguments(self):
        """What `plan_for` and the operation take."""
        return (
            self._kind, self.hidden_size, self.proj_size, self.num_layers, self.bias,
            self.bidirectional, self.batch_first, self._cell_text,
        )  # fmt: skip

    def _weights(self):
        """The parameters, or what stands for them at the moment: a parametrisation, a hook."""
        names, parameters = self._flat_weights_names, self._parameters
        weights = [parameters[n] if n in parameters else getattr(self, n) for n in names]
        for w in weights:
            if w.dtype not in _DTYPES or not w.is_cpu:
                raise self._foreign(names[[v is w for v in weights].index(True)], w)
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
        """The input and the tuple of states, or of None; refuses what does not fit."""
        states = (hx,) * self._states
        if hx is not None and self._states == 2:
            h0, c0 = hx
            states = h0, c0
        if not input.is_cpu:
            raise self._foreign("input", input)
        if torch.is_autocast_enabled("cpu"):
            input, *states = (None if t is None else t.to(dtype) for t in (input, *states))
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
            self._check_states(states, input, batch, batched=packed or input.dim() == 3)
        return input, states

    def _check_states(self, states, input, batch, batched):
        dimensions, pair = 3 if batched else 2, len(states) > 1
        if any(s.dim() != dimensions for s in states):
            kind = "batched 3-D" if batched else "unbatched 2-D"
            got = ", ".join(f"{s.dim()}-D" for s in states)
            raise RuntimeError(
                f"For {kind} input, "
                + (f"hx and cx should also be {dimensions}-D but got ({got}) tensors" if pair else
                   f"hx should also be {dimensions}-D but got {got} tensor")
            )  # fmt: skip
        cells = self.num_layers * (1 + self.bidirectional)
        sizes = self.proj_size or self.hidden_size, self.hidden_size
        for k, (s, size) in enumerate(zip(states, sizes, strict=False)):
            if not s.is_cpu:
                raise self._foreign(f"hx[{k}]" if pair else "hx", s)
            got = s.shape if batched else (s.shape[0], 1, s.shape[1])
            if got != (cells, batch, size):
                name = f"hidden[{k}]" if pair else "hidden"
                raise RuntimeError(f"Expected {name} size {(cells, batch, size)}, got {list(got)}")
            if s.dtype != input.dtype:
                raise RuntimeError(
                    f"Input and hidden tensors are not the same dtype, found input tensor with "
                    f"{input.dtype} and hidden tensor with {s.dtype}"
                )

    def _foreign(self, name, tensor):
        return TypeError(
            f"fastlstm.torch.{self._kind} computes on the CPU in float32 or float64; {name} is "
            f"{tensor.dtype} on {tensor.device}"
        )


def _forward_packed(module, packed, hx):
    """`Module.forward` for a PackedSequence."""
    data, batch_sizes, sorted_indices, unsorted_indices = packed
    weights = module._weights()
    data, states = module._checked(data, hx, weights[0].dtype, int(batch_sizes[0]), packed=True)
    if sorted_indices is not None and hx is not None:
        states = [s.index_select(1, sorted_indices) for s in states]
    masks = module._masks(len(data), like=data)
    plan = plan_for(*module._arguments())
    output, *ends = recurrent(plan, data, states, weights, masks, batch_sizes)
    if unsorted_indices is not None:
        ends = [s.index_select(1, unsorted_indices) for s in ends]
    output = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
    return output, tuple(ends) if module._states > 1 else ends[0]


_forward_packed_apart = torch.compiler.disable(_forward_packed)
