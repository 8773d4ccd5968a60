# SPDX-License-Identifier: MIT
"""Which layers of Keras 3 the modules of a model are: their configs and their weights.

The other way round from keras_layers.py, with the same conventions.
"""

from .keras_config import GROUPS
from .keras_layers import ACTIVATIONS
from .modules import (
    Activation,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    LastState,
    Masking,
    MergeDirections,
    Reverse,
    Sequential,
    ZeroMasked,
    is_recurrent,
)
from .weights import to_layout

__all__ = ["Writer"]

_NAMES = {value: name for name, value in ACTIVATIONS.items()}


class Writer:
    """Turns a model into Keras' layers.

    Parameters
    ----------
    model : Sequential

    Attributes
    ----------
    config : dict
        Of a Keras Sequential.
    arrays : dict of str to list of ndarray
        Group in the weights' file -> its arrays.

    Raises
    ------
    ValueError
        Keras has no such layer or option; the message names it.
    """

    def __init__(self, model):
        self._dtype = "float32" if model.dtype is None else model.dtype.name
        self._members = _flat(model)
        self._counts, self.arrays, self._layers = {}, {}, []
        self._sequence = any(is_recurrent(m) or isinstance(m, Reverse) for m in self._members)
        self._mask = False  # whether one goes with the sequence here
        self._check_layout()
        first = self._input()
        k = 0
        while k < len(self._members):
            k += self._write(k)
        layers = [_object("InputLayer", first), *self._layers]
        self.config = _object("Sequential", {"name": "sequential", "layers": layers}, "keras")

    def _check_layout(self):
        for m in self._members:
            if getattr(m, "batch_first", True) is not True:
                raise ValueError(
                    f"Keras has the batch first, but {m!r} has batch_first=False: build it with "
                    "batch_first=True"
                )

    def _input(self):
        """The config of the input: the batch, the steps if any, the features."""
        first = self._members[0]
        steps = [self._steps()] if self._sequence else []
        if isinstance(first, Embedding):
            return self._options("InputLayer", batch_shape=[None, *steps], dtype="int32")
        sizes = (getattr(m, name, None) for m in self._members for name in _SIZES)
        size = next((n for n in sizes if n is not None), None)
        return self._options("InputLayer", batch_shape=[None, *steps, size])

    def _steps(self):
        """How many steps the model needs: those that a Dense behind a Flatten has weights for."""
        size, flat = None, False
        for m in self._members:
            if isinstance(m, Flatten):
                flat = True
            elif isinstance(m, Dense) and flat:
                return m.in_features // size
            elif isinstance(m, MergeDirections):
                size //= 2
            else:
                size = getattr(m, "output_size", getattr(m, "out_features", size))
        return None

    def _options(self, kind, **options):
        """The config of a layer with a name of its own and the dtype."""
        group = GROUPS[kind]
        k = self._counts[group] = self._counts.get(group, -1) + 1
        return {"name": f"{group}_{k}" if k else group, "dtype": self._dtype, **options}

    def _add(self, kind, options, arrays=None):
        """Append a layer; ``arrays``: group inside that of the layer -> its arrays."""
        self._layers.append(_object(kind, options))
        for inside, values in (arrays or {}).items():
            self.arrays[f"layers/{options['name']}{inside}"] = values

    def _write(self, k):
        """Write the layer that begins with member k; how many members it was."""
        m, rest = self._members[k], self._members[k + 1 :]
        if isinstance(m, Reverse):
            if not rest or not is_recurrent(rest[0]):
                raise ValueError("Keras has no Reverse but as go_backwards of a recurrent layer")
            return 1 + self._recurrent(rest[0], rest[1:], backwards=True)
        if is_recurrent(m):
            return self._recurrent(m, rest, backwards=False)
        if isinstance(m, (MergeDirections, ZeroMasked)):
            raise ValueError(f"Keras has no {type(m).__name__} but as part of a recurrent layer")
        writers = {Activation: self._activation, Dense: self._dense, Dropout: self._dropout,
                   Embedding: self._embedding, Flatten: self._flatten,
                   Masking: self._masking}  # fmt: skip
        if type(m) not in writers:
            raise ValueError(f"Keras has no {type(m).__name__}")
        writers[type(m)](m)
        return 1

    def _dense(self, m):
        options = self._options(
            "Dense",
            units=m.out_features,
            activation=m.activation or "linear",
            use_bias=m.bias,
        )
        state = m.state_dict()
        self._add(
            "Dense", options, {"": [state["weight"].T, *[state[k] for k in ["bias"][: m.bias]]]}
        )

    def _activation(self, m):
        found = _activation(m.activation, self._dtype)
        if type(found) is str:
            self._add("Activation", self._options("Activation", activation=found))
        else:
            kind = found["class_name"]
            alone = {k: v for k, v in found["config"].items() if k not in ("name", "dtype")}
            self._add(kind, self._options(kind, **alone))

    def _dropout(self, m):
        shape = None
        if m.shared_axis is not None:
            shape = [None, None, None] if self._sequence else [None, None]
            if m.shared_axis >= len(shape):
                raise ValueError(f"Keras needs the rank of x for {m!r}, which is not known")
            shape[m.shared_axis] = 1
        self._add("Dropout", self._options("Dropout", rate=m.p, noise_shape=shape))

    def _embedding(self, m):
        options = self._options(
            "Embedding",
            input_dim=m.num_embeddings,
            output_dim=m.embedding_dim,
            mask_zero=m.mask_zero,
        )
        self._mask = m.mask_zero
        self._add("Embedding", options, {"": [m.state_dict()["weight"]]})

    def _masking(self, m):
        self._mask = True
        self._add("Masking", self._options("Masking", mask_value=m.mask_value))

    def _flatten(self, m):
        self._sequence = False
        self._add("Flatten", self._options("Flatten"))

    # -- recurrent layers ----------------------------------------------------------------------

    def _recurrent(self, m, rest, backwards):
        """Write a stack of recurrent layers, and what belongs to it; how many members it was."""
        if type(m).__name__ not in _KINDS:
            raise ValueError(f"Keras has no {type(m).__name__}")
        if backwards and (m.num_layers > 1 or m.bidirectional):
            raise ValueError("Keras has no Reverse before several layers or two directions")
        last = bool(rest) and isinstance(rest[0], LastState)
        rest = rest[last:]
        if backwards and self._mask and not last:
            raise ValueError("Keras reverses the outputs of go_backwards, but not their mask")
        zero = bool(rest) and isinstance(rest[0], ZeroMasked)
        rest = rest[zero:]
        if zero and (m.bidirectional or last):
            raise ValueError("Keras has ZeroMasked behind the sequences of one direction alone")
        merge = bool(rest) and isinstance(rest[0], MergeDirections)
        if merge and not (m.bidirectional and m.num_layers == 1):
            raise ValueError("Keras has MergeDirections behind one bidirectional layer alone")
        weights, D = m.cell_weights(), 1 + m.bidirectional
        for layer in range(m.num_layers):
            top = layer == m.num_layers - 1
            cells = weights[layer * D : layer * D + D]
            options = {"return_sequences": not (last and top), **_cell_options(m, self._dtype)}
            options["units"] = cells[0]["w_hh"].shape[1]
            arrays = [_cell_arrays(m, w) for w in cells]
            kind = _KINDS[type(m).__name__]
            if m.bidirectional:
                self._bidirectional(kind, options, arrays, rest[0].mode if merge else "concat")
            else:
                options["zero_output_for_mask"] = zero and top
                options = self._options(kind, go_backwards=backwards, **options)
                self._add(kind, options, {"/cell": arrays[0]})
            if m.dropout and not top:
                self._dropout(Dropout(m.dropout))
        if last:
            self._sequence = self._mask = False
        return 1 + last + zero + merge

    def _bidirectional(self, kind, options, arrays, merge):
        ways = {}
        for way, backwards in (("forward", False), ("backward", True)):
            name = {"name": f"{way}_{GROUPS[kind]}", "dtype": self._dtype}
            ways[way] = _object(kind, {**name, "go_backwards": backwards, **options})
        whole = self._options(
            "Bidirectional",
            merge_mode=merge,
            layer=ways["forward"],
            backward_layer=ways["backward"],
        )
        groups = [f"/{way}_layer/cell" for way in ways]
        self._add("Bidirectional", whole, dict(zip(groups, arrays, strict=True)))


