# SPDX-License-Identifier: MIT
"""Every test of the maths runs over implementation x dtype x case: the fixtures for that."""

import sys
from types import SimpleNamespace

import pytest
from cases import CASES, DTYPES, make_problem

from fastlstm import reference

sys.dont_write_bytecode = True


def _implementations():
    """Name -> what has lstm_forward and lstm_backward."""
    found = {"reference": reference}
    try:
        from fastlstm import _engine
    except ImportError:
        return found
    return found | {"engine": _engine}


IMPLEMENTATIONS = {
    name: SimpleNamespace(
        name=name, lstm_forward=module.lstm_forward, lstm_backward=module.lstm_backward
    )
    for name, module in _implementations().items()
}


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys())
def implementation(request):
    """Who computes: has name, lstm_forward, lstm_backward."""
    return request.param


@pytest.fixture(params=DTYPES.values(), ids=DTYPES.keys())
def dtype(request):
    """float32, float64."""
    return request.param


@pytest.fixture(params=CASES, ids=str)
def case(request):
    """All cases of one layer in one direction; a test with fewer parametrises "case" itself."""
    return request.param


@pytest.fixture
def problem(case, dtype):
    """The case with numbers."""
    return make_problem(case, dtype)
