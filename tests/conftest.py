# SPDX-License-Identifier: MIT
"""Every test of the maths runs over implementation x dtype x case: the fixtures for that."""

import os
import time
import zlib
from functools import partial
from types import SimpleNamespace

import pytest
from cases import CASES, DTYPES, make_problem

import fastlstm
from fastlstm import backend

IMPLEMENTATIONS = {
    name: SimpleNamespace(name=name, **{f: getattr(functions, f) for f in backend.functions()})
    for name, functions in backend.implementations().items()
}


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS.keys())
def implementation(request):
    """Who computes: has name, lstm_forward, lstm_backward, gru_forward, ..."""
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


@pytest.fixture
def threads():
    """A function that sets the number of threads for this test."""
    before = fastlstm.get_num_threads()
    yield fastlstm.set_num_threads
    fastlstm.set_num_threads(before)


@pytest.fixture
def make_layer(implementation):
    """fastlstm.LSTM, computed by the implementation as long as the test runs."""
    if implementation.name == "reference":
        yield partial(fastlstm.LSTM, backend="reference")
    else:
        with backend.using_isa(implementation.name):
            yield partial(fastlstm.LSTM, backend="engine")


def pytest_collection_modifyitems(config, items):
    """FASTLSTM_TEST_SAMPLE=n: about every n-th test, other ones each day; for slow instruments."""
    n = int(os.environ.get("FASTLSTM_TEST_SAMPLE", "1"))
    day = time.strftime("%Y-%m-%d")
    left_out = [item for item in items if zlib.crc32(f"{day} {item.nodeid}".encode()) % n]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
