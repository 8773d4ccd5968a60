# SPDX-License-Identifier: MIT
"""Random problems against the reference for as long as you like: soak.py MINUTES [SEED]

Shapes, variants, lengths, directions, dtypes, instruction sets, numbers of threads, layers of every
kind and streams are drawn at random. It ends with 1 at the first difference, which it prints with
what it takes to see it again, or when resident memory has grown.
"""

import resource
import sys
import time
from functools import partial

import numpy as np
from cases import Case, make_problem, run
from comparison import tolerance
from variants import COMBINATIONS, OPTIONS

import fastlstm as fl
from fastlstm import backend, reference
from fastlstm.modules import MODULES

GROWTH = 48 << 20  # bytes that the allocator may still keep after the first quarter
ENGINES = {n: f for n, f in backend.implementations().items() if n != "reference"}


def draw_case(rng):
    """A case of any kind that takes the reference less than about 0.1 s."""

    def size(most):
        return int(np.exp(rng.uniform(0, np.log(most + 1))))

    T, B, I, H = size(60), size(40), size(80), size(160)
    lengths = tuple(int(n) for n in rng.integers(0, T + 1, B)) if rng.random() < 0.4 else None
    specs = [fl.Spec()] * 3 + [OPTIONS[rng.integers(len(OPTIONS))]]
    specs.append(COMBINATIONS[rng.integers(len(COMBINATIONS))])
    flags = rng.random(5) < 0.8
    return Case(
        T=T, B=B, I=I, H=H, P=size(H) if rng.random() < 0.25 else None, lengths=lengths,
        reverse=bool(rng.random() < 0.5), bias=bool(flags[0]), state=bool(flags[1]),
        dy=bool(flags[2]), dstate=bool(flags[3]), spec=specs[rng.integers(len(specs))],
    )  # fmt: skip


def assert_close(a, b, limit, what, nearby=None):
    """Of the largest number or of 1: a tensor of one number may be what is left of a difference.

    ``nearby`` gives b for an input one unit in the last place off: an error ten times what this
    does is rounding, too.
    """
    assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
    assert np.isfinite(a).all(), f"{what}: not finite"
    error, scale = np.abs(a - b).max(initial=0), np.abs(b).max(initial=1)
    if error > limit * scale and nearby is not None:
        limit = 10 * np.abs(nearby() - b).max(initial=0) / scale
    assert error <= limit * scale, f"{what}: error {error:.3g} of {scale:.3g}"


def check_cell(rng, name, dtype):
    """One direction of one layer, forward and backward."""
    case = draw_case(rng)
    # Few units can hand on an error larger from step to step, where many average it out.
    limit = tolerance(dtype, case, k=20 if case.H >= 16 else 400)
    if case.spec.changed:  # clipping has steps, and layer norm of a few units divides by almost 0
        dtype, limit = np.dtype(np.float64), 1e-8
    problem = make_problem(case, dtype, seed=int(rng.integers(2**31)))
    try:
        results = run(ENGINES[name], problem)
    except NotImplementedError:
        return f"{case} refused"
    with np.errstate(all="ignore"):
        exact = run(reference, problem.astype(np.float64))
    if not all(np.isfinite(a).all() for a in exact.values()):
        return f"{case} diverges"  # an output without bounds

    def nearby(key):
        moved = problem.astype(np.float64)
        moved.x *= 1 + np.finfo(np.float64).eps
        with np.errstate(all="ignore"):
            return run(reference, moved)[key]

    for key, b in exact.items():
        known = partial(nearby, key) if case.spec.changed else None
        assert_close(results[key], b, limit, f"{key} of {case}", known)
    return str(case)


def check_layer(rng, name, dtype):
    """A layer of any kind on both backends: its call, its gradients and its stream."""
    kinds = [cls for cls in MODULES.values() if hasattr(cls, "stream")]
    cls = kinds[rng.integers(len(kinds))]
    T, B, I, H = (int(rng.integers(1, most)) for most in (12, 9, 20, 40))
    options = {"num_layers": int(rng.integers(1, 4)), "bidirectional": bool(rng.random() < 0.5)}
    seed = int(rng.integers(2**31))
    layers = [
        cls(I, H, dtype=dtype, seed=seed, backend=which, **options)
        for which in ("engine", "reference")
    ]
    x = rng.standard_normal((T, B, I)).astype(dtype)
    lengths = rng.integers(0, T + 1, B) if rng.random() < 0.5 else None
    results = []
    for layer in layers:
        y, state, tape = layer.forward(x, lengths=lengths)
        dx, _, grads = layer.backward(tape, np.ones_like(y))
        results.append([y, *(state if isinstance(state, tuple) else (state,)), dx, grads.flat])
    if not options["bidirectional"] and hasattr(layers[0], "stream"):
        for layer, result in zip(layers, results, strict=True):
            stream = layer.stream(B)
            result.extend(stream.step(x_t) for x_t in x)
    what = f"{layers[0]!r} T{T}_B{B} lengths={lengths}"
    limit = np.finfo(dtype).eps * 60 * np.sqrt(5 * H + I + T * B)
    for a, b in zip(*results, strict=True):
        assert_close(a, b, limit, what)
    return what


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as numbers:
        return int(numbers.read().split()[1]) * resource.getpagesize()


def main(minutes, seed):
    """Run for so many minutes."""
    start, n, settled, largest = time.monotonic(), 0, None, 0
    names = list(ENGINES)
    while (passed := time.monotonic() - start) < 60 * minutes:
        rng = np.random.default_rng([seed, n])
        name, dtype = names[rng.integers(len(names))], np.dtype(["f4", "f8"][rng.integers(2)])
        fl.set_num_threads(int(rng.integers(1, 5)))
        try:
            with backend.using_isa(name):
                (check_cell if rng.random() < 0.7 else check_layer)(rng, name, dtype)
        except BaseException:
            print(f"round {n} of seed {seed}, {name}, {dtype}, {fl.get_num_threads()} threads")
            raise
        n += 1
        if passed > 15 * minutes:
            settled = resident() if settled is None else settled
            largest = max(largest, resident())
    grown = (largest - settled) / 2**20
    print(f"{n} problems in {minutes:g} minutes, no difference; memory grew by {grown:.1f} MB")
    return 1 if grown * 2**20 > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())))
