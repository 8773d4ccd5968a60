# SPDX-License-Identifier: MIT
"""GRU and RNN against torch.nn.GRU and torch.nn.RNN, live, forward and backward."""

import numpy as np
import pytest
from comparison import assert_matches, tolerance
from siblings import Shape

import fastlstm as fl

pytestmark = pytest.mark.parity

KINDS = {
    "GRU": {},
    "RNN-tanh": {"nonlinearity": "tanh"},
    "RNN-relu": {"nonlinearity": "relu"},
}
# name -> arguments of the layer, lengths
STACKS = {
    "one": ({}, None),
    "no-bias": ({"bias": False}, None),
    "stacked": ({"num_layers": 3}, None),
    "bidirectional": ({"bidirectional": True}, None),
    "ragged": ({}, (2, 7, 1, 5)),
    "all": ({"num_layers": 2, "bidirectional": True}, (2, 7, 1, 5)),
    "batch-first": ({"num_layers": 2, "batch_first": True}, (7, 2, 4, 4)),
}


def run_torch(theirs, x, h0, lengths, dy, dh_n):
    """All results of a module of PyTorch by name."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    leaves = [torch.tensor(a, requires_grad=True) for a in (x, h0)]
    given, first = leaves[0], theirs.batch_first
    if lengths is not None:
        given = pack_padded_sequence(given, torch.tensor(lengths), first, enforce_sorted=False)
    y, h_n = theirs(given, leaves[1])
    if lengths is not None:
        y, _ = pad_packed_sequence(y, first, total_length=x.shape[1 if first else 0])
    torch.autograd.backward([y, h_n], [torch.tensor(dy), torch.tensor(dh_n)])
    results = dict(y=y, h_n=h_n, dx=leaves[0].grad, dh0=leaves[1].grad)
    results |= {f"d{name}": p.grad for name, p in theirs.named_parameters()}
    return {name: a.detach().numpy() for name, a in results.items()}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", KINDS)
def test_siblings_parity_with_pytorch(implementation, dtype, kind, stack):
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)
    arguments, lengths = STACKS[stack]
    arguments, name = arguments | KINDS[kind], kind.split("-")[0]
    theirs = getattr(torch.nn, name)(5, 9, **arguments, dtype=getattr(torch, dtype.name))
    backend = "reference" if implementation.name == "reference" else "engine"
    with fl.backend.using_isa(implementation.name if backend == "engine" else "none"):
        ours = getattr(fl, name)(5, 9, **arguments, dtype=dtype, backend=backend)
        ours.load_state_dict({n: p.detach().numpy() for n, p in theirs.named_parameters()})
        rng = np.random.default_rng(0)
        D, L = 1 + ours.bidirectional, ours.num_layers
        x, dy = (rng.standard_normal((7, 4, n)).astype(dtype) for n in (5, 9 * D))
        if ours.batch_first:
            x, dy = x.swapaxes(0, 1), dy.swapaxes(0, 1)
        h0, dh_n = (rng.standard_normal((L * D, 4, 9)).astype(dtype) for _ in range(2))
        y, h_n, tape = ours.forward(x, h0, lengths)
        dx, dh0, grads = ours.backward(tape, dy, dh_n)
    results = dict(y=y, h_n=h_n, dx=dx, dh0=dh0) | {f"d{n}": a for n, a in grads.items()}
    expected = run_torch(theirs, x, h0, lengths, dy, dh_n)
    if name == "RNN":  # ours is the sum of their two, whose gradients are the same
        expected = {n.replace("bias_ih", "bias"): a for n, a in expected.items()
                    if "bias_hh" not in n}  # fmt: skip
    expected = {n: a.astype("float64") for n, a in expected.items()}
    limit = 2 * L * tolerance(dtype, Shape(B=4))
    assert_matches(results, expected, dtype, f"{kind} {stack}", limit)


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
