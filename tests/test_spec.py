# SPDX-License-Identifier: MIT
"""Spec: which values exist, which contradict each other, and what the errors say."""

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, fields

import pytest

from fastlstm.spec import Spec

FLAGS = (
    "coupled",
    "input_gate",
    "forget_gate",
    "output_gate",
    "full_gate_recurrence",
    "layer_norm",
)


def test_spec_default_is_the_lstm():
    assert asdict(Spec()) == dict(
        peepholes="", coupled=False, input_gate=True, forget_gate=True, output_gate=True,
        candidate="tanh", output="tanh", full_gate_recurrence=False, cell_clip=None,
        layer_norm=False,
    )  # fmt: skip
    assert Spec().changed == {}


@pytest.mark.parametrize(
    "change",
    [
        dict(peepholes="i"), dict(peepholes="ifo"), dict(peepholes="io", coupled=True),
        dict(input_gate=False), dict(forget_gate=False), dict(output_gate=False),
        dict(candidate="identity"), dict(output="identity"), dict(full_gate_recurrence=True),
        dict(cell_clip=3.0), dict(layer_norm=True), dict(forget_gate=False, peepholes="io"),
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
    spec = Spec(peepholes="f", cell_clip=2.5)
    assert clone(spec) == spec
    assert Spec(**asdict(spec)) == spec


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [0, 1, "yes", None], ids=repr)
def test_spec_flags_are_bools(name, value):
    with pytest.raises(TypeError) as caught:
        Spec(**{name: value})
    assert str(caught.value) == f"{name} must be True or False, got {value!r}"


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
    "candidate": (
        dict(candidate="relu"), ValueError, "candidate must be one of tanh, identity, got 'relu'",
    ),
    "output": (dict(output=None), ValueError, "output must be one of tanh, identity, got None"),
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
