# SPDX-License-Identifier: MIT
"""Optimisers, clipping and schedules: PyTorch's numbers, in place, resumable."""

import math

import numpy as np
import numpy_optim
import pytest

from fastlstm import optim, schedules
from fastlstm.parameters import Parameters

DTYPES = ("float32", "float64")

# name -> (ours, torch.optim's name and arguments, parameters after the five steps of `walk`).
# The numbers are those of torch 2.13.0 in float64.
CASES = {
    "sgd": (
        lambda: optim.SGD(0.1),
        ("SGD", {"lr": 0.1}),
        [0.75, -2.456666666666667, 1.875],
    ),
    "momentum": (
        lambda: optim.SGD(0.1, momentum=0.9, weight_decay=0.01),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        [0.7155739779686489, -3.4477233210773983, 2.9318848088843246],
    ),
    "nesterov": (
        lambda: optim.SGD(0.1, momentum=0.9, nesterov=True),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        [0.5063294999999999, -3.7873946666666667, 4.07192475],
    ),
    "adam": (
        lambda: optim.Adam(0.05),
        ("Adam", {"lr": 0.05}),
        [1.0185498768039487, -2.2200730434013347, 0.7246688098113759],
    ),
    "adam decay": (
        lambda: optim.Adam(0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
        [0.9709956212813529, -2.2022435838090457, 0.7316184347234858],
    ),
    "adamw": (
        lambda: optim.AdamW(0.05, weight_decay=0.1),
        ("AdamW", {"lr": 0.05, "weight_decay": 0.1}),
        [0.9924777038006947, -2.1682415822787484, 0.7099922842382811],
    ),
}


@pytest.fixture
def rng():
    return np.random.default_rng(21)


def walk(k):
    return np.array([0.5 * k - 1.0, 2.0 / k, -0.25 * k * k])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_steps_give_the_numbers_of_torch(case, dtype):
    make, _, expected = CASES[case]
    p, optimizer = np.array([1.0, -2.0, 0.5], dtype), make()
    for k in range(1, 6):
        optimizer.step(p, walk(k).astype(dtype))
    # five steps of about ten roundings each
    np.testing.assert_allclose(p, expected, rtol=50 * np.finfo(dtype).eps)
    assert p.dtype == dtype


@pytest.mark.parity
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_steps_equal_those_of_torch(case, dtype, rng):
    torch = pytest.importorskip("torch")
    make, (name, arguments), _ = CASES[case]
    n = 1077
    start = rng.normal(size=n).astype(dtype)
    p, optimizer = start.copy(), make()
    theirs = torch.tensor(start, requires_grad=True)
    peer = getattr(torch.optim, name)([theirs], **arguments)
    for _ in range(7):
        g = rng.normal(size=n).astype(dtype)
        optimizer.step(p, g)
        theirs.grad = torch.tensor(g)
        peer.step()
    tolerance = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(p, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_step_works_in_place_and_only_reads_the_gradient(case, rng):
    n = 1005
    p, g = rng.normal(size=n), rng.normal(size=n)
    before, kept = p.copy(), g.copy()
    g.flags.writeable = False
    optimizer = CASES[case][0]()
    for _ in range(2):
        optimizer.step(p, g)
    assert (p != before).all()
    np.testing.assert_array_equal(g, kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [0, 1, 7, 33, 1000])
def test_step_has_the_bits_of_the_formulas_in_numpy(case, dtype, n, rng):
    optimizer = CASES[case][0]()
    p = rng.normal(size=n).astype(dtype)
    expected, state = p, [np.zeros(n, dtype) for _ in optimizer.state_names]
    for t in range(1, 5):
        g = (rng.normal(size=n) * 10.0 ** rng.integers(-8, 3, n)).astype(dtype)
        expected, state = numpy_optim.step(optimizer, expected, g, state, t)
        optimizer.step(p, g)
    np.testing.assert_array_equal(p, expected)
    for name, a in zip(optimizer.state_names, state, strict=True):
        np.testing.assert_array_equal(optimizer.state_dict()[name], a)


@pytest.mark.parametrize("case", CASES)
def test_step_takes_a_gradient_of_any_stride(case, rng):
    p, g = rng.normal(size=9), rng.normal(size=(9, 2))[:, 0]
    q, first, second = p.copy(), CASES[case][0](), CASES[case][0]()
    first.step(p, g)
    second.step(q, g.copy())
    np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("case", CASES)
def test_state_dict_resumes_to_the_same_bits(case, rng):
    p, gradients = rng.normal(size=9), rng.normal(size=(6, 9))
    whole, first = CASES[case][0](), CASES[case][0]()
    for g in gradients[:3]:
        first.step(p, g)
    state, q = first.state_dict(), p.copy()
    for g in gradients[3:]:
        first.step(p, g)  # must not reach into the state that was taken
    whole.load_state_dict(state)
    for g in gradients[3:]:
        whole.step(q, g)
    np.testing.assert_array_equal(q, p)
    assert whole.steps == 6


def test_state_dict_before_the_first_step_and_of_another_kind():
    fresh = optim.Adam().state_dict()
    assert fresh == {"steps": 0}
    optim.SGD(momentum=0.9).load_state_dict(fresh)
    used = optim.Adam()
    used.step(np.ones(2), np.ones(2))
    for other, state in (
        (optim.SGD(), used.state_dict()),
        (optim.Adam(), {"steps": 1, "exp_avg": np.ones(2)}),
        (optim.Adam(), {}),
    ):
        with pytest.raises(ValueError, match=r"must have the entries steps.*got"):
            other.load_state_dict(state)


def test_lr_may_change_between_steps():
    optimizer, p = optim.SGD(1.0), np.zeros(1)
    optimizer.step(p, np.ones(1))
    optimizer.lr = 0.25
    optimizer.step(p, np.ones(1))
    assert p == -1.25


def test_step_refusals():
    optimizer = optim.Adam()
    p = np.zeros(3)
    with pytest.raises(ValueError, match=r"one shape \(n,\), got \(3,\) and \(2,\)"):
        optimizer.step(p, np.zeros(2))
    with pytest.raises(ValueError, match=r"one shape \(n,\)"):
        optimizer.step(np.zeros((3, 1)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="flat must be contiguous"):
        optimizer.step(np.zeros(6)[::2], p)
    with pytest.raises(TypeError, match="grad_flat must be a float64 array, got float32"):
        optimizer.step(p, np.zeros(3, "float32"))
    with pytest.raises(TypeError, match="flat must be a float32 or float64 array, got int64"):
        optimizer.step(np.zeros(3, "int64"), np.zeros(3, "int64"))
    with pytest.raises(TypeError, match="got list"):
        optimizer.step([0.0], [0.0])
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="must be writeable"):
        optimizer.step(frozen, p)
    assert optimizer.steps == 0
    optimizer.step(p, p)
    for other in (np.zeros(4), np.zeros(3, "float32")):
        with pytest.raises(ValueError, match="a new model needs a new optimiser"):
            optimizer.step(other, other)
    assert optimizer.steps == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.SGD(-1.0),
        lambda: optim.SGD(math.nan),
        lambda: optim.SGD(math.inf),
        lambda: optim.SGD(momentum=1.0),
        lambda: optim.Adam(betas=(0.9, 1.0)),
        lambda: optim.Adam(betas=(-0.1, 0.9)),
        lambda: optim.Adam(eps=-1),
        lambda: optim.AdamW(weight_decay=-1),
    ],
)
def test_hyperparameters_out_of_range(make):
    with pytest.raises(ValueError, match=r"must be in \[0, "):
        make()


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match="nesterov needs a momentum"):
        optim.SGD(nesterov=True)


