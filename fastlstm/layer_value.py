# SPDX-License-Identifier: MIT
"""A recurrent layer as a value: its parameters by name, its arguments, how it is copied.

`recurrent` has the other half: what it computes.
"""

from copy import deepcopy
from threading import Lock
from typing import ClassVar

import numpy as np

from . import checks
from ._stack import by_argument
from .heads import Module
from .parameters import Parameters

__all__ = ["LayerValue"]


class LayerValue(Module):
    """The sizes, parameters and arguments of a stack of recurrent layers.

    A subclass says what its cells are: by the attributes and methods that come first here.
    """

    _type = ""  # its name in `config`
    _states = ("h",)  # the names of its states, h first
    # how the sizes of its states and the shapes of its parameters are written
    _symbols: ClassVar = {"h": "H"}
    # the arguments of its function, as lstm_forward -> the names of parameters
    _arguments: ClassVar = {}
    _draws = False  # whether a cell draws masks of its own in training
    _sums_biases = False  # whether PyTorch has two biases where this layer has their sum
    # what its constructor takes beyond that of this class: name -> default
    _options: ClassVar = {}

    def _widths(self, H):
        """The sizes of the states where the hidden size is H."""
        return (H,) * len(self._states)

    def _cell_shapes(self, H, size):
        """Name -> shape of the parameters of a cell with H units and ``size`` inputs."""
        raise NotImplementedError(f"{type(self).__name__} must define _cell_shapes")

    def _direction(self, frozen):
        """What runs a cell, with the methods of `_engine.Direction`."""
        raise NotImplementedError(f"{type(self).__name__} must define _direction")

    # -- construction ------------------------------------------------------------------------

    def __init__(self, input_size, hidden_size, num_layers, *, bias, batch_first, dropout,
                 bidirectional, learn_state, dtype, seed, backend):  # fmt: skip
        self.input_size = checks.integer("input_size", input_size, 0)
        self._hidden = checks.sizes("hidden_size", hidden_size, num_layers)
        self.num_layers = len(self._hidden)
        uniform = len(set(self._hidden)) == 1
        self.hidden_size = self._hidden[0] if uniform else self._hidden
        self.dropout = checks.probability("dropout", dropout)
        self.bias, self.batch_first = bool(bias), bool(batch_first)
        self.bidirectional, self.learn_state = bool(bidirectional), bool(learn_state)
        self._directions = ("", "_reverse") if bidirectional else ("",)
        # _suffixes[k]: what the names of the parameters of cell k end with
        self._suffixes = [f"_l{k}{d}" for k in range(self.num_layers) for d in self._directions]
        self.state_widths = [self._widths(H) for H in self._hidden]  # of the states, layer by layer
        self.backend = backend
        super().__init__(self._shapes(), dtype)
        self._rng = np.random.default_rng(seed)
        self._initialise()
        self._guard = Lock()  # of _unseen
        self._use(self._parameters, unseen=True)

    @property
    def output_size(self):
        """Numbers in y per step: D times the size of h."""
        return self.state_widths[-1][0] * len(self._directions)

    def _shapes(self):
        """Name -> shape of the parameters, in their order in `flat`."""
        shapes, size = {}, self.input_size
        for layer, (H, widths) in enumerate(zip(self._hidden, self.state_widths, strict=True)):
            for direction in self._directions:
                cell = self._cell_shapes(H, size)
                if self.learn_state:
                    cell |= {f"{s}0": (n,) for s, n in zip(self._states, widths, strict=True)}
                shapes |= {f"{name}_l{layer}{direction}": s for name, s in cell.items()}
            size = widths[0] * len(self._directions)
        return shapes

    def _initialise(self):
        """PyTorch's distribution; a learned state starts at zero."""
        for name, value in self._parameters.items():
            kind, _, layer = name.removesuffix("_reverse").rpartition("_l")
            bound = self._hidden[int(layer)] ** -0.5
            if kind.removesuffix("0") in self._states:
                continue
            value[...] = self._rng.uniform(-bound, bound, value.shape)
            if kind == "bias" and self._sums_biases:  # the sum of PyTorch's two
                value += self._rng.uniform(-bound, bound, value.shape)

    def _use(self, parameters, unseen=False, frozen=False):
        """Let the layer live in these parameters, of whose memory nobody else knows if unseen, and
        which never change if frozen."""
        self._parameters = parameters
        # of each cell: the arguments of its function that it has, and their names here
        self._names = [
            [(argument, name + suffix) for argument, name in self._arguments.items()
             if name + suffix in parameters]
            for suffix in self._suffixes
        ]  # fmt: skip
        # _cells[layer][direction]: what runs it, its weights by the names of its function, None
        # where it has none
        D, none = len(self._directions), dict.fromkeys(self._arguments)
        trusted = unseen or frozen
        cells = [(self._direction(trusted), none | w) for w in by_argument(parameters, self._names)]
        self._cells = [cells[k : k + D] for k in range(0, len(cells), D)]
        self._unseen, self._frozen = unseen, frozen

    # -- parameters --------------------------------------------------------------------------

    def _give_out(self):
        # Until now nobody could write to them, and a call need not compare them with what it packed
        with self._guard:
            if self._unseen:
                self._use(self._parameters)
        return self._parameters

    def parameters(self):
        """The parameters by name, as views into `flat`.

        From now on each call compares the weights with those that it has packed, since whoever has
        a view may write to it: 1/T of the work, until `freeze`.

        Returns
        -------
        Parameters
            weight_ih_l0, weight_hh_l0, ... of the first layer, with ``learn_state`` the initial
            states h0_l0, ...; then the same with _l0_reverse, _l1, ...; those that the layer has.
        """
        return Parameters(self._parameters.shapes, self.dtype, self.flat)

    def bind(self, flat):
        """Move the parameters into the buffer ``flat``: their values are copied there."""
        super().bind(flat)
        self._use(self._parameters)

    def freeze(self):
        """Make the parameters read-only; views that were taken before are cut off.

        Calls need not look for changes, as before anybody had seen the parameters.

        Returns
        -------
        Recurrent
            The layer itself.
        """
        memory = self._parameters.flat.copy()
        memory.flags.writeable = False
        flat = memory[:]  # a view, which cannot be made writeable again
        self._use(Parameters(self._parameters.shapes, self.dtype, flat), frozen=True)
        return self

    def state_dict(self):
        """Copies of the parameters under PyTorch's names.

        Where this layer has the sum of PyTorch's two biases, it goes to bias_ih, and bias_hh is
        zero, so that PyTorch loads it.
        """
        state = {}
        for name, value in self._parameters.items():
            parts = self._parts_of(name)
            state |= {part: np.zeros_like(value) for part in parts}
            state[parts[0]] = value.copy()
        return state

    def _parts_of(self, name):
        """PyTorch's names for a parameter: two for the sum of its biases."""
        if self._sums_biases and name.startswith("bias_"):
            return [name.replace("bias", part) for part in ("bias_ih", "bias_hh")]
        return [name]

    def load_state_dict(self, state):
        """Take the parameters from PyTorch's names; two biases are summed where this layer has one.

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
            parts = [name] if name in values else self._parts_of(name)
            for part in parts:
                if part not in values:
                    raise ValueError(f"state_dict has no {part}; it has {', '.join(state)}")
                kind = name.rsplit("_l", 1)[0]
                symbols = self._symbols[kind.removesuffix("0")]
                checks.shape(part, values[part], symbols, target.shape)
            loaded[name] = sum(values.pop(part).astype(self.dtype) for part in parts)
        if values:
            raise ValueError(
                f"state_dict has {', '.join(values)}, which this layer does not have: {self!r}"
            )
        with self._guard:
            for name, value in loaded.items():
                self._parameters[name][...] = value
            self._use(self._parameters, self._unseen, self._frozen)

    def cell_weights(self):
        """The weights of each layer and direction by the names of their function; views."""
        self._give_out()
        return self._weights()

    def _weights(self):
        """As `cell_weights`, to be read at once."""
        return [weights for cells in self._cells for _, weights in cells]

    # -- the arguments -------------------------------------------------------------------------

    @property
    def _defaults(self):
        """The arguments that may be left out -> their defaults, in the order of `config`."""
        common = dict(bias=True, batch_first=False, dropout=0.0, bidirectional=False)
        return {"num_layers": 1, **common, **self._options, "learn_state": False,
                "dtype": np.dtype("float32")}  # fmt: skip

    @property
    def config(self):
        """The arguments that build this layer again, and its type; fit for JSON."""
        names = ("input_size", "hidden_size", *self._defaults)
        values = {name: getattr(self, name) for name in names}
        return {"type": self._type, **values, "dtype": self.dtype.name}

    @classmethod
    def from_config(cls, config):
        """A new layer with the arguments in ``config``, as `config` gives them."""
        return cls(**cls._arguments_of(config))

    @classmethod
    def _arguments_of(cls, config):
        """The constructor's arguments from a `config`."""
        return {name: value for name, value in config.items() if name != "type"}

    def __getstate__(self):
        """What pickle and copy keep: arguments, values, and where the dropout's generator is."""
        arguments = {**self.config, "backend": self.backend}
        flat = self._parameters.flat
        # a copy: from protocol 5 on pickle hands out the memory itself
        state = {"arguments": arguments, "flat": flat.copy(), "rng": self._rng}
        return {**state, "frozen": self._frozen}

    def __setstate__(self, state):
        self.__init__(**self._arguments_of(state["arguments"]))
        self._parameters.flat[...] = state["flat"]
        self._rng = deepcopy(state["rng"])  # two layers on one generator would disturb each other
        if state["frozen"]:
            self.freeze()

    def __repr__(self):
        default = self._defaults
        if not isinstance(self.hidden_size, int):
            default["num_layers"] = self.num_layers  # hidden_size says it
        given = {name: getattr(self, name) for name in default}
        given = {**given, "dtype": self.dtype.name}
        options = [f"{k}={v!r}" for k, v in given.items() if v != default[k]]
        return f"{self._type}({', '.join([str(self.input_size), str(self.hidden_size), *options])})"
