# SPDX-License-Identifier: MIT
"""An ONNX model's graph, read with distrust: what is not understood is refused, by name.

Nothing in a file is executed and no other file is opened: tensors are read here, not by the onnx
package, whose schemas say which inputs and attributes an operator has in which version.
"""

import inspect
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from . import onnx_shapes  # noqa: F401  its kernels
from .onnx_ops import DTYPES, KERNELS, TYPE_NAMES
from .onnx_recurrent import RECURRENT
from .tensorfile import FormatError, brief

__all__ = ["Graph", "NodeArg", "Step", "read_graph", "tensor_array"]

_LEAST_OPSET = 7
_LEAST_IR, _MOST_IR = 3, 13
# The field of a TensorProto that holds its numbers when raw_data does not
_FIELDS = {1: "float_data", 11: "double_data", 6: "int32_data", 7: "int64_data", 9: "int32_data"}
_VARIADIC = onnx.defs.OpSchema.FormalParameterOption.Variadic
_ATTRIBUTES = {
    AttributeProto.FLOAT: lambda a: a.f,
    AttributeProto.INT: lambda a: a.i,
    AttributeProto.STRING: lambda a: a.s.decode(),
    AttributeProto.FLOATS: lambda a: list(a.floats),
    AttributeProto.INTS: lambda a: list(a.ints),
    AttributeProto.STRINGS: lambda a: [s.decode() for s in a.strings],
    AttributeProto.TENSOR: lambda a: tensor_array(a.t, "the tensor of an attribute"),
}


class NodeArg(NamedTuple):
    """An input or output of the model, as ONNX Runtime describes it.

    ``shape`` is a list of int, of str where a dimension has a name, of None where it has none;
    or None where nothing is said about it.
    """

    name: str
    type: str
    shape: list | None


class Step(NamedTuple):
    """One node: ``run(*inputs)`` gives its output, or a tuple of them; "" stands for none."""

    label: str
    run: object
    inputs: tuple
    outputs: tuple


class Graph(NamedTuple):
    """What `read_graph` found."""

    inputs: list
    outputs: list
    constants: dict
    steps: list


def _unicode(what, *strings):
    """Refuse names that are no Unicode text: protobuf gives them as bytes."""
    for name in strings:
        if not isinstance(name, str):
            raise FormatError(f"{what} has a name that is no Unicode text: {brief(name)}")


def tensor_array(tensor, what):
    """The numbers of a TensorProto, as a read-only array where it keeps them in raw_data.

    Raises
    ------
    FormatError
        A dtype that is not supported, external data, a shape that does not fit the data.
    """
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise FormatError(
            f"{what} is in another file (external data), which is not read: "
            f"save the model with its tensors inside (torch.onnx.export: external_data=False)"
        )
    if tensor.HasField("segment"):
        raise FormatError(f"{what} is a segment of a tensor, which is not supported")
    if tensor.data_type not in DTYPES:
        raise FormatError(f"{what} has {_type_name(tensor.data_type)}, which is not supported")
    dtype, shape = DTYPES[tensor.data_type], tuple(tensor.dims)
    if len(shape) > 32 or any(n < 0 for n in shape) or prod(n or 1 for n in shape) >= 2**59:
        raise FormatError(f"{what} has an impossible shape: {brief(shape)}")
    if tensor.HasField("raw_data"):
        data = tensor.raw_data
        if len(data) != prod(shape) * dtype.itemsize:
            raise FormatError(
                f"{what} has shape {shape} and takes {prod(shape) * dtype.itemsize} bytes, "
                f"got {len(data)}"
            )
        array = np.frombuffer(data, dtype.newbyteorder("<"))
    else:
        data = getattr(tensor, _FIELDS[tensor.data_type])
        if len(data) != prod(shape):
            raise FormatError(
                f"{what} has shape {shape} and takes {prod(shape)} numbers, got {len(data)}"
            )
        array = np.fromiter(data, np.int32 if dtype.kind == "b" else dtype, len(data))
    return array.astype(dtype, copy=False).reshape(shape)


def _type_name(data_type):
    try:
        return f"the element type {TensorProto.DataType.Name(data_type)}"
    except ValueError:
        return f"the unknown element type {data_type}"


