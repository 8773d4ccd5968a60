# SPDX-License-Identifier: MIT
"""What the config of a Keras 3 model says: a chain of layers, each with its options.

A Sequential is a chain as it stands. A functional model must be one: every layer has one input,
the output of the layer before. Its masks are nodes of the graph: for each Masking, or Embedding
with mask_zero, a NotEqual (and an Any), which the later layers name.
"""

from dataclasses import dataclass
from typing import NamedTuple

from .tensorfile import brief

__all__ = ["Layer", "Options", "chain"]

# Class -> the name of its group in the weights' file; _1, _2, ... are appended to the next ones.
GROUPS = {
    "Activation": "activation",
    "Bidirectional": "bidirectional",
    "Dense": "dense",
    "Dropout": "dropout",
    "ELU": "elu",
    "Embedding": "embedding",
    "Flatten": "flatten",
    "GRU": "gru",
    "InputLayer": "input_layer",
    "LSTM": "lstm",
    "LeakyReLU": "leaky_re_lu",
    "Masking": "masking",
    "ReLU": "re_lu",
    "SimpleRNN": "simple_rnn",
    "Softmax": "softmax",
    "TimeDistributed": "time_distributed",
}

# Options that matter to training alone, or to how Keras computes the same numbers.
_WITHOUT_EFFECT = (
    "name",
    "trainable",
    "seed",
    "unroll",
    "implementation",
    "use_cudnn",
    "unit_forget_bias",
    "batch_input_shape",
    "input_length",
    "supports_masking",
)
_ENDINGS = ("_initializer", "_regularizer", "_constraint")


@dataclass(frozen=True)
class Layer:
    """One layer: its class, its name, what its config says, and where its weights are."""

    kind: str
    name: str
    options: dict
    group: str = ""
    masked: bool | None = None  # by the node of a functional model; None: not said there

    def __str__(self):
        return f"layer {brief(self.name)} ({self.kind})"


class Options:
    """The options of a layer, taken one by one; what is left over is not supported.

    Parameters
    ----------
    layer : Layer
    fault : Fault
    """

    def __init__(self, layer, fault):
        self.layer, self._fault = layer, fault
        self._left = dict(layer.options)

    def take(self, name, default=None):
        """The value of an option, which is then known."""
        return self._left.pop(name, default)

    def flag(self, name, default=False):
        """The value of an option that is true or false."""
        value = self.take(name, default)
        if type(value) is not bool:
            raise self.unsupported(name, value)
        return value

    def number(self, name, default=0.0):
        """The value of an option that is a number."""
        value = self.take(name, default)
        if type(value) not in (int, float):
            raise self.unsupported(name, value)
        return value

    def done(self):
        """Refuse the first option that was not taken and means something."""
        for name, value in self._left.items():
            known = name in _WITHOUT_EFFECT or name.endswith(_ENDINGS)
            if not known and value is not None and value is not False:
                raise self.unsupported(name, value)

    def unsupported(self, name, value):
        """The error about an option."""
        return self._fault(f"{self.layer} has {name}={brief(value)}, which is not supported")


def chain(config, fault):
    """The layers of a model in their order, its InputLayer among them.

    Parameters
    ----------
    config : dict
        Of ``model.to_json()``, or of ``model.get_config()``.
    fault : Fault

    Raises
    ------
    FormatError
        It is no Sequential and no functional model of a single chain, or not of the right form.
    """
    if type(config) is not dict:
        raise fault("the config is no JSON object")
    kind = config.get("class_name")
    if kind is not None:
        config = config.get("config")
        if type(config) is not dict:
            raise fault("the config has no config of the model")
    functional = "input_layers" in config
    if kind not in (None, "Functional" if functional else "Sequential", "Model"):
        raise fault(f"the model is a {brief(kind)}: supported are Sequential and Functional")
    entries = config.get("layers")
    if type(entries) is not list or not all(type(entry) is dict for entry in entries):
        raise fault("the config has no list of layers")
    layers, masks = _layers(entries, functional, fault)
    if functional:
        layers = _follow(config, layers, masks, fault)
    layers = [node.layer for node in layers]
    if all(layer.kind == "InputLayer" for layer in layers):
        raise fault("the model has no layers")
    return layers


class _Node(NamedTuple):
    """A layer, and the config of its place in the graph."""

    layer: Layer
    entry: dict


def _layers(entries, functional, fault):
    """The layers with the groups of their weights; the other nodes of a functional model."""
    layers, others, seen = [], [], {}
    for entry in entries:
        layer = read_layer(entry, fault)
        if functional and _is_mask(entry):
            others.append(_Node(layer, entry))
            continue
        if layer.kind not in GROUPS:
            raise fault(f"{layer} is not supported; supported are {', '.join(GROUPS)}")
        group = GROUPS[layer.kind]
        k = seen[group] = seen.get(group, -1) + 1
        group = f"layers/{group}_{k}" if k else f"layers/{group}"
        layers.append(_Node(Layer(layer.kind, layer.name, layer.options, group), entry))
    return layers, others


