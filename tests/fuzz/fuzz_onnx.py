# SPDX-License-Identifier: MIT
"""Fuzz `fastlstm.onnx`: any bytes give a session or a FormatError, in bounded memory.

    python tests/fuzz/fuzz_onnx.py -max_total_time=300

Needs atheris (libFuzzer's arguments apply) and onnx. Seeds are small valid models; they are mutated
as bytes and as messages: other operators, attributes, dimensions, names, tensors.
"""

import os
import random
import sys
import tempfile
from math import prod

import atheris

with atheris.instrument_imports(include=["fastlstm"]):
    import fastlstm as fl
    import fastlstm.onnx as fo
    from fastlstm.onnx_export import export
    from fastlstm.onnx_graph import FormatError
    from fastlstm.onnx_ops import KERNELS
    from fastlstm.onnx_recurrent import RECURRENT

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MAX_BYTES = 1 << 22
OPERATORS = [*sorted({name for name, _ in (*KERNELS, *RECURRENT)}), "Constant", "If", "Conv"]
NUMBERS = (0, 1, -1, 2, 3, 7, 64, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))
DTYPES = {1: "f4", 11: "f8", 6: "i4", 7: "i8", 9: "?"}
WATCHED = (
    "open",
    "exec",
    "compile",
    "import",
    "os.system",
    "subprocess.Popen",
    "pickle.find_class",
)
watching = False


def watch(event, arguments):
    """An audit hook: loading and running open no file and execute nothing."""
    if watching and event in WATCHED:
        os.write(2, f"\nevent {event} {arguments!r} while a model was loaded or run\n".encode())
        os.abort()


def one_input(data):
    """Load the bytes as a model and run it on inputs of the shapes that it asks for."""
    global watching
    watching = True
    try:
        session = fo.load(data, max_bytes=MAX_BYTES)
        feeds = {}
        for value in session.get_inputs():
            code = {t: c for c, t in fo.TYPE_NAMES.items()}[value.type]
            shape = [n if isinstance(n, int) else 2 for n in value.shape or ()]
            if prod(max(1, n) for n in shape) > 1 << 16:
                return
            feeds[value.name] = np.ones(shape, DTYPES[code])
        for result in session.run(None, feeds):
            if type(result) is not np.ndarray or result.nbytes > MAX_BYTES:
                raise AssertionError(f"a result is {type(result)}")
    except FormatError as error:
        if not str(error) or len(str(error)) > 4000:
            raise AssertionError("the message is empty or endless") from error
    finally:
        watching = False


# -- seeds and mutations -----------------------------------------------------------------------


OTHER_INPUTS = {
    "Reshape": ["shape"],
    "Expand": ["shape"],
    "ConstantOfShape": ["shape"],
    "Unsqueeze": ["axes"],
    "Gather": ["axes"],
    "Slice": ["axes"] * 3,
}


def seeds():
    """Small valid models."""
    yield export(fl.LSTM(2, 3, 2, bidirectional=True, batch_first=True), lengths=True, state=True)
    yield export(fl.LSTM(2, 3, spec=fl.Spec(peepholes="io", coupled=True, clip=0.5)))
    yield export(fl.GRU(2, 3, bidirectional=True, reset_after=False), lengths=True)
    yield export(fl.RNN(2, 3, nonlinearity=("leaky_relu", 0.1), clip=0.7))
    model = [fl.Embedding(4, 2), fl.LSTM(2, 2), fl.LastState(), fl.Dense(2, 2, activation="relu")]
    yield export(fl.Sequential([*model, fl.Activation("softmax")]))
    x = np.ones((2, 3), "f4")
    for name, version in KERNELS:
        inputs = ["x"] * {"Gemm": 3, "Concat": 2}.get(name, 1)
        constants = {"shape": np.array([3, 2]), "axes": np.array([0])}
        extra = OTHER_INPUTS.get(name, [])
        inputs = extra if name == "ConstantOfShape" else inputs + extra
        attributes = {"axis": 0} if name in ("Concat", "Softmax", "LogSoftmax") else {}
        attributes |= {"to": 7} if name == "Cast" else {}
        node = helper.make_node(name, inputs, ["y"], **attributes)
        yield helper.make_model(
            helper.make_graph(
                [node], "seed", [helper.make_tensor_value_info("x", 1, x.shape)],
                [helper.make_empty_tensor_value_info("y")],
                [numpy_helper.from_array(a, n) for n, a in constants.items() if n in inputs],
            ),
            opset_imports=[helper.make_opsetid("", max(7, version))], ir_version=8,
        )  # fmt: skip


