# SPDX-License-Identifier: MIT
"""Modules, and Sequential, which joins them.

Every module has one protocol:

    forward(x, rng=None) -> y, tape            training; the tape is what backward needs
    backward(tape, dy) -> dx, grads            grads: Parameters with the names of parameters()
    module(x) -> y                             inference: no tape, dropout off
    flat, parameters(), bind(flat)             one buffer for all parameters
    state_dict(), load_state_dict(d)           PyTorch's names
    config, from_config(config)                what it takes to build it again

A recurrent layer (LSTM, GRU, RNN, SLSTM) differs in what goes through: ``forward(x, state,
lengths, rng) -> y, state, tape``, ``backward(tape, dy, dstate) -> dx, dstate, grads``,
``layer(x, state, lengths) -> y, state``. Sequential speaks both.
"""

from dataclasses import dataclass

import numpy as np

from .between import Activation, Embedding, Flatten, MergeDirections, Reverse
from .heads import Dense, Dropout, LastState, Module
from .layer import LSTM
from .masking import Masking, ZeroMasked, around
from .members import check_members, is_recurrent, makes_mask, next_mask
from .sibling_layers import GRU, RNN, SLSTM

__all__ = [
    "MODULES",
    "Activation",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "LastState",
    "Masking",
    "MergeDirections",
    "Module",
    "Reverse",
    "Sequential",
    "SequentialTape",
    "ZeroMasked",
    "is_recurrent",
    "module_from_config",
]


@dataclass(slots=True)
class SequentialTape:
    """What `Sequential.backward` needs.

    Attributes
    ----------
    tapes : list
        One for each member.
    states : list
        The final state of each recurrent member, which is the ``state`` of the next piece of the
        same series.
    layers : list
        What ran for each member: it, or what a mask puts `around` it.
    """

    tapes: list
    states: list
    layers: list


