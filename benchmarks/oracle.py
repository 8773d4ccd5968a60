# SPDX-License-Identifier: MIT
"""What every competitor, ours included, has to compute before its time counts."""

import numpy as np

#: A tensor may be off by this many eps of its largest magnitude. The sums run over up to
#: T*B = 6400 terms and ONNX Runtime's activations are accurate to about 3 eps absolute, fed back
#: T = 100 times; a swapped gate or a bfloat16 product (2**-8) is off by 30 times more or worse.
TOLERANCE_EPS = 1000


class WrongResult(AssertionError):
    """A competitor disagrees with fastlstm.reference; it is not timed."""


def expected(problem):
    """The right answer of `problem`, from fastlstm.reference in float64.

    Returns
    -------
    dict of ndarray, float64
        `y` (T, B, D*H), `h_n` and `c_n` (L*D, B, H); for training also `dx` and one gradient per
        weight, under the weight's name.
    """
    from fastlstm import reference

    layer_input = problem.x.astype(np.float64)
    tapes, h_n, c_n = [], [], []
    y = {}
    for layer, direction, suffix, _ in problem.case.cells():
        w_ih, w_hh, b = (w.astype(np.float64) for w in problem.cell_weights(suffix))
        y[direction], (h, c), tape = reference.lstm_forward(
            layer_input, w_ih, w_hh, b, reverse=bool(direction), save=problem.what == "training"
        )
        tapes.append((layer, direction, suffix, tape))
        h_n.append(h)
        c_n.append(c)
        if direction == problem.case.D - 1:
            layer_input = np.concatenate([y[d] for d in range(problem.case.D)], axis=-1)
    answer = {"y": layer_input, "h_n": np.stack(h_n), "c_n": np.stack(c_n)}
    if problem.what == "training":
        answer |= _gradients(problem, tapes)
    return answer


def _gradients(problem, tapes):
    from fastlstm import reference

    H = problem.case.H
    answer = {}
    dy, dx = problem.dy.astype(np.float64), 0.0
    for _, direction, suffix, tape in reversed(tapes):
        half = dy[..., direction * H : (direction + 1) * H]
        dx_direction, _, grads = reference.lstm_backward(tape, half)
        dx = dx + dx_direction
        for kind, name in (("weight_ih", "w_ih"), ("weight_hh", "w_hh"), ("bias", "b")):
            answer[f"{kind}_{suffix}"] = grads[name]
        if direction == 0:
            dy, dx = dx, 0.0
    return answer | {"dx": dy}


def check(result, answer, dtype):
    """The largest error of `result` in eps of `dtype`, relative to each tensor's magnitude.

    Parameters
    ----------
    result, answer : dict of ndarray
        What was computed and what `expected` says, by name; a result may leave out a final state
        that its call does not return, never `y`, `dx` or a gradient.
    dtype : str

    Raises
    ------
    WrongResult
        A tensor is missing, misshapen, not finite, or off by more than `TOLERANCE_EPS` eps.
    """
    eps = np.finfo(dtype).eps
    worst = 0.0
    for name, right in answer.items():
        if name not in result:
            if name in ("h_n", "c_n"):
                continue
            raise WrongResult(f"{name} is missing")
        got = np.asarray(result[name])
        if got.shape != right.shape or got.dtype != dtype:
            raise WrongResult(f"{name} must be {dtype} {right.shape}, got {got.dtype} {got.shape}")
        error = np.max(np.abs(got - right), initial=0.0)
        error /= eps * max(np.max(np.abs(right), initial=0.0), np.finfo(dtype).tiny)
        if not error <= TOLERANCE_EPS:  # catches NaN too
            raise WrongResult(f"{name} is off by {error:.3g} eps, allowed {TOLERANCE_EPS}")
        worst = max(worst, float(error))
    return worst
