# SPDX-License-Identifier: MIT
"""The variants of the cell: every implementation against the reference, alone and in layers."""

from copy import deepcopy
from dataclasses import replace
from pickle import dumps, loads

import numpy as np
import pytest
from cases import Case, expected, make_problem, run
from comparison import assert_identical, assert_matches
from variants import COMBINATIONS, OPTIONS

import fastlstm
from fastlstm import Spec

LAYOUTS = (
    Case(),
    Case(B=5, lengths=(3, 0, 7, 7, 5)),
    Case(B=5, lengths=(3, 0, 7, 7, 5), reverse=True),
    Case(P=4, B=4, lengths=(2, 7, 0, 5), reverse=True),
    Case(P=4, reverse=True, bias=False),
    Case(T=12, B=17, I=3, H=18, lengths=(12, 1, 0, *range(1, 13), 6, 9)),
)
EDGES = (Case(T=0), Case(T=0, P=4), Case(B=0), Case(T=1, B=1, I=0), Case(lengths=(0, 0, 0)))
# The reference is as far from the exact answer: cells that are clipped give a layer norm many
# equal numbers, and its derivative magnifies rounding by 1 / their deviation.
LIMIT = {"float32": 2e-4, "float64": 1e-12}


def check(implementation, case, dtype, keep=False):
    results = run(implementation, make_problem(case, dtype), keep)
    assert_matches(results, expected(case), dtype, case, LIMIT[dtype.name])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("spec", OPTIONS, ids=repr)
def test_variants_match_reference(implementation, spec, layout, dtype):
    check(implementation, replace(layout, spec=spec), dtype)


@pytest.mark.parametrize("number", range(len(COMBINATIONS)))
def test_variants_combinations_match_reference(implementation, number, dtype):
    for layout in LAYOUTS[number % 2 :: 2]:
        check(implementation, replace(layout, spec=COMBINATIONS[number]), dtype)


@pytest.mark.parametrize("edge", EDGES, ids=str)
def test_variants_edges_match_reference(implementation, edge, dtype):
    for spec in COMBINATIONS[:12]:
        check(implementation, replace(edge, spec=spec), dtype)


@pytest.mark.parametrize("number", range(0, len(COMBINATIONS), 4))
def test_variants_backward_may_keep_the_tape(implementation, number, dtype):
    """With keep the same tape gives the same gradients again, bit for bit."""
    case = Case(B=4, lengths=(2, 7, 0, 5), spec=COMBINATIONS[number])
    problem = make_problem(case, dtype)
    *_, tape = implementation.lstm_forward(**problem.forward())
    passes = [
        implementation.lstm_backward(tape, problem.dy, problem.dstate, keep=keep)
        for keep in (True, True, False)
    ]
    named = [dict(dx=dx, dh0=dh0, dc0=dc0, **grads) for dx, (dh0, dc0), grads in passes]
    assert_identical(named[0], named[1], case)
    assert_identical(named[0], named[2], case)


@pytest.mark.parametrize("number", range(0, len(COMBINATIONS), 4))
def test_variants_save_changes_no_output(implementation, number, dtype):
    """Without a tape buffers are used round and round, through several chunks of time."""
    case = Case(T=60, B=33, I=3, H=40, lengths=tuple(range(28, 61)), spec=COMBINATIONS[number])
    problem = make_problem(case, dtype)
    y, state, _ = implementation.lstm_forward(**problem.forward())
    y_, state_, tape = implementation.lstm_forward(**problem.forward(), save=False)
    assert tape is None
    for a, b in zip((y, *state), (y_, *state_), strict=True):
        np.testing.assert_array_equal(a, b)


# -- in layers -----------------------------------------------------------------------------------

SPECS = OPTIONS + COMBINATIONS
numbers = pytest.mark.parametrize("number", range(0, len(SPECS), 3))


def layer_for(make_layer, number, dtype, **options):
    """A layer with the variant, and parameters that are not those it starts with."""
    spec = SPECS[number]
    lstm = make_layer(5, 9, num_layers=2, dtype=dtype, spec=spec, seed=number, **options)
    lstm.flat += np.random.default_rng(number).normal(0, 0.3, lstm.flat.shape).astype(dtype)
    return lstm


