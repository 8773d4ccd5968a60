# SPDX-License-Identifier: MIT
"""Quick timings of this machine: the engine beside the NumPy reference, doing the same work.

Each pair of results is compared before it is timed, and both sides are timed in turn, so that a
machine that slows down slows down both; the best run counts, because whatever else the machine
does can only add to it. The full benchmark, with other libraries, is the
repository's benchmarks/.
"""

import time
from typing import NamedTuple

import numpy as np

from . import backend
from .fit import fit
from .forecast import build_network
from .optim import Adam

__all__ = ["SHAPES", "EpochTime", "Row", "shapes", "time_epoch"]

SHAPES = ((100, 1, 16, 64), (60, 32, 1, 50), (100, 32, 64, 128))  # T, B, I, H
SECONDS = 0.4  # of timing for each pair
TOLERANCE = 1e-3  # of a float32 sum over at most T*B = 3200 terms of order 1, in float32


class Row(NamedTuple):
    """Seconds of one shape, forward and forward with backward, by engine and reference."""

    shape: tuple
    forward: tuple  # (engine, reference)
    training: tuple


class EpochTime(NamedTuple):
    """Seconds of an epoch of ``batches``, each measured on ``measured`` of them and scaled."""

    engine: float
    reference: float
    losses: tuple  # (engine, reference) after the measured batches: the steps were the same
    measured: int
    batches: int


def shapes():
    """Yield the `Row` of each of `SHAPES`; it takes some seconds.

    Raises
    ------
    RuntimeError
        Engine and reference disagree.
    """
    sides = backend.select("engine"), backend.select("reference")
    for T, B, I, H in SHAPES:
        rng = np.random.default_rng(0)
        sizes = (T, B, I), (4 * H, I), (4 * H, H), (4 * H,)
        x, w_ih, w_hh, b = (rng.normal(0, H**-0.5, size).astype(np.float32) for size in sizes)
        dy = rng.normal(0, 1, (T, B, H)).astype(np.float32)

        def forward(side, x=x, weights=(w_ih, w_hh, b)):
            return side.lstm_forward(x, *weights, save=False)[0]

        def training(side, x=x, weights=(w_ih, w_hh, b), dy=dy):
            tape = side.lstm_forward(x, *weights)[2]
            return side.lstm_backward(tape, dy)[2]["w_hh"]

        yield Row(
            (T, B, I, H),
            *(_compared([lambda s=s, f=f: f(s) for s in sides]) for f in (forward, training)),
        )


def _compared(functions):
    """Least seconds of each of two functions whose results agree, called in turn."""
    engine, reference = (f() for f in functions)
    if not np.allclose(engine, reference, rtol=TOLERANCE, atol=TOLERANCE):
        difference = np.abs(engine - reference).max()
        raise RuntimeError(f"engine and reference differ by {difference:g}; they must not")
    times, end = ([], []), time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times[0]) < 3:
        for f, mine in zip(functions, times, strict=True):
            start = time.perf_counter()
            f()
            mine.append(time.perf_counter() - start)
    return tuple(map(min, times))


def time_epoch(settings, x, y, measured=4, repeats=3):
    """Time the first batches of a training by engine and reference; see `EpochTime`.

    Parameters
    ----------
    settings : forecast.Settings
    x : ndarray (n, T, 1), float32
    y : ndarray (n, H), float32
    measured : int
        Batches that are timed.
    repeats : int
        The best of so many is taken; every one begins with the same new network.
    """
    size = settings.batch_size
    batches = -(-len(x) // size)
    measured = min(measured, batches)
    part = slice(0, measured * size)
    seconds, losses = {"engine": [], "reference": []}, {}
    for _ in range(repeats):
        for name, mine in seconds.items():
            history = fit(
                build_network(settings, name), x[part], y[part], epochs=1, batch_size=size,
                optimizer=Adam(settings.learning_rate), seed=settings.seed, progress=False,
            )  # fmt: skip
            mine.append(history["seconds"][0])
            losses[name] = history["loss"][0]
    share = len(x[part]) / len(x)
    engine, reference = (min(mine) / share for mine in seconds.values())
    return EpochTime(engine, reference, tuple(losses.values()), measured, batches)
