# SPDX-License-Identifier: MIT
"""fastlstm.torch.GRU and .RNN against torch.nn's: results, gradients, life as a module."""

import copy
import io
import types

import pytest
from test_torch import (
    assert_close,
    assert_same_dropout,
    assert_same_transforms,
    assert_zero_copy,
    common_modules,
    make_and_call,
    one_thread,
    operation,
    second_derivatives,
)

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

import fastlstm.torch as ft  # noqa: E402
from fastlstm import torch_ops  # noqa: E402

__all__ = ["common_modules", "one_thread"]  # fixtures

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:dropout option adds dropout"),
]

KINDS = {
    "GRU": (ft.GRU, torch.nn.GRU, {}),
    "tanh": (ft.RNN, torch.nn.RNN, {}),
    "relu": (ft.RNN, torch.nn.RNN, {"nonlinearity": "relu"}),
}
OPTIONS = dict(num_layers=2, bidirectional=True)


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def pair(request):
    """A function that makes torch.nn's module and ours with the same random parameters."""
    ours, theirs, own = request.param

    def make(*sizes, dtype=torch.float64, **options):
        torch.manual_seed(0)
        modules = [kind(*sizes, **own, **options, dtype=dtype) for kind in (theirs, ours)]
        modules[1].load_state_dict(modules[0].state_dict())
        return modules

    return make


def gradients(module, x, h0=None):
    """Results and gradients of a random-looking function of them, by name."""
    x = x.detach().clone().requires_grad_()
    h0 = None if h0 is None else h0.detach().clone().requires_grad_()
    y, h_n = module(x, h0)
    module.zero_grad()
    (torch.sin(3 * y).sum() - 0.4 * (h_n**2).sum()).backward()
    named = {f"d{name}": p.grad for name, p in module.named_parameters()}
    named |= dict(y=y.detach(), h_n=h_n.detach(), dx=x.grad)
    return named if h0 is None else named | dict(dh0=h0.grad)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torch_siblings_match_nn(pair, batch_first, batched, bias, with_state, dtype):
    theirs, ours = pair(3, 9, dtype=dtype, batch_first=batch_first, bias=bias, **OPTIONS)
    x = torch.randn(*((5, 2, 3) if batched else (5, 3)), dtype=dtype)
    h0 = torch.randn(4, *([x.shape[0 if batch_first else 1]] if batched else []), 9, dtype=dtype)
    given = (x, h0) if with_state else (x,)
    limits = dict(rtol=1e-10, atol=1e-12) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-5)
    assert_close(gradients(ours, *given), gradients(theirs, *given), **limits)


