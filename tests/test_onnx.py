# SPDX-License-Identifier: MIT
"""fastlstm.onnx: sessions, operators beside ONNX Runtime, and what is refused."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

pytestmark = pytest.mark.parity
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_models import (  # noqa: E402
    assert_same,
    graph_model,
    node_model,
    onnxruntime_run,
    random_feeds,
)

import fastlstm as fl  # noqa: E402
import fastlstm.onnx as fo  # noqa: E402
from fastlstm.onnx_ops import KERNELS  # noqa: E402

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype("f4")


def ints(*values):
    return np.array(values, np.int64)


X = normal(3, 4, 5)
SCALAR = np.array(0.3, "f4")
MIN, MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max

# operator, opset, inputs (None: left out), attributes; all its outputs are compared
OPERATORS = [
    *(
        (name, opset, (X, normal(5)), {})
        for name in ("Add", "Sub", "Mul", "Div")
        for opset in (7, 13, 17)
    ),
    *((name, 17, (normal(3, 1, 5), normal(4, 1)), {}) for name in ("Add", "Sub", "Mul", "Div")),
    ("Div", 17, (ints(7, -7, 7, -7, 0), ints(2, 2, -2, -2, 3)), {}),
    ("Add", 17, (ints(1, 2), ints(5)), {}),
    ("Neg", 17, (X,), {}),
    ("MatMul", 17, (X, normal(5, 2)), {}),
    ("MatMul", 9, (normal(2, 1, 3, 4), normal(5, 4, 2)), {}),
    ("MatMul", 17, (normal(4), normal(4)), {}),
    ("MatMul", 17, (normal(4), normal(2, 4, 3)), {}),
    ("Gemm", 17, (normal(3, 4), normal(4, 5), normal(5)), {}),
    (
        "Gemm",
        9,
        (normal(4, 3), normal(5, 4), normal(3, 1)),
        dict(transA=1, transB=1, alpha=0.5, beta=2.0),
    ),
    ("Gemm", 11, (normal(3, 4), normal(4, 5)), dict(alpha=0.5)),
    ("Gemm", 13, (normal(3, 4), normal(4, 5), SCALAR), dict(beta=0.0)),
    *(
        (name, opset, (3 * X,), {})
        for name in ("Relu", "Sigmoid", "Tanh", "Exp", "Softplus", "Softsign", "Identity", "Shape")
        for opset in (9, 17, 21)
    ),
    ("LeakyRelu", 17, (X,), {}),
    ("LeakyRelu", 9, (X,), dict(alpha=0.3)),
    ("Elu", 17, (X,), dict(alpha=0.3)),
    ("HardSigmoid", 17, (3 * X,), {}),
    ("HardSigmoid", 17, (3 * X,), dict(alpha=0.3, beta=0.4)),
    ("ThresholdedRelu", 17, (X,), dict(alpha=0.3)),
    ("Clip", 10, (X,), dict(min=-0.5, max=0.3)),
    ("Clip", 17, (X, SCALAR), {}),
    ("Clip", 17, (X, None, SCALAR), {}),
    ("Clip", 17, (X, np.array(-0.4, "f4"), SCALAR), {}),
    ("Dropout", 10, (X,), dict(ratio=0.4)),
    ("Dropout", 17, (X,), {}),
    ("Dropout", 17, (X, SCALAR, np.array(False)), {}),
    *(
        ("Cast", 17, (X * 3,), dict(to=to))
        for to in (TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL)
    ),
    ("Cast", 9, (ints(0, 1, -3),), dict(to=TensorProto.FLOAT)),
    *(
        (name, opset, (X,), dict(axis=axis))
        for name in ("Softmax", "LogSoftmax")
        for opset, axis in ((9, 1), (11, 1), (11, 2), (13, -1), (17, 1))
    ),
    *(
        (name, 11, (X,), attributes)
        for name in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")
        for attributes in ({}, dict(axes=[1]), dict(axes=[-1, 0], keepdims=0))
    ),
    *(
        (name, 18, (X, *axes), attributes)
        for name in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")
        for axes, attributes in (
            ((), {}),
            ((ints(1),), {}),
            ((ints(-1, 0),), dict(keepdims=0)),
            ((), dict(noop_with_empty_axes=1)),
        )
    ),
    ("ReduceMean", 18, (ints(-7, 2, 2),), {}),
    ("Shape", 17, (X,), dict(start=1)),
    ("Shape", 17, (X,), dict(start=-2, end=-1)),
    ("Reshape", 17, (X, ints(0, -1)), {}),
    ("Reshape", 17, (X, ints(5, 12)), dict(allowzero=1)),
    ("Reshape", 9, (X, ints(-1)), {}),
    ("Flatten", 17, (X,), {}),
    ("Flatten", 17, (X,), dict(axis=-1)),
    ("Flatten", 9, (X,), dict(axis=0)),
    ("Transpose", 17, (X,), {}),
    ("Transpose", 21, (X,), dict(perm=[1, 2, 0])),
    ("Squeeze", 9, (normal(1, 3, 1),), dict(axes=[0])),
    ("Squeeze", 17, (normal(1, 3, 1), ints(-1)), {}),
    ("Squeeze", 17, (normal(1, 3, 1),), {}),
    ("Unsqueeze", 9, (X,), dict(axes=[0, 4])),
    ("Unsqueeze", 17, (X, ints(-1, 1)), {}),
    ("Concat", 17, (X, normal(3, 1, 5), normal(3, 2, 5)), dict(axis=1)),
    ("Concat", 9, (X,), dict(axis=-1)),
    ("Gather", 17, (X, np.array([[0, -1]], np.int64)), dict(axis=1)),
    ("Gather", 9, (X, np.array(1, np.int32)), {}),
    ("Gather", 17, (ints(4, 5, 6), np.array(-1)), {}),
    ("Slice", 9, (X,), dict(starts=[0, 1], ends=[2, -1])),
    ("Slice", 9, (X,), dict(starts=[-2], ends=[1000], axes=[1])),
    ("Slice", 17, (X, ints(1), ints(3)), {}),
    ("Slice", 17, (X, ints(-1), ints(MIN), ints(1), ints(-1)), {}),
    ("Slice", 17, (X, ints(-100, 3), ints(MAX, 0), ints(-1, 1), ints(2, -2)), {}),
    ("Slice", 17, (X, ints(3), ints(1), ints(1)), {}),
    ("Slice", 17, (X, ints(-100), ints(-200), ints(1), ints(-1)), {}),
    ("Expand", 17, (normal(3, 1), ints(2, 1, 4)), {}),
    ("ConstantOfShape", 17, (ints(2, 3),), {}),
    ("ConstantOfShape", 17, (ints(2, 0),), dict(value=numpy_helper.from_array(ints(7)))),
    ("ConstantOfShape", 17, (np.zeros(0, np.int64),), {}),
]
SPLITS = [  # operator, opset, inputs, attributes, number of outputs
    (11, (X,), dict(axis=1), 2),
    (11, (X,), dict(axis=-1, split=[2, 3]), 2),
    (17, (X,), dict(axis=1), 4),
    (17, (X, ints(1, 0, 4)), dict(axis=2), 3),
    (18, (X,), dict(axis=2, num_outputs=3), 3),
    (18, (X, ints(1, 4)), dict(axis=-1), 2),
]


def operator_model(operator, opset, inputs, attributes, outputs=1, constants=()):
    names = [f"in{k}" if a is not None else "" for k, a in enumerate(inputs)]
    feeds = {name: a for name, a in zip(names, inputs, strict=True) if name}
    results = [f"out{k}" for k in range(outputs)]
    node = helper.make_node(operator, names, results, **attributes)
    model = graph_model([node], feeds, results, constants, opset)
    return model, {name: a for name, a in feeds.items() if name not in constants}


@pytest.mark.parametrize(
    ("operator", "opset", "inputs", "attributes"), OPERATORS,
    ids=[f"{row[0]}-{row[1]}-{k}" for k, row in enumerate(OPERATORS)],
)  # fmt: skip
def test_operator_matches_onnxruntime(operator, opset, inputs, attributes):
    model, feeds = operator_model(operator, opset, inputs, attributes)
    expected = onnxruntime_run(model, feeds)
    assert_same(fo.load(model).run(None, feeds), expected)
    constants = [f"in{k}" for k in range(1, len(inputs)) if inputs[k] is not None]
    model, feeds = operator_model(operator, opset, inputs, attributes, constants=constants)
    assert_same(fo.load(model).run(None, feeds), expected)


@pytest.mark.parametrize(("opset", "inputs", "attributes", "outputs"), SPLITS)
def test_split_matches_onnxruntime(opset, inputs, attributes, outputs):
    model, feeds = operator_model("Split", opset, inputs, attributes, outputs)
    assert_same(fo.load(model).run(None, feeds), onnxruntime_run(model, feeds))


def test_every_operator_is_compared():
    compared = {row[0] for row in OPERATORS} | {"Split"}
    assert {name for name, _ in KERNELS} == compared


@pytest.mark.parametrize("attributes", [
    dict(value=numpy_helper.from_array(normal(2, 3))), dict(value_float=0.5),
    dict(value_floats=[0.5, 1.5]), dict(value_int=3), dict(value_ints=[3, 4]),
], ids=lambda a: next(iter(a)))  # fmt: skip
def test_constant_matches_onnxruntime(attributes):
    nodes = [helper.make_node("Constant", [], ["y"], **attributes)]
    model = graph_model(nodes, {}, ["y"])
    assert_same(fo.load(model).run(None, {}), onnxruntime_run(model, {}), atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.bool_])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "field"])
def test_initializer_is_read_in_either_form(dtype, raw):
    a = (RNG.standard_normal((2, 3)) * 3).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(a.dtype)
    tensor = helper.make_tensor("a", kind, a.shape, a.tobytes() if raw else a.ravel(), raw=raw)
    model = graph_model([helper.make_node("Identity", ["a"], ["y"])], {}, ["y"])
    model.graph.initializer.append(tensor)
    assert_same(fo.load(model).run(None, {}), [a], atol=0)


# -- the session -------------------------------------------------------------------------------


def dense_model():
    """relu(x @ w + b), tanh of it, and x again."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
        helper.make_node("Tanh", ["y"], ["z"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Exp", ["x"], ["unused"]),
    ]
    feeds = dict(x=normal(3, 5), w=normal(5, 2), b=normal(2))
    model = graph_model(nodes, feeds, ["y", "z", "same"], ["w", "b"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return model, {"x": feeds["x"]}


def test_load_takes_a_path_bytes_or_a_model(tmp_path):
    model, feeds = dense_model()
    expected = onnxruntime_run(model, feeds)
    path = tmp_path / "dense.onnx"
    onnx.save(model, path)
    contents = path.read_bytes()
    for source in (path, str(path), contents, bytearray(contents), memoryview(contents), model):
        assert_same(fo.load(source).run(None, feeds), expected)


def test_session_describes_its_inputs_and_outputs_as_onnxruntime():
    import onnxruntime

    model, _ = dense_model()
    theirs = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    session = fo.load(model)
    (x,), (their_x,) = session.get_inputs(), theirs.get_inputs()
    assert (x.name, x.type, x.shape) == (their_x.name, their_x.type, their_x.shape)
    assert x.shape == ["batch", 5]
    assert [y.name for y in session.get_outputs()] == [y.name for y in theirs.get_outputs()]


def test_run_gives_the_outputs_that_are_asked_for_in_that_order():
    model, feeds = dense_model()
    y, z, same = onnxruntime_run(model, feeds)
    session = fo.load(model)
    assert_same(session.run(["z"], feeds), [z])
    assert_same(session.run(["same", "y", "y"], feeds), [same, y, y])
    assert session.run([], feeds) == []


def test_run_takes_any_batch_where_the_model_names_the_dimension():
    model, _ = dense_model()
    assert fo.load(model).run(["y"], {"x": normal(7, 5)})[0].shape == (7, 2)


def test_results_belong_to_the_caller():
    """None is the input, a constant, another result, or part of one; all can be written to."""
    nodes = [
        helper.make_node("Identity", [a], [b]) for a, b in (("x", "p"), ("w", "q"), ("p", "r"))
    ]
    nodes.append(helper.make_node("Transpose", ["x"], ["s"]))
    feeds = dict(x=normal(3, 5), w=normal(2))
    session = fo.load(graph_model(nodes, feeds, ["p", "q", "r", "s"], ["w"]))
    x = feeds["x"].copy()
    results = session.run(None, {"x": x})
    for a in results:
        assert a.flags.c_contiguous and a.flags.writeable
        a += 1
    assert (x == feeds["x"]).all()
    assert (results[0] == results[2]).all() and (results[3] == results[0].T).all()
    assert (session.run(["q"], {"x": x})[0] == feeds["w"]).all()


def test_run_leaves_read_only_and_strided_inputs_alone():
    model, feeds = node_model("LSTM", random_feeds("LSTM"), hidden_size=6)
    expected = onnxruntime_run(model, feeds)
    session = fo.load(model)
    strided = {k: np.repeat(a, 2, axis=-1)[..., ::2] for k, a in feeds.items()}
    swapped = {k: a.astype(a.dtype.newbyteorder()) for k, a in feeds.items()}
    for a in strided.values():
        a.flags.writeable = False
    assert_same(session.run(None, strided), expected)
    assert_same(session.run(None, swapped), expected)


def test_session_may_be_shared_by_threads():
    model, feeds = node_model("LSTM", random_feeds("LSTM", T=50, H=32), hidden_size=32)
    session = fo.load(model)
    expected, wrong = session.run(None, feeds), []

    def work():
        for _ in range(50):
            if any((a != b).any() for a, b in zip(session.run(None, feeds), expected, strict=True)):
                wrong.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_weights_that_are_fed_may_change_in_place():
    feeds = random_feeds("LSTM")
    model, feeds = node_model("LSTM", feeds, constants=(), hidden_size=6)
    session = fo.load(model)
    first = session.run(None, feeds)[0]
    feeds["W"] *= -1
    assert_same(session.run(None, feeds), onnxruntime_run(model, feeds))
    assert np.abs(session.run(None, feeds)[0] - first).max() > 0.01


def test_weights_that_nodes_make_of_constants_are_packed_once():
    """As the older exporter of PyTorch leaves them without constant folding."""
    feeds = random_feeds("LSTM")
    model, rest = node_model("LSTM", feeds, hidden_size=6)
    expected = onnxruntime_run(model, rest)
    (node,) = model.graph.node
    top, bottom = np.split(feeds["W"][0], 2)
    parts = [helper.make_node("Concat", ["top", "bottom"], ["both"], axis=0),
             helper.make_node("Unsqueeze", ["both", "axis"], ["made"])]  # fmt: skip
    node.input[1] = "made"
    del model.graph.node[:]
    model.graph.node.extend([*parts, node])
    for name, a in dict(top=top, bottom=bottom, axis=ints(0)).items():
        model.graph.initializer.append(numpy_helper.from_array(a, name))
    session = fo.load(model)
    assert [step.inputs[1] for step, _ in session.steps()] == [""]
    assert_same(session.run(None, rest), expected)


def test_a_weight_may_be_the_input_of_its_own_node():
    feeds = random_feeds("LSTM", T=1, B=24, I=6, H=6, state=False)
    feeds["X"] = feeds["R"]
    model, _ = node_model("LSTM", feeds, ("X", "W", "R", "B"), hidden_size=6)
    model.graph.node[0].input[0] = "R"
    assert_same(fo.load(model).run(None, {}), onnxruntime_run(model, {}))


FEEDS = {
    "the input 'x' is missing": ({}, ValueError),
    "the model has no input 'y'; it has x": (dict(y=normal(3, 5)), ValueError),
    r"the input 'x' must have shape \['batch', 5\], got \(3, 4\)": (
        dict(x=normal(3, 4)),
        ValueError,
    ),
    r"the input 'x' must have shape \['batch', 5\], got \(5,\)": (dict(x=normal(5)), ValueError),
    "the input 'x' must be float32, got float64": (dict(x=np.zeros((3, 5))), TypeError),
}


@pytest.mark.parametrize("text", FEEDS)
def test_run_says_which_input_is_wrong(text):
    model, good = dense_model()
    feeds, error = FEEDS[text]
    with pytest.raises(error, match=text):
        fo.load(model).run(None, feeds if "no input" not in text else good | feeds)


def test_run_says_which_output_does_not_exist():
    model, feeds = dense_model()
    with pytest.raises(ValueError, match="the model has no output 'w'; it has y, z, same"):
        fo.load(model).run(["w"], feeds)


# -- what is not supported ---------------------------------------------------------------------


def one_node(
    operator, inputs=("x",), opset=17, domain="", outputs=("y",), dtype=np.float32, **attributes
):
    node = helper.make_node(operator, inputs, outputs, name="me", domain=domain, **attributes)
    return graph_model([node], {"x": np.zeros((2, 3), dtype)}, outputs, opset=opset)


def half(model):
    """The model with an input of float16."""
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def branch():
    graph = helper.make_graph([], "inner", [], [])
    return one_node("If", then_branch=graph, else_branch=graph)


UNSUPPORTED = {
    r"node 'me' \(Conv\): this operator is not supported": one_node("Conv", ("x", "x")),
    r"node 'me' \(Nonsense\): there is no such operator in opset 17": one_node("Nonsense"),
    r"node 'me' \(FusedLSTM\): operators of domain 'com.microsoft'": one_node(
        "FusedLSTM", domain="com.microsoft"
    ),
    r"node 'me' \(If\): an attribute of the kind of \w+_branch is not supported": branch(),
    r"node 'me' \(Relu\): the attribute 'alpha' is unknown": one_node("Relu", alpha=1.0),
    r"node 'me' \(Relu\): it takes 1 to 1 inputs, got 2": one_node("Relu", ("x", "x")),
    r"node 'me' \(Relu\): it has 1 to 1 outputs": one_node("Relu", outputs=("y", "z")),
    r"node 'me' \(Add\): input 1 is missing": one_node("Add", ("x", "")),
    r"node 'me' \(Concat\): input 1 is missing": one_node("Concat", ("x", ""), axis=0),
    r"node 'me' \(Concat\): the attribute axis is missing": one_node("Concat"),
    r"node 'me' \(Softmax\): the attribute axis must be of type INT": one_node("Softmax", axis=1.0),
    r"node 'me' \(Cast\): the element type FLOAT16 is not supported": one_node("Cast", to=10),
    r"node 'me' \(Constant\): the attribute value_string is not supported": one_node(
        "Constant", (), value_string="a"
    ),
    r"node 'me' \(Relu\) reads 'w', which nothing before it makes": one_node("Relu", ("w",)),
    r"node 'me' \(Relu\) makes 'x', which is there already": one_node("Relu", outputs=("x",)),
    "the input 'x' has the element type FLOAT16": half(one_node("Relu")),
    "opset 6 is not supported: from 7 to": one_node("Relu", opset=6),
    "opset 1000 is not supported": one_node("Relu", opset=1000),
}


@pytest.mark.parametrize("text", UNSUPPORTED)
def test_load_says_what_is_not_supported(text):
    with pytest.raises(fo.FormatError, match="^the model: .*" + text):
        fo.load(UNSUPPORTED[text])


RUN_TIME = {
    r"node 'me' \(Sigmoid\): the input must be float32 or float64, got int64": one_node(
        "Sigmoid", dtype=np.int64
    ),
    r"node 'me' \(Transpose\): perm must order the 2 axes": one_node("Transpose", perm=[0, 0]),
    r"node 'me' \(Softmax\): axis must be in \[-2, 1\], got 2": one_node("Softmax", axis=2),
    r"node 'me' \(Split\): 3 cannot be split into 2": one_node("Split", outputs=("y", "z"), axis=1),
    r"node 'me' \(MatMul\): .*": one_node("MatMul", ("x", "x")),
}


@pytest.mark.parametrize("text", RUN_TIME)
def test_run_says_which_node_cannot_compute_its_inputs(text):
    session = fo.load(RUN_TIME[text])
    dtype = np.int64 if "int64" in text else np.float32
    with pytest.raises(fo.FormatError, match=text):
        session.run(None, {"x": np.ones((2, 3), dtype)})


def test_mixed_dtypes_are_refused_where_numpy_would_widen_them():
    model, feeds = operator_model("Add", 17, (X, ints(1)), {})
    with pytest.raises(fo.FormatError, match="must share one dtype, got float32, int64"):
        fo.load(model).run(None, feeds)


def test_import_without_onnx_says_which_extra_to_install():
    code = "import sys; sys.modules['onnx'] = None; import fastlstm.onnx"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert 'fastlstm.onnx needs onnx: pip install "fastlstm[onnx]"' in done.stderr
    assert fl  # which itself needs none of it
