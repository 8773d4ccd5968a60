# SPDX-License-Identifier: MIT
"""ONNX models for tests, and ONNX Runtime that runs them."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

INPUTS = {
    "LSTM": ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"],
    "GRU": ["X", "W", "R", "B", "sequence_lens", "initial_h"],
    "RNN": ["X", "W", "R", "B", "sequence_lens", "initial_h"],
}
OUTPUTS = {"LSTM": ["Y", "Y_h", "Y_c"], "GRU": ["Y", "Y_h"], "RNN": ["Y", "Y_h"]}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def graph_model(nodes, feeds, outputs, constants=(), opset=17):
    """A model of these nodes; ``feeds`` (name -> array) are inputs, but ``constants`` of them."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in feeds.items()
        if name not in constants
    ]
    tensors = [numpy_helper.from_array(feeds[name], name) for name in constants]
    outputs = [helper.make_empty_tensor_value_info(name) for name in outputs]
    return helper.make_model(
        helper.make_graph(nodes, "test", inputs, outputs, tensors),
        opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset <= 17 else 10,
    )  # fmt: skip


def node_model(operator, feeds, constants=("W", "R", "B", "P"), opset=17, **attributes):
    """A model of one LSTM, GRU or RNN, and what to feed it; None in ``feeds`` counts as absent."""
    feeds = {name: a for name, a in feeds.items() if a is not None}
    names = [name if name in feeds else "" for name in INPUTS[operator]]
    outputs = OUTPUTS[operator]
    node = helper.make_node(operator, names, outputs, name="cell", **attributes)
    constants = [name for name in constants if name in feeds]
    model = graph_model([node], feeds, outputs, constants, opset)
    return model, {name: a for name, a in feeds.items() if name not in constants}


def random_feeds(
    operator, T=7, B=4, I=5, H=6, D=1, lengths=None, state=True, peepholes=False, bias=True,
    dtype="float32", seed=0,
):  # fmt: skip
    """Random inputs of a recurrent node, pre-activations near 1.5."""
    rng = np.random.default_rng(seed)
    G, scale = GATES[operator], 1.5 / np.sqrt(I + H)
    feeds = dict(
        X=rng.standard_normal((T, B, I)),
        W=rng.standard_normal((D, G * H, I)) * scale,
        R=rng.standard_normal((D, G * H, H)) * scale,
        B=rng.standard_normal((D, 2 * G * H)) if bias else None,
        initial_h=rng.standard_normal((D, B, H)) if state else None,
    )
    if operator == "LSTM":
        feeds["initial_c"] = rng.standard_normal((D, B, H)) if state else None
        feeds["P"] = rng.standard_normal((D, 3 * H)) if peepholes else None
    feeds = {name: a if a is None else a.astype(dtype) for name, a in feeds.items()}
    if lengths is not None:
        feeds["sequence_lens"] = np.array(lengths, np.int32)
    return feeds


def onnxruntime_run(model, feeds):
    """The outputs of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    contents = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    session = onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def assert_same(actual, expected, atol=1e-6):
    """The same arrays, to ``atol`` of each one's largest number, or of 1."""
    assert len(actual) == len(expected)
    for k, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert type(a) is np.ndarray and a.dtype == b.dtype, f"output {k}: {type(a)} {a.dtype}"
        assert a.shape == b.shape, f"output {k}: {a.shape}, expected {b.shape}"
        scale = max(1, np.abs(b).max(initial=0)) if b.dtype.kind == "f" else 1
        np.testing.assert_allclose(a, b, rtol=0, atol=atol * scale, err_msg=f"output {k}")
