# SPDX-License-Identifier: MIT
"""The cases of every test of the maths, their random data, and who computes them.

A case is a shape with its switches; a problem is a case with numbers. Its numbers are drawn in
float32 and widened, so that the reference in float64 is the exact answer for float32 too.
"""

from dataclasses import dataclass, field, fields, replace
from functools import cache

import numpy as np

from fastlstm import Spec, reference
from fastlstm.checks import variant_weights

DTYPES = {"f32": np.dtype("float32"), "f64": np.dtype("float64")}


@dataclass(frozen=True)
class Case:
    """One layer in one direction. ``lengths``: None or a tuple of B integers."""

    T: int = 7
    B: int = 3
    I: int = 5
    H: int = 9
    P: int | None = None
    lengths: tuple | None = None
    reverse: bool = False
    bias: bool = True
    state: bool = True
    dy: bool = True
    dstate: bool = True
    spec: Spec = Spec()
    training: bool = True  # masks are drawn, where the spec has any

    def __str__(self):
        parts = [f"{d}{getattr(self, d)}" for d in "TBIHP" if getattr(self, d) is not None]
        if self.lengths is not None:
            parts.append("ragged" + "".join(f"-{n}" for n in self.lengths[:6]))
        parts += ["reverse"] * self.reverse
        parts += [f"no{s}" for s in ("bias", "state", "dy", "dstate") if not getattr(self, s)]
        parts += [repr(self.spec)] * bool(self.spec.changed)
        parts += ["inference"] * (not self.training)
        return "_".join(parts)


# B > 1, T > 1, H no multiple of a vector width, non-zero h0, c0, dh_n, dc_n: a case of B = 1,
# T = 1, zero states or zero dstate alone has let wrong kernels through elsewhere.
DEFAULT_CASES = (
    Case(),
    Case(reverse=True),
    Case(lengths=(4, 7, 1)),
    Case(B=5, lengths=(3, 0, 7, 7, 5)),
    Case(B=5, lengths=(3, 0, 7, 7, 5), reverse=True),
    Case(P=4),
    Case(P=4, reverse=True),
    Case(P=4, B=4, lengths=(2, 7, 0, 5)),
    Case(P=4, B=4, lengths=(2, 7, 0, 5), reverse=True),
    Case(bias=False),
    Case(P=3, bias=False, reverse=True),
)
EXTRA_CASES = (
    Case(state=False),
    Case(dy=False),
    Case(dstate=False),
    Case(dy=False, lengths=(0, 6, 2), reverse=True),
    Case(T=0),
    Case(T=0, P=4, reverse=True),
    Case(T=1),
    Case(T=1, B=1),
    Case(T=1, lengths=(1, 0, 1)),
    Case(T=2, reverse=True),
    Case(B=0),
    Case(B=1),
    Case(B=1, P=4),
    Case(B=2),
    Case(I=1),
    Case(I=0),
    Case(H=1),
    Case(T=1, B=1, I=1, H=1),
    Case(H=1, P=1),
    Case(P=1),
    Case(P=13),  # larger than H: PyTorch refuses it, the maths does not
    Case(lengths=(0, 0, 0)),
    Case(lengths=(0, 0, 0), reverse=True),
    Case(lengths=(5, 5, 5)),  # all shorter than T
    Case(lengths=(7, 7, 7), reverse=True),
    Case(H=2),
    Case(H=8),
    Case(H=15),
    Case(H=16),
    Case(H=17),
    Case(H=32),
    Case(H=33, I=17),
    Case(H=64, I=16),
    Case(H=70, I=40, T=5),
    Case(H=70, I=3, P=33, B=6, lengths=(7, 1, 4, 4, 0, 6)),
    Case(H=131, I=2, T=3, B=2),
    Case(B=13, H=11),
    Case(B=13, H=20, P=7, lengths=(7, 3, 3, 0, 1, 7, 6, 2, 5, 4, 7, 0, 1), reverse=True),
    Case(B=33, T=4, H=18),
    Case(T=60, H=12),
    Case(T=120, B=2, I=2, H=5, lengths=(120, 77)),
)
# Sizes at which the engine does something else: the input product inside the step (I <= 8) or
# before it in several chunks of time, blocks of the hidden units, threads that share rows
# (many rows) or units (few rows, many units).
LARGE_CASES = (
    Case(I=8, H=33, B=5),
    Case(I=9, H=33, B=5),
    Case(T=40, B=33, I=9, H=70),
    Case(T=40, B=33, I=9, H=70, lengths=tuple(range(7, 40)), reverse=True),
    Case(T=30, B=14, I=3, H=45),
    Case(T=30, B=13, I=12, H=45, lengths=(9, 30, 0, 1, 30, 17, 4, 4, 21, 2, 0, 13, 8)),
    Case(T=5, B=4, I=20, H=150),
    Case(T=5, B=3, I=4, H=150, lengths=(5, 2, 4)),
    Case(T=5, B=3, I=20, H=150, lengths=(0, 5, 3), reverse=True),
    Case(T=4, B=1, I=300, H=300),
    Case(T=2, B=26, I=300, H=270),
    Case(T=3, B=26, I=300, H=270, lengths=(3, 1, 0, 2, 3) * 5 + (1,), reverse=True),
    Case(T=3, B=17, I=370, H=363),
    Case(T=4, B=27, I=20, H=40),
    Case(T=1, B=2, I=160, H=200),
    Case(T=3, B=9, I=10, H=300, P=130),
    Case(T=3, B=14, I=9, H=530),  # several blocks of h also where a block is 512 numbers
)
CASES = DEFAULT_CASES + EXTRA_CASES + LARGE_CASES


