# SPDX-License-Identifier: MIT
"""Stacked and bidirectional cases, their random data, and layers composed of cells."""

from dataclasses import dataclass, replace

import numpy as np
from cases import draw


@dataclass(frozen=True)
class Stack:
    """L layers in one or both directions. ``lengths``: None or a tuple of B integers."""

    T: int = 7
    B: int = 3
    I: int = 5
    H: int = 9
    P: int = 0
    L: int = 1
    bidirectional: bool = False
    bias: bool = True
    state: bool = True
    lengths: tuple | None = None

    def __str__(self):
        parts = [f"{d}{getattr(self, d)}" for d in "TBIHPL" if getattr(self, d) or d != "P"]
        parts += ["bidirectional"] * self.bidirectional
        parts += ["ragged"] * (self.lengths is not None)
        parts += [f"no{s}" for s in ("bias", "state") if not getattr(self, s)]
        return "_".join(parts)

    @property
    def D(self):
        """Directions."""
        return 1 + self.bidirectional

    @property
    def width(self):
        """Size of h: the projection's, or H."""
        return self.P or self.H

    def cells(self):
        """(layer, direction, PyTorch's suffix, input size) of each cell, in the order of h_n."""
        for layer in range(self.L):
            inputs = self.D * self.width if layer else self.I
            for direction in range(self.D):
                yield layer, direction, f"l{layer}" + "_reverse" * direction, inputs

    def arguments(self):
        """The arguments of fastlstm.LSTM."""
        return dict(
            input_size=self.I, hidden_size=self.H, num_layers=self.L, bias=self.bias,
            bidirectional=self.bidirectional, proj_size=self.P,
        )  # fmt: skip


STACKS = (
    Stack(),
    Stack(bias=False),
    Stack(state=False),
    Stack(B=4, lengths=(2, 7, 1, 5)),
    Stack(bidirectional=True),
    Stack(bidirectional=True, B=4, lengths=(2, 7, 1, 5)),
    Stack(L=2),
    Stack(L=3, H=5, B=4, lengths=(3, 1, 7, 6)),
    Stack(P=4),
    Stack(P=4, bidirectional=True, B=4, lengths=(2, 7, 1, 5)),
    Stack(L=2, bidirectional=True),
    Stack(L=2, bidirectional=True, P=3, B=4, lengths=(2, 7, 1, 5)),
    Stack(L=2, bidirectional=True, P=3, bias=False, state=False),
    Stack(T=1, B=1, I=1, H=1),
    Stack(T=12, B=2, I=3, H=19),
)
# what PyTorch's packed sequences do not take: rows without a step; and other edges
DEEP = Stack(L=2, bidirectional=True, P=3, B=4, lengths=(2, 7, 0, 5))
EDGE_STACKS = (
    DEEP,
    Stack(L=3, H=5, B=4, lengths=(0, 7, 3, 0)),
    Stack(L=2, bidirectional=True, lengths=(0, 0, 0)),
    Stack(T=0, L=2, bidirectional=True),
    Stack(B=0, L=2),
    Stack(I=0, L=2),
    Stack(H=1, L=4, B=2),
    Stack(H=33, I=17, L=2, bidirectional=True, B=6, lengths=(1, 7, 7, 2, 0, 4)),
)


@dataclass
class StackProblem:
    """The numbers of a stack; the weights by PyTorch's names."""

    stack: Stack
    dtype: np.dtype
    x: np.ndarray
    weights: dict
    state: tuple | None
    dy: np.ndarray
    dstate: tuple

    @property
    def lengths(self):
        """As the stack's."""
        return self.stack.lengths

    def astype(self, dtype):
        """The same numbers in another dtype."""

        def cast(value):
            if isinstance(value, np.ndarray):
                return value.astype(dtype)
            if isinstance(value, dict):
                return {name: a.astype(dtype) for name, a in value.items()}
            return value and tuple(a.astype(dtype) for a in value)

        names = ("x", "weights", "state", "dy", "dstate")
        changed = {name: cast(getattr(self, name)) for name in names}
        return replace(self, dtype=np.dtype(dtype), **changed)