class Sequential(Module):
    """Modules one after the other, with all parameters in one flat buffer.

    Parameters
    ----------
    modules : list of modules
        Each of them is moved onto a slice of the new buffer (`bind`) and lives on as a member:
        training the Sequential trains it. A `LastState` stands directly behind a recurrent layer.

    Attributes
    ----------
    modules : list
    dtype : dtype
    batch_first : bool or None
        That of the recurrent members; None without any.

    Raises
    ------
    TypeError
        A member is not a module, stands there twice, or the dtypes differ.
    ValueError
        The list is empty, what one member gives is not what the next one takes (sizes,
        ``batch_first``), or a LastState does not follow a recurrent layer.

    Examples
    --------
    >>> import numpy as np
    >>> import fastlstm as fl
    >>> model = fl.Sequential(
    ...     [fl.LSTM(1, 8, batch_first=True, seed=0), fl.LastState(), fl.Dense(8, 1, seed=1)]
    ... )
    >>> model(np.zeros((5, 20, 1), "float32")).shape
    (5, 1)
    >>> list(model.parameters())
    ['0.weight_ih_l0', '0.weight_hh_l0', '0.bias_l0', '2.weight', '2.bias']
    """

    def __init__(self, modules):
        self.modules = list(modules)
        check_members(self.modules)
        owners = [m for m in self.modules if m.dtype is not None]
        super().__init__(
            {
                f"{k}.{name}": a.shape
                for k, m in enumerate(self.modules)
                for name, a in m.parameters().items()
            },
            owners[0].dtype if owners else None,
        )
        recurrent = [m for m in self.modules if is_recurrent(m)]
        self.batch_first = recurrent[0].batch_first if recurrent else None
        self._adopt()

    def _adopt(self):
        """Move the members onto their slices of the own buffer, with their values."""
        start = 0
        for m in self.modules:
            stop = start + m.flat.size
            if not m.flat.flags.writeable:  # frozen: it stays with its own buffer
                self.flat[start:stop] = m.flat
            elif stop > start:
                m.bind(self.flat[start:stop])
            start = stop

    def bind(self, flat):
        """Move the parameters of all members, with their values, onto another buffer.

        Parameters
        ----------
        flat : ndarray (n,), dtype of the module, contiguous

        Raises
        ------
        ValueError
            The buffer has another dtype or size.
        """
        super().bind(flat)
        self._adopt()

    def state_dict(self):
        """Return copies of the parameters by the names of torch.nn.Sequential."""
        return {
            f"{k}.{name}": a
            for k, m in enumerate(self.modules)
            for name, a in m.state_dict().items()
        }

    def load_state_dict(self, state):
        """Take over the values of a `state_dict`, of this class or of torch.nn.Sequential.

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape is wrong. The parameters are then as before.
        """
        parts = [{} for _ in self.modules]
        for name, a in state.items():
            index, _, rest = name.partition(".")
            if not (index.isdecimal() and int(index) < len(parts)):
                raise ValueError(
                    f"the state dict has unknown {name}; names begin with 0. to {len(parts) - 1}."
                )
            parts[int(index)][rest] = a
        before = self.flat.copy()
        for k, (m, part) in enumerate(zip(self.modules, parts, strict=True)):
            try:
                m.load_state_dict(part)
            except Exception as fault:
                self.flat[:] = before
                fault.add_note(f"in member {k} of the Sequential, {type(m).__name__}")
                raise

    @property
    def config(self):
        """``{"type": "Sequential", "modules": [the members' configs]}``."""
        return {"type": "Sequential", "modules": [m.config for m in self.modules]}

    @classmethod
    def from_config(cls, config):
        """Build it again with new parameters; see `module_from_config`."""
        return cls([module_from_config(c) for c in config["modules"]])

    def __reduce__(self):  # pickle, deepcopy: the copied members move onto a buffer of their own
        return type(self), (self.modules,)

    def __repr__(self):
        return f"Sequential({self.modules!r})"

    def __call__(self, x, lengths=None, state=None):
        """Return y without keeping a tape; dropout is off.

        Parameters and exceptions are those of `forward`.
        """
        return self._infer(self._pairs(), x, lengths, state)

    def features(self, x, lengths=None, state=None):
        """Return what the last member is given, as for an echo state's readout.

        Parameters and exceptions are those of `forward`.
        """
        return self._infer(self._pairs()[:-1], x, lengths, state)

    def _infer(self, pairs, x, lengths, state):
        states, mask = self._split(state, lengths), None
        for m, follower in pairs:
            given = x
            if is_recurrent(m):
                y, final = around(m, mask)(x, state=next(states), lengths=lengths)
                x = m.top(final) if isinstance(follower, LastState) else y
            else:
                x = m(x, mask=mask) if isinstance(m, ZeroMasked) else m(x)
            mask = next_mask(m, given, mask)
        return x

    def predict(self, x, batch_size=256, lengths=None):
        """Return ``model(x)``, computed in pieces so that memory stays small.

        Parameters
        ----------
        x : ndarray (n, ...), dtype of the model
            May be a `sliding_window_view`: it is never expanded.
        batch_size : int
        lengths : ndarray (n,) of int, optional

        Raises
        ------
        ValueError
            A recurrent member is not ``batch_first``, or `batch_size` is not positive.

        Examples
        --------
        >>> import numpy as np
        >>> Sequential([Dense(3, 2)]).predict(np.zeros((1000, 3), "float32")).shape
        (1000, 2)
        """
        if self.batch_first is False:
            raise ValueError(
                "predict splits the first axis of x: build the recurrent layer with "
                "batch_first=True, or call model(x)"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size!r}")
        starts = range(0, max(len(x), 1), batch_size)
        pieces = [
            self(
                x[k : k + batch_size],
                lengths=None if lengths is None else lengths[k : k + batch_size],
            )
            for k in starts
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def forward(self, x, rng=None, lengths=None, state=None):
        """Return y and the tape.

        Parameters
        ----------
        x : ndarray, what the first member takes
        rng : Generator, optional
            Draws all dropout masks; None = each member's own.
        lengths : ndarray (B,) of int, optional
            Goes to every recurrent member.
        state : state of a recurrent layer, or list of them, optional
            The initial state: as it is for a single recurrent member, a list with one for each
            where there are several. None = zeros.

        Returns
        -------
        y : ndarray
        tape : SequentialTape

        Raises
        ------
        ValueError, TypeError
            As the members raise them; or `state` has not one entry for each recurrent member, or
            `lengths` or `state` come without any.
        """
        states, mask = self._split(state, lengths), None
        tape = SequentialTape([], [], [])
        for m, follower in self._pairs():
            given, layer = x, around(m, mask)
            if is_recurrent(m):
                y, final, inner = layer.forward(x, state=next(states), lengths=lengths, rng=rng)
                tape.states.append(final)
                x = m.top(final) if isinstance(follower, LastState) else y
            else:
                extra = {"mask": mask} if isinstance(m, ZeroMasked) else {}
                x, inner = m.forward(x, rng=rng, **extra)
            tape.tapes.append(inner)
            tape.layers.append(layer)
            mask = next_mask(m, given, mask)
        return x, tape

    def backward(self, tape, dy, watch=None):
        """Return dx and the gradients of all parameters.

        Parameters
        ----------
        tape : SequentialTape
        dy : ndarray, shape and dtype of y
        watch : callable, optional
            ``watch("0.", layer, tape, dy, dstate)`` before the backward pass of each recurrent
            member: what its parameters' names begin with, and what that pass is given.

        Returns
        -------
        dx : ndarray, shape and dtype of x
            None where the first member is an Embedding: integers have no gradient.
        grads : Parameters, with the names of `parameters`

        Raises
        ------
        RuntimeError
            A member was frozen or given to another Sequential since.
        """
        for k, m in enumerate(self.modules):
            if m.flat.size and not np.may_share_memory(m.flat, self.flat):
                raise RuntimeError(
                    f"member {k} ({type(m).__name__}) has left this buffer: it was frozen, or "
                    "given to another Sequential (a module can be trained in one of them only)"
                )
        grads = self._parameters.empty_like()
        stop, finals = grads.flat.size, list(tape.states)
        layers = [layer for layer in tape.layers if is_recurrent(layer)]
        for (m, follower), inner in zip(reversed(self._pairs()), reversed(tape.tapes), strict=True):
            if is_recurrent(m):
                final, dstate = finals.pop(), None
                if isinstance(follower, LastState):
                    # y itself is not used: all of the gradient comes in at the last step.
                    dstate, dy = m.top_gradient(final, dy), None
                layer = layers.pop()
                if watch is not None:
                    if layer is not m:
                        raise ValueError("a penalty on the states cannot go with a mask")
                    watch(f"{self.modules.index(m)}.", layer, inner, dy, dstate)
                dy, _, part = layer.backward(inner, dy, dstate=dstate)
            else:
                dy, part = m.backward(inner, dy)
            start = stop - part.flat.size
            grads.flat[start:stop] = part.flat
            stop = start
        return dy, grads

    def _pairs(self):
        """Each member with the one after it (None at the end)."""
        return list(zip(self.modules, [*self.modules[1:], None], strict=True))

    def _split(self, state, lengths):
        """An iterator over the initial states of the recurrent members."""
        n = sum(map(is_recurrent, self.modules))
        if lengths is not None and n == 0:
            raise ValueError("lengths need a recurrent member, and there is none")
        for m in self.modules if lengths is not None else ():
            if isinstance(m, Reverse) or makes_mask(m):
                raise ValueError(f"lengths cannot go with a {type(m).__name__}, which knows none")
        if state is None:
            return iter([None] * n)
        states = state if isinstance(state, list) else [state]
        if len(states) != n:
            raise ValueError(f"state must have one entry for each of {n} recurrent members")
        return iter(states)


_HEADS = (Dense, Dropout, LastState, Sequential)
_BETWEEN = (Activation, Embedding, Flatten, Masking, MergeDirections, Reverse, ZeroMasked)
MODULES = {m.__name__: m for m in (LSTM, *_HEADS, *_BETWEEN, GRU, RNN, SLSTM)}


def module_from_config(config):
    """Return the module that a `config` describes, with new parameters.

    Raises
    ------
    ValueError
        ``config["type"]`` is not in `MODULES`.

    Examples
    --------
    >>> module_from_config({"type": "Dropout", "p": 0.2})
    Dropout(p=0.2)
    """
    kind = config.get("type")
    if kind not in MODULES:
        raise ValueError(f"type must be one of {', '.join(MODULES)}, got {kind!r}")
    return MODULES[kind].from_config(config)
