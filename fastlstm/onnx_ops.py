# SPDX-License-Identifier: MIT
"""What the nodes of an ONNX graph compute, in NumPy: arithmetic, activations, along axes.

Those that change shapes are in `onnx_shapes`, LSTM, GRU and RNN in `onnx_recurrent`.
`KERNELS` maps (operator, version that introduced its meaning) to a function of the inputs, an
input that was left out being None, and of the attributes by name. A version that is not listed
is not guessed at. Functions whose result can be larger than all of their inputs take as first
argument ``room``, which refuses a shape that is too large before it is made; ``outputs`` is how
many outputs the node has.
"""

from math import prod

import numpy as np

from .activations import activation, sigmoid

__all__ = ["DTYPES", "KERNELS", "Kernel"]

# By TensorProto.DataType. Integers and bool are what shapes and masks are made of.
DTYPES = {
    1: np.dtype("float32"),
    11: np.dtype("float64"),
    6: np.dtype("int32"),
    7: np.dtype("int64"),
    9: np.dtype("bool"),
}
TYPE_NAMES = {1: "tensor(float)", 11: "tensor(double)", 6: "tensor(int32)", 7: "tensor(int64)",
              9: "tensor(bool)"}  # fmt: skip
LAYOUT_ONLY = (13, 21, 23, 24, 25)  # later versions brought types, no meaning


class Kernel:
    """A function of this module, and whether it asks for room."""

    def __init__(self, function, room):
        self.function = function
        self.room = room


KERNELS = {}


def kernel(name, *versions, room=False):
    """Register a function for an operator in these versions."""

    def register(function):
        for version in versions:
            KERNELS[name, version] = Kernel(function, room)
        return function

    return register


# -- checks ----------------------------------------------------------------------------------


def same_dtype(*arrays):
    """Refuse arrays of different dtypes: NumPy would widen them in silence."""
    names = {a.dtype.name for a in arrays}
    if len(names) > 1:
        raise ValueError(f"the inputs must share one dtype, got {', '.join(sorted(names))}")


def floats(x):
    """Refuse what is no float."""
    if x.dtype.kind != "f":
        raise ValueError(f"the input must be float32 or float64, got {x.dtype}")
    return x


def integers(x):
    """The values of a 1-D integer array as ints, of a scalar as a list of one."""
    if x.dtype.kind != "i" or x.ndim > 1:
        raise ValueError(f"expected a 1-D array of integers, got {x.dtype} {x.shape}")
    return x.reshape(-1).tolist()


