# SPDX-License-Identifier: MIT
"""Inference: a whole sequence, y and the final state."""

WHAT = "forward"


def test_forward(time_it, engine, case, dtype):
    time_it(engine, case, dtype, WHAT)