def test_get_optimizer():
    adam = optim.Adam()
    assert optim.get_optimizer(adam) is adam
    for name, kind in optim.OPTIMIZERS.items():
        assert type(optim.get_optimizer(name)) is kind
    for bad in ("rmsprop", None, optim.Adam):
        with pytest.raises(ValueError, match="optimizer must be one of sgd, adam, adamw"):
            optim.get_optimizer(bad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_grad_norm_is_global_and_in_place(dtype):
    grads = Parameters({"w": (1, 2), "b": (1,)}, dtype)
    grads["w"][:], grads["b"][:] = [2.0, 3.0], 6.0
    assert optim.clip_grad_norm(grads, 0.5) == 7.0
    np.testing.assert_allclose(grads["w"], [[1 / 7, 1.5 / 7]], rtol=3e-7)
    assert np.linalg.norm(grads.flat) == pytest.approx(0.5, rel=1e-6)


def test_clip_grad_norm_leaves_small_gradients_and_plain_arrays_of_any_shape():
    g = np.array([[3.0], [4.0]])
    assert optim.clip_grad_norm(g, 6.0) == 5.0
    assert optim.clip_grad_norm(g, math.inf) == 5.0
    np.testing.assert_array_equal(g, [[3.0], [4.0]])
    optim.clip_grad_norm(g.T, 1.0)
    assert np.linalg.norm(g) == pytest.approx(1, rel=1e-6)


def test_clip_grad_norm_does_not_overflow_in_float32(rng):
    g = np.full(1003, 1e30, np.float32)
    norm = optim.clip_grad_norm(g, 1.0)
    assert norm == pytest.approx(float(np.float32(1e30)) * math.sqrt(g.size), rel=1e-12)
    assert np.linalg.norm(g) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_clip_grad_norm_leaves_non_finite_gradients_alone(bad):
    g = np.array([1.0, bad, 3.0])
    kept = g.copy()
    assert not math.isfinite(optim.clip_grad_norm(g, 1.0))
    np.testing.assert_array_equal(g, kept)


def test_clip_grad_value():
    grads = Parameters({"w": (2, 2)}, "float32")
    grads["w"][:] = [[-5, 0.5], [np.nan, np.inf]]
    optim.clip_grad_value(grads, 2.0)
    np.testing.assert_array_equal(grads["w"], [[-2, 0.5], [np.nan, 2]])


@pytest.mark.parametrize("bad", [0, -1, math.nan])
def test_clip_thresholds_must_be_positive(bad):
    for clip in (optim.clip_grad_norm, optim.clip_grad_value):
        with pytest.raises(ValueError, match="must be positive"):
            clip(np.ones(2), bad)


@pytest.mark.parity
@pytest.mark.parametrize("max_norm", [0.1, 1e3])
def test_clip_grad_norm_equals_that_of_torch(max_norm, rng):
    torch = pytest.importorskip("torch")
    g = rng.normal(size=1000)
    p = torch.zeros(1000, dtype=torch.float64, requires_grad=True)
    p.grad = torch.tensor(g)
    expected = torch.nn.utils.clip_grad_norm_([p], max_norm)
    assert optim.clip_grad_norm(g, max_norm) == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(g, p.grad.numpy(), rtol=1e-13)


def rates(schedule, losses, base=0.1):
    result = []
    for epoch, loss in enumerate(losses):
        result.append(schedule.rate(epoch, base))
        schedule.observe(loss)
    return result


def test_schedules_worked_out_by_hand():
    assert rates(schedules.Constant(), [1.0] * 3) == [0.1] * 3
    np.testing.assert_allclose(
        rates(schedules.Step(2, factor=0.5), [1.0] * 5), [0.1, 0.1, 0.05, 0.05, 0.025]
    )
    np.testing.assert_allclose(
        rates(schedules.Cosine(4, minimum=0.02), [1.0] * 6),
        [0.1, 0.06 + 0.04 * math.sqrt(0.5), 0.06, 0.06 - 0.04 * math.sqrt(0.5), 0.02, 0.02],
    )
    np.testing.assert_allclose(
        rates(schedules.Cosine(4, warmup=2), [1.0] * 4), [0.1 / 3, 0.2 / 3, 0.1, 0.05]
    )
    losses = [1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4]
    np.testing.assert_allclose(
        rates(schedules.Plateau(factor=0.1, patience=1, minimum=0.005), losses),
        [0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.005],
    )


def test_plateau_state_resumes():
    losses = [1.0, 0.5, 0.5, 0.6, 0.4, 0.4, 0.4, 0.4, 0.4]
    whole = rates(schedules.Plateau(patience=1), losses)
    first, second = schedules.Plateau(patience=1), schedules.Plateau(patience=1)
    head = rates(first, losses[:4])
    second.load_state_dict(first.state_dict())
    tail = []
    for epoch in range(4, len(losses)):
        tail.append(second.rate(epoch, 0.1))
        second.observe(losses[epoch])
    assert head + tail == whole


def test_get_schedule():
    plateau = schedules.Plateau()
    assert schedules.get_schedule(plateau, 5) is plateau
    assert type(schedules.get_schedule(None, 5)) is schedules.Constant
    assert type(schedules.get_schedule("constant", 5)) is schedules.Constant
    assert type(schedules.get_schedule("plateau", 5)) is schedules.Plateau
    assert schedules.get_schedule("cosine", 5).epochs == 5
    for bad in ("linear", 3, schedules.Step):
        with pytest.raises(ValueError, match="schedule must be one of constant, cosine, plateau"):
            schedules.get_schedule(bad, 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.Cosine(0),
        lambda: schedules.Cosine(3, warmup=3),
        lambda: schedules.Cosine(3, minimum=-1),
        lambda: schedules.Step(0),
        lambda: schedules.Step(2, factor=0),
        lambda: schedules.Plateau(factor=-1),
        lambda: schedules.Plateau(patience=-1),
    ],
)
def test_schedule_arguments_out_of_range(make):
    with pytest.raises(ValueError, match=r"must|not be negative"):
        make()


@pytest.mark.parity
def test_schedules_equal_those_of_torch():
    torch = pytest.importorskip("torch")
    peers = torch.optim.lr_scheduler
    losses = [1.0, 0.9, 0.9, 0.89999, 0.9, 0.8, 0.9, 0.9, 0.9, 0.9]
    for ours, make in (
        (schedules.Step(3, 0.5), lambda o: peers.StepLR(o, 3, 0.5)),
        (schedules.Cosine(9, 0.01), lambda o: peers.CosineAnnealingLR(o, 9, 0.01)),
        (schedules.Plateau(0.5, 1), lambda o: peers.ReduceLROnPlateau(o, factor=0.5, patience=1)),
    ):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        peer, expected = make(optimizer), []
        for loss in losses:
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            peer.step(*([loss] if isinstance(ours, schedules.Plateau) else []))
        np.testing.assert_allclose(rates(ours, losses), expected, rtol=1e-12)
