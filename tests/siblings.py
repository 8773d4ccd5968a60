# SPDX-License-Identifier: MIT
"""The cases of GRU, RNN and sLSTM, their random data, and what an implementation computes."""

from dataclasses import asdict, dataclass, replace

import numpy as np
from cases import draw

from fastlstm.siblings import GRUCell, RNNCell, SLSTMCell

HARD = ("hard_sigmoid", 0.2, 0.5)
CELLS = {
    "gru": GRUCell(),
    "gru-before": GRUCell(reset_after=False),
    "gru-hard": GRUCell(gate=HARD, candidate="softsign"),
    "gru-before-relu": GRUCell(reset_after=False, candidate=("leaky_relu", 0.1)),
    "gru-clip": GRUCell(clip=0.9),
    "gru-before-clip": GRUCell(reset_after=False, clip=1.1, gate=("affine", 0.3, 0.4)),
    "rnn": RNNCell(),
    "rnn-relu": RNNCell("relu"),
    "rnn-elu-clip": RNNCell(("elu", 1.5), clip=0.8),
    "slstm": SLSTMCell(),
    "slstm-heads": SLSTMCell(num_heads=3),
    "slstm-floor": SLSTMCell(num_heads=3, floor=True),
}


@dataclass(frozen=True)
class Shape:
    """One layer in one direction. ``lengths``: None or a tuple of B integers."""

    T: int = 7
    B: int = 3
    I: int = 5
    H: int = 9
    lengths: tuple | None = None
    mask: bool = False
    reset: bool = False
    reverse: bool = False
    bias: bool = True
    state: bool = True
    dy: bool = True
    dstate: bool = True

    def __str__(self):
        parts = [f"{d}{getattr(self, d)}" for d in "TBIH"]
        if self.lengths is not None:
            parts.append("ragged" + "".join(f"-{n}" for n in self.lengths))
        parts += [name for name in ("mask", "reset", "reverse") if getattr(self, name)]
        parts += [f"no{s}" for s in ("bias", "state", "dy", "dstate") if not getattr(self, s)]
        return "_".join(parts)


SHAPES = (
    Shape(),
    Shape(reverse=True),
    Shape(B=5, lengths=(3, 0, 7, 7, 5)),
    Shape(B=5, lengths=(3, 0, 7, 7, 5), reverse=True),
    Shape(mask=True),
    Shape(reset=True),
    Shape(B=5, lengths=(3, 0, 7, 7, 5), mask=True, reset=True, reverse=True),
    Shape(B=5, lengths=(6, 1, 4, 7, 5), mask=True, reset=True),
    Shape(bias=False),
    Shape(state=False),
    Shape(dy=False),
    Shape(dstate=False),
    Shape(T=0),
    Shape(T=1),
    Shape(T=1, B=1, I=1, H=3),
    Shape(B=0),
    Shape(B=1, H=33, I=17),
    Shape(I=0),
    Shape(lengths=(0, 0, 0), reverse=True),
    Shape(T=20, B=13, I=4, H=18),
    Shape(T=4, B=2, I=150, H=300),
    Shape(T=90, B=2, I=3, H=6, lengths=(90, 55), mask=True),
)


@dataclass
class Problem:
    """The arguments of a forward and of a backward pass."""

    cell: object
    shape: Shape
    dtype: np.dtype
    x: np.ndarray
    weights: dict
    state: tuple
    dy: np.ndarray | None
    dstate: tuple
    mask: np.ndarray | None
    reset: np.ndarray | None

    def forward(self):
        """The arguments of gru_forward, ... by name."""
        options = asdict(self.cell)
        options.pop("num_heads", None)
        return dict(
            x=self.x, **self.weights, state=whole(self.state), lengths=self.shape.lengths,
            mask=self.mask, reset=self.reset, reverse=self.shape.reverse, **options,
        )  # fmt: skip

    def arrays(self):
        """Every array that has a gradient, by name."""
        named = dict(x=self.x, **self.weights)
        if self.state is not None:
            named |= {f"{s}0": a for s, a in zip(self.cell.states, self.state, strict=True)}
        return {name: a for name, a in named.items() if a is not None}

    def astype(self, dtype):
        """The same numbers in another dtype."""

        def cast(value):
            if isinstance(value, np.ndarray):
                return value.astype(dtype)
            if isinstance(value, dict):
                return {name: cast(a) for name, a in value.items()}
            return value and tuple(map(cast, value))

        names = ("x", "weights", "state", "dy", "dstate")
        changed = {name: cast(getattr(self, name)) for name in names}
        return replace(self, dtype=np.dtype(dtype), **changed)


def whole(states):
    """As the functions take and return states: alone where there is one."""
    return states if states is None or len(states) > 1 else states[0]


def make_problem(cell, shape, dtype="float64", seed=0):
    """Random numbers for a case: float32 numbers in ``dtype``."""
    rng = np.random.default_rng([seed, *f"{cell} {shape}".encode()])
    normal = draw(rng, np.dtype(dtype))
    T, B, I, H = shape.T, shape.B, shape.I, shape.H
    scale = np.float32(1.5 / np.sqrt(I + H)).astype(dtype)
    weights = {}
    for name, (_, size) in cell.shapes(H, I).items():
        w = normal(*size)
        weights[name] = w * scale if name.startswith("w") else w if shape.bias else None

    def states():
        drawn = [normal(B, H) for _ in cell.states]
        if cell.name == "slstm":
            drawn[2] = np.abs(drawn[2]) + np.float32(0.5).astype(dtype)  # n is a sum of exp
        return tuple(drawn)

    return Problem(
        cell=cell, shape=shape, dtype=np.dtype(dtype), x=normal(T, B, I), weights=weights,
        state=states() if shape.state else None, dy=normal(T, B, H) if shape.dy else None,
        dstate=states() if shape.dstate else None,
        mask=rng.random((T, B)) < 0.6 if shape.mask else None,
        reset=rng.random((T, B)) < 0.25 if shape.reset else None,
    )  # fmt: skip


def functions(implementation, cell):
    """The forward and the backward function of this cell."""
    return (getattr(implementation, f"{cell.name}_{way}") for way in ("forward", "backward"))


def run(implementation, problem, keep=False):
    """All that an implementation computes for a problem, by name."""
    forward, backward = functions(implementation, problem.cell)
    y, end, tape = forward(**problem.forward())
    names = problem.cell.states
    end = end if isinstance(end, tuple) else (end,)
    results = dict(y=y) | {f"{s}_n": a for s, a in zip(names, end, strict=True)}
    results |= {f"tape.{s}": getattr(tape, s).copy() for s in (*names, "gates")}
    dx, dstart, grads = backward(tape, problem.dy, whole(problem.dstate), keep=keep)
    dstart = dstart if isinstance(dstart, tuple) else (dstart,)
    results |= dict(dx=dx) | {f"d{s}0": a for s, a in zip(names, dstart, strict=True)}
    return results | {f"d{name}": a for name, a in grads.items()}
