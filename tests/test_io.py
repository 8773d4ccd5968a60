# SPDX-License-Identifier: MIT
"""save and load of layers and models; the file format itself: test_tensorfile.py."""

import json
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlstm.io import FormatError, load, load_tensors, save, save_tensors
from fastlstm.layer import LSTM
from fastlstm.modules import MODULES, Dense, Dropout, LastState, Sequential

MODELS = {
    "LSTM": lambda: LSTM(3, 5),
    "stacked": lambda: LSTM(3, 5, 3, dropout=0.25, batch_first=True),
    "bidirectional": lambda: LSTM(3, 5, 2, bidirectional=True, dtype="float64"),
    "projected": lambda: LSTM(3, 5, 2, proj_size=2, bidirectional=True),
    "thin projection": lambda: LSTM(3, 90, 2, proj_size=1),
    "no bias": lambda: LSTM(3, 5, bias=False),
    "one unit": lambda: LSTM(1, 1),
    "Dense": lambda: Dense(3, 2, activation="relu"),
    "Dropout": lambda: Dropout(0.3),
    "Sequential": lambda: Sequential(
        [LSTM(3, 5, 2, dropout=0.2, batch_first=True), LastState(), Dropout(0.2), Dense(5, 1)]
    ),
    "nested": lambda: Sequential([Sequential([Dense(3, 4)]), Dense(4, 3, dtype="float32")]),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def saved_config(path):
    return json.loads(load_tensors(path)[1]["fastlstm"])


def write(path, config, tensors):
    text = config if isinstance(config, str) else json.dumps(config)
    save_tensors(path, tensors, {"fastlstm": text})


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(path, name):
    model = MODELS[name]()
    save(path, model)
    again = load(path)
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.dtype == model.dtype
    assert again.flat.tobytes() == model.flat.tobytes()
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(model.dtype or "f4")
    x = x[..., :1] if name == "one unit" else x
    results = model(x), again(x)
    flat = [np.concatenate([a.ravel() for a in arrays_in(result)]) for result in results]
    assert np.array_equal(*flat)
    save(path, again)
    assert load(path).config == model.config


def arrays_in(result):
    if isinstance(result, tuple):
        return [a for part in result for a in arrays_in(part)]
    return [result]


def test_the_file_has_the_names_of_pytorch_and_the_config(path):
    model = MODELS["Sequential"]()
    save(path, model)
    tensors = safetensors.numpy.load_file(path)
    state = model.state_dict()
    assert tensors.keys() == state.keys() >= {"0.weight_ih_l0", "0.bias_hh_l1", "3.weight"}
    assert all(np.array_equal(tensors[name], a) for name, a in state.items())
    assert saved_config(path) == {"format": 1, **model.config}


@pytest.mark.parity
def test_live_pytorch(path):
    """torch.nn.LSTM loads our file by safetensors, and we refuse what torch.save writes."""
    import safetensors.torch
    import torch

    lstm = LSTM(3, 5, 2, bidirectional=True, seed=0)
    save(path, lstm)
    theirs = torch.nn.LSTM(3, 5, 2, bidirectional=True)
    theirs.load_state_dict(safetensors.torch.load_file(path))
    x = np.random.default_rng(0).standard_normal((7, 4, 3)).astype("f4")
    with torch.no_grad():
        y = theirs(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(lstm(x)[0], y, atol=1e-6)
    for old in (False, True):
        torch.save(theirs.state_dict(), path, _use_new_zipfile_serialization=not old)
        with pytest.raises(FormatError, match="looks like a pickle"):
            load(path)


def test_saving_something_else(path):
    class Foreign:
        config = {"type": "Transformer"}  # noqa: RUF012

    for thing in (np.zeros(3), None, {"type": "LSTM"}, object(), Foreign()):
        with pytest.raises(TypeError, match="module must be one of LSTM, "):
            save(path, thing)
    assert not path.exists()


def test_pickle_is_refused(tmp_path):
    """What it would execute is not executed."""

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    for suffix in (".pt", ".pkl", ".safetensors"):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(pickle.dumps({"weight": Bomb()}))
        with pytest.raises(FormatError, match=r"looks like a pickle.*Pickles are never read") as e:
            load(path)
        assert str(path) in str(e.value)
    assert not (tmp_path / "executed").exists()


LAYER = LSTM(3, 5, seed=0)
STATE = LAYER.state_dict()
CONFIG = {"format": 1, **LAYER.config}


def without(mapping, *names):
    return {name: value for name, value in mapping.items() if name not in names}


@pytest.mark.parametrize(
    ("config", "tensors", "text"),
    [
        ("{", STATE, "the config is no valid JSON"),
        ("[" * 10**5, STATE, "the config is no valid JSON"),
        ('{"format":1,"format":1}', STATE, "key 'format' occurs twice"),
        ([], STATE, "the config is no JSON object"),
        (without(CONFIG, "format"), STATE, "has format None, this version reads 1"),
        (CONFIG | {"format": 2}, STATE, "has format 2, this version reads 1"),
        (CONFIG | {"format": True}, STATE, "has format True, this version reads 1"),
        (without(CONFIG, "type"), STATE, "has type None, known are LSTM, "),
        (CONFIG | {"type": "Transformer"}, STATE, "has type 'Transformer', known are LSTM, "),
        (CONFIG | {"type": "os.system"}, STATE, "has type 'os.system'"),
        (CONFIG | {"type": ["LSTM"]}, STATE, "has type ['LSTM']"),
        (without(CONFIG, "hidden_size"), STATE, "its config does not work: "),
        (CONFIG | {"hidden_size": "5"}, STATE, "its config does not work: hidden_size"),
        (CONFIG | {"hidden_size": -5}, STATE, "its config does not work: hidden_size"),
        (CONFIG | {"colour": "red"}, STATE, "its config does not work: "),
        (CONFIG | {"spec": "vanilla"}, STATE, "its config does not work: "),
        (CONFIG | {"spec": {"peepholes": "xyz"}}, STATE, "does not work: peepholes must be"),
        (CONFIG | {"dtype": "int8"}, STATE, "its config does not work: dtype"),
        (CONFIG | {"dtype": None}, STATE, "its config does not work: dtype"),
        (CONFIG, without(STATE, "weight_hh_l0"), "weight_hh_l0 is missing"),
        (CONFIG, {}, "it needs 40 numbers or more, the file has 0"),
        (CONFIG, STATE | {"extra": np.zeros(2)}, "extra is unexpected"),
        (CONFIG | {"bias": False}, STATE, "bias_hh_l0 is unexpected; bias_ih_l0 is unexpected"),
        (
            CONFIG,
            STATE | {"weight_ih_l0": STATE["weight_ih_l0"].T},
            "weight_ih_l0 must be float32 (20, 3), got float32 (3, 20)",
        ),
        (CONFIG | {"hidden_size": 4}, STATE, "weight_hh_l0 must be float32 (16, 4), got float32"),
        (
            CONFIG,
            STATE | {"bias_hh_l0": np.zeros(20)},
            "bias_hh_l0 must be float32 (20,), got float64 (20,)",
        ),
        ({"format": 1, "type": "Sequential"}, STATE, "its config does not work: "),
        ({"format": 1, "type": "Sequential", "modules": [3]}, STATE, "config does not work: "),
        (
            {"format": 1, "type": "Sequential", "modules": [{"type": "Lambda"}]},
            STATE,
            "its config does not work: type must be one of LSTM",
        ),
    ],
)
def test_faults_of_the_config(path, config, tensors, text):
    write(path, config, tensors)
    with pytest.raises(FormatError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)


def test_many_faults_make_a_short_message(path):
    lstm = LSTM(3, 5, 20)
    write(path, {"format": 1, **lstm.config}, {"x": np.zeros(lstm.flat.size)})
    with pytest.raises(FormatError, match="and 76 more") as caught:
        load(path)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_weights_without_a_config(path):
    save_tensors(path, STATE)
    with pytest.raises(FormatError, match="use load_tensors") as caught:
        load(path)
    assert isinstance(caught.value, ValueError)
    other = LSTM(3, 5, seed=1)
    other.load_state_dict(load_tensors(path)[0])
    assert np.array_equal(other.flat, LAYER.flat)


LARGE = {
    "hidden": CONFIG | {"hidden_size": 40_000},
    "hidden, beyond all memory": CONFIG | {"hidden_size": 10**15},
    "input": CONFIG | {"input_size": 10**9},
    "layers": CONFIG | {"num_layers": 10**9},
    "directions": CONFIG | {"num_layers": 10**6, "bidirectional": True, "hidden_size": 1},
    "projection": CONFIG | {"hidden_size": 10**9, "proj_size": 1},
    "Dense": {"format": 1, "type": "Dense", "in_features": 10**5, "out_features": 10**5},
    "member": {"format": 1, "type": "Sequential", "modules": [CONFIG | {"hidden_size": 40_000}]},
    "many members": {
        "format": 1,
        "type": "Sequential",
        "modules": [{"type": "Dense", "in_features": 8, "out_features": 8}] * 9000,
    },
}


@pytest.mark.parametrize("name", LARGE)
def test_a_small_file_cannot_ask_for_a_large_model(path, name):
    write(path, LARGE[name], STATE)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"it needs \d+ numbers or more, the file has 200"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000 + 40 * size
    finally:
        tracemalloc.stop()


leaves = [st.none(), st.booleans(), st.integers(-3, 9), st.floats(-2, 2), st.just(10**30)]
json_values = st.recursive(
    st.one_of(*leaves, st.sampled_from(["", "LSTM", "float64", "ifo"])),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3),
    max_leaves=5,
)
fields = sorted({*CONFIG, "modules", "in_features", "out_features", "p", "activation", "seed"})


@given(
    changes=st.dictionaries(st.sampled_from(fields), json_values, max_size=3),
    kind=st.sampled_from(sorted(MODULES)),
    nested=st.booleans(),
)
@settings(max_examples=120, deadline=None, database=None)
def test_any_config_gives_a_module_or_one_error(tmp_path_factory, changes, kind, nested):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    config = {**(CONFIG if kind == "LSTM" else {}), "type": kind, **changes}
    if nested:
        config = {"type": "Sequential", "modules": [config]}
    write(path, {"format": 1, **config}, STATE)
    try:
        module = load(path)
    except FormatError:
        return
    assert type(module) in MODULES.values()


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    save(path, LAYER)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "broken")))
    with pytest.raises(OSError, match="broken"):
        save(path, LSTM(3, 5, seed=1))
    assert np.array_equal(load(path).flat, LAYER.flat)
    assert list(path.parent.iterdir()) == [path]
