# SPDX-License-Identifier: MIT
"""The layouts of other frameworks: each import computes what that framework's own cell computes.

The cells below are transcribed from the frameworks' sources and read their arrays directly; all
weights are random, so that a swapped gate cannot hide.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlstm import layouts, weights
from fastlstm.reference import lstm_forward
from fastlstm.weights import LAYOUTS, from_layout, to_layout

B, I, H, P, T = 3, 4, 5, 2, 6
PEEPHOLES = ["onnx", "tf1", "onednn"]
PROJECTIONS = ["pytorch", "tf1", "onednn"]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def cell(i, f, g, o, c, p=None):
    """(m, c) of one step from the four pre-activations; p: peepholes i, f, o."""
    pi, pf, po = (0, 0, 0) if p is None else p
    c = sigmoid(f + pf * c) * c + sigmoid(i + pi * c) * np.tanh(g)
    return sigmoid(o + po * c) * np.tanh(c), c


def own(w, x, h, c):
    a = x @ w["w_ih"].T + h @ w["w_hh"].T + w.get("b", 0)
    m, c = cell(*np.split(a, 4, 1), c, w.get("w_peephole"))
    return m @ w["w_proj"].T if "w_proj" in w else m, c


# ---- the frameworks' cells: (their arrays, x, h, c) -> (h, c)


def pytorch(w, x, h, c):
    a = x @ w["weight_ih"].T + h @ w["weight_hh"].T
    if "bias_ih" in w:
        a = a + w["bias_ih"] + w["bias_hh"]
    i, f, g, o = np.split(a, 4, 1)
    m, c = cell(i, f, g, o, c)
    return m @ w["weight_hr"].T if "weight_hr" in w else m, c


def keras(w, x, h, c):
    z = x @ w["kernel"] + h @ w["recurrent_kernel"] + w.get("bias", 0)
    z0, z1, z2, z3 = np.split(z, 4, 1)
    c = sigmoid(z1) * c + sigmoid(z0) * np.tanh(z2)
    return sigmoid(z3) * np.tanh(c), c


def onnx(w, x, h, c):
    Wi, Wo, Wf, Wc = np.split(w["W"][0], 4)
    Ri, Ro, Rf, Rc = np.split(w["R"][0], 4)
    Wbi, Wbo, Wbf, Wbc, Rbi, Rbo, Rbf, Rbc = np.split(w.get("B", np.zeros((1, 8 * H)))[0], 8)
    Pi, Po, Pf = np.split(w.get("P", np.zeros((1, 3 * H)))[0], 3)
    it = sigmoid(x @ Wi.T + h @ Ri.T + Pi * c + Wbi + Rbi)
    ft = sigmoid(x @ Wf.T + h @ Rf.T + Pf * c + Wbf + Rbf)
    ct = np.tanh(x @ Wc.T + h @ Rc.T + Wbc + Rbc)
    C = ft * c + it * ct
    return sigmoid(x @ Wo.T + h @ Ro.T + Po * C + Wbo + Rbo) * np.tanh(C), C


def flax(w, x, h, c):
    def dense(k):
        return x @ w["i" + k]["kernel"] + h @ w["h" + k]["kernel"] + w["h" + k]["bias"]

    return cell(dense("i"), dense("f"), dense("g"), dense("o"), c)


def equinox(w, x, h, c):
    i, f, g, o = np.split(x @ w["weight_ih"].T + h @ w["weight_hh"].T + w.get("bias", 0), 4, 1)
    return cell(i, f, g, o, c)


def haiku(w, x, h, c):
    i, g, f, o = np.split(np.concatenate([x, h], 1) @ w["w"] + w["b"], 4, 1)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def tf1(w, x, h, c):
    i, j, f, o = np.split(np.concatenate([x, h], 1) @ w["kernel"] + w["bias"], 4, 1)
    wi, wf, wo = (w.get(f"w_{k}_diag", 0) for k in "ifo")
    c = sigmoid(f + 1.0 + wf * c) * c + sigmoid(i + wi * c) * np.tanh(j)
    m = sigmoid(o + wo * c) * np.tanh(c)
    return m @ w["projection/kernel"] if "projection/kernel" in w else m, c


def haste(w, x, h, c):
    i, g, f, o = np.split(x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4, 1)
    return cell(i, f, g, o, c)


def onednn(w, x, h, c):
    a = np.einsum("bi,igh->gbh", x, w["weights_layer"][0, 0])
    a = a + np.einsum("br,rgh->gbh", h, w["weights_iter"][0, 0]) + w["bias"][0, 0][:, None]
    i, f, g, o = a
    m, c = cell(i, f, g, o, c, w["weights_peephole"][0, 0] if "weights_peephole" in w else None)
    return m @ w["weights_projection"][0, 0] if "weights_projection" in w else m, c


def thinc(w, x, h, c):
    wx, bx, wh, bh = np.split(w["LSTM"], np.cumsum([4 * H * I, 4 * H, 4 * H * H]))
    a = x @ wx.reshape(4 * H, I).T + bx + h @ wh.reshape(4 * H, H).T + bh
    hf, hi, ho, hc = np.split(a, 4, 1)
    c = sigmoid(hf) * c + sigmoid(hi) * np.tanh(hc)
    return sigmoid(ho) * np.tanh(c), c


def rtneural(w, x, h, c):
    W, U, b = map(np.array, w["weights"])
    i, f, ct, o = (slice(k * H, (k + 1) * H) for k in range(4))
    c_new = sigmoid(x @ W[:, f] + h @ U[:, f] + b[f]) * c
    c_new += sigmoid(x @ W[:, i] + h @ U[:, i] + b[i]) * np.tanh(
        x @ W[:, ct] + h @ U[:, ct] + b[ct]
    )
    return sigmoid(x @ W[:, o] + h @ U[:, o] + b[o]) * np.tanh(c_new), c_new


CELLS = {
    "pytorch": pytorch,
    "keras": keras,
    "onnx": onnx,
    "flax": flax,
    "equinox": equinox,
    "haiku": haiku,
    "tf1_basic": tf1,
    "tf1": tf1,
    "haste": haste,
    "onednn": onednn,
    "thinc": thinc,
    "rtneural": rtneural,
}


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


# ---- errors


def changed(name, **arrays):
    """The arrays of a framework with some replaced; None: removed."""
    new = foreign(name) | arrays
    return {key: value for key, value in new.items() if value is not None}


f4 = np.float32
ERRORS = [
    ("chainer", {}, ValueError, "name must be one of pytorch, keras,"),
    ("keras", [1, 2], TypeError, "keras: expected a dict of arrays, got list"),
    ("keras", {}, ValueError, "keras array kernel is missing; found none"),
    (
        "keras",
        changed("keras", kernel=None),
        ValueError,
        "keras array kernel is missing; found rec",
    ),
    ("haste", changed("haste", bias=None), ValueError, "haste array bias is missing"),
    ("pytorch", changed("pytorch", bias_hh=None), ValueError, "array bias_hh is missing"),
    ("tf1", changed("tf1", w_i_diag=np.ones(H)), ValueError, "array w_f_diag, w_o_diag is missing"),
    ("flax", changed("flax", hi={"kernel": np.ones((H, H))}), ValueError, "hi.bias is missing"),
    (
        "keras",
        changed("keras", weight_hr=np.ones(2)),
        ValueError,
        "keras has no array weight_hr; its",
    ),
    (
        "flax",
        changed("flax", ii={"bias": np.ones(H)}),
        ValueError,
        "flax has no array ii.bias; its",
    ),
    (
        "keras",
        changed("keras", kernel=np.ones((4 * H, I))),
        ValueError,
        r"keras recurrent_kernel must have shape \(H, 4\*H\) = \(1, 4\), got \(5, 20\)",
    ),
    (
        "keras",
        changed("keras", recurrent_kernel=np.ones((H, H))),
        ValueError,
        r"keras recurrent_kernel must have shape \(H, 4\*H\) = \(5, 20\), got \(5, 5\)",
    ),
    (
        "keras",
        changed("keras", kernel=np.ones((I, 4 * H + 1))),
        ValueError,
        r"keras kernel must have shape \(I, 4\*H\) = \(4, 20\), got \(4, 21\)",
    ),
    (
        "keras",
        changed("keras", bias=np.ones((2, 4 * H))),
        ValueError,
        r"keras bias must have shape \(4\*H\), got \(2, 20\)",
    ),
    (
        "onnx",
        changed("onnx", W=np.ones((2, 4 * H, I))),
        ValueError,
        r"onnx W must have shape \(1, 4\*H, I\) = \(1, 20, 4\), got \(2, 20, 4\)",
    ),
    (
        "onnx",
        changed("onnx", B=np.ones((1, 4 * H))),
        ValueError,
        r"onnx B must have shape \(1, 4\*H \+ 4\*H\) = \(1, 40\), got \(1, 20\)",
    ),
    (
        "tf1",
        changed("tf1") | {"projection/kernel": np.ones((H + 1, P))},
        ValueError,
        r"tf1 projection/kernel must have shape \(H, P\) = \(5, 2\), got \(6, 2\)",
    ),
    (
        "haiku",
        changed("haiku", w=np.ones((H, 4 * H))),
        ValueError,
        "haiku: I must be at least 1, got 0",
    ),
    (
        "haiku",
        changed("haiku", w=np.ones((2, 4 * H))),
        ValueError,
        "haiku: I must be at least 1, got -3",
    ),
    ("keras", changed("keras", kernel=np.ones((I, 0))), ValueError, r"must have shape|at least 1"),
    (
        "keras",
        changed("keras", bias=np.ones(4 * H, f4)),
        TypeError,
        "bias is float32; all arrays must",
    ),
    (
        "keras",
        changed("keras", bias=np.ones(4 * H, int)),
        TypeError,
        "bias must be float32 or float64",
    ),
    (
        "rtneural",
        changed("rtneural", type="gru"),
        ValueError,
        "rtneural type must be 'lstm', got 'gru'",
    ),
    (
        "rtneural",
        changed("rtneural", weights=[[[1.0], [1.0, 2.0]], [], []]),
        ValueError,
        "rtneural weights.0 must be a list of equally long lists",
    ),
    (
        "rtneural",
        changed("rtneural", weights=[[[None]], [[1.0]], [1.0]]),
        TypeError,
        "weights.0 must",
    ),
    ("thinc", changed("thinc"), ValueError, "hidden_size is needed for thinc"),
]


@pytest.mark.parametrize(("name", "arrays", "error", "text"), ERRORS)
def test_errors_of_import(name, arrays, error, text):
    with pytest.raises(error, match=text):
        from_layout(name, arrays)


@pytest.mark.parametrize("size", [0, -1, 4, 6, 10**6])
def test_thinc_with_a_wrong_hidden_size(size):
    with pytest.raises(ValueError, match=r"thinc LSTM must have shape|at least 1"):
        from_layout("thinc", foreign("thinc"), hidden_size=size)


@pytest.mark.parametrize("name", LAYOUTS)
def test_errors_of_export(name):
    if name not in PEEPHOLES:
        with pytest.raises(ValueError, match=f"{name} has no place for w_peephole"):
            to_layout(name, random_weights(peepholes=True))
    if name not in PROJECTIONS:
        with pytest.raises(ValueError, match=f"{name} has no place for w_proj"):
            to_layout(name, random_weights(projection=P))
    with pytest.raises(ValueError, match="fastlstm array w_hh is missing"):
        to_layout(name, {"w_ih": np.ones((4 * H, I))})
    with pytest.raises(
        ValueError, match=r"w_hh must have shape \(4\*H, H\) = \(20, 5\), got \(20, 4\)"
    ):
        to_layout(name, random_weights() | {"w_hh": np.ones((4 * H, 4))})
    with pytest.raises(ValueError, match="fastlstm has no array bias; its arrays are w_ih,"):
        to_layout(name, random_weights() | {"bias": np.ones(4 * H)})


def test_layouts_are_well_formed():
    for layout in (*LAYOUTS.values(), layouts.OWN):
        assert sorted(layout.gates) == sorted("ifgo")
        assert sorted(layout.peepholes) == sorted("ifo")
        for weight, gates in layouts.GATES.items():
            held = [p.gates for parts in layout.parts.values() for p in parts if p.weight == weight]
            assert set("".join(held)) in (set(gates), set())
    assert set(weights.__all__) == {"LAYOUTS", "from_layout", "to_layout"}
