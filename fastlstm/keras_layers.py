# SPDX-License-Identifier: MIT
"""What each layer of Keras 3 is here: modules with its weights.

Keras' conventions: x is (B, T, F); kernels are transposed; the gates of the LSTM are i f c o
with one bias, those of the GRU z r h with two biases where the reset gate comes after the
product; ``go_backwards`` leaves the outputs reversed; hard sigmoid is x/6 + 1/2.
"""

import warnings
from dataclasses import replace

import numpy as np

from . import keras_config
from .modules import (
    MODULES,
    Activation,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    LastState,
    Masking,
    MergeDirections,
    Reverse,
    ZeroMasked,
)
from .spec import Spec
from .tensorfile import brief
from .weights import PARAMETERS, from_layout

__all__ = ["ACTIVATIONS", "Builder"]

# Keras' name -> an activation as `Spec` writes it
ACTIVATIONS = {
    "linear": "identity",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "softsign": "softsign",
    "softplus": "softplus",
    "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
    "leaky_relu": ("leaky_relu", 0.2),
    "elu": ("elu", 1.0),
    "softmax": "softmax",
}
_CELLS = ("LSTM", "GRU", "SimpleRNN")


class Builder:
    """Makes modules of layers, one layer after the other.

    Parameters
    ----------
    weights : keras_file.Weights
    fault : Fault
    """

    def __init__(self, weights, fault):
        self._weights, self._fault = weights, fault
        self.dtype, self._features = None, None
        self._mask = False  # whether one goes with the sequence here
        self.makers = {
            "Activation": self._activation,
            "Bidirectional": self._bidirectional,
            "Dense": self._dense,
            "Dropout": self._dropout,
            "ELU": self._activation,
            "Embedding": self._embedding,
            "Flatten": self._flatten,
            "InputLayer": self._input,
            "LeakyReLU": self._activation,
            "Masking": self._masking,
            "ReLU": self._activation,
            "Softmax": self._activation,
            "TimeDistributed": self._time_distributed,
            **dict.fromkeys(_CELLS, self._recurrent),
        }

    def modules(self, layer):
        """The modules that compute what ``layer`` computes.

        Raises
        ------
        FormatError
            The layer or one of its options is not supported, or its weights do not fit it.
        """
        if layer.kind not in self.makers:
            raise self._fault(f"{layer} is not supported")
        options = keras_config.Options(layer, self._fault)
        if layer.kind != "InputLayer":
            self._same_dtype(layer, options.take("dtype"))
        modules = self.makers[layer.kind](layer, options)
        options.done()
        self._check_input(layer, modules)
        if any(isinstance(m, (Flatten, LastState)) for m in modules):
            self._mask = False
        return modules

    def _check_input(self, layer, modules):
        """The first layer that has weights must take what the input of the model says."""
        for module in modules if self._features is not None else ():
            size = getattr(module, "input_size", getattr(module, "in_features", None))
            if size not in (None, self._features):
                raise self._fault(f"{layer} takes {size} features, its input has {self._features}")
            if size is not None:
                self._features = None
                return

    # -- options and weights that several layers have ------------------------------------------

    def _same_dtype(self, layer, policy):
        """Take the dtype of a layer, a name or a DTypePolicy; all layers must have one."""
        if type(policy) is dict and policy.get("class_name") == "DTypePolicy":
            policy = policy.get("config")
            policy = policy.get("name") if type(policy) is dict else policy
        dtype = "float32" if policy is None else policy
        if dtype not in ("float32", "float64"):
            raise self._fault(f"{layer} has dtype={brief(policy)}, which is not supported")
        if self.dtype not in (None, dtype):
            raise self._fault(f"{layer} is {dtype}, a layer before it is {self.dtype}")
        self.dtype = dtype

    def _arrays(self, layer, group, names):
        """The arrays of a group by name, in the model's dtype; None for one that is not there."""
        arrays = self._weights.arrays(group)
        if len(arrays) != len(names):
            raise self._fault(
                f"{layer} must have {len(names)} arrays in {group} ({', '.join(names)}), "
                f"found {len(arrays)}"
            )
        return {name: a.astype(self.dtype) for name, a in zip(names, arrays, strict=True)}

    def _activation_of(self, options, name, default):
        """An activation as `Spec` writes it, or "softmax"."""
        value = options.take(name, default)
        if type(value) is dict and type(value.get("config")) is dict:  # a layer as an activation
            layer = keras_config.read_layer(value, self._fault)
            inner = keras_config.Options(layer, self._fault)
            inner.take("dtype")
            found = self._of_layer(layer, inner)
            inner.done()
            return found
        value = "linear" if value is None else value
        if type(value) is not str or value not in ACTIVATIONS:
            raise options.unsupported(name, value)
        return ACTIVATIONS[value]

    def _of_layer(self, layer, options):
        """The activation that a layer of this kind computes."""
        if layer.kind == "Activation":
            return self._activation_of(options, "activation", "linear")
        if layer.kind == "ELU":
            alpha = options.number("alpha", 1.0)
            return ("elu", alpha)
        if layer.kind == "LeakyReLU":
            slope = options.number("negative_slope", 0.3)
        elif layer.kind == "ReLU":
            slope = options.number("negative_slope", 0.0)
            if (most := options.take("max_value")) is not None:
                raise options.unsupported("max_value", most)
            if threshold := options.number("threshold"):
                raise options.unsupported("threshold", threshold)
        elif layer.kind == "Softmax":
            if self._mask:
                raise self._fault(f"{layer} under a mask is not supported")
            if (axis := options.take("axis", -1)) != -1:
                raise options.unsupported("axis", axis)
            return "softmax"
        else:
            raise self._fault(f"{layer} is not supported as an activation")
        return ("leaky_relu", slope) if slope else "relu"

    # -- layers --------------------------------------------------------------------------------

    def _input(self, layer, options):
        options.take("dtype")
        shape = options.take("batch_shape")
        if type(shape) is list and len(shape) > 1 and type(shape[-1]) is int:
            self._features = shape[-1]
        return []

    def _activation(self, layer, options):
        found = self._of_layer(layer, options)
        return [] if found == "identity" else [Activation(found)]

    def _dense(self, layer, options):
        return self._dense_from(layer, options, layer.group)

    def _dense_from(self, layer, options, group):
        bias = options.flag("use_bias", True)
        arrays = self._arrays(layer, group, ["kernel", "bias"][: 1 + bias])
        kernel = arrays["kernel"]
        units = options.take("units")
        if kernel.ndim != 2 or kernel.shape[1] != units or 0 in kernel.shape:
            raise self._fault(f"{layer} has units={brief(units)} but a kernel {kernel.shape}")
        activation = self._activation_of(options, "activation", "linear")
        inside = activation if activation in ("relu", "tanh", "sigmoid") else None
        dense = Dense(*kernel.shape, bias=bias, activation=inside, dtype=self.dtype)
        self._load(layer, dense, {"weight": kernel.T, **{k: arrays[k] for k in ["bias"][:bias]}})
        if inside or activation == "identity":
            return [dense]
        return [dense, Activation(activation)]

    def _load(self, layer, module, state):
        try:
            module.load_state_dict(state)
        except ValueError as error:
            raise self._fault(f"the weights of {layer} do not fit it: {error}") from error

    def _time_distributed(self, layer, options):
        inner = keras_config.read_layer(options.take("layer"), self._fault)
        if inner.kind != "Dense":
            raise self._fault(f"{layer} has a {inner} in it, supported is Dense")
        within = keras_config.Options(inner, self._fault)
        self._same_dtype(inner, within.take("dtype"))
        modules = self._dense_from(inner, within, f"{layer.group}/layer")
        within.done()
        return modules

    def _dropout(self, layer, options):
        shape, axis = options.take("noise_shape"), None
        if shape is not None:
            if type(shape) is not list or any(n not in (None, 1) for n in shape):
                raise options.unsupported("noise_shape", shape)
            shared = [k for k, n in enumerate(shape) if n == 1]
            if len(shared) != 1:
                raise options.unsupported("noise_shape", shape)
            axis = shared[0]
        return [Dropout(options.number("rate"), shared_axis=axis)]

    def _flatten(self, layer, options):
        if (order := options.take("data_format")) not in (None, "channels_last"):
            raise options.unsupported("data_format", order)
        return [Flatten()]

    def _embedding(self, layer, options):
        (table,) = self._arrays(layer, layer.group, ["embeddings"]).values()
        shape = (options.take("input_dim"), options.take("output_dim"))
        if table.shape != shape or 0 in shape:
            raise self._fault(f"{layer} must have an array {brief(shape)}, found {table.shape}")
        self._mask = options.flag("mask_zero")
        embedding = Embedding(*shape, mask_zero=self._mask, dtype=self.dtype)
        embedding.load_state_dict({"weight": table})
        self._features = None  # what comes in are words
        return [embedding]

    def _masking(self, layer, options):
        self._mask = True
        return [Masking(options.number("mask_value"))]

    # -- recurrent layers ----------------------------------------------------------------------

    def _recurrent(self, layer, options):
        return self._sequence(layer, options, [f"{layer.group}/cell"])

    def _bidirectional(self, layer, options):
        forward, backward = (
            keras_config.read_layer(options.take(name), self._fault)
            for name in ("layer", "backward_layer")
        )
        if forward.kind not in _CELLS:
            raise self._fault(f"{layer} has a {forward} in it, supported are {', '.join(_CELLS)}")
        ways = forward.options.get("go_backwards"), backward.options.get("go_backwards")
        if ways != (False, True):
            raise self._fault(f"{layer} must go forwards with layer, back with backward_layer")
        apart = ("name", "go_backwards")
        same = ({k: v for k, v in _plain(other.options).items() if k not in apart}
                for other in (forward, backward))  # fmt: skip
        if forward.kind != backward.kind or next(same) != next(same):
            raise self._fault(f"{layer} has a backward_layer with other options than its layer")
        within = keras_config.Options(forward, self._fault)
        self._same_dtype(forward, within.take("dtype"))
        groups = [f"{layer.group}/{way}_layer/cell" for way in ("forward", "backward")]
        modules = self._sequence(replace(forward, masked=layer.masked), within, groups)
        within.done()
        merge = options.take("merge_mode", "concat")
        if merge not in ("concat", "sum", "ave", "mul"):
            raise options.unsupported("merge_mode", merge)
        return modules if merge == "concat" else [*modules, MergeDirections(merge)]

    def _sequence(self, layer, options, groups):
        """The modules of a recurrent layer whose directions have their weights in ``groups``."""
        modules, sequences = [], options.flag("return_sequences")
        if layer.masked not in (None, self._mask):
            raise self._fault(f"{layer} is given a mask otherwise than the layers before it say")
        if dropout := options.number("dropout"):
            modules.append(Dropout(dropout, shared_axis=1))
        if recurrent := options.number("recurrent_dropout"):
            warnings.warn(
                f"{layer}: recurrent_dropout={recurrent} is not applied when it is trained here; "
                "predictions do not depend on it",
                stacklevel=5,
            )
        zero = options.flag("zero_output_for_mask")
        if options.flag("go_backwards") and len(groups) == 1:
            modules.append(Reverse(batch_first=True))
            if self._mask and sequences:  # Keras reverses the outputs, but not their mask
                raise self._fault(f"{layer} goes backwards under a mask and returns sequences")
        modules.append(self._cell(layer, options, groups))
        if zero and self._mask and len(groups) == 1:
            if not sequences:  # zero where the last step is masked
                raise options.unsupported("zero_output_for_mask", zero)
            modules.append(ZeroMasked())
        return modules if sequences else [*modules, LastState()]

    def _cell(self, layer, options, groups):
        """The recurrent layer itself, with its weights."""
        bias = options.flag("use_bias", True)
        kind, layout, variant = _VARIANTS[layer.kind](self, options)
        names = ["kernel", "recurrent_kernel", "bias"][: 2 + bias]
        weights = []
        for group in groups:
            arrays = self._arrays(layer, group, names)
            try:
                weights.append(from_layout(layout, arrays, cell=kind.lower()))
            except ValueError as error:
                raise self._fault(f"the weights of {layer} do not fit it: {error}") from error
        if layout == "keras_reset_before" and bias:  # which has one bias
            weights = [{**w, "b_hh": np.zeros_like(w["b_ih"])} for w in weights]
        units, size = options.take("units"), weights[0]["w_ih"].shape[1]
        if weights[0]["w_hh"].shape[1] != units:
            raise self._fault(
                f"{layer} has units={brief(units)}, but weights of {weights[0]['w_hh'].shape[1]}"
            )
        module = MODULES[kind](
            size,
            units,
            bias=bias,
            batch_first=True,
            bidirectional=len(groups) == 2,
            dtype=self.dtype,
            **variant,
        )
        state = {
            f"{PARAMETERS[name]}_l0{direction}": array
            for direction, arrays in zip(("", "_reverse"), weights, strict=False)
            for name, array in arrays.items()
        }
        self._load(layer, module, state)
        return module

    def _lstm(self, options):
        squash = self._squash(options, "activation", "tanh")
        gate = self._squash(options, "recurrent_activation", "sigmoid")
        return "LSTM", "keras", {"spec": Spec(gate=gate, candidate=squash, output=squash)}

    def _gru(self, options):
        candidate = self._squash(options, "activation", "tanh")
        gate = self._squash(options, "recurrent_activation", "sigmoid")
        after = options.flag("reset_after", True)
        layout = "keras" if after else "keras_reset_before"
        return "GRU", layout, {"gate": gate, "candidate": candidate, "reset_after": after}

    def _rnn(self, options):
        return "RNN", "keras", {"nonlinearity": self._squash(options, "activation", "tanh")}

    def _squash(self, options, name, default):
        found = self._activation_of(options, name, default)
        if found == "softmax":
            raise options.unsupported(name, "softmax")
        return found


# By Keras' class, what gives ours, the layout of its weights, and what else makes it
_VARIANTS = {"LSTM": Builder._lstm, "GRU": Builder._gru, "SimpleRNN": Builder._rnn}


def _plain(value):
    """The same nest without the numbers by which Keras tells shared objects."""
    if type(value) is dict:
        return {k: _plain(v) for k, v in value.items() if k != "shared_object_id"}
    return [_plain(v) for v in value] if type(value) is list else value
