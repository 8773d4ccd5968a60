# SPDX-License-Identifier: MIT
"""fastlstm.torch.LSTM against torch.nn.LSTM: results, gradients, and life as a module."""

import copy
import doctest
import io
import pickle
import subprocess
import sys
import types
import unittest

import numpy as np
import pytest
from comparison import assert_matches
from stacks import STACKS, Stack, make_stack_problem

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence  # noqa: E402

import fastlstm.torch as ft  # noqa: E402
from fastlstm import (  # noqa: E402
    Spec,
    checks,
    reference,
    torch_expression,
    torch_ops,
    torch_run,
    torch_second_order,
)

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    pytest.mark.filterwarnings("ignore:dropout option adds dropout"),
]

BIG = Stack(T=20, B=5, I=33, H=70, L=2, bidirectional=True)
OPTIONS = dict(num_layers=2, bidirectional=True)  # of the small modules below


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pair(*sizes, dtype=torch.float64, seed=0, **options):
    """torch.nn.LSTM and ours with the same random parameters."""
    torch.manual_seed(seed)
    theirs = torch.nn.LSTM(*sizes, **options, dtype=dtype)
    ours = ft.LSTM(*sizes, **options, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def gradients(module, inputs, weights=(1.0, 0.7, -0.4)):
    """The gradients of a random-looking function of all outputs, by name."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    state = tuple(inputs[1:]) or None
    y, (h_n, c_n) = module(inputs[0], state)
    loss = sum(w * torch.sin(3 * t).sum() for w, t in zip(weights, (y, h_n, c_n), strict=True))
    for p in module.parameters():
        p.grad = None
    loss.backward()
    named = {f"d{name}": p.grad for name, p in module.named_parameters()}
    named |= {f"dinput{k}": t.grad for k, t in enumerate(inputs)}
    return dict(y=y.detach(), h_n=h_n.detach(), c_n=c_n.detach(), **named)


def assert_close(actual, expected, **tolerances):
    assert actual.keys() == expected.keys()
    for name, a in actual.items():
        torch.testing.assert_close(
            a, expected[name], msg=lambda m, n=name: f"{n}: {m}", **tolerances
        )


# -- the same numbers as torch.nn.LSTM -------------------------------------------------------


def run(module, problem):
    """All results by name, as ``peers.run_torch`` has them, in numpy."""
    stack = problem.stack

    def leaf(a):
        return torch.tensor(a, requires_grad=True)

    x, state = leaf(problem.x), problem.state and tuple(map(leaf, problem.state))
    if stack.lengths is None:
        y, last = module(x, state)
    else:
        packed = pack_padded_sequence(x, torch.tensor(stack.lengths), enforce_sorted=False)
        y, last = module(packed, state)
        y, _ = pad_packed_sequence(y, total_length=stack.T)
    upstream = [torch.tensor(a) for a in (problem.dy, *problem.dstate)]
    torch.autograd.backward([y, *last], upstream)
    results = dict(y=y, h_n=last[0], c_n=last[1], dx=x.grad)
    if state:
        results |= dict(dh0=state[0].grad, dc0=state[1].grad)
    results |= {f"d{name}": p.grad for name, p in module.named_parameters()}
    return {name: a.detach().numpy() for name, a in results.items()}


@pytest.mark.parametrize("stack", [*STACKS, BIG], ids=str)
def test_torch_matches_nn_lstm(stack, dtype):
    problem = make_stack_problem(stack, dtype)
    modules = []
    for kind, d in ((ft.LSTM, problem.dtype), (torch.nn.LSTM, np.dtype("float64"))):
        module = kind(
            stack.I, stack.H, stack.L, bias=stack.bias, bidirectional=stack.bidirectional,
            proj_size=stack.P, dtype=getattr(torch, d.name),
        )  # fmt: skip
        module.load_state_dict({n: torch.tensor(a) for n, a in problem.weights.items()})
        modules.append(module)
    ours, theirs = modules
    expected = run(theirs, problem.astype("float64"))
    assert_matches(run(ours, problem), expected, problem.dtype, stack)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_torch_layouts_match_nn_lstm(batch_first, batched, proj_size, bias, with_state):
    options = dict(OPTIONS, batch_first=batch_first, proj_size=proj_size, bias=bias)
    theirs, ours = pair(3, 4, **options)
    batch = (2,) if batched else ()
    inputs = [torch.randn(*((2, 5) if batch_first else (5, 2))[: 2 if batched else 0] or (5,), 3)]
    if with_state:
        inputs += [torch.randn(4, *batch, proj_size or 4), torch.randn(4, *batch, 4)]
    inputs = [t.double() for t in inputs]
    assert_close(gradients(ours, inputs), gradients(theirs, inputs), rtol=1e-10, atol=1e-12)


def test_torch_strided_inputs():
    theirs, ours = pair(3, 4)
    x = torch.randn(3, 2, 10, dtype=torch.float64).permute(2, 1, 0)[::2]
    zero_stride = torch.randn(1, 2, 4, dtype=torch.float64)[:, :1].expand(1, 2, 4)
    imaginary = torch.randn(1, 2, 4, dtype=torch.complex128).conj().imag  # a lazy negation
    for inputs in ([x], [x, zero_stride, zero_stride], [x, imaginary, imaginary]):
        with torch.no_grad():
            for a, b in zip(ours(x, tuple(inputs[1:]) or None)[1],
                            theirs(x, tuple(inputs[1:]) or None)[1], strict=True):  # fmt: skip
                torch.testing.assert_close(a, b)


def test_torch_gradient_of_some_outputs_only():
    theirs, ours = pair(3, 4, **OPTIONS)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for pick in (
        lambda y, state: y[2].sum(),  # expanded gradient
        lambda y, state: state[0].prod(),
        lambda y, state: state[1].prod(),
    ):
        for module in (theirs, ours):
            module.zero_grad()
            pick(*module(x)).backward()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def test_torch_one_tensor_as_both_states():
    theirs, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    results = []
    for module in (theirs, ours):
        s = torch.ones(1, 2, 4, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(module(x, (s, s))[0].sum(), s, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), s)
        results.append((first, second))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dropout", [0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_torch_dropout_is_nn_lstms(dropout, dtype, packed):
    modules = pair(3, 4, 3, bidirectional=True, dropout=dropout, dtype=dtype)
    assert_same_dropout(modules, packed)


def assert_same_dropout(modules, packed):
    """Both draw the same masks from the same seed."""
    x = torch.randn(6, 2, 3).to(modules[0].weight_hh_l0)
    if packed:
        x = pack_padded_sequence(x, torch.tensor([4, 6]), enforce_sorted=False)
    results = []
    for module in modules:
        torch.manual_seed(7)
        y, _ = module(x)
        y = y.data if packed else y
        results.append((y, *torch.autograd.grad(y.square().sum(), module.parameters())))
    torch.testing.assert_close(*results)


def test_torch_dropout_only_in_training_mode():
    _, ours = pair(3, 4, 2, dropout=0.5)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.equal(ours(x)[0], ours(x)[0])  # Monte-Carlo dropout
        ours.eval()
        assert torch.equal(ours(x)[0], ours(x)[0])


def test_torch_packed_sequences():
    theirs, ours = pair(3, 4, **OPTIONS)
    rows = [torch.randn(n, 3, dtype=torch.float64) for n in (2, 6, 1, 4)]
    state = [torch.randn(4, 4, 4, dtype=torch.float64) for _ in range(2)]
    for packed in (
        pack_sequence(rows, enforce_sorted=False),
        pack_sequence(sorted(rows, key=len, reverse=True)),
        pack_sequence([rows[1], rows[1]]),
    ):
        hx = tuple(s[:, : packed.batch_sizes[0]] for s in state)
        for given in (None, hx):
            y, last = ours(packed, given)
            y_theirs, last_theirs = theirs(packed, given)
            torch.testing.assert_close(y.data, y_theirs.data)
            torch.testing.assert_close(last, last_theirs)
            for a, b in zip(y[1:], y_theirs[1:], strict=True):
                assert (a is None and b is None) or torch.equal(a, b)


@pytest.fixture(scope="module")
def common_modules():
    """PyTorch's list of inputs for its own modules' tests."""
    with pytest.MonkeyPatch.context() as patch:
        if "expecttest" not in sys.modules:  # its test helpers import it; the lists do not use it
            stand_in = types.ModuleType("expecttest")
            stand_in.TestCase = unittest.TestCase
            patch.setitem(sys.modules, "expecttest", stand_in)
        import torch.testing._internal.common_modules as common

        yield common


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torch_passes_pytorchs_own_module_inputs(common_modules, dtype, training):
    samples = common_modules.module_inputs_torch_nn_LSTM(
        None, device="cpu", dtype=dtype, requires_grad=True, training=training
    )
    assert len(samples) >= 32
    for sample in samples:
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        theirs = torch.nn.LSTM(*args, **kwargs, dtype=dtype).train(training)
        ours = ft.LSTM.from_module(theirs)
        inputs = sample.forward_input.args
        result = ours(*inputs)
        torch.testing.assert_close(result, theirs(*inputs))
        reference = sample.reference_fn(ours, *inputs)
        torch.testing.assert_close(result, reference)


def make_and_call(kind, made_with, called_with):
    module = kind(*made_with.args, **made_with.kwargs)
    module(*called_with.args, **called_with.kwargs)


@pytest.mark.filterwarnings("ignore")
def test_torch_refuses_pytorchs_own_error_inputs(common_modules):
    for kind in (torch.nn.LSTM, ft.LSTM):
        samples = common_modules.module_error_inputs_torch_nn_RNN_GRU(
            types.SimpleNamespace(module_cls=kind), "cpu", torch.float32, False, False
        )
        assert samples
        for sample in samples:
            given = sample.module_error_input
            with pytest.raises(sample.error_type, match=sample.error_regex):
                make_and_call(kind, given.constructor_input, given.forward_input)


# -- derivatives of derivatives, torch.func ----------------------------------------------------


@pytest.mark.parametrize("options", [
    {}, dict(bias=False), dict(proj_size=2), dict(bidirectional=True, num_layers=2, dropout=0.4),
    dict(batch_first=True),
], ids=str)  # fmt: skip
def test_torch_gradcheck_and_gradgradcheck(options):
    _, ours = pair(2, 3, **options)
    x = torch.randn(3, 2, 2, dtype=torch.float64)
    (h0, c0), B = ours(x)[1], x.shape[0 if ours.batch_first else 1]
    assert h0.shape[1] == B
    inputs = [t.detach().requires_grad_() for t in (x, h0, c0, *ours.parameters())]
    names = [name for name, _ in ours.named_parameters()]

    def function(x, h0, c0, *weights):
        torch.manual_seed(3)  # the same dropout each time
        state = dict(zip(names, weights, strict=True))
        y, state = torch.func.functional_call(ours, state, (x, (h0, c0)))
        return y, *state

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_torch_gradgradcheck_packed():
    _, ours = pair(2, 3, **OPTIONS)
    lengths = torch.tensor([2, 4, 1])

    def function(x):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, state = ours(packed)
        return y.data, *state

    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def second_derivatives(module, x, state, create_graph=False):
    """Of a random-looking loss, from the norm of its gradient; the inputs get derivatives too."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, *state)]
    given = tuple(inputs[1:])
    y, ends = module(inputs[0], given if len(given) > 1 else given[0])
    ends = ends if isinstance(ends, tuple) else (ends,)
    loss = torch.sin(3 * y).sum() + sum((k + 0.7) * (s**3).sum() for k, s in enumerate(ends))
    wanted = (*inputs, *module.parameters())
    first = torch.autograd.grad(loss, wanted, create_graph=True)
    norm = sum((g**2).sum() for g in first)
    second = torch.autograd.grad(norm, wanted, create_graph=create_graph)
    if not create_graph:
        return second
    return torch.autograd.grad(sum((g**2).sum() for g in second), wanted)


@pytest.mark.parametrize("third", [False, True])
@pytest.mark.parametrize("options", [
    {}, dict(bias=False), dict(proj_size=2), dict(num_layers=3, bidirectional=True),
    dict(batch_first=True),
], ids=str)  # fmt: skip
def test_torch_higher_derivatives_match_nn_lstm(monkeypatch, options, third):
    theirs, ours = pair(3, 4, **options)
    x = torch.randn(*((2, 5) if ours.batch_first else (5, 2)), 3, dtype=torch.float64)
    cells = ours.num_layers * (1 + ours.bidirectional)
    state = [torch.randn(cells, 2, n, dtype=torch.float64) for n in (ours.proj_size or 4, 4)]
    native, original = [], torch_second_order._products
    monkeypatch.setattr(
        torch_second_order, "_products", lambda *a: native.append(1) or original(*a)
    )
    torch.testing.assert_close(
        second_derivatives(ours, x, state, third), second_derivatives(theirs, x, state, third)
    )
    assert third or len(native) == 1  # compiled code


def test_torch_hessian_row_by_row_and_at_once():
    theirs, ours = pair(2, 3)
    x = torch.randn(3, 2, 2, dtype=torch.float64)

    def loss(module):
        return lambda x: (module(x)[0] ** 2).sum()

    hessian, jacobian = torch.autograd.functional.hessian, torch.autograd.functional.jacobian
    expected = hessian(loss(theirs), x)
    torch.testing.assert_close(hessian(loss(ours), x), expected)
    torch.testing.assert_close(hessian(loss(ours), x, vectorize=True), expected)
    at_once = jacobian(lambda x: ours(x)[0], x, vectorize=True)
    torch.testing.assert_close(at_once, jacobian(lambda x: theirs(x)[0], x))


def test_torch_second_derivatives_of_one_input_only():
    """Some gradients are not asked for, and some have no gradient of their own."""
    theirs, ours = pair(3, 4, **OPTIONS)
    results = []
    for module in (theirs, ours):
        x = torch.ones(5, 2, 3, dtype=torch.float64, requires_grad=True)
        y, _ = module(x)
        (dx,) = torch.autograd.grad(y[3].prod(dim=1).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(dx[2].square().sum(), (x, module.weight_hh_l1)))
    torch.testing.assert_close(*results)


def test_torch_retained_graph_gives_the_same_again():
    _, ours = pair(3, 4, 2, dropout=0.5, dtype=torch.float32)
    y, _ = ours(torch.randn(5, 2, 3))
    loss = y.square().sum()
    first = torch.autograd.grad(loss, ours.parameters(), retain_graph=True)
    again = torch.autograd.grad(loss, ours.parameters(), retain_graph=True)
    slow = torch.autograd.grad(loss, ours.parameters(), create_graph=True)
    last = torch.autograd.grad(loss, ours.parameters())
    for a, b, c, d in zip(first, again, last, slow, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
        torch.testing.assert_close(a, d)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_torch_tensor_changed_in_place_is_refused():
    _, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    y, _ = ours(x)
    with torch.no_grad():
        ours.weight_hh_l0 += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_torch_output_may_be_changed_in_place():
    theirs, ours = pair(3, 4, **OPTIONS)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    grads = []
    for module in (theirs, ours):
        y = module(x)[0] * 1 if module is theirs else module(x)[0]
        y.mul_(2).relu_()
        grads.append(torch.autograd.grad(y.square().sum(), module.parameters()))
    torch.testing.assert_close(*grads)


def assert_same_transforms(theirs, ours, x):
    """torch.func.grad, and vmap of it over the rows."""
    parameters = dict(theirs.named_parameters())

    def loss(module):
        def of(parameters, x):
            return torch.func.functional_call(module, parameters, (x,))[0].square().sum()

        return of

    expected = torch.func.grad(loss(theirs))(parameters, x)
    torch.testing.assert_close(torch.func.grad(loss(ours))(parameters, x), expected)
    each = torch.func.vmap(torch.func.grad(loss(ours)), (None, 0))(parameters, x)
    for name, total in expected.items():
        torch.testing.assert_close(each[name].sum(0), total)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torch_func_transforms():
    theirs, ours = pair(2, 3, batch_first=True)
    x = torch.randn(4, 5, 2, dtype=torch.float64)
    assert_same_transforms(theirs, ours, x)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(ours(dual)[0]).tangent
    h = 1e-6
    with torch.no_grad():
        difference = (ours(x + h)[0] - ours(x - h)[0]) / (2 * h)
    torch.testing.assert_close(tangent, difference, rtol=1e-6, atol=1e-8)


# -- life as a module ----------------------------------------------------------------------------


def test_torch_same_seed_same_parameters_and_names():
    torch.manual_seed(3)
    theirs = torch.nn.LSTM(3, 4, proj_size=2, **OPTIONS)
    torch.manual_seed(3)
    ours = ft.LSTM(3, 4, proj_size=2, **OPTIONS)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name])
    assert repr(ours) == repr(theirs)
    theirs.load_state_dict(ours.state_dict())