def read_layer(entry, fault):
    """A `Layer` from what Keras wrote of it."""
    entry = entry if type(entry) is dict else {}
    kind, options = entry.get("class_name"), entry.get("config")
    if type(kind) is not str or type(options) is not dict:
        raise fault("a layer of the config has no class_name or no config")
    layer = Layer(kind, options.get("name", kind), options)
    if entry.get("registered_name") not in (None, kind) or not _is_kerass(entry):
        raise fault(f"{layer} is not one of Keras' own: nothing is looked up or executed")
    return layer


def _is_kerass(entry):
    """Whether an object is one of Keras' own by the module that it names."""
    module = entry.get("module")
    return module is None or (type(module) is str and module.split(".")[0] == "keras")


def _is_mask(entry):
    module = entry.get("module")
    ours = type(module) is str and module.startswith("keras.src.ops")
    return ours and entry.get("class_name") in ("NotEqual", "Any")


def _follow(config, layers, masks, fault):
    """The layers of a functional model from its input to its output."""
    first, last = (_end(config, key, fault) for key in ("input_layers", "output_layers"))
    inputs = {}
    for node in layers:
        if node.layer.name in inputs:
            raise fault(f"{node.layer} has the name of another layer")
        inputs[node.layer.name] = _input(node, fault)
    order, name, sources = [], last, {node.layer.name: node for node in layers}
    while name is not None:
        if name not in sources:
            raise fault(f"the graph has no layer {brief(name)}, or is no single chain")
        order.append(sources.pop(name))
        name = inputs[name]
    order.reverse()
    if order[0].layer.name != first or sources:
        stray = next(iter(sources.values()), order[0]).layer
        raise fault(f"the model is no single chain of layers: {stray} is beside it")
    return _masked(order, masks, fault)


def _end(config, key, fault):
    """The name of the one input or output of a functional model."""
    value = config.get(key)
    if type(value) is list and len(value) == 1:
        value = value[0]
    if type(value) is not list or len(value) != 3 or value[1:] != [0, 0]:
        raise fault(f"the model has {key} {brief(value)}, supported is one")
    return value[0]


def _input(node, fault):
    """The name of the layer whose output goes into this one; None for the input of the model."""
    places = node.entry.get("inbound_nodes", [])
    if node.layer.kind == "InputLayer":
        return None
    if type(places) is not list or len(places) != 1 or type(places[0]) is not dict:
        raise fault(f"{node.layer} must be used once")
    arguments = places[0].get("args")
    source = _tensor(arguments[0]) if type(arguments) is list and len(arguments) == 1 else None
    if source is None:
        raise fault(f"{node.layer} has more inputs than one, or none")
    return source


def _tensor(value):
    """The name of the layer that a tensor of the graph comes from; None: it is no tensor."""
    config = value.get("config") if type(value) is dict else None
    history = config.get("keras_history") if type(config) is dict else None
    if type(history) is list and len(history) == 3 and history[1:] == [0, 0]:
        return history[0] if type(history[0]) is str else None
    return None


def _masked(order, masks, fault):
    """The layers, each with whether its node is given the mask that is in force there."""
    made = {}  # name of a node that makes a mask -> (the tensor that is compared, the value)
    for node in masks:
        arguments = (node.entry.get("inbound_nodes") or [{}])[0].get("args") or [None]
        source = _tensor(arguments[0])
        if node.layer.kind == "NotEqual" and len(arguments) == 2:
            made[node.layer.name] = (source, arguments[1])
        elif node.layer.kind == "Any" and source in made:
            made[node.layer.name] = (*made[source], "any")
        else:
            raise fault(f"{node.layer} is no mask of a Masking or an Embedding")
    result, before, force = [], None, None
    for node in order:
        layer = node.layer
        places = node.entry.get("inbound_nodes") or [{}]
        keywords = places[0].get("kwargs") or {}
        mask = keywords.get("mask") if type(keywords) is dict else None
        if mask is not None and (force is None or made.get(_tensor(mask)) != force):
            raise fault(f"{layer} has a mask that is not that of the layer before it")
        changed = Layer(layer.kind, layer.name, layer.options, layer.group, mask is not None)
        result.append(_Node(changed, node.entry))
        if layer.kind == "Masking":
            force = (before, layer.options.get("mask_value", 0.0), "any")
        elif layer.kind == "Embedding" and layer.options.get("mask_zero") is True:
            force = (before, 0)
        before = layer.name
    return result
