# SPDX-License-Identifier: MIT
"""Losses: values worked out by hand, gradients by central differences, refusals."""

import pickle

import numpy as np
import pytest

from fastlstm import losses

REGRESSION = {
    "squared_error": losses.squared_error,
    "absolute_error": losses.absolute_error,
    "huber": losses.huber(0.7),
    "quantile": losses.quantile(0.3),
    "quantiles": losses.quantile((0.05, 0.5, 0.95)),
}
DTYPES = ("float32", "float64")


@pytest.fixture
def rng():
    return np.random.default_rng(20)


def central_difference(loss, prediction, target, weight, h=1e-6):
    gradient = np.zeros_like(prediction)
    for k in np.ndindex(prediction.shape):
        up, down = prediction.copy(), prediction.copy()
        up[k] += h
        down[k] -= h
        gradient[k] = (loss(up, target, weight)[0] - loss(down, target, weight)[0]) / (2 * h)
    return gradient


def regression_case(rng, dtype="float64", shape=(5, 4, 3)):
    return rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.squared_error, (0.25 + 4 + 1) / 3),
        (losses.absolute_error, (0.5 + 2 + 1) / 3),
        (losses.huber(1.0), (0.125 + 1.5 + 0.5) / 3),
        (losses.quantile(0.9), (0.1 * 0.5 + 0.9 * 2 + 0.9 * 1) / 3),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_worked_out_by_hand(loss, expected, dtype):
    prediction = np.array([1.5, -2.0, 3.0], dtype)
    value, _ = loss(prediction, np.array([1.0, 0.0, 4.0], dtype))
    assert type(value) is float
    assert value == pytest.approx(expected, rel=1e-7 if dtype == "float32" else 1e-15)


def test_cross_entropy_worked_out_by_hand():
    # softmax of (ln 1, ln 2, ln 5) is (1, 2, 5) / 8
    logits = np.log([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]])
    value, gradient = losses.cross_entropy(logits, np.array([2, 0]))
    assert value == pytest.approx((np.log(8 / 5) + np.log(8)) / 2, rel=1e-14)
    expected = np.array([[1, 2, 5 - 8], [1 - 8, 2, 5]]) / 16
    np.testing.assert_allclose(gradient, expected, rtol=1e-14)


@pytest.mark.parametrize("weight", [None, "n", "n,T"])
@pytest.mark.parametrize("name", REGRESSION)
def test_regression_gradient_is_the_central_difference(name, weight, rng):
    prediction, target = regression_case(rng)
    if weight is not None:
        weight = rng.uniform(0.1, 3, size=(5,) if weight == "n" else (5, 4))
    _, gradient = REGRESSION[name](prediction, target, weight)
    expected = central_difference(REGRESSION[name], prediction, target, weight)
    # rtol: the quotient loses half of the digits, and h**2 curvature is far below that.
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["labels", "probabilities", "labels per step"])
def test_cross_entropy_gradient_is_the_central_difference(kind, weighted, rng):
    logits = rng.normal(size=(4, 3, 5) if kind == "labels per step" else (4, 5))
    if kind == "probabilities":
        target = rng.dirichlet(np.ones(5), size=4)
    else:
        target = rng.integers(5, size=logits.shape[:-1])
    weight = rng.uniform(0.1, 3, size=4) if weighted else None
    _, gradient = losses.cross_entropy(logits, target, weight)
    expected = central_difference(losses.cross_entropy, logits, target, weight)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


def test_cross_entropy_labels_and_one_hot_agree(rng):
    logits, labels = rng.normal(size=(6, 4)), rng.integers(4, size=6)
    by_label = losses.cross_entropy(logits, labels)
    for one_hot in (np.eye(4)[labels], np.eye(4, dtype=int)[labels]):
        by_row = losses.cross_entropy(logits, one_hot)
        assert by_row[0] == pytest.approx(by_label[0], rel=1e-15)
        np.testing.assert_allclose(by_row[1], by_label[1], rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_is_stable_for_large_logits(dtype):
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], dtype)
    value, gradient = losses.cross_entropy(logits, np.array([2, 0]))
    assert value == pytest.approx((2e4 + np.log(3)) / 2)
    np.testing.assert_allclose(
        gradient, np.array([[1, 0, -1], [-2 / 3, 1 / 3, 1 / 3]]) / 2, rtol=1e-6, atol=1e-7
    )