def assert_zero_copy(monkeypatch, module):
    """The engine sees the tensors' own memory, and so does the caller the engine's."""
    x, seen = torch.randn(5, 2, 3).to(module.weight_hh_l0), {}

    def spy(cells, x, *args, **kwargs):
        seen["x"], seen["weights"] = x, cells[0][0][1]
        result = seen["result"] = original(cells, x, *args, **kwargs)
        return result

    original = torch_run.stack_forward
    monkeypatch.setattr(torch_run, "stack_forward", spy)
    with torch.no_grad():
        y, ends = module(x)

    def address(a):
        return a.__array_interface__["data"][0]

    assert address(seen["x"]) == x.data_ptr()
    assert address(seen["weights"]["w_hh"]) == module.weight_hh_l0.data_ptr()
    ends = ends if isinstance(ends, tuple) else (ends,)
    own, finals, _ = seen["result"]
    for tensor, array in zip((y, *ends), (own, *finals), strict=True):
        assert tensor.data_ptr() == address(array)


def test_torch_is_zero_copy(monkeypatch):
    assert_zero_copy(monkeypatch, ft.LSTM(3, 4))


def test_torch_without_gradients_keeps_no_record(monkeypatch):
    _, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    saved = []
    original = torch_ops.run_forward
    monkeypatch.setattr(
        torch_ops, "run_forward", lambda *a, save: saved.append(save) or original(*a, save=save)
    )
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not ours(x)[0].requires_grad
    ours.requires_grad_(False)
    assert not ours(x)[0].requires_grad
    assert ours(x.requires_grad_())[0].requires_grad
    assert saved == [False, False, False, True]


