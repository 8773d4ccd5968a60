# SPDX-License-Identifier: MIT
"""Dropout masks: how often, how large, and the same from the same generator."""

import numpy as np
import pytest

from fastlstm.masks import dropout_mask


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9])
def test_dropout_mask_drops_as_often_as_told(p):
    mask = dropout_mask(np.random.default_rng(3), p, (200, 501), "float64")
    assert set(np.unique(mask)) <= {0.0, 1 / (1 - p)}
    # of n = 1e5 independent elements, five standard deviations
    assert abs((mask == 0).mean() - p) <= 5 * np.sqrt(p * (1 - p) / mask.size)
    for axis in (0, 1):  # nor do rows or columns hang together
        spread = (mask == 0).mean(axis=axis).std()
        assert spread <= 1.3 * np.sqrt(p * (1 - p) / mask.shape[axis])


def test_dropout_mask_elements_are_independent_of_their_neighbours():
    kept = dropout_mask(np.random.default_rng(4), 0.3, (100_003,), "float32") > 0
    for lag in (1, 2, 3, 4, 5, 8):  # four elements come out of one random word
        assert abs(np.corrcoef(kept[lag:], kept[:-lag])[0, 1]) < 5 / np.sqrt(kept.size)


@pytest.mark.parametrize("generator", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_dropout_mask_has_the_same_zeros_in_both_dtypes_and_goes_on(generator):
    a, b, c = (np.random.Generator(generator(5)) for _ in range(3))
    first = dropout_mask(a, 0.4, (3, 7), "float32")
    np.testing.assert_array_equal(first > 0, dropout_mask(b, 0.4, (3, 7), "float64") > 0)
    assert first.dtype == "float32"
    assert (dropout_mask(a, 0.4, (3, 7), "float32") != first).any()
    np.testing.assert_array_equal(first, dropout_mask(c, 0.4, (3, 7), "float32"))


def test_dropout_mask_of_one_is_zero():
    for p in (1.0, 1 - 1e-9):
        assert not dropout_mask(np.random.default_rng(0), p, (5, 3), "float32").any()
    assert dropout_mask(np.random.default_rng(0), 0.5, (0, 3), "float32").shape == (0, 3)