def change(model, rng):
    """Change one thing in a message."""
    graph = model.graph
    names = [n for node in graph.node for n in node.output] + [v.name for v in graph.input]
    names += [t.name for t in graph.initializer] + ["", "nowhere"]
    node = rng.choice(graph.node) if graph.node else graph.node.add()
    kind = rng.randrange(14)
    if kind == 0:
        node.op_type = rng.choice(OPERATORS)
    elif kind == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif kind == 2:
        node.input.append(rng.choice(names))
    elif kind == 3:
        node.output.append(rng.choice([*names, f"new{rng.randrange(9)}"]))
    elif kind == 4:
        graph.node.add().CopyFrom(node)
        graph.node[-1].output[:] = [f"copy{len(graph.node)}_{k}" for k in range(len(node.output))]
        graph.output[0].name = graph.node[-1].output[0] if node.output else ""
    elif kind == 5:
        change_attribute(node, rng)
    elif kind == 6 and graph.initializer:
        change_tensor(rng.choice(graph.initializer), rng)
    elif kind == 7 and graph.input:
        shape = rng.choice(graph.input).type.tensor_type.shape
        (rng.choice(shape.dim) if shape.dim else shape.dim.add()).dim_value = rng.choice(NUMBERS)
    elif kind == 8 and graph.input:
        rng.choice(graph.input).type.tensor_type.elem_type = rng.choice((*DTYPES, 10, 99))
    elif kind == 9 and model.opset_import:
        model.opset_import[0].version = rng.randrange(5, 30)
    elif kind == 10:
        a = np.array([rng.choice(NUMBERS) for _ in range(rng.randrange(4))], np.int64)
        graph.initializer.append(numpy_helper.from_array(a, f"numbers{len(graph.initializer)}"))
        node.input.append(graph.initializer[-1].name)
    elif kind == 11 and graph.output:
        graph.output.add().name = rng.choice(names)
    elif kind == 12 and len(graph.node) > 1:
        del graph.node[rng.randrange(len(graph.node))]
    elif kind == 13:
        node.domain = rng.choice(["", "ai.onnx", "com.microsoft"])


def change_attribute(node, rng):
    """Change or add an attribute."""
    known = ["axis", "axes", "perm", "to", "alpha", "direction", "hidden_size", "layout", "value",
             "activations", "clip", "keepdims", "split", "start", "end"]  # fmt: skip
    if not node.attribute or rng.random() < 0.5:
        values = (rng.choice(NUMBERS), 0.5, float("nan"), "reverse", [0, 1], [1e30], ["Elu"], [-1])
        node.attribute.append(helper.make_attribute(rng.choice(known), rng.choice(values)))
        return
    attribute = rng.choice(node.attribute)
    attribute.i, attribute.f = rng.choice(NUMBERS), rng.choice((0.0, -1.0, 1e38, float("nan")))
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
    if rng.random() < 0.1:
        attribute.type = rng.randrange(15)
    if attribute.HasField("t"):
        change_tensor(attribute.t, rng)


def change_tensor(tensor, rng):
    """Change the shape, the dtype, the numbers or the place of a tensor."""
    kind = rng.randrange(5)
    if kind == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
    elif kind == 1:
        tensor.data_type = rng.choice((*DTYPES, 8, 10, 99))
    elif kind == 2:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/hostname")
    elif kind == 3 and tensor.raw_data:
        raw = bytearray(tensor.raw_data)
        raw[rng.randrange(len(raw))] = rng.randrange(256)
        tensor.raw_data = bytes(raw)
    else:
        tensor.dims.append(rng.choice(NUMBERS))


def mutate(data, max_size, seed):
    """A mutation: of the message where the bytes are one, or of the bytes."""
    rng = random.Random(seed)
    if rng.random() < 0.7:
        try:
            model = onnx.ModelProto.FromString(data)
            for _ in range(rng.randrange(1, 4)):
                change(model, rng)
            changed = model.SerializeToString()
        except Exception:  # no message, or one that cannot be changed so: the bytes are mutated
            changed = b""
        if changed and len(changed) <= max_size:
            return changed
    return atheris.Mutate(data, max_size)


def main():
    with tempfile.TemporaryDirectory() as corpus:
        for k, model in enumerate(seeds()):
            contents = model.SerializeToString()
            one_input(contents)  # what is imported when it is needed is there before the watch
            with open(os.path.join(corpus, str(k)), "wb") as file:
                file.write(contents)
        given = [corpus, "-rss_limit_mb=1024", "-timeout=20", "-max_len=65536"]
        sys.addaudithook(watch)
        atheris.Setup([*sys.argv, *given], one_input, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
