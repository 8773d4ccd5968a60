# SPDX-License-Identifier: MIT
"""fastlstm convert: every kind of file into every other, what it says, what it refuses."""

import importlib.util
import itertools
import pickle
import warnings

import numpy as np
import pytest

import fastlstm as fl
from fastlstm.cli import main
from fastlstm.convert import convert
from fastlstm.io import load_tensors, save_tensors
from fastlstm.state_dicts import from_state_dict

MODULES = {".keras": "h5py", ".onnx": "onnx", ".pt": "torch"}
KINDS = [".safetensors", ".json", ".keras", ".onnx", ".pt"]


def needs(*kinds):
    """Skip where what a kind of file needs is not installed."""
    for kind in kinds:
        if kind in MODULES and importlib.util.find_spec(MODULES[kind]) is None:
            pytest.skip(f"{MODULES[kind]} is not installed")


def stack(dtype="float32"):
    """What every kind of file can say."""
    return fl.Sequential([
        fl.LSTM(3, 5, 2, batch_first=True, seed=0, dtype=dtype),
        fl.LastState(),
        fl.Dense(5, 2, seed=1, dtype=dtype),
    ])  # fmt: skip


PAIRS = list(itertools.permutations(KINDS, 2))


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_from_every_kind_to_every_other(tmp_path, first, second):
    needs(first, second)
    model, x = stack(), np.random.default_rng(0).standard_normal((4, 7, 3)).astype("f4")
    start, middle, end, back = (
        tmp_path / name for name in ("a.safetensors", f"b{first}", f"c{second}", "d.safetensors")
    )
    fl.save(start, model)
    if first != ".safetensors":
        assert convert(start, middle).difference < 1e-5
    else:
        middle = start
    head = {"head": "last"} if first == ".pt" else {}
    assert convert(middle, end, **head).difference < 1e-5
    if second == ".safetensors":
        back = end
    else:
        convert(end, back, **({"head": "last"} if second == ".pt" else {}))
    got = fl.load(back).predict(x)
    got = got[:, -1] if got.ndim == 3 else got  # by way of RTNeural: every step
    np.testing.assert_allclose(got, model.predict(x), atol=1e-5)


