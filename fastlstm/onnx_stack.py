# SPDX-License-Identifier: MIT
"""An ONNX graph that is a plain stack of layers, as a Sequential.

What a graph computes is not read off the nodes that only move numbers (Transpose, Squeeze, Slice,
...): the layers are collected, put together in every way that makes sense, and the one is taken
that gives the graph's numbers for random input.
"""

import itertools
from dataclasses import asdict, replace

import numpy as np
import onnx

from .modules import MODULES, Activation, Dense, Embedding, Flatten, LastState, Reverse, Sequential
from .onnx import load
from .onnx_recurrent import RecurrentNode
from .tensorfile import Fault
from .weights import PARAMETERS

__all__ = ["load_stack"]

_MOVES = {
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Shape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
_ACTIVATIONS = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}
_CLASSES = {"LSTM": "LSTM", "GRU": "GRU", "RNN": "RNN"}
_STEPS, _BATCH = 6, 3  # of the random input where the graph leaves them open


def load_stack(path):
    """The Sequential that computes what an ONNX graph computes, and the graph's session.

    Raises
    ------
    FormatError
        As `onnx.load`; or the graph is no plain stack of layers.
    """
    fault, session = Fault(path), load(path)
    if len(session.get_inputs()) != 1:
        names = ", ".join(value.name for value in session.get_inputs())
        raise fault(f"no plain stack of layers: it has the inputs {names}")
    layers = _layers(session, onnx.load(path, load_external_data=False), fault)
    for last, batch_first in itertools.product((True, False), repeat=2):
        try:
            model = Sequential(_modules(layers, last, batch_first))
        except (ValueError, TypeError):
            continue
        if all(_agree(model, session, seed, fault) for seed in range(2)):
            return model, session
    kinds = ", ".join(type(layer).__name__ for layer in layers)
    raise fault(f"no plain stack of layers: {kinds} one after the other compute something else")


def random_input(session, seed=0, dtype=None):
    """Random numbers of the shape that the session's input has."""
    (value,) = session.get_inputs()
    shape = value.shape or []
    free = iter([_STEPS, _BATCH, *[4] * len(shape)])
    shape = [n if isinstance(n, int) else next(free) for n in shape]
    rng = np.random.default_rng(seed)
    if "int" in value.type:
        return rng.integers(0, 2, size=shape).astype("i8" if "64" in value.type else "i4")
    return rng.standard_normal(shape).astype("f8" if "double" in value.type else "f4")


def _agree(model, session, seed, fault):
    """Whether a model gives the numbers of the session."""
    try:
        x = random_input(session, seed)
        want = session.run(None, {session.get_inputs()[0].name: x})[0]
    except (ValueError, TypeError) as error:
        raise fault(f"cannot be run: {error}") from error
    try:
        got = model(x)
    except (ValueError, TypeError):
        return False
    scale = 1e-4 * max(1.0, np.abs(want).max(initial=0))
    return got.shape == want.shape and bool(np.abs(got - want).max(initial=0) < scale)


def _modules(layers, last, batch_first):
    """The modules of a stack: with a LastState behind the recurrent layers, or not."""
    recurrent = [k for k, layer in enumerate(layers) if hasattr(layer, "hidden_size")]
    modules, size = [], None
    for k, layer in enumerate(layers):
        if k not in recurrent:
            if isinstance(layer, Dense) and size not in (None, layer.in_features):
                modules.append(Flatten())
            modules.append(MODULES[type(layer).__name__].from_config(layer.config))
            modules[-1].load_state_dict(layer.state_dict())
            size = getattr(layer, "out_features", size)
            continue
        backwards = layer.backwards
        made = type(layer).from_config({**layer.config, "batch_first": batch_first})
        made.load_state_dict(layer.state_dict())
        end = [LastState()] if last and k == recurrent[-1] else []
        turn = [Reverse(batch_first)] if backwards else []
        modules += [*turn, made, *(end or turn)]
        size = made.output_size
    return modules