@dataclass
class Problem:
    """The numbers of a case: the arguments of lstm_forward and lstm_backward."""

    case: object
    dtype: np.dtype
    x: np.ndarray
    w_ih: np.ndarray
    w_hh: np.ndarray
    b: np.ndarray | None
    state: tuple | None
    w_proj: np.ndarray | None
    dy: np.ndarray | None
    dstate: tuple | None
    lengths: tuple | None = field(default=None)
    reverse: bool = False
    w_peephole: np.ndarray | None = None
    w_fgr: np.ndarray | None = None
    ln_x: np.ndarray | None = None
    ln_h: np.ndarray | None = None
    ln_c: np.ndarray | None = None

    def forward(self):
        """The arguments of lstm_forward by name."""
        names = ("x", "w_ih", "w_hh", "b", "state", "w_proj", "lengths", "reverse")
        names += variant_weights(self.case.spec)
        given = {"spec": self.case.spec} if self.case.spec.changed else {}
        if self.case.training and self.case.spec.draws:
            given["rng"] = np.random.default_rng(6)  # the same masks each time
        return {name: getattr(self, name) for name in names} | given

    def map(self, change):
        """A problem with ``change(array)`` for each of its arrays."""

        def changed(value):
            if isinstance(value, np.ndarray):
                return change(value)
            if value and all(isinstance(part, np.ndarray) for part in value):
                return tuple(change(part) for part in value)
            return value

        names = [f.name for f in fields(self) if f.name not in ("case", "dtype", "reverse")]
        return replace(self, **{name: changed(getattr(self, name)) for name in names})

    def astype(self, dtype):
        """The same numbers in another dtype."""
        return replace(self.map(lambda a: a.astype(dtype)), dtype=np.dtype(dtype))


def draw(rng, dtype):
    """A function shape -> standard normal numbers, float32 numbers in ``dtype``."""
    return lambda *shape: rng.standard_normal(shape).astype(np.float32).astype(dtype)


def make_problem(case, dtype="float64", seed=0):
    """Random numbers for a case.

    The weights are scaled to keep the pre-activations near 1.5, where gates neither saturate
    nor are linear.
    """
    dtype = np.dtype(dtype)
    normal = draw(np.random.default_rng([seed, *str(case).encode()]), dtype)
    T, B, I, H = case.T, case.B, case.I, case.H
    P = H if case.P is None else case.P
    scale = np.float32(1.5 / np.sqrt(I + P)).astype(dtype)
    problem = Problem(
        case=case,
        dtype=dtype,
        x=normal(T, B, I),
        w_ih=normal(4 * H, I) * scale,
        w_hh=normal(4 * H, P) * scale,
        b=normal(4 * H) if case.bias else None,
        state=(normal(B, P), normal(B, H)) if case.state else None,
        w_proj=None if case.P is None else normal(P, H) * np.float32(1 / np.sqrt(H)).astype(dtype),
        dy=normal(T, B, P) if case.dy else None,
        dstate=(normal(B, P), normal(B, H)) if case.dstate else None,
        lengths=case.lengths,
        reverse=case.reverse,
    )
    weights = dict(
        w_peephole=lambda: normal(3, H),
        w_fgr=lambda: normal(3 * H, 3 * H) * np.float32(1 / np.sqrt(3 * H)).astype(dtype),
        ln_x=lambda: normal(4 * H),
        ln_h=lambda: normal(4 * H),
        ln_c=lambda: normal(2, H),
    )
    for name in variant_weights(case.spec):
        setattr(problem, name, weights[name]())
    return problem


def run(implementation, problem, keep=False):
    """All that an implementation computes for a problem, by name."""
    y, (h_n, c_n), tape = implementation.lstm_forward(**problem.forward())
    results = dict(y=y, h_n=h_n, c_n=c_n)
    results |= {f"tape.{name}": getattr(tape, name).copy() for name in ("h", "c", "gates")}
    return results | backward(implementation, problem, tape, keep)


def backward(implementation, problem, tape, keep=False):
    """The gradients by name: dx, dh0, dc0, and "d" + each weight's name."""
    dx, (dh0, dc0), grads = implementation.lstm_backward(
        tape, problem.dy, problem.dstate, keep=keep
    )
    return dict(dx=dx, dh0=dh0, dc0=dc0) | {f"d{name}": a for name, a in grads.items()}


@cache
def expected(case):
    """The answer of a case: the reference's in float64. Shared: read-only."""
    results = run(reference, make_problem(case))
    for a in results.values():
        a.flags.writeable = False
    return results
