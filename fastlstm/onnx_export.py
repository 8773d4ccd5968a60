# SPDX-License-Identifier: MIT
"""A layer or model written as an ONNX graph that ONNX Runtime runs.

Recurrent nodes have ``layout=0``, the only one that ONNX Runtime computes; what else the layers
mean (``batch_first``, directions side by side, states of all layers in one array) is nodes around
them.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from . import between, heads, layer, sibling_layers
from ._version import __version__
from .modules import Sequential
from .weights import to_layout

__all__ = ["export"]

_OPSET, _IR = 17, 8  # ONNX Runtime 1.12 and later
_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
# What the attributes of an LSTM node can say of a Spec
_SAYABLE = {"peepholes", "coupled", "candidate", "output", "gate", "clip"}


class _Writer:
    """The nodes and constants of a graph that is being written."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.nodes, self.constants = [], []
        self.count = 0

    def name(self, stem):
        """A name that is not taken."""
        self.count += 1
        return f"{stem}_{self.count}"

    def constant(self, value, stem="constant"):
        """The name of a constant."""
        name = self.name(stem)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def number(self, value):
        """The name of a constant number of the model's dtype."""
        return self.constant(np.array(value, self.dtype))

    def sizes(self, *values):
        """The name of a constant list of sizes or axes."""
        return self.constant(np.array(values, np.int64))

    def add(self, operator, *inputs, outputs=1, **attributes):
        """A node; the name of its output, or the list of them."""
        names = [self.name(operator.lower()) for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(operator, inputs, names, self.name(operator), **attributes)
        )
        return names[0] if outputs == 1 else names


def export(model, *, lengths=False, state=False):
    """A layer or a Sequential as an onnx.ModelProto; see `fastlstm.onnx.save`."""
    members = model.modules if isinstance(model, Sequential) else [model]
    for m in members:
        if not isinstance(m, (*_RECURRENT, *_WRITERS)):
            known = ", ".join(kind.__name__ for kind in (*_RECURRENT, *_WRITERS))
            raise TypeError(f"{type(m).__name__} cannot be written as ONNX; {known} can")
    recurrent = [m for m in members if isinstance(m, _RECURRENT)]
    if lengths and not recurrent:
        raise ValueError("lengths=True needs a recurrent layer")
    if state and not isinstance(model, _RECURRENT):
        raise ValueError("state=True needs a recurrent layer by itself, not inside a Sequential")
    dtype = model.dtype or np.dtype("float32")
    out, kind = _Writer(dtype), _TYPES[dtype.name]
    shape = _input_shape(members, recurrent)
    x_kind = TensorProto.INT64 if isinstance(members[0], between.Embedding) else kind
    inputs = [helper.make_tensor_value_info("x", x_kind, shape)]
    extra = {}
    if lengths:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))
        extra["lengths"] = "lengths"
    if state:
        given = _state_shapes(model, "0")
        inputs += [helper.make_tensor_value_info(n, kind, shape) for n, shape in given.items()]
        extra["given"] = list(given)
    x, shape, finals = _write_members(out, members, shape, extra)
    named, outputs = {"y": x}, [helper.make_tensor_value_info("y", kind, shape)]
    if model in recurrent:
        states = _state_shapes(model, "_n")
        named |= dict(zip(states, finals, strict=True))
        outputs += [helper.make_tensor_value_info(n, kind, shape) for n, shape in states.items()]
    for name, source in named.items():
        out.nodes.append(helper.make_node("Identity", [source], [name], f"output_{name}"))
    graph = helper.make_graph(out.nodes, "fastlstm", inputs, outputs, out.constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR,
        producer_name="fastlstm", producer_version=__version__,
    )  # fmt: skip


def _input_shape(members, recurrent):
    """The shape of x, a str where a dimension is open; 2-D without a recurrent layer."""
    steps = ["batch"]
    if recurrent:
        steps = ["batch", "time"] if recurrent[0].batch_first else ["time", "batch"]
    if isinstance(members[0], between.Embedding):
        return steps if recurrent else ["batch", "time"]
    sizes = (getattr(m, "input_size", getattr(m, "in_features", None)) for m in members)
    return [*steps, next(filter(None, sizes), None)]


def _write_members(out, members, shape, extra):
    """Write all members: the name of the output, its shape, the states of the last layer."""
    x, finals = "x", []
    for m, follower in zip(members, [*members[1:], None], strict=True):
        if isinstance(m, _RECURRENT):
            y, top, finals = _write_recurrent(out, m, x, **extra)
            last = isinstance(follower, heads.LastState)  # it takes h_n instead of y
            x, shape = top if last else y, [*shape[:-1], m.output_size]
        else:
            x, shape = _WRITERS[type(m)](out, m, x, shape)
    return x, shape, finals


# -- recurrent layers ------------------------------------------------------------------------


