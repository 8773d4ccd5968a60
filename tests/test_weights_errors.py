# SPDX-License-Identifier: MIT
"""What from_layout and to_layout refuse, and how they say it."""

import numpy as np
import pytest
from framework_cells import H, I, P
from test_weights import PEEPHOLES, PROJECTIONS, foreign, random_weights

from fastlstm import layouts, weights
from fastlstm.weights import LAYOUTS, from_layout, to_layout


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


@pytest.mark.parametrize("cell", layouts.CELLS)
def test_layouts_are_well_formed(cell):
    gates_of = layouts.GATES[cell]
    for layout in (*layouts.CELLS[cell].values(), layouts.OWN[cell]):
        assert layout.cell == cell
        assert sorted(layout.gates) == sorted(gates_of["w_ih"])
        assert sorted(layout.peepholes) == sorted("ifo")
        for weight, gates in gates_of.items():
            held = [p.gates for parts in layout.parts.values() for p in parts if p.weight == weight]
            partial = {"n"} if weight == "b_hh" else set()
            assert set("".join(held)) in (set(gates), set(), partial)


def test_a_cell_that_is_unknown():
    for convert in (from_layout, to_layout):
        with pytest.raises(ValueError, match="cell must be one of lstm, gru, rnn, got 'slstm'"):
            convert("keras", {}, cell="slstm")
        with pytest.raises(ValueError, match="name must be one of pytorch, keras, onnx, got 'fl"):
            convert("flax", {}, cell="rnn")
    assert set(weights.__all__) == {
        "CELLS", "LAYOUTS", "PARAMETERS", "from_layout", "to_layout",
    }  # fmt: skip
