# SPDX-License-Identifier: MIT
"""GRU and RNN against PyTorch: golden vectors always, live where it is installed."""

import json
from pathlib import Path

import numpy as np
import pytest
from comparison import assert_matches
from sibling_peers import (
    KINDS,
    STACKS,
    draw_stack,
    limit_of,
    run_onnxruntime,
    run_ours,
    run_torch,
)

import fastlstm as fl

GOLDEN = sorted((Path(__file__).parent / "data").glob("sibling_*.npz"))


def compare(implementation, given, expected, dtype, label):
    """Our layer, computed by this implementation, against the numbers of PyTorch."""
    reference = implementation.name == "reference"
    with fl.backend.using_isa("none" if reference else implementation.name):
        results = run_ours(*given, backend="reference" if reference else "engine")
    expected = {n: a.astype("float64") for n, a in expected.items()}
    assert_matches(results, expected, dtype, label, limit_of(given[1], dtype))


def test_siblings_there_are_golden_vectors():
    assert len(GOLDEN) == 2 * len(KINDS)
    assert sum(path.stat().st_size for path in GOLDEN) < 300_000


@pytest.mark.parametrize("path", GOLDEN, ids=[p.stem for p in GOLDEN])
def test_siblings_match_golden_vectors(implementation, dtype, path):
    with np.load(path) as file:
        arrays = dict(file)

    def part(head, as_dtype=None):
        found = {n.removeprefix(head): a for n, a in arrays.items() if n.startswith(head)}
        return {n: a if as_dtype is None else a.astype(as_dtype) for n, a in found.items()}

    name, arguments, lengths = json.loads(str(arrays["layer"]))
    inputs = part("input/", dtype) | {"lengths": lengths}
    given = name, arguments, inputs, part("weight/", dtype)
    compare(implementation, given, part(f"{dtype.name}/"), dtype, path.stem)


@pytest.mark.parity
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", KINDS)
def test_siblings_parity_with_pytorch(implementation, dtype, kind, stack):
    given = draw_stack(kind, stack, dtype)
    compare(implementation, given, run_torch(*given), dtype, f"{kind} {stack}")


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_siblings_state_dict_goes_to_pytorch_and_back(kind):
    import torch

    name, options = kind.split("-")[0], KINDS[kind]
    ours = getattr(fl, name)(5, 9, 2, bidirectional=True, **options, seed=0)
    theirs = getattr(torch.nn, name)(5, 9, 2, bidirectional=True, **options)
    theirs.load_state_dict({n: torch.tensor(a) for n, a in ours.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((6, 3, 5)).astype("float32")
    y, h_n = theirs(torch.tensor(x))
    np.testing.assert_allclose(ours(x)[0], y.detach().numpy(), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(ours(x)[1], h_n.detach().numpy(), rtol=2e-5, atol=1e-6)
    again = getattr(fl, name)(5, 9, 2, bidirectional=True, **options, seed=1)
    again.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(again.flat, ours.flat)


# our options -> ONNX's attributes
ONNX = {
    "gru-after": ("GRU", dict(reset_after=True), dict(linear_before_reset=1)),
    "gru-before": ("GRU", dict(reset_after=False), dict(linear_before_reset=0)),
    "gru-after-clip": (
        "GRU", dict(reset_after=True, clip=0.5), dict(linear_before_reset=1, clip=0.5),
    ),
    "gru-before-clip": ("GRU", dict(reset_after=False, clip=0.5), dict(clip=0.5)),
    "gru-hard": (
        "GRU", dict(gate=("hard_sigmoid", 0.3, 0.4), candidate="softsign"),
        dict(linear_before_reset=1, activations=["HardSigmoid", "Softsign"],
             activation_alpha=[0.3], activation_beta=[0.4]),
    ),
    "rnn": ("RNN", {}, {}),
    "rnn-clip": ("RNN", dict(clip=0.5), dict(clip=0.5)),
    "rnn-relu": ("RNN", dict(nonlinearity="relu"), dict(activations=["Relu"])),
    "rnn-leaky": (
        "RNN", dict(nonlinearity=("leaky_relu", 0.2)),
        dict(activations=["LeakyRelu"], activation_alpha=[0.2]),
    ),
}  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("name", ONNX)
def test_siblings_parity_with_onnxruntime(implementation, name):
    op, options, attributes = ONNX[name]
    rng = np.random.default_rng(0)
    gates, lengths = (3 if op == "GRU" else 1), [5, 7, 2, 1]
    shapes = [(gates * 9, 5), (gates * 9, 9), (gates * 9,), (gates * 9,)]
    weights = [rng.standard_normal(s).astype("float32") / 2 for s in shapes]
    x, h0 = (rng.standard_normal(s).astype("float32") for s in [(7, 4, 5), (4, 9)])
    expected = run_onnxruntime(op, x, weights, h0, lengths, **attributes)
    w_ih, w_hh, b_ih, b_hh = weights
    biases = (b_ih, b_hh) if op == "GRU" else (b_ih + b_hh,)
    forward = getattr(implementation, f"{op.lower()}_forward")
    results = forward(x, w_ih, w_hh, *biases, h0, lengths=lengths, **options)
    for computed, answer in zip(results[:2], expected, strict=True):
        np.testing.assert_allclose(computed, answer, rtol=1e-5, atol=2e-6)
