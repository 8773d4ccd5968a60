# SPDX-License-Identifier: MIT
"""Windows, split, scalings and baselines, against what plain loops give."""

import numpy as np
import pytest

from fastlstm.csvfile import InputError
from fastlstm.series import (
    SCALINGS,
    Change,
    LinearAR,
    MinMax,
    Split,
    least_rows,
    persistence,
)


@pytest.fixture
def walk():
    """A random walk far from zero, with a drift that makes its last part unlike its first."""
    rng = np.random.default_rng(0)
    return 500 + np.cumsum(rng.normal(1, 3, 300))


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("n", [63, 100, 101])
def test_split_lets_no_target_of_training_be_unseen(n, horizon):
    W = 20
    split = Split.of(n, W, horizon, 0.2)
    targets = [range(k + W, k + W + horizon) for k in range(split.windows)]
    assert targets[-1].stop == n
    assert max(targets[split.train - 1]) == split.n_train - 1
    assert min(targets[split.first_test]) == split.n_train
    assert n - split.n_train == np.ceil(0.2 * n)


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.9])
@pytest.mark.parametrize("horizon", [1, 7])
def test_least_rows_is_the_least(horizon, fraction):
    n = least_rows(12, horizon, fraction)
    assert Split.of(n, 12, horizon, fraction).possible
    assert not Split.of(n - 1, 12, horizon, fraction).possible


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_scaling_comes_back(walk, scaling):
    fitted = scaling(walk[:200])
    last, following = walk[:-2, None], np.stack([walk[1:-1], walk[2:]], axis=1)
    targets = fitted.targets(last, following)
    assert targets.dtype == np.float32 and targets.shape == following.shape
    # float32 keeps 24 bits of what is at most some times the span of the data
    np.testing.assert_allclose(
        fitted.values(last, targets), following, atol=8 * np.finfo("f4").eps * np.ptp(walk)
    )


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_scaling_knows_the_training_part_alone(walk, scaling):
    changed = walk.copy()
    changed[200:] *= 7
    assert scaling(walk[:200]).config == scaling(changed[:200]).config
    before = scaling(walk[:200]).inputs(walk, 10)[:190]
    after = scaling(changed[:200]).inputs(changed, 10)[:190]
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_scaling_gives_windows_that_are_views(walk, scaling):
    x = scaling(walk[:200]).inputs(walk, 40)
    assert x.dtype == np.float32
    assert x.strides[0] == x.strides[1] == x.itemsize  # each window is the one before, moved by one
    assert len(x) == len(walk) - 40 + 1


def test_minmax_inputs_are_scaled_values(walk):
    x = MinMax(walk[:200]).inputs(walk, 10)
    assert x.shape == (291, 10, 1)
    low, high = walk[:200].min(), walk[:200].max()
    np.testing.assert_allclose(x[17, :, 0], (walk[17:27] - low) / (high - low), rtol=1e-6)
    assert x[:191].min() == 0 and x[:191].max() == 1


def test_change_inputs_are_the_changes_inside_the_window(walk):
    x = Change(walk[:200]).inputs(walk, 10)
    assert x.shape == (291, 9, 1)
    scale = np.sqrt(np.mean(np.diff(walk[:200]) ** 2))
    np.testing.assert_allclose(x[17, :, 0], np.diff(walk[17:27]) / scale, rtol=1e-5)


def test_change_predicting_zero_is_persistence(walk):
    last = walk[:5, None]
    forecast = Change(walk).values(last, np.zeros((5, 3), np.float32))
    np.testing.assert_array_equal(forecast, persistence(last, 3))


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_scaling_of_a_constant_is_finite(scaling):
    constant = np.full(30, 5.0)
    fitted = scaling(constant)
    assert np.isfinite(fitted.inputs(constant, 10)).all()
    np.testing.assert_array_equal(
        fitted.values(constant[:1, None], np.zeros((1, 1), np.float32)), [[5.0]]
    )


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_scaling_takes_the_largest_values(scaling):
    values = np.array([1e100, -1e100] * 10)
    assert np.isfinite(scaling(values).inputs(values, 5)).all()


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_scaling_refuses_what_leaves_float32(scaling):
    values = np.concatenate((np.arange(20.0), [1e60]))
    with pytest.raises(InputError, match="too large beside those of the training part"):
        scaling(values[:20]).inputs(values, 5)


@pytest.mark.parametrize("horizon", [1, 3])
def test_linear_ar_is_least_squares_over_all_windows(walk, horizon, monkeypatch):
    monkeypatch.setattr("fastlstm.series._CHUNK", 64)  # several pieces
    W, train = 12, walk[:200]
    rows = np.array([train[k : k + W + horizon] for k in range(200 - W - horizon + 1)])
    A = np.column_stack((rows[:, :W], np.ones(len(rows))))
    weights = np.linalg.lstsq(A, rows[:, W:], rcond=None)[0]
    every = np.array([walk[k : k + W] for k in range(300 - W + 1)])
    expected = np.column_stack((every, np.ones(len(every)))) @ weights
    prediction = LinearAR(train, W, horizon).predict(walk)
    assert prediction.shape == (300 - W + 1, horizon)
    np.testing.assert_allclose(prediction, expected, rtol=1e-9)


def test_linear_ar_of_a_constant_is_that_constant():
    constant = np.full(60, 3.0)
    prediction = LinearAR(constant, 10, 2).predict(constant)
    np.testing.assert_allclose(prediction, 3.0)


def test_linear_ar_with_fewer_windows_than_weights_is_finite(walk):
    assert np.isfinite(LinearAR(walk[:50], 40, 1).predict(walk)).all()
