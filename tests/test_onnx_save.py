# SPDX-License-Identifier: MIT
"""fastlstm.onnx.save: ONNX Runtime gives the numbers of the layer, and so does `load`."""

from itertools import product

import numpy as np
import pytest

pytestmark = pytest.mark.parity
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_models import assert_same, onnxruntime_run  # noqa: E402
from variants import OPTIONS  # noqa: E402

import fastlstm as fl  # noqa: E402
import fastlstm.onnx as fo  # noqa: E402

T, B, I, H = 6, 4, 5, 7
RNG = np.random.default_rng(0)
STACKS = [
    dict(num_layers=L, bidirectional=bi, batch_first=first, bias=bias)
    for L, bi, first, bias in product((1, 3), (False, True), (False, True), (False, True))
]
CALLS = [dict(), dict(lengths=True), dict(state=True), dict(lengths=True, state=True)]


def normal(*shape, dtype="f4"):
    return RNG.standard_normal(shape).astype(dtype)


def flattened(results):
    """The arrays of nested tuples, in order: y, h_n, ..."""
    if not isinstance(results, tuple):
        return [results]
    return [a for part in results for a in flattened(part)]


def check(model, x, path, runtime=True, **call):
    """Save the model, and compare what runs the file with the model itself."""
    fo.save(model, path, **dict.fromkeys(call, True))
    onnx.checker.check_model(onnx.load(path), full_check=True)
    feeds = {"x": x}
    if "lengths" in call:
        feeds["lengths"] = np.array(call["lengths"], np.int32)
    if "state" in call:
        names = [value.name for value in fo.load(path).get_inputs() if value.name[0] in "hc"]
        feeds |= dict(zip(names, flattened(call["state"]), strict=True))
    expected = flattened(model(x, **call))
    assert_same(fo.load(path).run(None, feeds), expected)
    if runtime:
        assert_same(onnxruntime_run(path.read_bytes(), feeds), expected)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("call", CALLS, ids=lambda c: "+".join(c) or "plain")
@pytest.mark.parametrize("stack", STACKS, ids=lambda s: "-".join(map(str, s.values())))
def test_saved_lstm_is_the_same_in_onnxruntime(stack, call, path):
    layer = fl.LSTM(I, H, seed=1, **stack)
    x = normal(B, T, I) if stack["batch_first"] else normal(T, B, I)
    cells = stack["num_layers"] * (1 + stack["bidirectional"])
    given = {}
    if call.get("lengths"):
        given["lengths"] = RNG.integers(1, T + 1, B)
    if call.get("state"):
        given["state"] = normal(cells, B, H), normal(cells, B, H)
    check(layer, x, path, **given)


@pytest.mark.parametrize("stack", [
    dict(hidden_size=(7, 3, 4)),
    dict(hidden_size=(7, 3), bidirectional=True, batch_first=True),
    dict(hidden_size=H, num_layers=2, learn_state=True),
    dict(hidden_size=(7, 3), bidirectional=True, learn_state=True, batch_first=True),
], ids=str)  # fmt: skip
def test_saved_layers_of_different_sizes_and_learned_states(stack, path):
    layer = fl.LSTM(I, seed=1, **stack)
    layer.flat += normal(layer.flat.size) / 10  # learned states are zeros at first
    first = layer.batch_first
    x, lengths = normal(B, T, I) if first else normal(T, B, I), RNG.integers(1, T + 1, B)
    state = random_like(layer(x)[1])
    for call in ({}, dict(lengths=lengths), dict(state=state)):
        check(layer, x, path, **call)
    check(fl.Sequential([layer, fl.LastState()]), x, path)


def random_like(state):
    """An array, or a tuple of them, of these shapes."""
    return tuple(map(random_like, state)) if isinstance(state, tuple) else normal(*state.shape)


SIBLINGS = {
    "gru": lambda **o: fl.GRU(I, H, **o),
    "gru, reset before": lambda **o: fl.GRU(I, H, reset_after=False, **o),
    "gru, variant": lambda **o: fl.GRU(
        I, H, gate=("hard_sigmoid", 0.3, 0.4), candidate="softsign", clip=0.8, **o
    ),
    "rnn": lambda **o: fl.RNN(I, H, **o),
    "rnn, relu, clip": lambda **o: fl.RNN(I, H, nonlinearity="relu", clip=0.7, **o),
    "rnn, identity": lambda **o: fl.RNN(I, H, nonlinearity="identity", **o),
}