def test_torch_frozen_parameters_get_no_gradient():
    _, ours = pair(3, 4)
    ours.weight_ih_l0.requires_grad_(False)
    ours(torch.randn(5, 2, 3, dtype=torch.float64))[0].sum().backward()
    assert ours.weight_ih_l0.grad is None
    assert ours.weight_hh_l0.grad is not None


def test_torch_biases_have_gradients_of_their_own():
    _, ours = pair(3, 4)
    ours(torch.randn(5, 2, 3, dtype=torch.float64))[0].sum().backward()
    assert torch.equal(ours.bias_ih_l0.grad, ours.bias_hh_l0.grad)
    ours.bias_ih_l0.grad.zero_()
    assert ours.bias_hh_l0.grad.abs().min() > 0


def test_torch_trains_like_nn_lstm():
    theirs, ours = pair(3, 8, 2, dtype=torch.float32)
    x = torch.randn(5, 4, 3)
    for module in (theirs, ours):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            module(x)[0].square().sum().backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_torch_changes_dtype():
    _, ours = pair(3, 4)
    x = torch.randn(5, 2, 3)
    assert ours.float()(x)[0].dtype == torch.float32
    assert ours.double()(x.double())[0].dtype == torch.float64


def test_torch_weights_replaced_and_changed_behind_its_back():
    theirs, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for change in (
        lambda m: m.weight_hh_l0.data.mul_(2),
        lambda m: m.weight_hh_l0.detach().numpy().fill(0.25),
        lambda m: setattr(m, "weight_hh_l0", torch.nn.Parameter(torch.full((16, 4), 0.1).double())),
        lambda m: torch.nn.utils.parametrizations.weight_norm(m, "weight_hh_l0"),
    ):
        for module in (theirs, ours):
            change(module)
        torch.testing.assert_close(ours(x)[0], theirs(x)[0])
    ours(x)[0].sum().backward()
    assert ours.parametrizations.weight_hh_l0.original0.grad is not None


