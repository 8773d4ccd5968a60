# SPDX-License-Identifier: MIT
"""The layouts of other frameworks: each import computes what that framework's own cell computes.

All weights are random, so that a swapped gate cannot hide. Errors: test_weights_errors.py.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from framework_cells import CELLS, B, H, I, P, T, own
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlstm.reference import lstm_forward
from fastlstm.weights import LAYOUTS, from_layout, to_layout

PEEPHOLES = ["onnx", "tf1", "onednn"]
PROJECTIONS = ["pytorch", "tf1", "onednn"]


def run(step, w, r=H, seed=9):
    """All h and the last c of a cell on random input from a random state."""
    rng = np.random.default_rng(seed)
    x, h, c = (rng.standard_normal(shape) for shape in [(T, B, I), (B, r), (B, H)])
    y = []
    for x_t in x:
        h, c = step(w, x_t, h, c)
        y.append(h)
    return np.concatenate([np.stack(y).ravel(), c.ravel()])


def random_weights(seed=0, sizes=(I, H), bias=True, peepholes=False, projection=0, dtype="f8"):
    i, h = sizes
    r, rng = projection or h, np.random.default_rng(seed)
    shapes = {"w_ih": (4 * h, i), "w_hh": (4 * h, r)}
    shapes |= {"b": (4 * h,)} if bias else {}
    shapes |= {"w_peephole": (3, h)} if peepholes else {}
    shapes |= {"w_proj": (r, h)} if projection else {}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def variants():
    """(framework, variant) for all that a framework can have."""
    for name, layout in LAYOUTS.items():
        yield name, {}
        if layout.bias_optional:
            yield name, {"bias": False}
        if name in PEEPHOLES:
            yield name, {"peepholes": True}
        if name in PROJECTIONS:
            yield name, {"projection": P}


def randomised(arrays, rng):
    """Other numbers in the same nest of arrays: so that the second bias is not zero."""
    if isinstance(arrays, dict):
        return {key: randomised(value, rng) for key, value in arrays.items()}
    if isinstance(arrays, list):
        return [randomised(value, rng) for value in arrays]
    if isinstance(arrays, np.ndarray):
        return rng.standard_normal(arrays.shape)
    return float(rng.standard_normal()) if isinstance(arrays, float) else arrays


def foreign(name, seed=1, **variant):
    """Random arrays as the framework ``name`` would have them."""
    template = to_layout(name, random_weights(**variant))
    return randomised(template, np.random.default_rng(seed))


def imported(name, arrays, **options):
    return from_layout(name, arrays, hidden_size=H if name == "thinc" else None, **options)


def test_every_layout_has_a_cell():
    assert CELLS.keys() == LAYOUTS.keys()


def test_own_cell_is_the_reference():
    for projection in (0, P):
        w = random_weights(projection=projection)
        rng = np.random.default_rng(9)
        x, h, c = (rng.standard_normal(s) for s in [(T, B, I), (B, projection or H), (B, H)])
        y, (_, c_n), _ = lstm_forward(x, state=(h, c), **w)
        got = np.concatenate([y.ravel(), c_n.ravel()])
        np.testing.assert_allclose(run(own, w, projection or H), got, rtol=1e-12)


@pytest.mark.parametrize(("name", "variant"), list(variants()))
def test_import_computes_what_the_framework_computes(name, variant):
    arrays, r = foreign(name, **variant), variant.get("projection", H)
    got = run(own, imported(name, arrays), r)
    np.testing.assert_allclose(got, run(CELLS[name], arrays, r), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("name", "variant"), list(variants()))
def test_export_computes_what_we_compute(name, variant):
    w, r = random_weights(**variant), variant.get("projection", H)
    got = run(CELLS[name], to_layout(name, w), r)
    np.testing.assert_allclose(got, run(own, w, r), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("swap", list(combinations("ifgo", 2)), ids="".join)
def test_a_swapped_gate_is_seen(name, swap, monkeypatch):
    """The two tests above are not blind: any two gates exchanged change the outputs."""
    arrays, right = foreign(name), LAYOUTS[name]
    table = str.maketrans("".join(swap), "".join(swap[::-1]))
    gates = right.gates.translate(table)
    texts = {
        path: text.replace(f"[{swap[0]}]", f"[{swap[1]}]")
        if f"[{swap[0]}]" in text
        else text.replace(f"[{swap[1]}]", f"[{swap[0]}]")
        for path, text in right.arrays.items()
    }
    monkeypatch.setitem(LAYOUTS, name, replace(right, gates=gates, arrays=texts))
    difference = run(own, imported(name, arrays)) - run(CELLS[name], arrays)
    assert np.abs(difference).max() > 0.01


@pytest.mark.parametrize("name", PEEPHOLES)
def test_swapped_peepholes_are_seen(name, monkeypatch):
    arrays, right = foreign(name, peepholes=True), LAYOUTS[name]
    swapped = {"w_f_diag": "w_peephole[o]: h", "w_o_diag": "w_peephole[f]: h"}
    texts = right.arrays | (swapped if name == "tf1" else {})
    peepholes = {"iof": "ifo", "ifo": "iof"}[right.peepholes]
    monkeypatch.setitem(LAYOUTS, name, replace(right, peepholes=peepholes, arrays=texts))
    difference = run(own, imported(name, arrays)) - run(CELLS[name], arrays)
    assert np.abs(difference).max() > 0.01


@pytest.mark.parametrize("name", ["haiku", "tf1_basic", "tf1"])
def test_run_time_forget_bias(name):
    """It is in b here; left out, the outputs differ; a cell made with another one says so."""
    arrays = foreign(name)
    without = imported(name, arrays, forget_bias=0.0)
    assert np.abs(run(own, without) - run(CELLS[name], arrays)).max() > 0.01
    np.testing.assert_array_equal(
        imported(name, arrays)["b"][H : 2 * H], without["b"][H : 2 * H] + 1
    )
    back = to_layout(name, without, forget_bias=0.0)
    assert all(np.array_equal(back[key], arrays[key]) for key in arrays)
    bias = "b" if name == "haiku" else "bias"
    no_bias = to_layout(name, random_weights(bias=False))[bias]
    np.testing.assert_array_equal(no_bias.reshape(4, H)[2], -1.0)


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"haiku", "tf1_basic", "tf1"}))
def test_no_forget_bias_at_run_time(name):
    """Keras' unit_forget_bias and Haste's forget_bias are used at initialisation alone."""
    with pytest.raises(ValueError, match=f"{name} adds no forget bias at run time"):
        imported(name, foreign(name), forget_bias=1.0)
    with pytest.raises(ValueError, match=f"{name} adds no forget bias at run time"):
        to_layout(name, random_weights(), forget_bias=1.0)


# ---- round trips

QUICK = settings(max_examples=40, deadline=None, database=None)


@st.composite
def any_weights(draw):
    """A framework, and weights of any size and variant that it has a place for."""
    name = draw(st.sampled_from(sorted(LAYOUTS)))
    i, h = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    projects = name in PROJECTIONS and draw(st.booleans())
    return name, random_weights(
        draw(st.integers(0, 999)),
        (i, h),
        draw(st.booleans()),
        name in PEEPHOLES and draw(st.booleans()),
        draw(st.integers(1, h)) if projects else 0,
        draw(st.sampled_from(["f4", "f8"])),
    )


@given(any_weights())
@QUICK
def test_there_and_back(drawn):
    name, w = drawn
    h = w["w_ih"].shape[0] // 4
    arrays = to_layout(name, w)
    again = from_layout(name, arrays, hidden_size=h)
    if "b" not in w and not LAYOUTS[name].bias_optional:
        assert not again.pop("b").any()
    assert again.keys() == w.keys()
    for key, value in again.items():
        assert value.shape == w[key].shape
        assert value.dtype == (np.float64 if name == "rtneural" else w[key].dtype)
        if key == "b" and LAYOUTS[name].forget_bias:  # - 1 + 1 rounds
            rounding = 4 * np.finfo(w[key].dtype).eps
            np.testing.assert_allclose(value, w[key], rtol=0, atol=rounding)
            assert np.array_equal(
                np.delete(value, np.s_[h : 2 * h]), np.delete(w[key], np.s_[h : 2 * h])
            )
        else:
            assert np.array_equal(value, w[key])


@pytest.mark.parametrize(("name", "variant"), list(variants()))
def test_back_and_there(name, variant):
    """A framework's arrays come back as they were, but for how a sum of two biases is split."""
    exact = {} if LAYOUTS[name].forget_bias is None else {"forget_bias": 0.0}
    arrays = foreign(name, **variant)
    again = to_layout(name, imported(name, arrays, **exact), **exact)
    if name in ("pytorch", "onnx", "thinc"):
        arrays, again = again, to_layout(name, imported(name, again))  # the first has the sum now
    assert plain(again) == plain(arrays)