@pytest.mark.parametrize("stack", [
    dict(), dict(num_layers=2, bidirectional=True), dict(bias=False, batch_first=True),
    dict(num_layers=2, learn_state=True),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", SIBLINGS)
def test_saved_gru_and_rnn_are_the_same_in_onnxruntime(name, stack, path):
    layer = SIBLINGS[name](seed=3, **stack)
    layer.flat += normal(layer.flat.size) / 10
    x = normal(B, T, I) if layer.batch_first else normal(T, B, I)
    state = normal(layer.num_layers * (1 + layer.bidirectional), B, H)
    for call in ({}, dict(lengths=RNG.integers(1, T + 1, B)), dict(state=state)):
        check(layer, x, path, **call)
    check(fl.Sequential([layer, fl.LastState()]), x, path)


MODELS = {
    "last state, dense": lambda: [
        fl.LSTM(I, H, 2, batch_first=True, bidirectional=True, dropout=0.1), fl.LastState(),
        fl.Dropout(0.3), fl.Dense(2 * H, 3, activation="relu"),
        fl.Dense(3, 2, bias=False, activation="sigmoid"),
    ],
    "reverse, merge, softmax": lambda: [
        fl.Reverse(batch_first=True), fl.LSTM(I, H, batch_first=True),
        fl.LSTM(H, 4, batch_first=True, bidirectional=True), fl.MergeDirections("ave"),
        fl.Dense(4, 3, activation="tanh"), fl.Activation("softmax"),
    ],
    "merge the last states": lambda: [
        fl.Dense(I, 6), fl.LSTM(6, H, bidirectional=True), fl.LastState(),
        fl.MergeDirections("mul"),
    ],
    "sum, reversed": lambda: [
        fl.LSTM(I, H, bidirectional=True), fl.MergeDirections("sum"), fl.Reverse(), fl.LSTM(H, 3),
    ],
    "flatten": lambda: [fl.LSTM(I, H, batch_first=True), fl.Flatten(), fl.Dense(T * H, 3)],
    **{
        f"activation {a}": lambda a=a: [fl.LSTM(I, H), fl.Activation(a)]
        for a in ("relu", "tanh", "sigmoid", "identity", "softsign", "softplus", ("elu", 0.7),
                  ("leaky_relu", 0.2), ("thresholded_relu", 0.05), ("hard_sigmoid", 0.3, 0.6),
                  ("scaled_tanh", 1.7, 0.6), ("affine", -1.7, 0.6))
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_saved_model_is_the_same_in_onnxruntime(name, path):
    model = fl.Sequential(MODELS[name]())
    x = normal(B, T, I) if model.batch_first else normal(T, B, I)
    check(model, x, path)
    if "flatten" not in name and "reverse" not in name:
        check(model, x, path, lengths=RNG.integers(1, T + 1, B))


def test_saved_model_with_an_embedding_takes_integers(path):
    model = fl.Sequential([fl.Embedding(11, I), fl.LSTM(I, H, batch_first=True), fl.LastState()])
    check(model, RNG.integers(0, 11, (B, T)), path)


def test_saved_model_without_a_recurrent_layer(path):
    check(fl.Sequential([fl.Dense(I, 6, activation="tanh"), fl.Dense(6, 2)]), normal(B, I), path)


def test_saved_float64_keeps_its_digits(path):
    model = fl.Sequential([fl.LSTM(I, H, dtype="float64"), fl.Dense(H, 2, dtype="float64")])
    x = normal(T, B, I, dtype="f8")
    fo.save(model, path)
    assert_same(fo.load(path).run(None, {"x": x}), [model(x)], atol=1e-15)


SAYABLE = {"peepholes", "coupled", "candidate", "output", "gate", "clip"}


def layer_of(spec):
    """An LSTM of this variant, with parameters that are not those it starts with."""
    layer = fl.LSTM(I, H, bidirectional=True, spec=spec, seed=2)
    layer.flat += RNG.standard_normal(layer.flat.size).astype("f4") / 10
    return layer


@pytest.mark.parametrize("spec", OPTIONS, ids=repr)
def test_saved_variant_is_the_same_in_onnxruntime_or_its_field_is_named(spec, path):
    layer = layer_of(spec)
    if set(spec.changed) <= SAYABLE:
        check(layer, normal(T, B, I), path)
        check(layer, normal(T, B, I), path, lengths=RNG.integers(1, T + 1, B))
        return
    (field,) = [name for name in spec.changed if name not in SAYABLE][:1]
    with pytest.raises(ValueError, match=rf"ONNX's LSTM has nothing for Spec\({field}="):
        fo.save(layer, path)
    assert not path.exists()


REFUSED = {
    "proj_size must be 0, got 3": (lambda: fl.LSTM(I, H, proj_size=3), {}, ValueError),
    "state=True needs a recurrent layer by itself": (
        lambda: fl.Sequential([fl.LSTM(I, H)]), dict(state=True), ValueError,
    ),
    "lengths=True needs a recurrent layer": (
        lambda: fl.Dense(I, 2), dict(lengths=True), ValueError,
    ),
    "Sequential cannot be written as ONNX": (
        lambda: fl.Sequential([fl.Sequential([fl.Dense(I, 2)])]), {}, TypeError,
    ),
    "dict cannot be written as ONNX": (dict, {}, TypeError),
    "SLSTM cannot be written as ONNX": (lambda: fl.SLSTM(I, 4), {}, TypeError),
    "Masking cannot be written as ONNX": (
        lambda: fl.Sequential([fl.Masking(0.0), fl.LSTM(I, H, batch_first=True)]), {}, TypeError,
    ),
    r"nothing for Embedding\(mask_zero=True\)": (
        lambda: fl.Sequential([fl.Embedding(9, I, mask_zero=True), fl.LSTM(I, H)]),
        {}, ValueError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_save_says_what_onnx_cannot_say_and_leaves_the_file(text, path):
    make, options, error = REFUSED[text]
    path.write_bytes(b"old")
    with pytest.raises(error, match=text):
        fo.save(make(), path, **options)
    assert path.read_bytes() == b"old"


def test_save_replaces_a_file_in_one_step(path, monkeypatch):
    """A disk that is full leaves the old file, and nothing beside it."""
    fo.save(fl.LSTM(I, H, seed=0), path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fo.save(fl.LSTM(I, 2 * H, seed=0), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
