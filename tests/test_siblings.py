# SPDX-License-Identifier: MIT
"""GRU, RNN and sLSTM as functions: against central differences, transcriptions, each other."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from siblings import CELLS, Shape, functions, make_problem, run

from fastlstm import reference

cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


# -- the reference: gradients -------------------------------------------------------------------


def slopes(problem, value, h=1e-4):
    """Central differences for each element of ``value``; None where a kink is too near."""
    forward, _ = functions(reference, problem.cell)

    def loss(k, step):
        before = value.flat[k]
        value.flat[k] += step
        y, end, _ = forward(**problem.forward(), save=False)
        value.flat[k] = before
        end = end if isinstance(end, tuple) else (end,)
        pairs = zip(end, problem.dstate, strict=True)
        return (y * problem.dy).sum() + sum((a * d).sum() for a, d in pairs)

    slope = np.empty_like(value)
    for k in range(value.size):
        near = (loss(k, h) - loss(k, -h)) / (2 * h)
        far = (loss(k, 2 * h) - loss(k, -2 * h)) / (4 * h)
        if abs(near - far) > 1e-5 * max(1, abs(near)):
            return None
        slope.flat[k] = (4 * near - far) / 3
    return slope


def smooth_problem(cell, shape):
    """The first numbers of the case without a kink nearby, and the slopes of every input."""
    for seed in count():
        problem = make_problem(cell, shape, seed=seed)
        found = {}
        for name, value in problem.arrays().items():
            found[name] = slopes(problem, value)
            if found[name] is None:
                break
        else:
            return problem, found


LAYOUTS = {
    "forward": Shape(T=4, B=2, I=2, H=3),
    "ragged-reverse": Shape(T=3, B=3, I=2, H=3, lengths=(2, 0, 3), reverse=True),
    "mask": Shape(T=4, B=3, I=2, H=3, lengths=(4, 2, 3), mask=True, reset=True),
}


@cells
@pytest.mark.parametrize("layout", LAYOUTS)
def test_siblings_gradients_match_central_differences(cell, layout):
    H = 2 * getattr(cell, "num_heads", 1) + 1 * (cell.name != "slstm")
    problem, expected = smooth_problem(cell, replace(LAYOUTS[layout], H=H))
    results = run(reference, problem)
    for name, slope in expected.items():
        computed = results[f"d{name}"]
        assert computed.shape == slope.shape
        error, size = np.abs(computed - slope), np.abs(slope).max()
        assert (error <= 1e-6 * np.abs(slope) + 1e-9 * size).all(), f"d{name}: {error.max()}"
        assert size > 0 or layout == "mask", name  # a relu may be dead in all the rows that move