def read_graph(model, room):
    """The graph of a ModelProto: its inputs, constants and steps.

    Parameters
    ----------
    model : onnx.ModelProto
    room : callable
        ``room(shape, dtype)`` raises where an array would be too large.

    Raises
    ------
    FormatError
        Whatever is wrong or not supported; the message names the node.
    """
    opset = _opset(model)
    graph = model.graph
    _unicode("an initializer", *(tensor.name for tensor in graph.initializer))
    _unicode("an input or output", *(value.name for value in (*graph.input, *graph.output)))
    if graph.sparse_initializer:
        raise FormatError("sparse initializers are not supported")
    constants = {}
    for tensor in graph.initializer:
        if tensor.name in constants or not tensor.name:
            raise FormatError(f"the initializer {brief(tensor.name)} has no name or occurs twice")
        constants[tensor.name] = tensor_array(tensor, f"the initializer {brief(tensor.name)}")
    inputs = [
        _node_arg(value, "input") for value in graph.input if value.name not in constants
    ]  # before IR version 4, initializers are inputs too
    known = {*constants, *(value.name for value in inputs)}
    if len(known) < len(constants) + len(inputs) or "" in known:
        raise FormatError("an input has no name, or two have the same")
    steps = []
    for index, node in enumerate(graph.node):
        step = _step(node, index, opset, room)
        for name in filter(None, step.inputs):
            if name not in known:
                raise FormatError(
                    f"{step.label} reads {brief(name)}, which nothing before it makes: "
                    f"the nodes are in a circle or out of order, or a part is missing"
                )
        for name in filter(None, step.outputs):
            if name in known:
                raise FormatError(f"{step.label} makes {brief(name)}, which is there already")
            known.add(name)
        steps.append(step)
    outputs = [_node_arg(value, "output", needs_type=False) for value in graph.output]
    if not outputs:
        raise FormatError("the model has no outputs")
    for value in outputs:
        if value.name not in known:
            raise FormatError(f"nothing makes the output {brief(value.name)}")
    return Graph(inputs, outputs, constants, steps)


def _opset(model):
    """The version of the standard operators that the model uses."""
    if not _LEAST_IR <= model.ir_version <= _MOST_IR:
        raise FormatError(
            f"IR version {model.ir_version} is not supported, from {_LEAST_IR} to {_MOST_IR} are"
        )
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise FormatError(f"the model must import one version of ONNX's operators, got {versions}")
    most = onnx.defs.onnx_opset_version()
    if not _LEAST_OPSET <= versions[0] <= most:
        raise FormatError(
            f"opset {versions[0]} is not supported: from {_LEAST_OPSET} to {most} are, with the "
            f"installed onnx {onnx.__version__}"
        )
    return versions[0]


def _node_arg(value, what, needs_type=True):
    """The description of a model's input or output."""
    what = f"the {what} {brief(value.name)}"
    kind = value.type.WhichOneof("value")
    if kind is None and not needs_type:
        return NodeArg(value.name, "", None)
    if kind != "tensor_type":
        raise FormatError(f"{what} is no tensor, but {kind or 'of no type'}")
    tensor = value.type.tensor_type
    if tensor.elem_type not in DTYPES:
        raise FormatError(f"{what} has {_type_name(tensor.elem_type)}, which is not supported")
    shape = None
    if tensor.HasField("shape"):
        if len(tensor.shape.dim) > 32:
            raise FormatError(f"{what} has {len(tensor.shape.dim)} dimensions, at most 32 can be")
        shape = [_dimension(dim, what) for dim in tensor.shape.dim]
    return NodeArg(value.name, TYPE_NAMES[tensor.elem_type], shape)


def _dimension(dim, what):
    _unicode(what, dim.dim_param)
    if dim.HasField("dim_value"):
        if dim.dim_value < 0:
            raise FormatError(f"{what} has a dimension of {dim.dim_value}")
        return dim.dim_value
    return dim.dim_param or None


