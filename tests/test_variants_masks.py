# SPDX-License-Identifier: MIT
"""What training draws: zoneout, recurrent dropout, weight drop; and the norms of each step."""

from dataclasses import replace

import numpy as np
import pytest
from cases import Case, expected, make_problem, run
from comparison import assert_identical, assert_matches

import fastlstm
from fastlstm import Spec, reference
from fastlstm.masks import cell_masks

ALL = Spec(zoneout_h=0.3, zoneout_c=0.4, recurrent_dropout=0.25, weight_drop=0.5)
BY_NAME = {
    "zoneout_h": Spec(zoneout_h=0.3),
    "zoneout_c": Spec(zoneout_c=0.4),
    "recurrent_dropout": Spec(recurrent_dropout=0.25),
    "candidate": Spec(recurrent_dropout=0.25, recurrent_dropout_on="candidate"),
    "weight_drop": Spec(weight_drop=0.5),
}
variants = pytest.mark.parametrize("spec", [*BY_NAME.values(), ALL], ids=repr)


@variants
def test_masks_have_their_rate_their_shape_and_one_seed(spec):
    masks, again, narrow = (
        cell_masks(spec, np.random.default_rng(1), (50, 40, 30), 20, dtype)
        for dtype in ("float64", "float64", "float32")
    )
    names = [name for name in ("zoneout_h", "zoneout_c", "recurrent_dropout", "weight_drop")
             if getattr(spec, name)]  # fmt: skip
    assert list(masks) == names
    size = 30 if spec.recurrent_dropout_on == "candidate" else 20
    shapes = dict(zoneout_h=(50, 40, 20), zoneout_c=(50, 40, 30), recurrent_dropout=(40, size),
                  weight_drop=(120, 20))  # fmt: skip
    for name, mask in masks.items():
        rate = getattr(spec, name)
        assert mask.shape == shapes[name]
        # 6 standard deviations of a mean of so many draws
        assert abs((mask == 0).mean() - rate) < 6 * (rate * (1 - rate) / mask.size) ** 0.5
        if name.startswith("zoneout"):
            assert mask.dtype == bool
        else:
            np.testing.assert_array_equal(np.unique(mask), [0, 1 / (1 - rate)])
            assert narrow[name].dtype == np.float32
        np.testing.assert_array_equal(mask, again[name])
        np.testing.assert_array_equal(mask != 0, narrow[name] != 0)
    other = cell_masks(spec, np.random.default_rng(2), (50, 40, 30), 20, "float64")
    assert all((other[name] != mask).any() for name, mask in masks.items())
    assert cell_masks(spec, None, (50, 40, 30), 20, "float64") == {}


@variants
def test_masks_are_on_the_tape_of_every_implementation(implementation, spec, dtype):
    case = Case(B=5, P=4, lengths=(3, 0, 7, 7, 5), spec=spec)
    problem = make_problem(case, dtype)
    *_, tape = implementation.lstm_forward(**problem.forward())
    answer = cell_masks(spec, problem.forward()["rng"], (7, 5, 9), 4, dtype)
    assert tape.masks.keys() == answer.keys() != set()
    for name, mask in answer.items():
        np.testing.assert_array_equal(tape.masks[name], mask)


@variants
def test_masks_of_one_generator_differ_from_call_to_call(implementation, spec):
    arguments = make_problem(Case(spec=spec)).forward()
    first, second = (implementation.lstm_forward(**arguments)[0] for _ in range(2))
    assert (first != second).any()


@variants
@pytest.mark.parametrize("reverse", [False, True])
def test_masks_inference_has_none(implementation, spec, dtype, reverse):
    """Zoneout by its expectation, which can be differentiated too; all else is as without."""
    case = Case(B=5, lengths=(3, 0, 7, 7, 5), reverse=reverse, spec=spec, training=False)
    results = run(implementation, make_problem(case, dtype))
    assert_matches(results, expected(case), dtype, case)
    if not (spec.zoneout_h or spec.zoneout_c):
        plain = replace(case, spec=Spec())
        numbers = make_problem(case)
        default = replace(make_problem(plain), **{
            name: getattr(numbers, name) for name in vars(numbers) if name != "case"
        })  # fmt: skip
        assert_matches(results, run(reference, default), dtype, case)