def test_cross_entropy_ignores_a_forbidden_class_of_probability_zero():
    logits = np.array([[0.0, -np.inf, 0.0]])
    value, _ = losses.cross_entropy(logits, np.array([[0.5, 0.0, 0.5]]))
    assert value == pytest.approx(np.log(2))


def test_softmax_rows_sum_to_one(rng):
    p = losses.softmax(rng.normal(size=(7, 3), scale=1e3))
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-15)
    np.testing.assert_allclose(losses.softmax(np.log([[1.0, 3.0]])), [[0.25, 0.75]], rtol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*REGRESSION, "cross_entropy"])
def test_dtype_is_kept_and_inputs_are_not_written(name, dtype, rng):
    prediction, target = regression_case(rng, dtype)
    loss = REGRESSION.get(name, losses.cross_entropy)
    if name == "cross_entropy":
        target = rng.integers(3, size=(5, 4))
    prediction.flags.writeable = target.flags.writeable = False
    for weight in (None, np.ones(5)):
        _, gradient = loss(prediction, target, weight)
        assert gradient.dtype == dtype
        assert gradient.shape == prediction.shape


@pytest.mark.parametrize("name", [*REGRESSION, "cross_entropy"])
def test_integer_weights_are_repetitions(name, rng):
    prediction, target = regression_case(rng)
    loss = REGRESSION.get(name, losses.cross_entropy)
    if name == "cross_entropy":
        target = rng.integers(3, size=(5, 4))
    weight = np.array([2, 0, 1, 3, 1])
    value, gradient = loss(prediction, target, weight)
    rows = np.repeat(np.arange(5), weight)
    repeated, by_copy = loss(prediction[rows], target[rows])
    assert value == pytest.approx(repeated, rel=1e-14)
    summed = np.zeros_like(prediction)
    np.add.at(summed, rows, by_copy)
    np.testing.assert_allclose(gradient, summed, rtol=1e-13)
    assert not gradient[1].any()


def test_all_weights_zero_ask_for_nothing(rng):
    prediction, target = regression_case(rng)
    value, gradient = losses.squared_error(prediction, target, np.zeros(5))
    assert value == 0
    assert not gradient.any()


def test_float32_loss_is_summed_in_float64():
    prediction = np.full(2_000_000, 0.1, np.float32)
    value, _ = losses.absolute_error(prediction, np.zeros_like(prediction))
    assert value == pytest.approx(float(np.float32(0.1)), rel=1e-14)


def test_gradient_at_a_tie_is_a_subgradient():
    at = np.ones(1)
    assert losses.absolute_error(at, at)[1] == 0
    assert -0.2 <= losses.quantile(0.2)(at, at)[1][0] <= 0.8


@pytest.mark.parametrize("name", REGRESSION)
def test_nan_is_not_hidden(name, rng):
    prediction, target = regression_case(rng)
    prediction[1, 2, 0] = np.nan
    assert np.isnan(REGRESSION[name](prediction, target)[0])


def test_minimiser_of_the_quantile_loss_is_the_quantile(rng):
    sample = rng.normal(size=501)
    values = [losses.quantile(0.8)(np.full(501, s), sample)[0] for s in np.sort(sample)]
    assert np.sort(sample)[np.argmin(values)] == pytest.approx(np.quantile(sample, 0.8))


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 3), (3,)])
def test_shapes_are_never_broadcast(name, shape):
    with pytest.raises(ValueError, match=r"shape of prediction \(5, 3\), got"):
        REGRESSION[name](np.zeros((5, 3)), np.zeros(shape))


