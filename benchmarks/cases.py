# SPDX-License-Identifier: MIT
"""The shapes that are timed, and the arrays that go with them. No other file names a shape.

Dims: T time, B batch, I input, H hidden, L layers, D directions; x is (T, B, I), y is (T, B, D*H).
"""

from dataclasses import dataclass, field

import numpy as np

WHATS = ("forward", "training", "step")
DTYPES = ("float32", "float64")
STEPS_CHECKED = 8  # a step is checked by streaming this many of them

_WHATS_FLOPS = {"forward": 8, "training": 24, "step": 8}


@dataclass(frozen=True)
class Case:
    """One network shape; hashable, and written `T,B,I,H[,Ln][,bi]` on the command line."""

    T: int
    B: int
    I: int
    H: int
    num_layers: int = 1
    bidirectional: bool = False

    @property
    def D(self):
        return 2 if self.bidirectional else 1

    @property
    def name(self):
        layers = f",L{self.num_layers}" if self.num_layers > 1 else ""
        return f"{self.T},{self.B},{self.I},{self.H}{layers}{',bi' if self.bidirectional else ''}"

    @property
    def single(self):
        """Whether this is one layer in one direction: the rows that the bars are about."""
        return self.num_layers == 1 and not self.bidirectional

    def cells(self):
        """(layer, direction, suffix of PyTorch's parameter names, inputs) of each cell."""
        for layer in range(self.num_layers):
            inputs = self.I if layer == 0 else self.D * self.H
            for direction in range(self.D):
                yield layer, direction, f"l{layer}{'_reverse' if direction else ''}", inputs

    def flops(self, what):
        """Operations of the products: 8 H (I + H) T B forward, three times that for training."""
        units = sum(self.H * (inputs + self.H) for *_, inputs in self.cells())
        return _WHATS_FLOPS[what] * units * self.B * (1 if what == "step" else self.T)

    def weight_bytes(self, dtype):
        """Bytes of weights that a call must at least read, all steps counted.

        The recurrent weights once a step, the input weights once a call.
        """
        item = np.dtype(dtype).itemsize
        cells = list(self.cells())
        return item * 4 * self.H * sum(inputs + self.T * self.H for *_, inputs in cells)


#: The 17 shapes that the bars are set on, small to large within each kind of use.
BAR_CASES = tuple(
    Case(*dims)
    for dims in (
        # one step of a stream
        (1, 1, 16, 64),
        (1, 1, 64, 256),
        (1, 1, 256, 512),
        # one sequence: bound by the bandwidth of the cache that holds the weights
        (100, 1, 8, 32),
        (100, 1, 16, 64),
        (100, 1, 64, 128),
        (100, 1, 128, 256),
        (100, 1, 256, 512),
        # forecasting a series
        (60, 32, 1, 50),
        (60, 64, 8, 64),
        # batches: bound by the FMA units
        (100, 16, 128, 128),
        (100, 32, 64, 128),
        (100, 32, 128, 256),
        (50, 64, 256, 256),
        (50, 64, 512, 512),
        (50, 128, 512, 512),
        (30, 32, 1024, 1024),
    )
)

#: Timed and reported as well, outside the bars: the stock tutorial's network, and both directions.
EXTRA_CASES = (
    Case(40, 32, 1, 45, num_layers=4),
    Case(100, 32, 64, 128, bidirectional=True),
)

CASES = BAR_CASES + EXTRA_CASES
STEP_CASES = tuple(case for case in BAR_CASES if case.T == case.B == 1)
#: The 8 with the least work; float64 is timed on these unless cases are named.
SMALL_CASES = tuple(sorted(BAR_CASES, key=lambda case: case.flops("forward"))[:8])
#: Where the fraction of the FMA peak is judged, and where the second thread has to pay.
PEAK_CASES = tuple(case for case in BAR_CASES if (case.B, case.H) == (64, 512))
SCALING_CASES = tuple(case for case in BAR_CASES if case.B >= 32 and case.H >= 128)

_BY_NAME = {case.name: case for case in CASES}


def by_name(name):
    """The case called `name`.

    Raises
    ------
    ValueError
        No case has that name; the text lists those that exist.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ValueError(f"no case {name!r}; there are: {'  '.join(_BY_NAME)}") from None


def selection(what, dtype, names=None):
    """The cases to time for `what` in `dtype`: all that apply, or those of `names` that do."""
    if names:
        chosen = [by_name(name) for name in names]
    else:
        chosen = SMALL_CASES if dtype == "float64" else CASES
    return [case for case in chosen if what != "step" or case in STEP_CASES]


@dataclass(frozen=True)
class Problem:
    """A case with its arrays: the same numbers in every process.

    Attributes
    ----------
    x : ndarray (T, B, I); for a step (STEPS_CHECKED, B, I), of which x[0] is the one timed
    dy : ndarray (T, B, D*H) - the gradient that training starts from
    weights : dict - `weight_ih_l0` (4H, I), `weight_hh_l0` (4H, H), `bias_l0` (4H,), ... in
        PyTorch's names and gate order i f g o, with one bias instead of two
    """

    case: Case
    dtype: str
    what: str
    x: np.ndarray = field(repr=False, compare=False)
    dy: np.ndarray = field(repr=False, compare=False)
    weights: dict = field(repr=False, compare=False)

    @classmethod
    def make(cls, case, dtype="float32", what="forward", seed=0):
        """The problem of `case`, `dtype` and `what`, reproducible from `seed`."""
        if what not in WHATS:
            raise ValueError(f"what must be one of {', '.join(WHATS)}, got {what!r}")
        rng = np.random.default_rng(seed)
        T = STEPS_CHECKED if what == "step" else case.T
        bound = 1 / np.sqrt(case.H)  # as PyTorch draws them

        def uniform(*shape):
            return rng.uniform(-bound, bound, shape).astype(dtype)

        weights = {}
        for _, _, suffix, inputs in case.cells():
            weights[f"weight_ih_{suffix}"] = uniform(4 * case.H, inputs)
            weights[f"weight_hh_{suffix}"] = uniform(4 * case.H, case.H)
            weights[f"bias_{suffix}"] = uniform(4 * case.H)
        x = rng.standard_normal((T, case.B, case.I)).astype(dtype)
        dy = rng.standard_normal((T, case.B, case.D * case.H)).astype(dtype)
        for array in (x, dy, *weights.values()):
            array.setflags(write=False)  # several engines look at the same numbers
        return cls(case, dtype, what, x, dy, weights)

    @property
    def torch_state(self):
        """The weights under torch.nn.LSTM's names: all of the bias in `bias_ih`, 0 in `bias_hh`."""
        state = {}
        for name, value in self.weights.items():
            if name.startswith("bias_"):
                state[name.replace("bias_", "bias_ih_")] = value
                state[name.replace("bias_", "bias_hh_")] = np.zeros_like(value)
            else:
                state[name] = value
        return state

    def cell_weights(self, suffix):
        """(w_ih, w_hh, b) of the cell whose parameters end in `suffix`."""
        kinds = "weight_ih", "weight_hh", "bias"
        return tuple(self.weights[f"{kind}_{suffix}"] for kind in kinds)