def _state_shapes(m, suffix):
    """The states by name, as "h_n", with their shapes; of layers of different sizes one by one."""
    D, widths = 1 + m.bidirectional, m.state_widths
    names = "hc"[: len(widths[0])]
    if len(set(widths)) == 1:
        return {f"{s}{suffix}": [m.num_layers * D, "batch", widths[0][0]] for s in names}
    return {f"{s}{suffix}_l{k}": [D, "batch", w[0]] for s in names for k, w in enumerate(widths)}


def _write_recurrent(out, m, x, lengths="", given=()):
    """Write a stack of layers.

    Parameters
    ----------
    lengths : str
        The name of sequence_lens, or "".
    given : list of str
        The names of the initial states; empty: the layer's own.

    Returns
    -------
    y : str
        In the layout of the layer.
    top : str
        h_n of the last layer, (D, B, H).
    finals : list of str
        The final states, as `_state_shapes` has them.
    """
    operator, arrays, attributes = _CELLS[type(m)](m)
    L, D = m.num_layers, 1 + m.bidirectional
    attributes["direction"] = "bidirectional" if m.bidirectional else "forward"
    y = out.add("Transpose", x, perm=[1, 0, 2]) if m.batch_first else x
    starts = _write_starts(out, m, y, given)
    ends = []
    for k in range(L):
        cells, H = arrays[k * D : k * D + D], m.state_widths[k][0]
        weights = {name: np.concatenate([a[name] for a in cells]) for name in cells[0]}
        names = {name: out.constant(a, name) for name, a in weights.items()}
        inputs = [y, *(names.get(w, "") for w in "WRB"), lengths, *starts[k], names.get("P", "")]
        while not inputs[-1]:
            inputs.pop()
        y, *end = out.add(
            operator, *inputs, outputs=1 + len(starts[k]), hidden_size=H, **attributes
        )
        ends.append(end)
        if D == 1:
            y = out.add("Squeeze", y, out.sizes(1))
        else:  # (T, D, B, H) -> (T, B, D*H)
            y = out.add("Transpose", y, perm=[0, 2, 1, 3])
            y = out.add("Reshape", y, out.sizes(0, 0, D * H))
    finals = [list(names) for names in zip(*ends, strict=True)]  # by state
    if L > 1 and len(set(m.state_widths)) == 1:
        finals = [[out.add("Concat", *names, axis=0)] for names in finals]
    y = out.add("Transpose", y, perm=[1, 0, 2]) if m.batch_first else y
    return y, ends[-1][0], [name for names in finals for name in names]


def _write_starts(out, m, x, given):
    """For each layer the names of its initial states (D, B, H); "": zeros. x is (T, B, I)."""
    L, D, S = m.num_layers, 1 + m.bidirectional, len(m.state_widths[0])
    if given and len(given) == S:
        parts = [_split(out, name, L, D) for name in given]
    elif given:
        parts = [given[k * L : k * L + L] for k in range(S)]
    elif m.learn_state:  # parameters (H,) of each cell, the same for all rows
        rows = out.add("Shape", x, start=1, end=2)
        shape = out.add("Concat", out.sizes(1), rows, out.sizes(1), axis=0)
        own, directions = m.parameters(), ("", "_reverse")[:D]
        parts = [
            [out.add("Expand", out.constant(np.stack(values)[:, None]), shape) for values in layers]
            for layers in (
                [[own[f"{s}0_l{k}{d}"] for d in directions] for k in range(L)] for s in "hc"[:S]
            )
        ]
    else:
        parts = [[""] * L] * S
    return list(zip(*parts, strict=True))


def _split(out, name, L, D):
    """The states (D, B, H) of each layer out of those of all."""
    return [name] if L == 1 else out.add("Split", name, out.sizes(*[D] * L), outputs=L, axis=0)


def _lstm(m):
    """The operator, the arrays of each cell by ONNX's names, and the attributes."""
    if m.proj_size:
        raise ValueError(f"ONNX's LSTM has no projection: proj_size must be 0, got {m.proj_size}")
    for field, value in m.spec.changed.items():
        if field not in _SAYABLE:
            raise ValueError(f"ONNX's LSTM has nothing for Spec({field}={value!r})")
    arrays = []
    for weights in m.cell_weights():
        weights = dict(weights)
        if m.spec.peepholes:  # zero rows where a gate has none
            on = np.array([[gate in m.spec.peepholes] for gate in "ifo"])
            weights["w_peephole"] = np.where(on, weights["w_peephole"], 0).astype(m.dtype)
        arrays.append(to_layout("onnx", weights))
    functions = (m.spec.gate, m.spec.candidate, m.spec.output)
    attributes = _activation_attributes(functions, ("sigmoid", "tanh", "tanh"), m.bidirectional)
    if m.spec.clip is not None:
        attributes["clip"] = m.spec.clip
    if m.spec.coupled:
        attributes["input_forget"] = 1
    return "LSTM", arrays, attributes