def plain(tree):
    """The same nest with lists for arrays."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return tree.tolist() if isinstance(tree, np.ndarray) else tree


@pytest.mark.parity
def test_live_pytorch():
    import torch

    for bias in (True, False):
        arrays = foreign("pytorch", bias=bias)
        live = torch.nn.LSTMCell(I, H, bias=bias, dtype=torch.float64)
        live.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})

        def step(w, x, h, c, live=live):
            with torch.no_grad():
                h, c = live(torch.tensor(x), (torch.tensor(h), torch.tensor(c)))
            return h.numpy(), c.numpy()

        got = run(own, from_layout("pytorch", arrays))
        np.testing.assert_allclose(got, run(step, None), rtol=1e-11, atol=1e-13)


@pytest.mark.parity
def test_live_onnxruntime():
    """With peepholes, whose order differs from the gates' too."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    arrays = {k: a.astype("f4") for k, a in foreign("onnx", peepholes=True).items()}
    names = ["x", "W", "R", "B", "", "h", "c", "P"]
    node = helper.make_node("LSTM", names, ["", "hn", "cn"], hidden_size=H)
    given = {"x": [1, B, I], "h": [1, B, H], "c": [1, B, H]}
    values = {"hn": [1, B, H], "cn": [1, B, H]}
    inputs, outputs = (
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, shape) for k, shape in group.items()]
        for group in (given, values)
    )
    fixed = [numpy_helper.from_array(a, k) for k, a in arrays.items()]
    opsets = [helper.make_opsetid("", 14)]
    model = helper.make_model(
        helper.make_graph([node], "lstm", inputs, outputs, fixed),
        opset_imports=opsets,
        ir_version=8,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())

    def step(w, x, h, c):
        feed = {"x": x[None], "h": h[None], "c": c[None]}
        hn, cn = session.run(["hn", "cn"], {k: a.astype("f4") for k, a in feed.items()})
        return hn[0], cn[0]

    np.testing.assert_allclose(run(own, from_layout("onnx", arrays)), run(step, None), atol=2e-6)