def _layers(session, proto, fault):
    """The layers in the session's plan, in their order."""
    nodes = {name: node for node in proto.graph.node for name in node.output}
    layers = []
    for step, fixed in session.steps():
        node = nodes[next(filter(None, step.outputs))]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        kind = node.op_type
        if isinstance(step.run, RecurrentNode):
            layers.append(_recurrent(kind, step, fault))
        elif kind == "Gemm":
            layers.append(_gemm(step, fixed, attributes, fault))
        elif kind == "MatMul" and fixed[1] is not None and fixed[1].ndim == 2:
            layers.append(_dense(fixed[1].T, None))
        elif kind == "Add" and layers and _completes(layers[-1], fixed):
            weight, bias = layers[-1].state_dict()["weight"], next(filter(_given, fixed))
            layers[-1] = _dense(weight, bias.reshape(-1))
        elif kind in _ACTIVATIONS:
            layers.append(Activation(_ACTIVATIONS[kind]))
        elif kind in ("LeakyRelu", "Elu"):
            name, alpha = {"LeakyRelu": ("leaky_relu", 0.01), "Elu": ("elu", 1.0)}[kind]
            layers.append(Activation((name, float(attributes.get("alpha", alpha)))))
        elif kind == "Gather" and not layers and _given(fixed[0]) and fixed[0].ndim == 2:
            layers.append(_embedding(fixed[0]))
        elif kind not in _MOVES:
            raise fault(f"no plain stack of layers: {step.label} is none")
    if not layers:
        raise fault("no plain stack of layers: it has none")
    return layers


def _given(value):
    return value is not None


def _completes(layer, fixed):
    """Whether an Add with these constants is the bias of a Dense that has none yet."""
    given = list(filter(_given, fixed))
    return isinstance(layer, Dense) and not layer.bias and len(given) == 1 \
        and given[0].size == layer.out_features  # fmt: skip


def _dense(weight, bias):
    dense = Dense(*weight.shape[::-1], bias=bias is not None, dtype=weight.dtype.name)
    dense.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return dense


def _gemm(step, fixed, attributes, fault):
    weight = fixed[1]
    scaled = attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1
    if weight is None or scaled or attributes.get("transA", 0):
        raise fault(f"no plain stack of layers: {step.label} is no dense layer")
    weight = weight if attributes.get("transB", 0) else weight.T
    bias = fixed[2] if len(fixed) > 2 else None
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), weight.shape[:1])
    return _dense(weight, bias)


def _embedding(table):
    embedding = Embedding(*table.shape, dtype=table.dtype.name)
    embedding.load_state_dict({"weight": table})
    return embedding


def _recurrent(kind, step, fault):
    """A layer with the weights of a recurrent node, and the attribute ``backwards``."""
    node = step.run
    if node.cells is None or _CLASSES[kind] not in MODULES:
        raise fault(f"no plain stack of layers: the weights of {step.label} are no constants")
    cells = [{name: a for name, a in weights.items() if a is not None} for _, weights in node.cells]
    if len(node.kinds) == 2 and node.kinds[0] != node.kinds[1]:
        raise fault(f"no plain stack of layers: the directions of {step.label} differ")
    if any(cell.keys() != cells[0].keys() for cell in cells):
        raise fault(f"no plain stack of layers: the directions of {step.label} differ")
    I, H = cells[0]["w_ih"].shape[1], cells[0]["w_hh"].shape[1]
    options = {"bias": any(name in cells[0] for name in ("b", "b_ih"))}
    options |= _variant(kind, node, cells[0])
    layer = MODULES[_CLASSES[kind]](
        I, H, bidirectional=len(cells) == 2, dtype=cells[0]["w_ih"].dtype.name, **options
    )
    layer.load_state_dict({
        f"{PARAMETERS[name]}_l0{suffix}": a
        for suffix, cell in zip(("", "_reverse"), cells, strict=False)
        for name, a in cell.items()
    })  # fmt: skip
    layer.backwards = node.reverse == [True] or node.reverse == (True,)
    return layer


def _variant(kind, node, weights):
    """The constructor's arguments that say which variant of the cell it is."""
    cell = node.kinds[0]
    if kind != "LSTM":
        return asdict(cell)
    if "w_peephole" in weights:
        cell = replace(cell, peepholes="io" if cell.coupled else "ifo")
    return {"spec": cell}