def _gru(m):
    """As `_lstm`."""
    attributes = {"linear_before_reset": int(m.reset_after)}
    functions, defaults = (m.gate, m.candidate), ("sigmoid", "tanh")
    attributes |= _activation_attributes(functions, defaults, m.bidirectional)
    if m.clip is not None:
        attributes["clip"] = m.clip
    return "GRU", [to_layout("onnx", w, cell="gru") for w in m.cell_weights()], attributes


def _rnn(m):
    """As `_lstm`."""
    attributes = _activation_attributes((m.nonlinearity,), ("tanh",), m.bidirectional)
    if m.clip is not None:
        attributes["clip"] = m.clip
    return "RNN", [to_layout("onnx", w, cell="rnn") for w in m.cell_weights()], attributes


def _activation_attributes(functions, defaults, bidirectional):
    """The attributes activations, activation_alpha, activation_beta; none for the defaults."""
    if functions == defaults:
        return {}
    names, alphas, betas = [], [], []
    for value in functions:
        value = ("affine", 1.0, 0.0) if value == "identity" else value
        name, *numbers = (value,) if isinstance(value, str) else value
        names.append(_camel(name))
        alphas += numbers[:1]
        betas += numbers[1:]
    D = 1 + bidirectional
    attributes = {"activations": names * D}
    attributes |= {"activation_alpha": alphas * D} if alphas else {}
    return attributes | ({"activation_beta": betas * D} if betas else {})


def _camel(name):
    """An activation's name as ONNX writes it."""
    return "".join(part.capitalize() for part in name.split("_"))


_CELLS = {layer.LSTM: _lstm, sibling_layers.GRU: _gru, sibling_layers.RNN: _rnn}
_RECURRENT = tuple(_CELLS)

# -- the others ------------------------------------------------------------------------------


def _write_activation(out, function, x):
    """Write an activation as `Spec` has it, or "softmax"."""
    name, *numbers = (function,) if isinstance(function, str) else function
    if name == "softmax":
        return out.add("Softmax", x, axis=-1)
    if name == "scaled_tanh":  # alpha tanh(beta x)
        return out.add("Mul", out.add("Tanh", out.add("Mul", x, out.number(numbers[1]))),
                       out.number(numbers[0]))  # fmt: skip
    if name == "affine":
        return out.add("Add", out.add("Mul", x, out.number(numbers[0])), out.number(numbers[1]))
    return out.add(_camel(name), x, **dict(zip(("alpha", "beta"), numbers, strict=False)))


def _write_dense(out, m, x, shape):
    parameters = m.parameters()
    y = out.add("MatMul", x, out.constant(parameters["weight"].T, "weight"))
    if m.bias:
        y = out.add("Add", y, out.constant(parameters["bias"], "bias"))
    y = y if m.activation is None else _write_activation(out, m.activation, y)
    return y, [*shape[:-1], m.out_features]


def _write_merge(out, m, x, shape):
    a, b = out.add("Split", x, outputs=2, axis=-1)
    y = out.add("Mul" if m.mode == "mul" else "Add", a, b)
    y = out.add("Mul", y, out.number(0.5)) if m.mode == "ave" else y
    return y, [*shape[:-1], None if shape[-1] is None else shape[-1] // 2]


def _write_reverse(out, m, x, shape):
    axis = 1 if m.batch_first and len(shape) == 3 else 0
    last, before = out.sizes(-1), out.sizes(np.iinfo(np.int64).min)
    return out.add("Slice", x, last, before, out.sizes(axis), out.sizes(-1)), shape


def _write_last_state(out, m, h, shape):  # (D, B, H) -> (B, D*H)
    y = out.add("Flatten", out.add("Transpose", h, perm=[1, 0, 2]), axis=1)
    return y, ["batch", shape[-1]]


def _write_embedding(out, m, x, shape):
    if m.mask_zero:
        raise ValueError("ONNX has nothing for Embedding(mask_zero=True)")
    table = out.constant(m.parameters()["weight"], "table")
    return out.add("Gather", table, x, axis=0), [*shape, m.embedding_dim]


def _write_flatten(out, m, x, shape):
    return out.add("Flatten", x, axis=1), [shape[0], shape[1] if len(shape) == 2 else None]


_WRITERS = {
    heads.Dense: _write_dense,
    heads.Dropout: lambda out, m, x, shape: (x, shape),
    heads.LastState: _write_last_state,
    between.Activation: lambda out, m, x, shape: (_write_activation(out, m.activation, x), shape),
    between.Embedding: _write_embedding,
    between.Flatten: _write_flatten,
    between.MergeDirections: _write_merge,
    between.Reverse: _write_reverse,
}
