# SPDX-License-Identifier: MIT
"""The quick timings compare equal work. No time is asserted."""

import numpy as np
import pytest

from fastlstm import quickbench
from fastlstm.forecast import Settings, build_network
from fastlstm.quickbench import Row, shapes, time_epoch


def test_shapes_time_engine_and_reference(monkeypatch):
    monkeypatch.setattr(quickbench, "SHAPES", ((3, 2, 4, 5), (2, 1, 1, 1)))
    monkeypatch.setattr(quickbench, "SECONDS", 0.0)
    rows = list(shapes())
    assert [row.shape for row in rows] == [(3, 2, 4, 5), (2, 1, 1, 1)]
    for row in rows:
        assert isinstance(row, Row)
        assert all(seconds > 0 for seconds in (*row.forward, *row.training))


def test_shapes_refuse_to_time_results_that_differ(monkeypatch):
    engine = quickbench.backend.select("engine")
    right = engine.lstm_backward

    def wrong(tape, dy):
        dx, dstate, grads = right(tape, dy)
        return dx, dstate, {**grads, "w_hh": grads["w_hh"] + 1}

    class Wrong:
        lstm_forward, lstm_backward = staticmethod(engine.lstm_forward), staticmethod(wrong)

    select = quickbench.backend.select
    monkeypatch.setattr(quickbench, "SHAPES", ((3, 2, 4, 5),))
    monkeypatch.setattr(
        quickbench.backend, "select", lambda name: Wrong if name == "engine" else select(name)
    )
    with pytest.raises(RuntimeError, match="engine and reference differ by 1; they must not"):
        list(shapes())


def test_time_epoch_does_the_same_steps_with_both(monkeypatch):
    built = []

    def build(settings, backend):
        built.append(build_network(settings, backend))
        return built[-1]

    monkeypatch.setattr(quickbench, "build_network", build)
    settings = Settings(hidden=7, layers=2, batch_size=8)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 6, 1)).astype(np.float32)
    y = rng.normal(size=(30, 1)).astype(np.float32)
    t = time_epoch(settings, x, y, measured=2, repeats=1)
    assert (t.measured, t.batches) == (2, 4)
    assert t.engine > 0 and t.reference > 0
    assert [network.modules[0].backend for network in built] == ["engine", "reference"]
    # the mean loss of 2 steps of Adam with dropout: equal only if all of the steps are
    assert t.losses[0] == pytest.approx(t.losses[1], rel=1e-5)
    assert time_epoch(settings, x[:5], y[:5], repeats=1)[3:] == (1, 1)
