# SPDX-License-Identifier: MIT
"""The nodes of an ONNX graph that change shapes or pick numbers; see `onnx_ops`."""

from math import prod

import numpy as np

from .onnx_ops import LAYOUT_ONLY, axes_of, axis_of, integers, kernel, same_dtype

_ZERO = np.zeros(1, np.float32)


@kernel("Shape", 1, *LAYOUT_ONLY, 15, 19)
def _shape(x, *, start=0, end=None):
    return np.array(x.shape[start:end], np.int64)


@kernel("Reshape", 5, *LAYOUT_ONLY, 14, 19)
def _reshape(x, shape, *, allowzero=0):
    wanted = integers(shape)
    if min(wanted, default=0) < -1 or wanted.count(-1) > 1:
        raise ValueError(f"the shape may have one -1 and no other negative number, got {wanted}")
    if not allowzero:
        if any(n == 0 and k >= x.ndim for k, n in enumerate(wanted)):
            raise ValueError(f"0 in the shape {wanted} stands for a dimension that x has not")
        wanted = [x.shape[k] if n == 0 else n for k, n in enumerate(wanted)]
    return x.reshape(wanted)


@kernel("Flatten", 1, 9, 11, *LAYOUT_ONLY)
def _flatten(x, *, axis):
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"axis must be in [{-x.ndim}, {x.ndim}], got {axis}")
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@kernel("Transpose", 1, *LAYOUT_ONLY)
def _transpose(x, *, perm=None):
    if perm is not None and sorted(perm) != list(range(x.ndim)):
        raise ValueError(f"perm must order the {x.ndim} axes of the input, got {perm}")
    return x.transpose(perm)


@kernel("Squeeze", 1, 11)
def _squeeze_attribute(x, *, axes=None):
    return x.squeeze(None if axes is None else axes_of(axes, x.ndim))


@kernel("Squeeze", *LAYOUT_ONLY)
def _squeeze(x, axes=None):
    return _squeeze_attribute(x, axes=None if axes is None else integers(axes))


@kernel("Unsqueeze", 1, 11)
def _unsqueeze_attribute(x, *, axes):
    return np.expand_dims(x, axes_of(axes, x.ndim + len(axes)))


@kernel("Unsqueeze", *LAYOUT_ONLY)
def _unsqueeze(x, axes):
    return _unsqueeze_attribute(x, axes=integers(axes))


@kernel("Concat", 4, 11, 13, room=True)
def _concat(room, *arrays, axis):
    same_dtype(*arrays)
    first = arrays[0]
    axis = axis_of(axis, first.ndim)
    shape = list(first.shape)
    shape[axis] = sum(a.shape[axis] for a in arrays if a.ndim == first.ndim)
    room(shape, first.dtype)
    return np.concatenate(arrays, axis)


@kernel("Split", 2, 11)
def _split_attribute(x, *, outputs, axis=0, split=None):
    n = x.shape[axis_of(axis, x.ndim)]
    if split is None:
        if n % outputs:
            raise ValueError(f"{n} cannot be split into {outputs} equal parts")
        split = [n // outputs] * outputs
    if min(split) < 0 or sum(split) != n or len(split) != outputs:
        raise ValueError(f"split must be {outputs} sizes that sum to {n}, got {split}")
    return tuple(np.split(x, np.cumsum(split)[:-1], axis))


@kernel("Split", 13)
def _split(x, split=None, *, outputs, axis=0):
    split = None if split is None else integers(split)
    return _split_attribute(x, outputs=outputs, axis=axis, split=split)


@kernel("Split", 18)
def _split_evenly(x, split=None, *, outputs, axis=0, num_outputs=None):
    if split is None:  # the last part is smaller where they cannot be equal
        n, parts = x.shape[axis_of(axis, x.ndim)], num_outputs or outputs
        size = -(-n // parts)
        split = [max(0, min(size, n - k * size)) for k in range(parts)]
    else:
        split = integers(split)
    return _split_attribute(x, outputs=outputs, axis=axis, split=split)


@kernel("Gather", 1, 11, 13, room=True)
def _gather(room, x, indices, *, axis=0):
    if indices.dtype.kind != "i":
        raise ValueError(f"indices must be integers, got {indices.dtype}")
    axis = axis_of(axis, x.ndim)
    room((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)
    return np.take(x, indices, axis)


@kernel("Slice", 1)
def _slice_attributes(x, *, starts, ends, axes=None):
    axes = range(len(starts)) if axes is None else axes
    return _sliced(x, starts, ends, axes, [1] * len(starts))


@kernel("Slice", 10, 11, 13)
def _slice(x, starts, ends, axes=None, steps=None):
    starts, ends = integers(starts), integers(ends)
    axes = range(len(starts)) if axes is None else integers(axes)
    return _sliced(x, starts, ends, axes, [1] * len(starts) if steps is None else integers(steps))


def _sliced(x, starts, ends, axes, steps):
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ValueError("starts, ends, axes and steps must be equally long")
    cuts = [slice(None)] * x.ndim
    for k, start, end, step in zip(axes_of(axes, x.ndim), starts, ends, steps, strict=True):
        n = x.shape[k]
        if step == 0:
            raise ValueError("a step must not be 0")
        start, end = start + n * (start < 0), end + n * (end < 0)
        start = min(max(start, 0), n if step > 0 else n - 1)
        end = min(max(end, 0), n) if step > 0 else min(max(end, -1), n - 1)
        cuts[k] = slice(start, None if end < 0 else end, step)
    return x[tuple(cuts)]


@kernel("Expand", 8, 13, room=True)
def _expand(room, x, shape):
    wanted = integers(shape)
    if min(wanted, default=0) < 0:
        raise ValueError(f"the shape must not be negative, got {wanted}")
    wanted = np.broadcast_shapes(x.shape, tuple(wanted))
    room(wanted, x.dtype)
    return np.broadcast_to(x, wanted)


@kernel("ConstantOfShape", 9, 20, 21, 23, 24, 25, room=True)
def _constant_of_shape(room, shape, *, value=_ZERO):
    wanted = integers(shape)
    if min(wanted, default=0) < 0:
        raise ValueError(f"the shape must not be negative, got {wanted}")
    room(wanted, value.dtype)
    return np.broadcast_to(value.reshape(()), wanted)