_SIZES = ("input_size", "in_features")
_KINDS = {"LSTM": "LSTM", "GRU": "GRU", "RNN": "SimpleRNN"}


def _object(kind, options, module="keras.layers"):
    """A layer as Keras writes it."""
    return {"module": module, "class_name": kind, "config": options, "registered_name": None}


def _flat(model):
    """The members of a model, those of a Sequential in it too."""
    members = model.modules if isinstance(model, Sequential) else [model]
    return [
        m
        for member in members
        for m in (_flat(member) if isinstance(member, Sequential) else [member])
    ]


def _activation(value, dtype):
    """Keras' name of an activation, or a layer that computes it."""
    if value in _NAMES:
        return _NAMES[value]
    kind, *numbers = value if isinstance(value, tuple) else (value,)
    if kind == "leaky_relu":
        name, options = "LeakyReLU", {"negative_slope": numbers[0]}
    elif kind == "elu":
        name, options = "ELU", {"alpha": numbers[0]}
    else:
        raise ValueError(f"Keras has no activation {value!r}")
    return _object(name, {"name": GROUPS[name], "dtype": dtype, **options})


def _cell_options(m, dtype):
    """The options of a recurrent layer that say what its cell computes."""
    kind = type(m).__name__
    spec = m.spec.changed if kind == "LSTM" else {}
    refused = {k: v for k, v in spec.items() if k not in ("gate", "candidate", "output")}
    for name in ("proj_size", "learn_state", "clip"):
        if getattr(m, name, None):
            refused[name] = getattr(m, name)
    if refused:
        raise ValueError(f"Keras' {_KINDS[kind]} has no {', '.join(refused)}")
    if kind == "RNN":
        return {"activation": _activation(m.nonlinearity, dtype), "use_bias": m.bias}
    cell = m.spec if kind == "LSTM" else m
    if kind == "LSTM" and cell.candidate != cell.output:
        pair = cell.candidate, cell.output
        raise ValueError(f"Keras has one activation for candidate and output, not {pair}")
    options = {
        "activation": _activation(cell.candidate, dtype),
        "recurrent_activation": _activation(cell.gate, dtype),
        "use_bias": m.bias,
    }
    return options if kind == "LSTM" else {**options, "reset_after": m.reset_after}


def _cell_arrays(m, weights):
    """kernel, recurrent_kernel and, where there is one, bias."""
    before = not getattr(m, "reset_after", True)
    layout = "keras_reset_before" if before else "keras"
    return list(to_layout(layout, weights, cell=type(m).__name__.lower()).values())
