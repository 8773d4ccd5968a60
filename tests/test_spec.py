# SPDX-License-Identifier: MIT
"""Spec: which values exist, which contradict each other, and what the errors say."""

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, asdict, fields

import pytest

from fastlstm.activations import ACTIVATIONS
from fastlstm.spec import Spec

NO_GATE = dict(input_gate=False, forget_gate=False, output_gate=False)
FLAGS = (
    "coupled",
    "input_gate",
    "forget_gate",
    "output_gate",
    "full_gate_recurrence",
    "layer_norm",
)


def test_spec_default_is_the_lstm():
    lstm = dict(
        peepholes="", coupled=False, input_gate=True, forget_gate=True, output_gate=True,
        candidate="tanh", output="tanh", full_gate_recurrence=False, cell_clip=None,
        layer_norm=False, gate="sigmoid", clip=None,
    )  # fmt: skip
    assert {name: value for name, value in asdict(Spec()).items() if name in lstm} == lstm
    assert Spec().changed == {}


@pytest.mark.parametrize(
    "change",
    [
        dict(peepholes="i"), dict(peepholes="ifo"), dict(peepholes="io", coupled=True),
        dict(input_gate=False), dict(forget_gate=False), dict(output_gate=False),
        dict(candidate="identity"), dict(output="identity"), dict(full_gate_recurrence=True),
        dict(cell_clip=3.0), dict(layer_norm=True), dict(forget_gate=False, peepholes="io"),
        dict(clip=2.0), dict(gate=("hard_sigmoid", 0.2, 0.5)), dict(candidate="relu"),
        dict(output=("elu", 1.5)),
    ],
    ids=str,
)  # fmt: skip
def test_spec_changed_names_what_differs(change):
    assert Spec(**change).changed == change


@pytest.mark.parametrize(
    ("given", "kept"), [("", ""), ("oi", "io"), ("ofi", "ifo"), ("f", "f"), ("of", "fo")]
)
def test_spec_peepholes_are_kept_in_order(given, kept):
    assert Spec(peepholes=given).peepholes == kept


def test_spec_is_equal_and_hashed_by_value():
    one, two = Spec(peepholes="oi", cell_clip=3), Spec(peepholes="io", cell_clip=3.0)
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two, Spec()}) == 2
    assert isinstance(one.cell_clip, float)


@pytest.mark.parametrize("name", [field.name for field in fields(Spec)])
def test_spec_is_frozen(name):
    with pytest.raises(FrozenInstanceError):
        setattr(Spec(), name, None)


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_spec_is_copied(clone):
    spec = Spec(peepholes="f", cell_clip=2.5, gate=("hard_sigmoid", 0.2, 0.5))
    assert spec.changed
    assert clone(spec) == spec
    assert Spec(**asdict(spec)) == spec


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("relu", "relu"), (("relu",), "relu"), (["relu"], "relu"),
        (("elu", 1), ("elu", 1.0)), (["affine", 2, 0.5], ("affine", 2.0, 0.5)),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", ["gate", "candidate", "output"])
def test_spec_activations_have_one_form(name, given, kept):
    """JSON turns tuples into lists; equal activations are equal specs."""
    spec = Spec(**{name: given})
    assert getattr(spec, name) == kept
    assert hash(spec) == hash(Spec(**{name: kept}))
    assert Spec(**json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (Spec(), "Spec()"),
        (Spec(coupled=True, peepholes="oi"), "Spec(peepholes='io', coupled=True)"),
        (Spec(gate=["hard_sigmoid", 0.2, 0.5]), "Spec(gate=('hard_sigmoid', 0.2, 0.5))"),
    ],
)
def test_spec_repr_says_what_differs(spec, text):
    assert repr(spec) == text
    assert eval(text) == spec


@pytest.mark.parametrize(
    ("spec", "live"),
    [
        (Spec(), "ifgo"), (Spec(coupled=True), "igo"), (Spec(input_gate=False), "fgo"),
        (Spec(forget_gate=False), "igo"), (Spec(output_gate=False, input_gate=False), "fg"),
    ],
)  # fmt: skip
def test_spec_live_gates(spec, live):
    assert spec.live == tuple(gate in live for gate in "ifgo")


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [0, 1, "yes", None], ids=repr)
def test_spec_flags_are_bools(name, value):
    with pytest.raises(TypeError) as caught:
        Spec(**{name: value})
    assert str(caught.value) == f"{name} must be True or False, got {value!r}"


ONE_OF = f"one of {', '.join(ACTIVATIONS)}"
PEEPHOLES = "a subset of 'ifo', got"
INVALID = {
    "peepholes-none": (
        dict(peepholes=None), TypeError, f"peepholes must be a str, {PEEPHOLES} None",
    ),
    "peepholes-bool": (
        dict(peepholes=True), TypeError, f"peepholes must be a str, {PEEPHOLES} True",
    ),
    "peepholes-g": (dict(peepholes="ig"), ValueError, f"peepholes must be {PEEPHOLES} 'ig'"),
    "peepholes-twice": (dict(peepholes="ii"), ValueError, f"peepholes must be {PEEPHOLES} 'ii'"),
    "clip-zero": (
        dict(cell_clip=0), ValueError, "cell_clip must be positive and finite, got 0",
    ),
    "clip-negative": (
        dict(cell_clip=-1.5), ValueError, "cell_clip must be positive and finite, got -1.5",
    ),
    "clip-inf": (
        dict(cell_clip=float("inf")), ValueError, "cell_clip must be positive and finite, got inf",
    ),
    "clip-nan": (
        dict(cell_clip=float("nan")), ValueError, "cell_clip must be positive and finite, got nan",
    ),
    "clip-bool": (
        dict(cell_clip=True), TypeError, "cell_clip must be a positive float or None, got True",
    ),
    "clip-str": (
        dict(cell_clip="3"), TypeError, "cell_clip must be a positive float or None, got '3'",
    ),
    "peephole-without-i": (
        dict(input_gate=False, peepholes="i"), ValueError,
        "input_gate=False makes i the constant 1, so it can have no peephole: peepholes='i'",
    ),
    "peephole-without-f": (
        dict(forget_gate=False, peepholes="of"), ValueError,
        "forget_gate=False makes f the constant 1, so it can have no peephole: peepholes='fo'",
    ),
    "peephole-without-o": (
        dict(output_gate=False, peepholes="o"), ValueError,
        "output_gate=False makes o the constant 1, so it can have no peephole: peepholes='o'",
    ),
    "coupled-peephole-f": (
        dict(coupled=True, peepholes="f"), ValueError,
        "coupled=True makes f = 1 - i, so f can have no peephole: peepholes='f'",
    ),
    "coupled-without-i": (
        dict(coupled=True, input_gate=False), ValueError,
        "coupled=True makes f = 1 - i and needs both gates, got input_gate=False, forget_gate=True",
    ),
    "coupled-without-f": (
        dict(coupled=True, forget_gate=False), ValueError,
        "coupled=True makes f = 1 - i and needs both gates, got input_gate=True, forget_gate=False",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_spec_refuses(name):
    arguments, kind, text = INVALID[name]
    with pytest.raises(kind) as caught:
        Spec(**arguments)
    assert type(caught.value) is kind
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["candidate", "output"])
@pytest.mark.parametrize("value", ["cube", "", None, 3], ids=repr)
def test_spec_refuses_an_unknown_squash(name, value):
    with pytest.raises((TypeError, ValueError)) as caught:
        Spec(**{name: value})
    text = str(caught.value)
    assert text.startswith(f"{name} ")
    assert "tanh" in text
    assert "identity" in text
    assert repr(value) in text
