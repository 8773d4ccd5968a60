# SPDX-License-Identifier: MIT
"""The mask of lstm_forward: every implementation against the reference, and that by hand."""

from dataclasses import replace

import numpy as np
import pytest
from cases import Case, make_problem, run
from comparison import assert_matches

from fastlstm import Spec, reference

CASES = (
    Case(),
    Case(reverse=True),
    Case(B=5, lengths=(3, 0, 7, 7, 5)),
    Case(P=4, B=5, lengths=(3, 0, 7, 7, 5), reverse=True),
    Case(spec=Spec(full_gate_recurrence=True, clip=0.9)),
    Case(reverse=True, spec=Spec(zoneout_h=0.3, zoneout_c=0.4, peepholes="ifo")),
)


class Masked:
    """An implementation under a mask that leaves out a third, in row 0 everything."""

    def __init__(self, implementation, all_of_row_0=True):
        self.functions, self.all_of_row_0 = implementation, all_of_row_0

    def mask(self, T, B):
        mask = np.random.default_rng(3).random((T, B)) < 0.6
        mask[:, 0] &= not self.all_of_row_0
        return mask

    def lstm_forward(self, x, **arguments):
        return self.functions.lstm_forward(x, **arguments, mask=self.mask(*x.shape[:2]))

    def lstm_backward(self, *arguments, **options):
        return self.functions.lstm_backward(*arguments, **options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sequences_mask_matches_reference(implementation, case, dtype):
    answer = run(Masked(reference), make_problem(case))
    assert_matches(run(Masked(implementation), make_problem(case, dtype)), answer, dtype, case)


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_sequences_mask_is_the_sequence_without_these_steps(case):
    q = make_problem(case)
    mask = Masked(reference, False).mask(case.T, case.B)
    y, (h_n, c_n), tape = reference.lstm_forward(**q.forward(), mask=mask)
    dx, *_ = reference.lstm_backward(tape, q.dy)
    assert (dx.any(axis=2) == mask).all()
    for b in range(case.B):
        on = mask[:, b]
        short = q.forward() | dict(x=q.x[on, b : b + 1], state=tuple(s[b : b + 1] for s in q.state))
        y_b, (h_b, c_b), _ = reference.lstm_forward(**short)
        np.testing.assert_allclose(y[on, b], y_b[:, 0], rtol=1e-12)
        np.testing.assert_allclose(h_n[b], h_b[0], rtol=1e-12)
        np.testing.assert_allclose(c_n[b], c_b[0], rtol=1e-12)
        before = q.state[0][b]
        for t in reversed(range(case.T)) if case.reverse else range(case.T):
            if not on[t]:
                np.testing.assert_array_equal(y[t, b], before)
            before = y[t, b]


def test_sequences_full_mask_changes_nothing(implementation, dtype):
    q = make_problem(replace(CASES[0]), dtype)
    y = implementation.lstm_forward(**q.forward(), mask=np.ones((7, 3), bool))[0]
    np.testing.assert_array_equal(y, implementation.lstm_forward(**q.forward())[0])