def test_refusals_say_what_was_expected():
    z = np.zeros((3, 2))
    with pytest.raises(TypeError, match="prediction is float64 but target is float32"):
        losses.squared_error(z, z.astype("float32"))
    with pytest.raises(TypeError, match="prediction must be float32 or float64, got int64"):
        losses.squared_error(z.astype("int64"), z)
    with pytest.raises(ValueError, match="must not be empty"):
        losses.squared_error(z[:0], z[:0])
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(3,\).*got \(2,\)"):
        losses.squared_error(z, z, np.ones(2))
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(3,\).*got \(\)"):
        losses.squared_error(z, z, 1.0)
    for bad in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            losses.squared_error(z, z, np.array([1, bad, 1]))
    with pytest.raises(ValueError, match="prediction must have 3 columns"):
        losses.quantile((0.1, 0.5, 0.9))(z, z)
    for q in (0, 1, -0.5, np.nan, [], [0.5, 2]):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            losses.quantile(q)
    for delta in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="delta must be a positive number"):
            losses.huber(delta)


def test_cross_entropy_refusals():
    logits = np.zeros((3, 4))
    with pytest.raises(ValueError, match=r"labels in \[0, C\) = \[0, 4\), got 4 at \(1,\)"):
        losses.cross_entropy(logits, np.array([0, 4, 9]))
    with pytest.raises(ValueError, match=r"got -1 at \(2,\)"):
        losses.cross_entropy(logits, np.array([0, 3, -1]))
    with pytest.raises(TypeError, match="integer labels, got float64"):
        losses.cross_entropy(logits, np.zeros(3))
    for shape in ((2,), (3, 1), (4, 3)):
        with pytest.raises(ValueError, match=r"target must have shape \(3,\) \(labels\) or"):
            losses.cross_entropy(logits, np.zeros(shape, int))
    for bad in (np.zeros((3, 4)), np.array([[2, -1, 0, 0]] * 3), np.full((3, 4), np.nan)):
        with pytest.raises(ValueError, match="must hold probabilities"):
            losses.cross_entropy(logits, bad)
    with pytest.raises(ValueError, match=r"to fit prediction \(n, ..., C\)"):
        losses.cross_entropy(np.zeros(3), np.zeros((), int))


def test_get_loss():
    assert losses.get_loss(losses.squared_error) is losses.squared_error
    for name, loss in losses.LOSSES.items():
        assert losses.get_loss(name) is loss
    for bad in ("mse", None, ["huber"]):
        with pytest.raises(ValueError, match="loss must be one of squared_error, absolute_error"):
            losses.get_loss(bad)


@pytest.mark.parametrize("loss", [*REGRESSION.values(), losses.cross_entropy])
def test_losses_can_be_pickled(loss, rng):
    again = pickle.loads(pickle.dumps(loss))
    prediction, target = rng.normal(size=(2, 3)), np.eye(3)[:2]
    assert again(prediction, target)[0] == loss(prediction, target)[0]


@pytest.mark.parity
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_equal_those_of_torch(dtype, rng):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    prediction, target = regression_case(rng, dtype)
    labels = rng.integers(3, size=(5, 4))
    for ours, theirs, y in (
        (losses.squared_error, nn.MSELoss(), target),
        (losses.absolute_error, nn.L1Loss(), target),
        (losses.huber(0.7), nn.HuberLoss(delta=0.7), target),
        (losses.cross_entropy, lambda p, t: nn.functional.cross_entropy(p.mT, t), labels),
    ):
        p = torch.tensor(prediction, requires_grad=True)
        expected = theirs(p, torch.tensor(y))
        expected.backward()
        value, gradient = ours(prediction, y)
        # 8 roundings a number, and a mean over 60 of them
        tolerance = 64 * float(np.finfo(dtype).eps)
        assert value == pytest.approx(expected.item(), rel=tolerance)
        np.testing.assert_allclose(gradient, p.grad.numpy(), rtol=tolerance, atol=tolerance / 60)