@numbers
def test_variants_layer_computes_what_its_cells_do(make_layer, number, dtype):
    """A layer of two directions: the reference's cells one after the other."""
    lstm = layer_for(make_layer, number, dtype, bidirectional=True, bias=number % 2 == 0)
    twin = fastlstm.LSTM.from_config({**lstm.config, "dtype": "float64", "backend": "reference"})
    twin.flat[...] = lstm.flat
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((7, 3, 5)), rng.standard_normal((7, 3, 18))
    results = []
    for layer in (lstm, twin):
        y, (h, c), tape = layer.forward(
            x.astype(layer.dtype), lengths=[4, 7, 0], rng=np.random.default_rng(5)
        )
        dx, (dh0, dc0), grads = layer.backward(tape, dy.astype(layer.dtype))
        results.append(dict(y=y, h=h, c=c, dx=dx, dh0=dh0, dc0=dc0, flat=grads.flat))
        assert grads.keys() == layer.parameters().keys()
    case = Case(H=36, spec=SPECS[number])
    assert_matches(*results, dtype, case, LIMIT[dtype.name])


@numbers
def test_variants_stream_is_the_whole_sequence(make_layer, number, dtype):
    options = {"proj_size": 4} if number % 2 else {}
    lstm = layer_for(make_layer, number, dtype, **options)
    x = np.random.default_rng(2).standard_normal((7, 3, 5)).astype(dtype)
    y, (h, c) = lstm(x)
    stream = lstm.stream(3)
    for _ in range(2):  # reset forgets all, also the gates of the step before
        steps = np.stack([stream.step(x_t) for x_t in x])
        h_n, c_n = stream.state
        answer = {n: a.astype("float64") for n, a in dict(y=y, h=h, c=c).items()}
        case = Case(H=36, spec=SPECS[number])
        assert_matches(dict(y=steps, h=h_n, c=c_n), answer, dtype, case)
        stream.reset()


@pytest.mark.parametrize("number", range(0, len(SPECS), 9))
def test_variants_layer_is_a_value(make_layer, number, tmp_path):
    """Copied, pickled, saved, loaded: the same variant with the same numbers."""
    lstm = layer_for(make_layer, number, np.dtype("float32"))
    x = np.random.default_rng(3).standard_normal((4, 2, 5)).astype(np.float32)
    fastlstm.save(tmp_path / "layer", lstm)
    others = [deepcopy(lstm), loads(dumps(lstm)), fastlstm.load(tmp_path / "layer")]
    others.append(fastlstm.LSTM.from_config({**lstm.config, "seed": 7}))
    others[-1].load_state_dict(lstm.state_dict())
    for other in others:
        assert other.spec == lstm.spec
        np.testing.assert_allclose(other(x)[0], lstm(x)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(other.flat, lstm.flat)


def test_variants_layer_parameters():
    """Names, shapes, and what they start with: peepholes as the weights, layer norms as none."""
    spec = Spec(peepholes="io", full_gate_recurrence=True, layer_norm=True)
    lstm = fastlstm.LSTM(5, 9, bidirectional=True, spec=spec, seed=0)
    shapes = {name: a.shape for name, a in lstm.parameters().items() if "reverse" not in name}
    assert shapes == dict(
        weight_ih_l0=(36, 5), weight_hh_l0=(36, 9), bias_l0=(36,), weight_peephole_l0=(3, 9),
        weight_fgr_l0=(27, 27), ln_x_l0=(36,), ln_h_l0=(36,), ln_c_l0=(2, 9),
    )  # fmt: skip
    p = lstm.parameters()
    for name in ("weight_peephole_l0", "weight_fgr_l0"):
        assert 0.2 < np.abs(p[name]).max() <= 1 / 3
        assert np.unique(p[name]).size == p[name].size
    for name in ("ln_x_l0", "ln_h_l0_reverse"):
        assert (p[name] == 1).all()
    assert p["ln_c_l0"].tolist() == [[1] * 9, [0] * 9]
    default = fastlstm.LSTM(5, 9, seed=0)  # is not drawn anew for what others have
    np.testing.assert_array_equal(default.parameters()["bias_l0"], p["bias_l0"])


@pytest.mark.parametrize("field", ["peepholes", "layer_norm"])
def test_variants_training_follows_the_gradient(make_layer, field):
    """Down the gradient of all parameters the loss falls to a tenth."""
    spec = Spec(peepholes="ifo") if field == "peepholes" else Spec(layer_norm=True)
    lstm = make_layer(30, 8, spec=spec, dtype="float64", seed=0)
    rng, optimizer = np.random.default_rng(0), fastlstm.optim.Adam(lr=0.03)
    x, target = rng.standard_normal((6, 4, 30)), 0.3 * rng.standard_normal((6, 4, 8))
    losses = []
    for _ in range(200):
        y, _, tape = lstm.forward(x)
        losses.append(((y - target) ** 2).mean())
        _, _, grads = lstm.backward(tape, 2 * (y - target) / y.size)
        optimizer.step(lstm.flat, grads.flat)
    assert losses[-1] < 0.1 * losses[0]
