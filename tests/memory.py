# SPDX-License-Identifier: MIT
"""Numbers laid out in memory in any way, for hypothesis."""

import numpy as np
from hypothesis import strategies as st

EDGE = 16  # bytes before and behind


class WithArray:
    """An object that has ``__array__`` and nothing else."""

    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a if dtype is None else self.a.astype(dtype)


class WithDLPack:
    """An object that has DLPack's protocol and nothing else."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **named):
        return self.a.__dlpack__(**named)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


class Subclass(np.ndarray):
    """A subclass whose product is something else."""

    def __matmul__(self, other):
        raise AssertionError("the product of a subclass was called")

    __rmatmul__ = __mul__ = __add__ = __matmul__


class Laid:
    """An array in a buffer of its own.

    Attributes
    ----------
    given : object
        What a caller passes in: the array, or something around it.
    values : ndarray
        Its numbers, contiguous and native.
    """

    def __init__(self, raw, view, wrap):
        self.view, self.given = view, wrap(view)
        self.values = np.array(view, view.dtype.newbyteorder("="), order="C")
        self._raw, self._before = raw, raw.tobytes()

    def check_unchanged(self, name):
        """No byte of the buffer is another, beside the array's numbers neither."""
        assert self._raw.tobytes() == self._before, f"{name} was written to"


def view_in(raw, start, shape, dtype, order, steps):
    """A view of ``shape`` that begins ``start`` bytes into raw, its axes stored in this order, of
    every abs(step)-th element, backward where step < 0."""
    extents = [abs(s) * (n - 1) + 1 if n else 0 for n, s in zip(shape, steps, strict=True)]
    stored = [extents[axis] for axis in order]
    size = int(np.prod(stored)) * dtype.itemsize
    base = raw[start : start + size].view(dtype).reshape(stored)
    back = np.argsort(order) if len(order) else ()
    return base.transpose(back)[tuple(slice(None, None, s) for s in steps)]


@st.composite
def layouts(draw, shape, dtype):
    """A buffer of NaN and a view of ``shape`` in it: any order, steps, place and byte order."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 2, 3, -1, -2])) for _ in shape]
    offset = draw(st.sampled_from([0, 0, 0, 1, 4, 7]))
    if draw(st.integers(0, 4)) == 0:
        dtype = dtype.newbyteorder("S")
    count = int(np.prod([3 * n for n in shape]))
    raw = np.full(count * dtype.itemsize + 2 * EDGE + 8, 255, np.uint8)
    return raw, view_in(raw, EDGE + offset, shape, dtype, order, steps)


@st.composite
def laid_out(draw, a):
    """`Laid` numbers of ``a``, or where a stride is 0 of its first ones along that axis."""
    raw, view = draw(layouts(a.shape, a.dtype))
    view[...] = a
    if a.ndim and a.size and draw(st.integers(0, 4)) == 0:
        axis = draw(st.integers(0, a.ndim - 1))
        view = np.broadcast_to(view.take([0], axis), a.shape)
        raw = np.zeros(0, np.uint8)
    elif draw(st.booleans()):
        view = view.view()
        view.flags.writeable = False
    wraps = [lambda v: v, lambda v: v.view(Subclass), WithArray]
    if (
        view.dtype.isnative
        and view.flags.writeable
        and all(s % view.itemsize == 0 for s in view.strides)
    ):
        wraps.append(WithDLPack)
    if a.dtype == np.float64 and a.size:
        wraps.append(lambda v: v.tolist())
    return Laid(raw, view, draw(st.sampled_from(wraps)))