def _step(node, index, opset, room):
    """A checked node."""
    names = (a.name for a in node.attribute)
    _unicode(
        f"node {index}", node.name, node.op_type, node.domain, *node.input, *node.output, *names
    )
    label = f"node {brief(node.name) if node.name else index} ({node.op_type[:40]})"
    if node.domain not in ("", "ai.onnx"):
        raise FormatError(f"{label}: operators of domain {brief(node.domain)} are not supported")
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        raise FormatError(f"{label}: there is no such operator in opset {opset}") from None
    version = schema.since_version
    if len(node.input) > schema.max_input or len(node.input) < schema.min_input:
        raise FormatError(
            f"{label}: it takes {schema.min_input} to {schema.max_input} inputs, "
            f"got {len(node.input)}"
        )
    if not any(node.output) or len(node.output) > schema.max_output:
        raise FormatError(
            f"{label}: it has 1 to {schema.max_output} outputs, got {list(node.output)[:8]}"
        )
    variadic = schema.inputs and schema.inputs[-1].option == _VARIADIC
    required = list(node.input)[: None if variadic else schema.min_input]
    if not all(required):
        raise FormatError(f"{label}: input {required.index('')} is missing")
    attributes = _attributes(node, schema, label)
    if node.op_type == "Constant":
        run = _constant(attributes, label)
    elif (node.op_type, version) in RECURRENT:
        run = RECURRENT[node.op_type, version](attributes, label, room)
    elif (node.op_type, version) in KERNELS:
        run = _bound(KERNELS[node.op_type, version], attributes, label, room, len(node.output))
    else:
        raise FormatError(f"{label}: this operator is not supported (version {version} of it)")
    return Step(label, run, tuple(node.input), tuple(node.output))


def _attributes(node, schema, label):
    """The attributes by name, with the schema's defaults."""
    values = {}
    for name, known in schema.attributes.items():
        if known.default_value.type in _ATTRIBUTES:
            values[name] = _ATTRIBUTES[known.default_value.type](known.default_value)
    given = set()
    for attribute in node.attribute:
        name = attribute.name
        if name not in schema.attributes or name in given:
            raise FormatError(f"{label}: the attribute {brief(name)} is unknown or occurs twice")
        if attribute.ref_attr_name or attribute.type not in _ATTRIBUTES:
            raise FormatError(f"{label}: an attribute of the kind of {name} is not supported")
        if int(schema.attributes[name].type) != attribute.type:
            raise FormatError(
                f"{label}: the attribute {name} must be of type "
                f"{schema.attributes[name].type.name}, got "
                f"{AttributeProto.AttributeType.Name(attribute.type)}"
            )
        given.add(name)
        try:
            values[name] = _ATTRIBUTES[attribute.type](attribute)
        except UnicodeDecodeError:
            raise FormatError(f"{label}: the attribute {name} is no Unicode text") from None
        except FormatError as error:
            raise FormatError(f"{label}: {error}") from None
    for name, known in schema.attributes.items():
        if known.required and name not in given:
            raise FormatError(f"{label}: the attribute {name} is missing")
    return values


def _constant(attributes, label):
    """What makes the value of a Constant."""
    if len(attributes) != 1:
        raise FormatError(f"{label}: it must have one attribute, got {sorted(attributes)}")
    ((name, value),) = attributes.items()
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
             "value_ints": np.int64}  # fmt: skip
    if name not in ("value", *kinds):
        raise FormatError(f"{label}: the attribute {name} is not supported")
    value = value if name == "value" else np.array(value, kinds[name])
    return lambda: value


def _bound(kernel, attributes, label, room, outputs):
    """The kernel with its attributes, checked."""
    accepted = inspect.signature(kernel.function).parameters
    for name in attributes:
        if name not in accepted:
            raise FormatError(f"{label}: the attribute {name} is not supported")
    if "to" in attributes and attributes["to"] not in DTYPES:
        raise FormatError(f"{label}: {_type_name(attributes['to'])} is not supported")
    if isinstance(value := attributes.get("value"), np.ndarray) and value.size != 1:
        raise FormatError(f"{label}: the attribute value must hold one number, got {value.size}")
    if "outputs" in accepted:
        attributes["outputs"] = outputs
    function = partial(kernel.function, room) if kernel.room else kernel.function
    return partial(function, **attributes) if attributes else function