def saved(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "again",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        saved,
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_torch_copies_are_independent(again):
    _, ours = pair(3, 4, **OPTIONS)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    y = ours(x)[0]  # packed weights exist now
    other = again(ours)
    assert torch.equal(other(x)[0], y)
    with torch.no_grad():
        other.weight_hh_l0 += 1
    assert torch.equal(ours(x)[0], y)
    assert not torch.equal(other(x)[0], y)


def test_torch_from_module_shares_parameters_hooks_and_mode():
    theirs = torch.nn.LSTM(3, 4, **OPTIONS).eval()
    calls = []
    theirs.register_forward_hook(lambda *args: calls.append(1))
    ours = ft.LSTM.from_module(theirs)
    assert all(p is q for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not ours.training
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(ours(x), theirs(x))
    assert len(calls) == 2
    kept = theirs.weight_hh_l0
    ours.weight_hh_l0 = torch.nn.Parameter(torch.zeros(16, 4))
    assert theirs.weight_hh_l0 is kept  # the two modules are two
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.LSTM, got GRU"):
        ft.LSTM.from_module(torch.nn.GRU(3, 4))


def test_torch_patch_replaces_every_recurrent_layer():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Linear(3, 3)
            self.first = torch.nn.LSTM(3, 4)
            self.layers = torch.nn.ModuleList([torch.nn.LSTM(4, 4), torch.nn.GRU(4, 4)])
            self.same = self.first

        def forward(self, x):
            x = self.first(self.embed(x))[0]
            return self.layers[1](self.layers[0](x)[0])[0]

    model, x = Model(), torch.randn(5, 2, 3)
    before, parameters = model(x), list(model.parameters())
    assert ft.patch(model) is model
    assert type(model.first) is type(model.layers[0]) is ft.LSTM
    assert model.same is model.first
    assert type(model.layers[1]) is ft.GRU
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model(x), before)
    assert type(ft.patch(torch.nn.LSTM(3, 4))) is ft.LSTM

    class Own(torch.nn.GRU):
        """It may compute something else."""

    assert type(ft.patch(torch.nn.ModuleList([Own(3, 4)]))[0]) is Own


@pytest.mark.filterwarnings("ignore")
def test_torch_under_distributed_data_parallel():
    dist = torch.distributed
    theirs, ours = pair(3, 4, **OPTIONS)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(ours)
        for _ in range(2):
            parallel.zero_grad()
            parallel(x)[0].square().sum().backward()
    finally:
        dist.destroy_process_group()
    theirs(x)[0].square().sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist, fastlstm.torch as ft
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
kinds = [ft.LSTM(3, 4, 2), ft.GRU(3, 4), ft.RNN(3, 4)]
whole = torch.randn(5, 4, 3)
for module in kinds:
    parallel = torch.nn.parallel.DistributedDataParallel(module)
    for _ in range(2):
        parallel.zero_grad()
        parallel(whole[:, 2 * rank : 2 * rank + 2])[0].square().sum().backward()
    mean = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    module(whole)[0].square().sum().backward()  # the whole batch here: twice the mean
    for g, p in zip(mean, module.parameters()):
        torch.testing.assert_close(2 * g, p.grad)
dist.destroy_process_group()
print("same gradients")
"""


@pytest.mark.slow
def test_torch_two_processes_share_gradients(tmp_path):
    store = str(tmp_path / "store")
    both = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", TWO_PROCESSES, str(rank), store],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]  # fmt: skip
    for process in both:
        out, error = process.communicate(timeout=120)
        assert out == "same gradients\n", error


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_torch_under_checkpointing(use_reentrant):
    theirs, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    y, _ = torch.utils.checkpoint.checkpoint(ours, x, use_reentrant=use_reentrant)
    y.square().sum().backward()
    theirs(x.detach())[0].square().sum().backward()
    torch.testing.assert_close(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad)


def test_torch_under_autocast_stays_float32():
    _, ours = pair(3, 4, dtype=torch.float32)
    linear, x = torch.nn.Linear(3, 3), torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = ours(linear(x))
    assert y.dtype == torch.float32
    y.sum().backward()
    assert linear.weight.grad is not None


# -- torch.compile -------------------------------------------------------------------------------


def operation(module, x, *states, masks=(), save=True):
    weights = [p.detach().clone().requires_grad_() for p in module.parameters()]
    return (x, list(states), weights, list(masks), *module._arguments(), save)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [
    {}, dict(batch_first=True), dict(OPTIONS, bias=False), dict(proj_size=2),
], ids=str)  # fmt: skip
def test_torch_operation_passes_opcheck(options):
    _, ours = pair(3, 4, **options)
    cells = ours.num_layers * (1 + ours.bidirectional)
    states = [
        torch.randn(cells, 2, size, dtype=torch.float64, requires_grad=True)
        for size in (ours.proj_size or 4, 4)
    ]
    x = torch.randn(*((2, 5) if ours.batch_first else (5, 2)), 3, dtype=torch.float64)
    x.requires_grad_()
    mask = torch.ones(5, 2, 8, dtype=torch.float64)
    masks = [mask] if ours.num_layers > 1 else []
    torch.library.opcheck(torch_ops.recurrent_op, operation(ours, x, *states, masks=masks))
    torch.library.opcheck(
        torch_ops.recurrent_op, operation(ours, x.detach(), masks=masks, save=False)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch_first", [False, True])
def test_torch_compiles_into_one_graph(monkeypatch, batch_first):
    theirs, ours = pair(3, 4, batch_first=batch_first, **OPTIONS)
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    forwards, original = [], torch_ops.run_forward
    monkeypatch.setattr(
        torch_ops, "run_forward", lambda *a, **k: forwards.append(1) or original(*a, **k)
    )
    for T in (5, 7):
        x = torch.randn(*((2, T) if batch_first else (T, 2)), 3, dtype=torch.float64)
        inputs = [x, *(torch.randn(4, 2, 4, dtype=torch.float64) for _ in range(2))]
        forwards.clear()
        actual = gradients(compiled, inputs)
        assert len(forwards) == 1  # the backward pass found the record
        actual = {name.replace("_orig_mod.", ""): a for name, a in actual.items()}
        assert_close(actual, gradients(theirs, inputs))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), theirs(x))


@pytest.mark.filterwarnings("ignore")
def test_torch_compiles_dropout_and_packed_sequences():
    theirs, ours = pair(3, 4, 2, dropout=0.5)
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend="aot_eager")
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    y = compiled(x)[0]
    assert not torch.equal(y, compiled(x)[0])
    y.sum().backward()
    assert ours.weight_ih_l0.grad.abs().sum() > 0
    packed = pack_padded_sequence(x, torch.tensor([3, 5]), enforce_sorted=False)
    compiled.eval()
    theirs.eval()
    torch.testing.assert_close(compiled(packed)[0].data, theirs(packed)[0].data)


def test_torch_operation_runs_forward_again_where_the_record_is_gone():
    _, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    *results, tape = torch_ops.recurrent_op(*operation(ours, x))
    arguments = operation(ours, x)[:-1]
    y = results[0].detach()
    backward = torch_ops.recurrent_backward_op
    answers = [backward(t, y, None, None, *arguments) for t in (tape, tape, tape.clone())]
    torch.testing.assert_close(answers[0], answers[1])
    torch.testing.assert_close(answers[0], answers[2])


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [
    lambda: (torch.randn(3),),
    lambda: (torch.randn(5, 2, 7),),
    lambda: (torch.randn(5, 2, 3, dtype=torch.float64),),
    lambda: (torch.randn(5, 2, 3), (torch.randn(4, 4), torch.randn(4, 4))),
    lambda: (torch.randn(5, 3), (torch.randn(4, 1, 4), torch.randn(4, 1, 4))),
    lambda: (torch.randn(5, 2, 3), (torch.randn(4, 3, 4), torch.randn(4, 2, 4))),
    lambda: (torch.randn(5, 2, 3), (torch.randn(4, 2, 4), torch.randn(4, 2, 5))),
    lambda: (torch.randn(5, 3), (torch.randn(4, 4), torch.randn(3, 4))),
    lambda: (torch.randn(0, 2, 3),),
])  # fmt: skip
def test_torch_errors_are_nn_lstms(inputs):
    theirs, ours = pair(3, 4, dtype=torch.float32, **OPTIONS)
    with pytest.raises(Exception, match=r".") as expected:
        theirs(*inputs())
    with pytest.raises(expected.type) as actual:
        ours(*inputs())
    assert str(actual.value) == str(expected.value)


def test_torch_states_of_another_dtype():
    _, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="Input and hidden tensors are not the same dtype"):
        ours(x, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))


def test_torch_empty_batch():
    theirs, ours = pair(3, 4, **OPTIONS)
    x = torch.randn(5, 0, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    ours(x)[0].sum().backward()
    assert ours.weight_hh_l0.grad.abs().sum() == 0


def test_torch_names_what_it_cannot_compute():
    x = torch.randn(5, 2, 3)
    with pytest.raises(TypeError, match=r"weight_ih_l0 is torch\.bfloat16 on cpu"):
        ft.LSTM(3, 4, dtype=torch.bfloat16)(x)
    with pytest.raises(TypeError, match=r"weight_ih_l0 is torch\.float32 on meta"):
        ft.LSTM(3, 4, device="meta")(x)
    with pytest.raises(TypeError, match=r"input is torch\.float32 on meta"):
        ft.LSTM(3, 4)(x.to("meta"))
    with pytest.raises(TypeError, match=r"hx\[1\] is torch\.float32 on meta"):
        ft.LSTM(3, 4)(x, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, device="meta")))
    with pytest.raises(TypeError, match=r"spec must be a fastlstm\.Spec, got str"):
        ft.LSTM(3, 4, spec="peepholes")


# -- variants --------------------------------------------------------------------------------------

VARIANTS = [
    dict(peepholes="ifo"), dict(peepholes="i"), dict(coupled=True), dict(input_gate=False),
    dict(forget_gate=False), dict(output_gate=False), dict(candidate="identity"),
    dict(output="identity"), dict(full_gate_recurrence=True), dict(cell_clip=0.3), dict(clip=0.5),
    dict(layer_norm=True), dict(coupled=True, peepholes="io", layer_norm=True, cell_clip=0.4),
    dict(gate=("hard_sigmoid", 0.2, 0.5), full_gate_recurrence=True, output_gate=False),
    *(dict(candidate=name, output=name) for name in (
        "relu", ("leaky_relu", 0.1), ("thresholded_relu", 0.1), ("elu", 0.7),
        ("scaled_tanh", 1.7, 0.6), ("affine", 0.5, 0.1), "softsign", "softplus",
    )),
]  # fmt: skip


def named_weights(spec, I, H, rng):
    shapes = dict(w_ih=(4 * H, I), w_hh=(4 * H, H), b=(4 * H,))
    own = dict(w_peephole=(3, H), w_fgr=(3 * H, 3 * H), ln_x=(4 * H,), ln_h=(4 * H,), ln_c=(2, H))
    shapes |= {name: own[name] for name in checks.variant_weights(spec)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_torch_expression_matches_reference(fields, reverse, ragged):
    spec, rng, T, B, I, H = Spec(**fields), np.random.default_rng(4), 5, 3, 2, 4
    weights = named_weights(spec, I, H, rng)
    shapes = ((T, B, I), (B, H), (B, H), (T, B, H), (B, H), (B, H))
    x, h0, c0, dy, dh, dc = (rng.standard_normal(shape) for shape in shapes)
    lengths = np.array([5, 4, 2]) if ragged else None
    y, (h_n, c_n), tape = reference.lstm_forward(
        x, **weights, state=(h0, c0), lengths=lengths, reverse=reverse, spec=spec
    )
    dx, (dh0, dc0), grads = reference.lstm_backward(tape, dy, (dh, dc))

    def leaf(a):
        return torch.tensor(a, requires_grad=True)

    inputs = dict(x=leaf(x), h=leaf(h0), c=leaf(c0), **{k: leaf(w) for k, w in weights.items()})
    on = torch.tensor(np.arange(T)[:, None] < lengths) if ragged else None
    start, tensors = (inputs["h"], inputs["c"]), {k: inputs[k] for k in weights}
    y_, ends = torch_expression._cell(spec, inputs["x"], start, tensors, on, reverse)
    results = (y_, *ends)
    for actual, expected in zip(results, (y, h_n, c_n), strict=True):
        np.testing.assert_allclose(actual.detach(), expected, rtol=1e-10, atol=1e-12)
    torch.autograd.backward(results, [torch.tensor(a) for a in (dy, dh, dc)])
    for name, expected in dict(x=dx, h=dh0, c=dc0, **grads).items():
        actual = inputs[name].grad
        actual = np.zeros_like(expected) if actual is None else actual
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_torch_variants(fields, packed):
    spec = Spec(**fields)
    ours = ft.LSTM(2, 3, dtype=torch.float64, spec=spec, **OPTIONS)
    with torch.no_grad():
        for p in ours.parameters():
            p.copy_(torch.randn_like(p))
    assert f"spec={spec!r}" in repr(ours)
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)

    def function(x, *weights):
        given = pack_padded_sequence(x, torch.tensor([2, 4, 1]), enforce_sorted=False)
        y, state = copy.copy(ours)(given if packed else x)
        return (y.data if packed else y), *state

    inputs = (x, *ours.parameters())
    outputs = function(*inputs)
    engine = torch.autograd.grad(sum(t.sin().sum() for t in outputs), inputs)
    slow = torch.autograd.grad(
        sum(t.sin().sum() for t in function(*inputs)), inputs, create_graph=True
    )
    torch.testing.assert_close(engine, slow)  # the expression computes the same cell
    again = pickle.loads(pickle.dumps(ours))
    torch.testing.assert_close(again(x), ours(x))


@pytest.mark.parametrize("fields", [
    dict(peepholes="ifo"), dict(peepholes="io", coupled=True), dict(cell_clip=5.0),
    dict(layer_norm=True),
], ids=str)  # fmt: skip
def test_torch_variants_gradgradcheck(monkeypatch, fields):
    ours = ft.LSTM(2, 2, dtype=torch.float64, spec=Spec(**fields))
    native, original = [], torch_second_order._products
    monkeypatch.setattr(
        torch_second_order, "_products", lambda *a: native.append(1) or original(*a)
    )
    names = [name for name, _ in ours.named_parameters()]

    def function(x, *weights):
        state = dict(zip(names, weights, strict=True))
        y, state = torch.func.functional_call(ours, state, (x,))
        return y, *state

    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    inputs = (x, *(torch.randn_like(p).requires_grad_() for p in ours.parameters()))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    assert bool(native) == ("layer_norm" not in fields)


def test_torch_peephole_lstm_learns():
    """What PyTorch has not: it counts the steps since the last 1."""
    torch.manual_seed(0)
    lstm, head = ft.LSTM(1, 16, spec=Spec(peepholes="ifo")), torch.nn.Linear(16, 1)
    x = (torch.rand(30, 64, 1) < 0.15).float()
    since, target = torch.zeros(64, 1), torch.empty_like(x)
    for t in range(len(x)):
        since = torch.where(x[t] > 0, 0, since + 1)
        target[t] = since / 10
    start = lstm.weight_peephole_l0.detach().clone()
    optimizer = torch.optim.Adam([*lstm.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (head(lstm(x)[0]) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    assert ((lstm.weight_peephole_l0 - start).abs() > 1e-3).all()


def test_torch_examples_run():
    assert doctest.testmod(ft).attempted > 5
    assert doctest.testmod(ft).failed == 0