def run(capsys, *arguments):
    status = main(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_says_what_it_found(tmp_path, capsys):
    model = fl.Sequential([fl.LSTM(3, 5, seed=0), fl.LastState(), fl.Dense(5, 2, seed=1)])
    fl.save(tmp_path / "a.safetensors", model)
    status, out, err = run(capsys, tmp_path / "a.safetensors", tmp_path / "b.json")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{tmp_path}/a.safetensors: 192 parameters, float32"
    assert lines[1:3] == ["  LSTM(3, 5)", "  LastState()"]
    assert "RTNeural gives a value for every step: the model's is the last" in lines
    assert any("(time, batch, features) in the old" in line for line in lines)
    assert lines[-1].startswith(f"wrote {tmp_path}/b.json; largest difference on random input: ")
    assert float(lines[-1].split(": ")[1].split()[0]) < 1e-6


def state_dict(seed=0, bidirectional=True, head=True, dtype="float32"):
    """As torch.nn modules named lstm and fc have it."""
    lstm = fl.LSTM(3, 5, 2, bidirectional=bidirectional, seed=seed, dtype=dtype)
    state = {f"lstm.{name}": a for name, a in lstm.state_dict().items()}
    if head:
        dense = fl.Dense(lstm.output_size, 2, seed=1, dtype=dtype)
        state |= {f"fc.{name}": a for name, a in dense.state_dict().items()}
    return state


@pytest.mark.parametrize("head", ["last", "all"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_plain_state_dict(tmp_path, capsys, head, bidirectional):
    state = state_dict(bidirectional=bidirectional)
    save_tensors(tmp_path / "torch.safetensors", state)
    arguments = tmp_path / "torch.safetensors", tmp_path / "ours.safetensors"
    status, out, _ = run(capsys, *arguments, "--head", head)
    assert status == 0
    assert "no activation is taken to follow a Linear" in out
    model = fl.load(tmp_path / "ours.safetensors")
    assert model.modules[0].bidirectional is bidirectional
    lstm = fl.LSTM(3, 5, 2, bidirectional=bidirectional, batch_first=True)
    lstm.load_state_dict({k[5:]: a for k, a in state.items() if k.startswith("lstm.")})
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype("f4")
    y, (h, _) = lstm(x)
    if head == "last":
        y = np.concatenate(tuple(h[-1 - bidirectional :]), axis=-1)
    want = y @ state["fc.weight"].T + state["fc.bias"]
    np.testing.assert_allclose(model(x), want, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        fl.LSTM(3, 5, batch_first=True),
        fl.LSTM(3, 5, 3, bias=False, bidirectional=True, batch_first=True, dtype="float64"),
        fl.LSTM(3, 5, 2, proj_size=2, batch_first=True),
        fl.GRU(3, 5, 2, batch_first=True, bidirectional=True),
        fl.RNN(3, 5, batch_first=True, bias=False),
    ],
    ids=repr,
)
def test_sizes_are_inferred(layer):
    found = from_state_dict(layer.state_dict())
    assert repr(found) == repr(layer)
    assert all(np.array_equal(a, found.parameters()[k]) for k, a in layer.parameters().items())


def test_words_before(tmp_path):
    table = fl.Embedding(9, 3, seed=0)
    state = {"emb.weight": table.state_dict()["weight"], **state_dict(head=False)}
    model = from_state_dict(state)
    assert [type(m).__name__ for m in model.modules] == ["Embedding", "LSTM"]
    assert model(np.array([[1, 2, 8]])).shape == (1, 3, 10)


def test_half_precision_becomes_single():
    state = {name: a.astype("f2") for name, a in state_dict(head=False).items()}
    assert from_state_dict(state).dtype == np.float32


STATE_FAULTS = [
    ({}, None, "the state dict is empty"),
    (state_dict(), None, "say head last or head all"),
    ({"lstm.weight_ih_l0": np.ones((4, 1))}, None, "lstm.weight_hh_l0 must be there"),
    (
        {"weight_ih_l0": np.ones((8, 1)), "weight_hh_l0": np.ones((8, 3))},
        None,
        "weight_hh_l0 of shape (8, 3) is of no known layer",
    ),
    (state_dict() | {"lstm.weight_ih_l1": np.ones((20, 4))}, "last", "weight_ih_l1 must have sh"),
    (
        {"weight_ih_l0": np.ones((4, 1)), "weight_hh_l0": np.ones((4, 1)),
         "weight_ih_l999999999999": np.ones((4, 1))},
        None,
        "must be numbered 0, 1, ..., got [0, 999999999999]",
    ),
    (state_dict() | {"bn.running_mean": np.ones(3)}, "last", "activations between 2 dense"),
    (state_dict() | {"fc.scale": np.ones(3)}, "last", "fc has weight, bias, scale: no Linear"),
    (state_dict() | {"step": np.array(3)}, "last", "step is int64: weights must be floats"),
    (state_dict() | {"fc.weight": np.ones((2, 9), "f4")}, "last", "takes 9 features, but member"),
    ({"w": np.ones((2, 2))}, None, "the state dict has w: no Linear"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "head", "text"), STATE_FAULTS)
def test_faults_of_state_dicts(state, head, text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        from_state_dict(state, head)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("source", "target", "text"),
    [
        ("a.h5", "b.json", "a.h5 must end in one of .safetensors, .keras, .onnx, .pt, .pth, .json"),
        ("a.safetensors", "b", "b must end in one of"),
        ("a.safetensors", "absent/b.json", "its folder does not exist"),
        ("absent.safetensors", "b.json", "No such file or directory"),
        ("a.safetensors", "a.safetensors", "is named twice: it would be overwritten"),
        ("garbage.safetensors", "b.json", "garbage.safetensors: not a safetensors file"),
        ("garbage.json", "b.safetensors", "garbage.json: the file is no valid JSON"),
        ("bidirectional.safetensors", "b.json", "RTNeural's lstm has no bidirectional=True"),
        ("head.safetensors", "b.json", "say head last or head all"),
    ],
)
def test_errors_are_one_line_and_2(tmp_path, capsys, monkeypatch, source, target, text):
    monkeypatch.chdir(tmp_path)
    fl.save("a.safetensors", stack())
    fl.save("bidirectional.safetensors", fl.LSTM(3, 5, bidirectional=True))
    save_tensors("head.safetensors", state_dict())
    for name in ("garbage.safetensors", "garbage.json"):
        (tmp_path / name).write_bytes(b"no model")
    status, out, err = run(capsys, source, target)
    assert (status, out) == (2, "")
    assert err.startswith("fastlstm: error: ")
    assert err.count("\n") == 1
    assert text in err
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("kind", [".keras", ".onnx", ".pt"])
def test_what_is_not_installed_is_said(tmp_path, capsys, monkeypatch, kind):
    import sys

    monkeypatch.setitem(sys.modules, MODULES[kind], None)
    fl.save(tmp_path / "a.safetensors", stack())
    for pair in ((tmp_path / "a.safetensors", tmp_path / f"b{kind}"),):
        status, _, err = run(capsys, *pair)
        assert status == 2
        assert "pip install 'fastlstm[" in err
        assert not pair[1].exists()


def test_a_file_that_computes_something_else_is_an_error(tmp_path, monkeypatch, capsys):
    """Should writing ever be wrong, it is noticed."""
    import fastlstm.rtneural

    right = fastlstm.rtneural.save

    def wrong(model, path):
        model.flat[0] += 1
        right(model, path)
        model.flat[0] -= 1

    monkeypatch.setattr(fastlstm.rtneural, "save", wrong)
    fl.save(tmp_path / "a.safetensors", fl.LSTM(3, 5, batch_first=True, seed=0))
    status, _, err = run(capsys, tmp_path / "a.safetensors", tmp_path / "b.json")
    assert status == 2
    assert "b.json was written, but differs from" in err


@pytest.mark.parity
class TestPyTorch:
    """Checkpoints that PyTorch wrote."""

    def test_checkpoints(self, tmp_path):
        torch = pytest.importorskip("torch")
        theirs = torch.nn.ModuleDict(
            {"rnn": torch.nn.LSTM(3, 5, 2, batch_first=True), "out": torch.nn.Linear(5, 2)}
        )
        x = torch.randn(4, 6, 3)
        with torch.no_grad():
            want = theirs["out"](theirs["rnn"](x)[0][:, -1]).numpy()
        for state in (theirs.state_dict(), {"epoch": 3, "state_dict": theirs.state_dict()}):
            torch.save(state, tmp_path / "a.pt")
            convert(tmp_path / "a.pt", tmp_path / "b.safetensors", head="last")
            got = fl.load(tmp_path / "b.safetensors").predict(x.numpy())
            np.testing.assert_allclose(got, want, atol=1e-6)

    @pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
    def test_layers_there_and_back(self, tmp_path, kind):
        torch = pytest.importorskip("torch")
        theirs = getattr(torch.nn, kind)(3, 5, 2, bidirectional=True, batch_first=True)
        torch.save(theirs.state_dict(), tmp_path / "a.pt")
        report = convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
        assert any("with tanh" in note for note in report.notes) is (kind == "RNN")
        x = torch.randn(4, 6, 3)
        got = fl.load(tmp_path / "b.safetensors")(x.numpy())[0]
        np.testing.assert_allclose(got, theirs(x)[0].detach().numpy(), atol=1e-6)
        report = convert(tmp_path / "b.safetensors", tmp_path / "c.pt")
        assert report.runner.startswith("PyTorch")

    def test_a_pickle_is_not_executed(self, tmp_path, capsys):
        torch = pytest.importorskip("torch")

        class Bomb:
            def __reduce__(self):
                return (tmp_path / "executed").mkdir, ()

        with open(tmp_path / "a.pt", "wb") as file:
            pickle.dump({"weight": Bomb()}, file)
        status, _, err = run(capsys, tmp_path / "a.pt", tmp_path / "b.json")
        assert status == 2
        assert "PyTorch cannot read it as weights alone" in err
        torch.save([1, 2], tmp_path / "c.pt")
        status, _, err = run(capsys, tmp_path / "c.pt", tmp_path / "b.json")
        assert "it is no state dict" in err
        assert not (tmp_path / "executed").exists()

    def test_what_torch_has_not(self, tmp_path):
        pytest.importorskip("torch")
        for model, text in [
            (fl.Sequential([fl.LSTM(2, 3, batch_first=True), fl.Flatten()]), "nothing for Flatten"),
            (fl.LSTM(2, [3, 4]), "hidden_size"),
            (fl.GRU(2, 3, reset_after=False), "GRU has no reset_after=False"),
            (fl.RNN(2, 3, nonlinearity="relu"), "RNN has no nonlinearity='relu'"),
        ]:
            fl.save(tmp_path / "a.safetensors", model)
            with pytest.raises(ValueError, match=text):
                convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
            assert not (tmp_path / "b.pt").exists()


@pytest.mark.parity
@pytest.mark.parametrize("dynamo", [False, True])
def test_what_pytorch_exports_to_onnx(tmp_path, dynamo):
    needs(".onnx", ".pt")
    import torch

    if dynamo and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript is not installed")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(3, 5, 2, batch_first=True, bidirectional=True)
            self.head = torch.nn.Sequential(torch.nn.Linear(10, 4), torch.nn.ReLU())

        def forward(self, x):
            return torch.softmax(self.head(self.lstm(x)[0]), -1)

    theirs, x = Model().eval(), torch.randn(3, 6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        torch.onnx.export(
            theirs, (x,), tmp_path / "a.onnx", dynamo=dynamo, external_data=False
        )  # fmt: skip
    convert(tmp_path / "a.onnx", tmp_path / "b.safetensors")
    got = fl.load(tmp_path / "b.safetensors").predict(x.numpy())
    np.testing.assert_allclose(got, theirs(x).detach().numpy(), atol=1e-6)


VARIANTS = {
    "peepholes": fl.LSTM(3, 5, bidirectional=True, spec=fl.Spec(peepholes="ifo"), seed=0),
    "coupled": fl.LSTM(3, 5, spec=fl.Spec(coupled=True, peepholes="io", clip=0.5), seed=0),
    "activations": fl.Sequential([
        fl.LSTM(3, 5, spec=fl.Spec(gate=("hard_sigmoid", 0.2, 0.5), candidate="relu"), seed=0),
        fl.LastState(),
        fl.Dense(5, 3, seed=1),
        fl.Activation(("elu", 0.5)),
    ]),
    "words": fl.Sequential([
        fl.Embedding(9, 3, seed=0), fl.LSTM(3, 4, batch_first=True, seed=1), fl.Flatten(),
        fl.Dense(48, 2, activation="tanh", seed=2),
    ]),
}  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_by_way_of_onnx(tmp_path, name):
    needs(".onnx")
    fl.save(tmp_path / "a.safetensors", VARIANTS[name])
    convert(tmp_path / "a.safetensors", tmp_path / "b.onnx")
    if name == "words":  # the graph does not say how many steps the Dense behind Flatten wants
        return
    convert(tmp_path / "b.onnx", tmp_path / "c.safetensors")
    again = fl.load(tmp_path / "c.safetensors")
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype("f4")
    want = VARIANTS[name](x)
    want = want[0] if isinstance(want, tuple) else want
    np.testing.assert_allclose(again(x), want, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("kind", [".onnx", ".pt", ".json"])
@pytest.mark.parametrize(
    "first", [fl.Masking(-1.0), fl.Embedding(9, 3, mask_zero=True)], ids=lambda m: type(m).__name__
)
def test_masks_are_not_lost_silently(tmp_path, kind, first):
    needs(kind)
    model = fl.Sequential([first, fl.LSTM(3, 4, batch_first=True)])
    fl.save(tmp_path / "a.safetensors", model)
    with pytest.raises((ValueError, TypeError), match=type(first).__name__):
        convert(tmp_path / "a.safetensors", tmp_path / f"b{kind}")
    assert not (tmp_path / f"b{kind}").exists()


@pytest.mark.parity
def test_a_graph_that_is_no_stack(tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(k, TensorProto.FLOAT, [2, 3]) for k in "xy"]
    node = helper.make_node("Exp", ["x"], ["y"])
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "a.onnx"
    )
    with pytest.raises(ValueError, match=r"a\.onnx: (no plain stack of layers: |.*not supported)"):
        convert(tmp_path / "a.onnx", tmp_path / "b.json")


def test_the_new_file_is_fastlstm_s_own(tmp_path):
    save_tensors(tmp_path / "a.safetensors", state_dict(head=False))
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert "fastlstm" in load_tensors(tmp_path / "b.safetensors")[1]