def axis_of(axis, ndim):
    """The axis counted from the front."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis must be in [{-ndim}, {ndim - 1}], got {axis}")
    return axis % ndim


def axes_of(axes, ndim):
    """The axes counted from the front; refuses one that occurs twice."""
    found = [axis_of(axis, ndim) for axis in axes]
    if len(set(found)) < len(found):
        raise ValueError(f"an axis occurs twice in {list(axes)}")
    return tuple(found)


# -- arithmetic ------------------------------------------------------------------------------


def _binary(name, function):
    def run(room, a, b):
        same_dtype(a, b)
        room(np.broadcast_shapes(a.shape, b.shape), a.dtype)
        return function(a, b)

    kernel(name, 7, 13, 14, room=True)(run)


def _divide(a, b):
    if a.dtype.kind == "f":
        return a / b
    if (b == 0).any():
        raise ValueError("integer division by zero")
    quotient = a // b
    return quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype)  # towards zero


_binary("Add", np.add)
_binary("Sub", np.subtract)
_binary("Mul", np.multiply)
_binary("Div", _divide)


@kernel("Neg", 6, 13)
def _neg(x):
    return -x


@kernel("MatMul", 1, 9, 13, room=True)
def _matmul(room, a, b):
    same_dtype(a, b)
    if a.ndim > 1 and b.ndim > 1:
        room((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)
    return np.matmul(a, b)


@kernel("Gemm", 7, 9, 11, 13, room=True)
def _gemm(room, a, b, c=None, *, alpha, beta, transA, transB):
    floats(a)
    same_dtype(*(x for x in (a, b, c) if x is not None))
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"A and B must have 2 dimensions, got {a.shape} and {b.shape}")
    a, b = a.T if transA else a, b.T if transB else b
    room((a.shape[0], b.shape[1]), a.dtype)
    y = a @ b
    if alpha != 1:
        y *= y.dtype.type(alpha)
    if c is not None and beta != 0:
        y += np.broadcast_to(c, y.shape) * y.dtype.type(beta) if beta != 1 else c
    return y


# -- functions of each element ---------------------------------------------------------------


def _unary(name, function, *versions):
    kernel(name, *versions)(lambda x: function(floats(x)))


_unary("Sigmoid", lambda x: sigmoid(x).astype(x.dtype, copy=False), 6, 13)
_unary("Tanh", np.tanh, 6, 13)
_unary("Exp", np.exp, 6, 13)
_unary("Softplus", activation("softplus")[0], 1, 22)
_unary("Softsign", activation("softsign")[0], 1, 22)


@kernel("Relu", 6, 13, 14)
def _relu(x):
    return np.maximum(x, x.dtype.type(0))


@kernel("LeakyRelu", 6, 16)
def _leaky_relu(x, *, alpha):
    return np.where(x < 0, floats(x) * x.dtype.type(alpha), x)


@kernel("HardSigmoid", 6, 22)
def _hard_sigmoid(x, *, alpha, beta):
    return np.clip(floats(x) * x.dtype.type(alpha) + x.dtype.type(beta), 0, 1)


@kernel("ThresholdedRelu", 10, 22)
def _thresholded_relu(x, *, alpha):
    return np.where(x > alpha, floats(x), x.dtype.type(0))


@kernel("Elu", 6, 22)
def _elu(x, *, alpha):
    return np.where(x < 0, x.dtype.type(alpha) * np.expm1(np.minimum(floats(x), 0)), x)


@kernel("Clip", 6)
def _clip_attributes(x, *, min, max):
    return np.clip(floats(x), x.dtype.type(min), x.dtype.type(max))


@kernel("Clip", 11, 12, 13)
def _clip(x, low=None, high=None):
    bounds = [a for a in (low, high) if a is not None]
    same_dtype(x, *bounds)
    if any(a.ndim for a in bounds):
        raise ValueError("min and max must be scalars")
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


@kernel("Identity", 1, *LAYOUT_ONLY, 14, 16, 19)
def _identity(x):
    return x


@kernel("Dropout", 7, 10)
def _dropout_attribute(x, *, ratio=0.5):
    return x, np.ones(x.shape, bool)


@kernel("Dropout", 12, 13, 22)
def _dropout(x, ratio=None, training_mode=None, *, seed=0):
    if training_mode is not None and training_mode.any():
        raise ValueError("training_mode is not supported")
    return x, np.ones(x.shape, bool)


@kernel("Cast", 6, 9, 13, 19, 21, 23, 24, 25, room=True)
def _cast(room, x, *, to, saturate=1):
    room(x.shape, DTYPES[to])
    return x.astype(DTYPES[to], copy=False)


# -- along axes ------------------------------------------------------------------------------


def _softmax_of(x, axis):
    if x.shape[axis] == 0:
        return x.copy()
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _log_softmax_of(x, axis):
    if x.shape[axis] == 0:
        return x.copy()
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _softmaxes(name, function):
    def run(x, *, axis):
        return function(floats(x), axis_of(axis, x.ndim))

    def run_flattened(x, *, axis):  # before opset 13: over all axes from this one on
        axis = axis_of(axis, x.ndim)
        rows = floats(x).reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))
        return function(rows, 1).reshape(x.shape)

    kernel(name, 13)(run)
    kernel(name, 1, 11)(run_flattened)


def _reductions(name, function, attribute_versions, input_versions):
    def reduce(x, axes, keepdims):
        return function(x, axis=axes_of(axes, x.ndim), keepdims=bool(keepdims))

    def run_attribute(x, *, axes=None, keepdims):
        return reduce(x, axes or range(x.ndim), keepdims)

    def run(x, axes=None, *, keepdims, noop_with_empty_axes):
        axes = [] if axes is None else integers(axes)
        if not axes and noop_with_empty_axes:
            return x
        return reduce(x, axes or range(x.ndim), keepdims)

    kernel(name, *attribute_versions)(run_attribute)
    kernel(name, *input_versions)(run)


def _mean(x, axis, keepdims):  # of no numbers: NaN, for which np.mean would warn
    count = np.asarray(prod(x.shape[k] for k in axis), x.dtype)
    return _divide(x.sum(axis=axis, keepdims=keepdims, dtype=x.dtype), count)


_softmaxes("Softmax", _softmax_of)
_softmaxes("LogSoftmax", _log_softmax_of)
_reductions("ReduceMean", _mean, (1, 11, 13), (18,))
_reductions("ReduceMax", np.max, (1, 11, 12, 13), (18, 20))
_reductions("ReduceMin", np.min, (1, 11, 12, 13), (18, 20))
_reductions("ReduceSum", lambda x, **k: np.sum(x, dtype=x.dtype, **k), (1, 11), (13,))
