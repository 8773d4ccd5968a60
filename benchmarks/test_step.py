# SPDX-License-Identifier: MIT
"""One step of a stream at B=1, the state carried from call to call."""

WHAT = "step"


def test_step(time_it, engine, case, dtype):
    time_it(engine, case, dtype, WHAT)