def test_two_biases_are_summed_and_the_first_gets_all():
    arrays = foreign("pytorch")
    w = from_layout("pytorch", arrays)
    np.testing.assert_array_equal(w["b"], arrays["bias_ih"] + arrays["bias_hh"])
    again = to_layout("pytorch", w)
    np.testing.assert_array_equal(again["bias_ih"], w["b"])
    assert not again["bias_hh"].any()


def test_all_pairs_of_frameworks():
    """From each framework to each other one: the outputs stay."""
    for source in LAYOUTS:
        w = imported(source, foreign(source))
        want = run(own, w)
        for target in LAYOUTS:
            got = run(CELLS[target], to_layout(target, w))
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_results_are_new_arrays():
    w = random_weights(bias=False)
    for arrays in (to_layout("pytorch", w), from_layout("pytorch", to_layout("pytorch", w))):
        for a in arrays.values():
            assert a.flags.writeable
            assert a.flags.c_contiguous
            assert not any(np.shares_memory(a, value) for value in w.values())


def test_numbers_are_not_looked_at():
    """NaN and infinity go through, and do not spread to the second bias."""
    w = random_weights()
    w["b"][:] = np.nan
    w["w_ih"][0] = np.inf
    arrays = to_layout("pytorch", w)
    assert not arrays["bias_hh"].any()
    assert all(
        np.array_equal(v, w[k], equal_nan=True) for k, v in from_layout("pytorch", arrays).items()
    )


def test_lists_of_integers_as_json_has_them():
    arrays = to_layout("rtneural", random_weights())
    arrays["weights"][2] = [0] * (4 * H)
    assert from_layout("rtneural", arrays)["b"].dtype == np.float64
    assert arrays["shape"] == [None, None, H]


def test_none_is_absent():
    arrays = to_layout("equinox", random_weights(bias=False)) | {"bias": None}
    assert from_layout("equinox", arrays).keys() == {"w_ih", "w_hh"}
    w = random_weights() | {"w_proj": None, "w_peephole": None}
    assert to_layout("keras", w).keys() == {"kernel", "recurrent_kernel", "bias"}