def test_masks_zoneout_by_hand():
    """Where it is kept, a state is exactly that of the step before; h~ is made of the new c."""
    case = Case(T=6, spec=Spec(zoneout_h=0.4, zoneout_c=0.4))
    problem = make_problem(case)
    _, _, tape = reference.lstm_forward(**problem.forward())
    i, f, g, o = np.moveaxis(tape.gates, 2, 0)
    new_c = f * tape.c[:-1] + i * g
    for mask, states, new in (
        (tape.masks["zoneout_c"], tape.c, new_c),
        (tape.masks["zoneout_h"], tape.h, o * np.tanh(new_c)),
    ):
        assert 0.3 < mask.mean() < 0.9
        np.testing.assert_array_equal(states[1:][~mask], states[:-1][~mask])
        np.testing.assert_allclose(states[1:][mask], new[mask], rtol=1e-12)


def test_masks_inference_of_zoneout_by_hand():
    spec = Spec(zoneout_h=0.4, zoneout_c=0.1)
    _, _, tape = reference.lstm_forward(**make_problem(Case(spec=spec, training=False)).forward())
    i, f, g, o = np.moveaxis(tape.gates, 2, 0)
    new_c = f * tape.c[:-1] + i * g
    np.testing.assert_allclose(tape.c[1:], 0.1 * tape.c[:-1] + 0.9 * new_c, rtol=1e-12)
    h = 0.4 * tape.h[:-1] + 0.6 * o * np.tanh(new_c)
    np.testing.assert_allclose(tape.h[1:], h, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("on", ["h", "candidate"])
def test_masks_recurrent_dropout_by_hand(on):
    spec = Spec(recurrent_dropout=0.4, recurrent_dropout_on=on, weight_drop=0.3)
    q = make_problem(Case(spec=spec))
    _, _, tape = reference.lstm_forward(**q.forward())
    mask, w_hh = tape.masks["recurrent_dropout"], q.w_hh * tape.masks["weight_drop"]
    h_prev = tape.h[:-1] * (mask if on == "h" else 1)
    a_i, _, a_g, _ = np.split(q.x @ q.w_ih.T + h_prev @ w_hh.T + q.b, 4, axis=2)
    i, f, g, _ = np.moveaxis(tape.gates, 2, 0)
    np.testing.assert_allclose(i, reference.sigmoid(a_i), rtol=1e-12)
    np.testing.assert_allclose(g, np.tanh(a_g), rtol=1e-12)
    c = f * tape.c[:-1] + i * g * (mask if on == "candidate" else 1)
    np.testing.assert_allclose(tape.c[1:], c, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_masks_layer_draws_from_its_own_generator(make_layer, dtype, bidirectional):
    """The same seed gives the same numbers; a call draws none."""
    x = np.random.default_rng(0).standard_normal((7, 3, 5)).astype(dtype)
    layers = [
        make_layer(5, 9, 2, spec=ALL, dropout=0.3, seed=3, dtype=dtype, bidirectional=bidirectional)
        for _ in range(2)
    ]
    (first, _, tape), (second, *_) = (layer.forward(x) for layer in layers)
    np.testing.assert_array_equal(first, second)
    assert len({t.masks["zoneout_h"].tobytes() for ts in tape.tapes for t in ts}) == len(
        layers[0].cell_weights()
    )
    layers[0](x)
    np.testing.assert_array_equal(layers[0].forward(x)[0], layers[1].forward(x)[0])
    assert (layers[0].forward(x)[0] != first).any()


def test_masks_layer_trains_packed_weights_as_they_are(make_layer, dtype):
    """Weights that were dropped in one call are not kept for the next."""
    lstm = make_layer(5, 9, spec=Spec(weight_drop=0.5), seed=0, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((7, 3, 5)).astype(dtype)
    before, w_hh = lstm(x)[0], lstm.parameters()["weight_hh_l0"].copy()
    y, _, tape = lstm.forward(x)
    _, _, grads = lstm.backward(tape, np.ones_like(y))
    np.testing.assert_array_equal(lstm(x)[0], before)
    np.testing.assert_array_equal(lstm.parameters()["weight_hh_l0"], w_hh)
    dropped = tape.tapes[0][0].masks["weight_drop"] == 0
    assert (grads["weight_hh_l0"] == 0)[dropped].all()
    assert (grads["weight_hh_l0"] != 0)[~dropped].all()


# -- errors ----------------------------------------------------------------------------------------

RATES = ("zoneout_h", "zoneout_c", "recurrent_dropout", "weight_drop")


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize(
    ("value", "kind"),
    [(1.0, ValueError), (-0.1, ValueError), (float("nan"), ValueError), ("0.1", TypeError),
     (True, TypeError), (None, TypeError)],
)  # fmt: skip
def test_masks_rate_is_checked(name, value, kind):
    with pytest.raises(kind) as caught:
        Spec(**{name: value})
    what = "be a float" if kind is TypeError else "be"
    assert str(caught.value) == f"{name} must {what} in [0, 1), got {value!r}"


def test_masks_recurrent_dropout_on_is_checked():
    with pytest.raises(ValueError, match=r"must be 'h' or 'candidate', got 'c'"):
        Spec(recurrent_dropout=0.1, recurrent_dropout_on="c")


@pytest.mark.parametrize("rng", [7, "seed", np.random.RandomState(0)], ids=str)
def test_masks_rng_is_checked(implementation, rng):
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator or None, got "):
        implementation.lstm_forward(**make_problem(Case()).forward(), rng=rng)


# -- the norms of each step ------------------------------------------------------------------------

NORM_CASES = (
    Case(),
    Case(T=9, B=17, H=18),
    Case(B=5, lengths=(3, 0, 7, 7, 5), reverse=True),
    Case(P=4, B=4, lengths=(2, 7, 0, 5)),
    Case(P=4, reverse=True, spec=Spec(peepholes="ifo", cell_clip=0.5)),
    Case(spec=Spec(coupled=True, cell_clip=0.5)),
    Case(spec=Spec(layer_norm=True)),
    Case(P=4, spec=ALL),
    Case(T=0),
    Case(lengths=(0, 0, 0)),
)


@pytest.mark.parametrize("case", NORM_CASES, ids=str)
def test_step_norms_match_reference(implementation, case, dtype):
    problem = make_problem(case, dtype)
    passes = []
    for norms in (False, True):
        *_, tape = implementation.lstm_forward(**problem.forward())
        passes.append(
            implementation.lstm_backward(tape, problem.dy, problem.dstate, step_norms=norms)
        )
    without, (dx, (dh0, dc0), grads, norms) = passes
    wide = make_problem(case)
    *_, tape = reference.lstm_forward(**wide.forward())
    *_, answer = reference.lstm_backward(tape, wide.dy, wide.dstate, step_norms=True)
    assert_matches(norms._asdict(), answer._asdict(), dtype, case)
    assert len(without) == 3
    named = dict(dx=dx, dh0=dh0, dc0=dc0, **grads)
    dx, (dh0, dc0), grads = without
    exact = dict(dx=dx, dh0=dh0, dc0=dc0, **grads)
    exact = {name: a.astype("float64") for name, a in exact.items()}
    assert_matches(named, exact, dtype, case)


@pytest.mark.parametrize("spec", [Spec(), Spec(cell_clip=0.5, peepholes="o"), Spec(zoneout_c=0.4)])
def test_step_norms_are_those_of_the_gradients(spec):
    """dL/dh[t], dL/dc[t] by running from t on: from the state after t, and back through h[t]."""
    case = Case(spec=spec, training=False)
    q = make_problem(case)
    *_, tape = reference.lstm_forward(**q.forward())
    h, c, gates = tape.h, tape.c, tape.gates.copy()
    *_, norms = reference.lstm_backward(tape, q.dy, q.dstate, step_norms=True)
    for t in range(case.T):
        rest = q.forward() | dict(x=q.x[t + 1 :], state=(h[t + 1], c[t + 1]))
        *_, tape = reference.lstm_forward(**rest)
        _, (dh, dc), _ = reference.lstm_backward(tape, q.dy[t + 1 :], q.dstate)
        dh = dh + q.dy[t]
        np.testing.assert_allclose(norms.h[t], np.linalg.norm(dh), rtol=1e-12)
        o, s = gates[t, :, 3], np.tanh(c[t + 1])
        if not spec.zoneout_c:  # h is made of another c then
            dc = dc + dh * o * (1 - s**2)
        if spec.peepholes:
            dc = dc + q.w_peephole[2] * dh * s * o * (1 - o)
        np.testing.assert_allclose(norms.c[t], np.linalg.norm(dc), rtol=1e-12)


@pytest.mark.parametrize("keep", [False, True])
def test_step_norms_consume_the_tape_as_without(implementation, keep):
    problem = make_problem(Case())
    *_, tape = implementation.lstm_forward(**problem.forward())
    first = implementation.lstm_backward(tape, problem.dy, keep=keep, step_norms=True)
    if not keep:
        with pytest.raises(RuntimeError, match="has consumed this tape"):
            implementation.lstm_backward(tape, problem.dy, step_norms=True)
        return
    again = implementation.lstm_backward(tape, problem.dy, step_norms=True)
    assert_identical(first[3]._asdict(), again[3]._asdict(), problem.case)


def test_masks_torch_refuses_what_it_would_not_draw():
    ft = pytest.importorskip("fastlstm.torch")
    with pytest.raises(NotImplementedError, match=r"draws no masks.*zoneout_h"):
        ft.LSTM(2, 3, spec=Spec(zoneout_h=0.1))
    assert fastlstm.LSTM(2, 3, spec=Spec(zoneout_h=0.1)).spec.draws
