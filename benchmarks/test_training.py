# SPDX-License-Identifier: MIT
"""Forward and backward: y, dx and every gradient."""

WHAT = "training"


def test_training(time_it, engine, case, dtype):
    time_it(engine, case, dtype, WHAT)
