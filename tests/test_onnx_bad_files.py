# SPDX-License-Identifier: MIT
"""Damaged and hostile ONNX files: one exception, in bounded memory (tests/fuzz/fuzz_onnx.py)."""

import os

import numpy as np
import pytest

pytestmark = pytest.mark.parity
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402
from onnx_models import graph_model, node_model, random_feeds  # noqa: E402

import fastlstm.onnx as fo  # noqa: E402


def contents():
    return node_model("LSTM", random_feeds("LSTM"), hidden_size=6)[0].SerializeToString()


def test_truncated_files_are_refused_at_every_byte():
    data = contents()
    for n in range(len(data)):
        with pytest.raises(fo.FormatError):
            fo.load(data[:n])


def test_garbage_is_refused():
    rng = np.random.default_rng(0)
    for n in (0, 1, 8, 100, 5000):
        for _ in range(50):
            with pytest.raises(fo.FormatError):
                fo.load(rng.bytes(n))


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(fo.FormatError, match="not a regular file"):
        fo.load(tmp_path / "pipe")
    with pytest.raises(OSError, match="directory"):
        fo.load(tmp_path)


def test_external_data_is_not_read(tmp_path):
    model = node_model("LSTM", random_feeds("LSTM"), hidden_size=6)[0]
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(fo.FormatError, match="in another file"):
        fo.load(path)


def one(operator, inputs, tensors, **attributes):
    model = graph_model([helper.make_node(operator, inputs, ["y"], **attributes)], {}, ["y"])
    for name, dtype, dims, values in tensors:
        model.graph.initializer.append(helper.make_tensor(name, dtype, dims, values))
    return model


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
HUGE = {
    "expand": one("Expand", ["x", "s"], [("x", FLOAT, [1], [1.0]), ("s", INT64, [2], [2**18] * 2)]),
    "constant of shape": one("ConstantOfShape", ["s"], [("s", INT64, [1], [2**62])]),
    "outer product": one("Mul", ["a", "b"], [("a", FLOAT, [60000, 1], [1.0] * 60000),
                                             ("b", FLOAT, [1, 60000], [1.0] * 60000)]),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_a_small_file_cannot_ask_for_a_large_memory(name):
    with pytest.raises(fo.FormatError, match=r"max_bytes is"):
        fo.load(HUGE[name])


def test_dimensions_that_the_data_does_not_fill_are_refused():
    for dims in ([2**62], [2**40, 2**40], [-1], [3]):
        model = one("Identity", ["x"], [("x", FLOAT, [2], [1.0, 2.0])])
        model.graph.initializer[0].dims[:] = dims
        with pytest.raises(fo.FormatError, match=r"'x'"):
            fo.load(model)


def test_a_circle_is_refused():
    nodes = [helper.make_node("Relu", [a], [b], name=a) for a, b in (("p", "q"), ("q", "p"))]
    with pytest.raises(fo.FormatError, match="which nothing before it makes"):
        fo.load(graph_model(nodes, {}, ["p"]))