def test_torch_siblings_packed(pair):
    theirs, ours = pair(3, 4, **OPTIONS)
    lengths, h0 = torch.tensor([2, 6, 1, 4]), torch.randn(4, 4, 4, dtype=torch.float64)
    x, results = torch.randn(6, 4, 3, dtype=torch.float64), []
    for module in (theirs, ours):
        given = x.clone().requires_grad_()
        packed = pack_padded_sequence(given, lengths, enforce_sorted=False)
        y, h_n = module(packed, h0)
        y, _ = pad_packed_sequence(y)
        wanted = (given, *module.parameters())
        results.append((y, h_n, *torch.autograd.grad(y.sin().sum() + h_n.prod(), wanted)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("packed", [False, True])
def test_torch_siblings_dropout_is_nns(pair, packed):
    assert_same_dropout(pair(3, 4, 3, bidirectional=True, dropout=0.3), packed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["GRU", "RNN"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torch_siblings_pass_pytorchs_own_module_inputs(common_modules, kind, dtype, training):
    theirs_of, ours_of = getattr(torch.nn, kind), getattr(ft, kind)
    samples = common_modules.module_inputs_torch_nn_RNN_GRU(
        types.SimpleNamespace(module_cls=theirs_of), "cpu", dtype, True, training,
        with_packed_sequence=True, is_rnn=kind == "RNN",
    )  # fmt: skip
    assert len(samples) >= 16
    for sample in samples:
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        theirs = theirs_of(*args, **kwargs, dtype=dtype).train(training)
        ours = ours_of.from_module(theirs)
        inputs = sample.forward_input.args
        result = ours(*inputs)
        torch.testing.assert_close(result, theirs(*inputs))
        if not isinstance(inputs[0], torch.nn.utils.rnn.PackedSequence):
            torch.testing.assert_close(result, sample.reference_fn(ours, *inputs))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_torch_siblings_refuse_pytorchs_own_error_inputs(common_modules, kind):
    for cls in (getattr(torch.nn, kind), getattr(ft, kind)):
        samples = common_modules.module_error_inputs_torch_nn_RNN_GRU(
            types.SimpleNamespace(module_cls=cls), "cpu", torch.float32, False, False
        )
        assert samples
        for sample in samples:
            given = sample.module_error_input
            with pytest.raises(sample.error_type, match=sample.error_regex):
                make_and_call(cls, given.constructor_input, given.forward_input)


@pytest.mark.parametrize("options", [
    {}, dict(bias=False), dict(bidirectional=True, num_layers=2, dropout=0.4),
], ids=str)  # fmt: skip
def test_torch_siblings_gradcheck_and_gradgradcheck(pair, options):
    _, ours = pair(2, 2, **options)
    x = torch.randn(2, 2, 2, dtype=torch.float64)
    h0 = torch.randn_like(ours(x)[1])
    inputs = [t.detach().requires_grad_() for t in (x, h0, *ours.parameters())]
    names = [name for name, _ in ours.named_parameters()]

    def function(x, h0, *weights):
        torch.manual_seed(3)  # the same dropout each time
        state = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(ours, state, (x, h0))

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_torch_siblings_func_transforms(pair):
    x = torch.randn(4, 5, 2, dtype=torch.float64)
    assert_same_transforms(*pair(2, 3, batch_first=True), x)


@pytest.mark.parametrize("third", [False, True])
@pytest.mark.parametrize("options", [dict(bias=False), OPTIONS], ids=str)
def test_torch_siblings_higher_derivatives_match_nn(pair, options, third):
    modules = pair(3, 4, **options)
    cells = modules[0].num_layers * (1 + modules[0].bidirectional)
    x, h0 = (torch.randn(*s, dtype=torch.float64) for s in ((5, 2, 3), (cells, 2, 4)))
    torch.testing.assert_close(*(second_derivatives(m, x, [h0], third) for m in modules))


def test_torch_siblings_keep_no_record_without_gradients(pair, monkeypatch):
    _, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    saved, original = [], torch_ops.run_forward
    monkeypatch.setattr(
        torch_ops, "run_forward", lambda *a, save: saved.append(save) or original(*a, save=save)
    )
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not ours(x)[0].requires_grad
    assert ours(x)[0].requires_grad
    assert saved == [False, False, True]


def test_torch_siblings_are_zero_copy(pair, monkeypatch):
    assert_zero_copy(monkeypatch, pair(3, 4)[1])


def test_torch_siblings_same_seed_same_parameters(pair):
    ours, theirs = (pair(3, 4, **OPTIONS)[k] for k in (1, 0))
    modules = []
    for module in (theirs, ours):
        torch.manual_seed(3)
        module.reset_parameters()
        modules.append(dict(module.named_parameters()))
    assert list(modules[0]) == list(modules[1])
    for name, p in modules[0].items():
        assert torch.equal(p, modules[1][name])
    assert repr(ours) == repr(theirs)


def test_torch_siblings_copies_are_independent(pair):
    _, ours = pair(3, 4, **OPTIONS)
    x, buffer = torch.randn(5, 2, 3, dtype=torch.float64), io.BytesIO()
    y = ours(x)[0]
    torch.save(ours, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(ours), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x)[0], y)
        with torch.no_grad():
            other.weight_hh_l0 += 1
        assert torch.equal(ours(x)[0], y)
        assert not torch.equal(other(x)[0], y)


def test_torch_siblings_from_module_and_patch(pair):
    theirs, ours = pair(3, 4, **OPTIONS)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    again = type(ours).from_module(theirs)
    assert all(p is q for p, q in zip(again.parameters(), theirs.parameters(), strict=True))
    torch.testing.assert_close(again(x), theirs(x))
    model = torch.nn.ModuleList([theirs, theirs])
    before = theirs(x)
    assert ft.patch(model)[0] is model[1]
    assert type(model[0]) is type(ours)
    torch.testing.assert_close(model[0](x), before)
    with pytest.raises(TypeError, match=rf"must be a torch\.nn\.{ours._kind}, got Linear"):
        type(ours).from_module(torch.nn.Linear(3, 4))


@pytest.mark.filterwarnings("ignore")
def test_torch_siblings_compile_into_one_graph(pair, monkeypatch):
    theirs, ours = pair(3, 4, **OPTIONS)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    forwards, original = [], torch_ops.run_forward
    monkeypatch.setattr(
        torch_ops, "run_forward", lambda *a, **k: forwards.append(1) or original(*a, **k)
    )
    for h0 in (None, torch.randn(4, 2, 4, dtype=torch.float64)):
        x = torch.randn(5, 2, 3, dtype=torch.float64)
        forwards.clear()
        actual = gradients(compiled, x, h0)
        assert len(forwards) == 1  # the backward pass found the record
        actual = {name.replace("_orig_mod.", ""): a for name, a in actual.items()}
        assert_close(actual, gradients(theirs, x, h0))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torch_siblings_operation_passes_opcheck(pair):
    _, ours = pair(3, 4, **OPTIONS)
    h0 = torch.randn(4, 2, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    masks = [torch.ones(5, 2, 8, dtype=torch.float64)]
    torch.library.opcheck(torch_ops.recurrent_op, operation(ours, x, h0, masks=masks))


@pytest.mark.parametrize("inputs", [
    lambda: (torch.randn(3),),
    lambda: (torch.randn(5, 2, 7),),
    lambda: (torch.randn(5, 2, 3, dtype=torch.float64),),
    lambda: (torch.randn(5, 2, 3), torch.randn(4, 4)),
    lambda: (torch.randn(5, 3), torch.randn(4, 1, 4)),
    lambda: (torch.randn(5, 2, 3), torch.randn(4, 3, 4)),
    lambda: (torch.randn(5, 3), torch.randn(4, 5)),
    lambda: (torch.randn(0, 2, 3),),
])  # fmt: skip
def test_torch_siblings_errors_are_nns(pair, inputs):
    theirs, ours = pair(3, 4, dtype=torch.float32, **OPTIONS)
    with pytest.raises(Exception, match=r".") as expected:
        theirs(*inputs())
    with pytest.raises(expected.type) as actual:
        ours(*inputs())
    assert str(actual.value) == str(expected.value)


def test_torch_siblings_name_what_they_cannot_compute():
    with pytest.raises(
        TypeError, match=r"fastlstm\.torch\.GRU computes .* float32 or float64; wei"
    ):
        ft.GRU(3, 4, dtype=torch.bfloat16)(torch.randn(5, 2, 3))
    with pytest.raises(ValueError, match=r"Unknown nonlinearity 'sine'. Select from 'tanh' or"):
        ft.RNN(3, 4, nonlinearity="sine")