def make_stack_problem(stack, dtype="float64", seed=0):
    """Random numbers for a stack: float32 numbers in ``dtype``."""
    dtype = np.dtype(dtype)
    normal = draw(np.random.default_rng([seed, *str(stack).encode()]), dtype)
    T, B, I, H = stack.T, stack.B, stack.I, stack.H
    weights = {}
    for _, _, suffix, inputs in stack.cells():
        scale = np.float32(1.5 / np.sqrt(inputs + stack.width)).astype(dtype)
        weights[f"weight_ih_{suffix}"] = normal(4 * H, inputs) * scale
        weights[f"weight_hh_{suffix}"] = normal(4 * H, stack.width) * scale
        if stack.bias:
            weights[f"bias_ih_{suffix}"] = normal(4 * H)
            weights[f"bias_hh_{suffix}"] = normal(4 * H)
        if stack.P:
            scale = np.float32(1 / np.sqrt(H)).astype(dtype)
            weights[f"weight_hr_{suffix}"] = normal(stack.P, H) * scale
    LD = stack.L * stack.D
    states = [(normal(LD, B, stack.width), normal(LD, B, H)) for _ in range(2)]
    return StackProblem(
        stack=stack,
        dtype=dtype,
        x=normal(T, B, I),
        weights=weights,
        state=states[0] if stack.state else None,
        dy=normal(T, B, stack.D * stack.width),
        dstate=states[1],
    )


def cell_weights(problem, suffix):
    """The weights of one cell by their names in lstm_forward, the biases summed."""
    w = problem.weights
    named = dict(w_ih=w[f"weight_ih_{suffix}"], w_hh=w[f"weight_hh_{suffix}"])
    if problem.stack.bias:
        named["b"] = w[f"bias_ih_{suffix}"] + w[f"bias_hh_{suffix}"]
    if problem.stack.P:
        named["w_proj"] = w[f"weight_hr_{suffix}"]
    return named


NAMES = dict(w_ih="weight_ih", w_hh="weight_hh", b="bias", w_proj="weight_hr")


def compose(implementation, problem):
    """All results of a stack by name, one call of lstm_forward and lstm_backward for each cell."""
    stack, x = problem.stack, problem.x
    cells, h_n, c_n, outputs = [], [], [], []
    for k, (_, direction, suffix, _) in enumerate(stack.cells()):
        y, (h, c), tape = implementation.lstm_forward(
            x, **cell_weights(problem, suffix), lengths=stack.lengths, reverse=bool(direction),
            state=problem.state and tuple(a[k] for a in problem.state),
        )  # fmt: skip
        cells.append((k, direction, suffix, tape))
        h_n.append(h)
        c_n.append(c)
        outputs.append(y)
        if len(outputs) == stack.D:
            x, outputs = np.concatenate(outputs, axis=2), []
    results = dict(y=x, h_n=np.stack(h_n), c_n=np.stack(c_n))
    return results | _compose_backward(implementation, problem, cells)


def _compose_backward(implementation, problem, cells):
    stack, dy = problem.stack, problem.dy
    dx, dh0, dc0, grads = 0, [], [], {}
    for k, direction, suffix, tape in reversed(cells):
        part = dy[..., direction * stack.width : (direction + 1) * stack.width]
        dstate = tuple(a[k] for a in problem.dstate)
        dx_cell, (dh, dc), weights = implementation.lstm_backward(tape, part, dstate)
        dh0.insert(0, dh)
        dc0.insert(0, dc)
        grads |= {f"d{NAMES[name]}_{suffix}": a for name, a in weights.items()}
        dx = dx + dx_cell
        if direction == 0:
            dx, dy = 0, dx
    return dict(dx=dy, dh0=np.stack(dh0), dc0=np.stack(dc0)) | grads


def with_weights(make_layer, problem, **changes):
    """A fastlstm.LSTM with the problem's weights."""
    lstm = make_layer(**problem.stack.arguments(), dtype=problem.dtype, **changes)
    lstm.load_state_dict(problem.weights)
    return lstm


def run_layer(make_layer, problem, batch_first=False):
    """All results of a fastlstm.LSTM with the problem's weights, by name, as `compose` has them."""
    lstm = with_weights(make_layer, problem, batch_first=batch_first)

    def turned(a):
        return a.swapaxes(0, 1) if batch_first else a

    y, (h_n, c_n), tape = lstm.forward(turned(problem.x), problem.state, problem.stack.lengths)
    dx, (dh0, dc0), grads = lstm.backward(tape, turned(problem.dy), problem.dstate)
    results = dict(y=turned(y), h_n=h_n, c_n=c_n, dx=turned(dx), dh0=dh0, dc0=dc0)
    return results | {f"d{name}": a for name, a in grads.items()}
