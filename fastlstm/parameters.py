# SPDX-License-Identifier: MIT
"""Named arrays in one flat buffer."""

from math import prod

from . import checks
from ._memory import aligned, lay_out

__all__ = ["Parameters"]


class Parameters(dict):
    """Named arrays, each of them a view into one contiguous 1-D buffer.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        The arrays, in the order in which they lie in the buffer.
    dtype : dtype
        float32 or float64.
    flat : ndarray (n,), optional
        Use this buffer instead of a new one of zeros, which starts on a cache line: a single step
        reads the weights, and writes their gradients, as they lie there.

    Attributes
    ----------
    flat : ndarray (n,)
        The buffer: what an optimiser updates and what an all-reduce sends.

    Raises
    ------
    TypeError
        ``dtype`` is neither.
    ValueError
        ``flat`` has another dtype or shape than the arrays need, or is not contiguous.

    Examples
    --------
    >>> p = Parameters({"weight": (2, 3), "bias": (2,)}, "float32")
    >>> p["bias"][:] = 1
    >>> p.flat
    array([0., 0., 0., 0., 0., 0., 1., 1.], dtype=float32)
    """

    def __init__(self, shapes, dtype, flat=None):
        super().__init__()
        dtype = checks.float_dtype("dtype", dtype)
        size = sum(prod(shape) for shape in shapes.values())
        if flat is None:
            flat = aligned((size,), dtype, zeros=True)
        elif flat.shape != (size,) or flat.dtype != dtype or not flat.flags.c_contiguous:
            raise ValueError(
                f"flat must be a contiguous {dtype} array of shape ({size},), "
                f"got {flat.dtype} {flat.shape}"
            )
        self.flat = flat
        self._layout, start = [], 0
        for name, shape in shapes.items():
            self._layout.append((name, start, shape))
            start += prod(shape)
        lay_out(self, self.flat, self._layout)

    def empty_like(self):
        """New arrays of the same names, shapes and dtype, in a buffer that is not initialised."""
        twin = type(self).__new__(type(self))
        twin.flat, twin._layout = aligned(self.flat.shape, self.flat.dtype), self._layout
        lay_out(twin, twin.flat, twin._layout)
        return twin

    def __reduce__(self):  # pickle, copy: the arrays of the copy are views of its own buffer
        return Parameters, (self.shapes, self.flat.dtype, self.flat.copy())

    @property
    def shapes(self):
        """Name -> shape, in the order of the buffer."""
        return {name: array.shape for name, array in self.items()}
