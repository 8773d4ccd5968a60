# SPDX-License-Identifier: MIT
"""Every rule about shapes and dtypes, and every text of an error about them.

All of it runs before any work. A message says the name, what was expected (in symbols and
in numbers) and what came. The rules for numbers are in number_checks.py, those for tangents in
tangent_checks.py.
"""

from dataclasses import dataclass, field

import numpy as np

from .number_checks import checkpoint, generator, integer, probability, sizes, truncation
from .spec import Spec
from .tape import Tape

__all__ = [
    "Inputs", "Sized", "array", "checkpoint", "forward_inputs", "generator", "gradient", "integer",
    "lengths_array", "probability", "shape", "sizes", "state_pair", "truncation",
]  # fmt: skip

_DTYPES = (np.dtype("float32"), np.dtype("float64"))

# How the shapes of a layer's parameters are written
SYMBOLS = {
    "weight_ih": "4*H, I",
    "weight_hh": "4*H, H|P",
    "bias": "4*H",
    "weight_hr": "P, H",
    "weight_peephole": "3, H",
    "weight_fgr": "3*H, 3*H",
    "ln_x": "4*H",
    "ln_h": "4*H",
    "ln_c": "2, H",
}
# The weights of variants: how their shapes are written, and as factors of H
_VARIANT_WEIGHTS = {
    "w_peephole": ("3, H", lambda H: (3, H)),
    "w_fgr": ("3*H, 3*H", lambda H: (3 * H, 3 * H)),
    "ln_x": ("4*H", lambda H: (4 * H,)),
    "ln_h": ("4*H", lambda H: (4 * H,)),
    "ln_c": ("2, H", lambda H: (2, H)),
}


def array(name, value):
    """``value`` as a native float32 or float64 ndarray, without a copy where that is possible.

    Accepts ndarrays, ``__array__``, ``__dlpack__`` and nested sequences of floats.

    Raises
    ------
    TypeError
        It is not an array of float32 or float64.
    """
    if not isinstance(value, np.ndarray):
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            try:
                value = np.from_dlpack(value)
            except (BufferError, RuntimeError, TypeError, ValueError) as fault:
                # another device, or a dtype that NumPy has not
                raise TypeError(f"{name} cannot be taken through DLPack: {fault}") from fault
        else:
            try:
                value = np.asarray(value)
            except ValueError as fault:  # a ragged nested sequence
                raise TypeError(f"{name} must be an array: {fault}") from None
    if value.dtype not in _DTYPES or not value.flags.aligned:
        native = value.dtype.newbyteorder("=")
        if native not in _DTYPES:
            raise TypeError(f"{name} must be float32 or float64, got {value.dtype}")
        value = np.require(value, native, "A")
    return value if type(value) is np.ndarray else np.asarray(value)


def dimensions(name, value, symbols):
    """Refuse ``value`` if it has not one dimension for each of ``symbols``, as "T, B, I"."""
    n = symbols.count(",") + 1
    if value.ndim != n:
        raise ValueError(f"{name} must have {n} dimensions ({symbols}), got shape {value.shape}")


def shape(name, value, symbols, expected):
    """Refuse ``value`` if its shape is not ``expected``, written ``symbols`` as "4*H, I"."""
    if value.shape != expected:
        comma = "" if "," in symbols else ","
        raise ValueError(
            f"{name} must have shape ({symbols}{comma}) = {expected}, got {value.shape}"
        )


def same_dtype(first, **others):
    """Refuse arrays whose dtype is not that of ``first``, a pair (name, array)."""
    name, value = first
    for other, a in others.items():
        if a is not None and a.dtype != value.dtype:
            raise TypeError(
                f"{name} is {value.dtype} but {other} is {a.dtype}; all arrays must share one dtype"
            )


def parts(name, value, symbols):
    """``value`` as a tuple with a part for each of ``symbols``, as "h0, c0"; None: of None."""
    n = symbols.count(",") + 1
    if value is None:
        return (None,) * n
    if isinstance(value, np.ndarray) or not hasattr(value, "__len__") or len(value) != n:
        kind = "pair" if n == 2 else f"tuple of {n}"
        raise TypeError(f"{name} must be None or a {kind} ({symbols}), got {type(value).__name__}")
    return tuple(value)


def layers(name, value, n, symbols):
    """``value`` as a tuple of n arrays, one for each layer: where layers differ in size."""
    if isinstance(value, np.ndarray) or not hasattr(value, "__len__") or len(value) != n:
        raise TypeError(
            f"{name} must be a tuple of {n} arrays ({symbols}), one for each layer, "
            f"got {type(value).__name__}"
        )
    return tuple(value)


def state_pair(name, value, names, symbols, shapes, like):
    """A pair of states or of their gradients as arrays; None stands for zeros.

    Parameters
    ----------
    name : str
        What the caller calls the pair, as "state".
    value : pair of array_like or None
    names, symbols : pair of str
        As ("h0", "c0") and ("B, H", "B, H").
    shapes : pair of tuple of int
    like : tuple (str, ndarray)
        The array whose dtype the states must have, and its name.
    """
    states = []
    for part, symbol, a, expected in zip(
        names, symbols, parts(name, value, ", ".join(names)), shapes, strict=True
    ):
        if a is None:
            a = np.zeros(expected, like[1].dtype)
        else:
            a = array(part, a)
            shape(part, a, symbol, expected)
            same_dtype(like, **{part: a})
        states.append(a)
    return tuple(states)


def lengths_array(lengths, T, B):
    """``lengths`` as an array (B,) of intp in [0, T], or None where every row has length T."""
    if lengths is None:
        return None
    lengths = np.asarray(lengths)
    if lengths.dtype.kind not in "iu" and lengths.size:
        raise TypeError(f"lengths must be integers, got {lengths.dtype}")
    shape("lengths", lengths, "B", (B,))
    bad = np.flatnonzero((lengths < 0) | (lengths > T))
    if bad.size:
        k = bad[0]
        raise ValueError(f"lengths[{k}] must be in [0, T] = [0, {T}], got {lengths[k]}")
    lengths = lengths.astype(np.intp)
    return None if (lengths == T).all() else lengths


def flags(name, value, symbols, expected):
    """``value`` as an array of bool of this shape; None stays None."""
    if value is None:
        return None
    value = np.asarray(value)
    if value.dtype != bool:
        raise TypeError(f"{name} must be an array of bool, got {value.dtype}")
    shape(name, value, symbols, expected)
    return value


def output_array(out, expected, symbols, inputs):
    """``out`` if a result may be written there, a new array if it is None."""
    like = inputs["x"]
    if out is None:
        return np.empty(expected, like.dtype)
    if type(out) is not np.ndarray:
        raise TypeError(f"out must be an ndarray, got {type(out).__name__}")
    shape("out", out, symbols, expected)
    same_dtype(("x", like), out=out)
    if not (out.flags.writeable and out.flags.aligned and out.dtype.isnative):
        raise ValueError("out must be writeable, aligned and of native byte order")
    if out.size and any(n > 1 and s == 0 for n, s in zip(out.shape, out.strides, strict=True)):
        raise ValueError(f"out must not overlap itself, got strides {out.strides}")
    for name, a in inputs.items():
        if a is not None and _overlap(out, a):
            raise ValueError(f"out must not overlap {name}, whose memory it shares")
    return out


def _overlap(a, b):
    try:
        return np.shares_memory(a, b, max_work=1000)
    except np.exceptions.TooHardError:
        return True


class Sized:
    """Arguments with an ``x`` (T, B, I), of which the sizes are read off."""

    __slots__ = ()

    @property
    def T(self):
        """Steps."""
        return self.x.shape[0]

    @property
    def B(self):
        """Rows of the batch."""
        return self.x.shape[1]

    @property
    def I(self):  # noqa: E743  the field's letter for the input size
        """Input size."""
        return self.x.shape[2]


@dataclass(slots=True)
class Inputs(Sized):
    """The checked arguments of `lstm_forward`; T, B, I, H, P are read off their shapes."""

    x: np.ndarray  # (T, B, I)
    w_ih: np.ndarray  # (4H, I)
    w_hh: np.ndarray  # (4H, P)
    b: np.ndarray | None  # (4H,)
    h0: np.ndarray  # (B, P)
    c0: np.ndarray  # (B, H)
    w_proj: np.ndarray | None  # (P, H); None: P = H
    lengths: np.ndarray | None  # (B,) intp; None: all T
    reverse: bool
    spec: Spec
    y: np.ndarray  # (T, B, P), to be written
    w_peephole: np.ndarray | None = None  # (3, H)
    w_fgr: np.ndarray | None = None  # (3H, 3H)
    ln_x: np.ndarray | None = None  # (4H,)
    ln_h: np.ndarray | None = None  # (4H,)
    ln_c: np.ndarray | None = None  # (2, H)
    masks: dict = field(default_factory=dict)  # of `masks.cell_masks`
    mask: np.ndarray | None = None  # (T, B) of bool: False where a row stands still
    reset: np.ndarray | None = None  # (T, B) of bool

    @property
    def H(self):
        """Hidden size: of c and of each gate."""
        return self.c0.shape[1]

    @property
    def P(self):
        """Size of h: the projection's, or H."""
        return self.h0.shape[1]

    @property
    def weights(self):
        """The weights that were given, by their names in `lstm_forward`."""
        named = {name: getattr(self, name) for name in WEIGHTS}
        return {name: w for name, w in named.items() if w is not None}


WEIGHTS = ("w_ih", "w_hh", "b", "w_proj", *_VARIANT_WEIGHTS)


def variant_weights(spec):
    """The names of the weights that this variant has on top of the default cell's.

    Examples
    --------
    >>> variant_weights(Spec(peepholes="i", full_gate_recurrence=True))
    ('w_peephole', 'w_fgr')
    """
    if not spec.changed:
        return ()
    asked = {
        "w_peephole": spec.peepholes,
        "w_fgr": spec.full_gate_recurrence,
        "ln_x": spec.layer_norm,
        "ln_h": spec.layer_norm,
        "ln_c": spec.layer_norm,
    }
    return tuple(name for name in asked if asked[name])


def variant_shapes(spec, H):
    """Name -> shape of the weights that this variant has on top of the default cell's."""
    return {name: _VARIANT_WEIGHTS[name][1](H) for name in variant_weights(spec)}


def _variants(spec, given, H, x):
    """The weights of a variant, by name, as arrays of the right shape."""
    needed = variant_weights(spec)
    weights = {}
    for name, a in given.items():
        if name not in needed:
            if a is not None:
                raise ValueError(f"{name} was given, but spec does not use it: {spec}")
            continue
        symbols, size = _VARIANT_WEIGHTS[name]
        if a is None:
            raise ValueError(f"{name} ({symbols}) is missing, which spec asks for: {spec}")
        a = array(name, a)
        shape(name, a, symbols, size(H))
        same_dtype(("x", x), **{name: a})
        weights[name] = a
    return weights


def float_dtype(name, value):
    """``value`` as the dtype float32 or float64."""
    try:
        dtype = None if value is None else np.dtype(value)  # of None NumPy makes float64
    except TypeError:
        dtype = None
    if dtype is None or dtype not in _DTYPES:  # None == float64 in NumPy
        raise TypeError(f"{name} must be float32 or float64, got {value!r}")
    return dtype


def forward_inputs(x, w_ih, w_hh, b, state, variants, w_proj, lengths, reverse, spec, out):
    """The arguments of `lstm_forward`, checked.

    ``variants`` holds the weights of variants (name -> array or None): those that ``spec`` asks
    for must be there, and no others.
    """
    if not isinstance(spec, Spec):
        raise TypeError(f"spec must be a fastlstm.Spec, got {type(spec).__name__}")
    x, w_ih, w_hh = array("x", x), array("w_ih", w_ih), array("w_hh", w_hh)
    dimensions("x", x, "T, B, I")
    dimensions("w_ih", w_ih, "4*H, I")
    T, B, I = x.shape
    H, rest = divmod(w_ih.shape[0], 4)
    if rest or H == 0:
        raise ValueError(
            f"w_ih must have shape (4*H, I) with H >= 1, its rows the gates i f g o, "
            f"got {w_ih.shape}"
        )
    shape("w_ih", w_ih, "4*H, I", (4 * H, I))
    P = H
    if w_proj is not None:
        w_proj = array("w_proj", w_proj)
        dimensions("w_proj", w_proj, "P, H")
        P = w_proj.shape[0]
        if P == 0:
            raise ValueError(f"w_proj must have shape (P, H) with P >= 1, got {w_proj.shape}")
        shape("w_proj", w_proj, "P, H", (P, H))
    projected = "H" if w_proj is None else "P"
    shape("w_hh", w_hh, f"4*H, {projected}", (4 * H, P))
    if b is not None:
        b = array("b", b)
        shape("b", b, "4*H", (4 * H,))
    same_dtype(("x", x), w_ih=w_ih, w_hh=w_hh, b=b, w_proj=w_proj)
    symbols = (f"B, {projected}", "B, H")
    h0, c0 = state_pair("state", state, ("h0", "c0"), symbols, ((B, P), (B, H)), ("x", x))
    variants = _variants(spec, variants, H, x)
    lengths = lengths_array(lengths, T, B)
    named = dict(x=x, w_ih=w_ih, w_hh=w_hh, b=b, h0=h0, c0=c0, w_proj=w_proj, **variants)
    y = output_array(out, (T, B, P), f"T, B, {projected}", named)
    return Inputs(x, w_ih, w_hh, b, h0, c0, w_proj, lengths, bool(reverse), spec, y, **variants)


def gradient(name, value, symbols, expected, like):
    """The gradient ``value`` as an array of that shape and dtype, or None."""
    if value is None:
        return None
    value = array(name, value)
    shape(name, value, symbols, expected)
    if value.dtype != like[1].dtype:
        same_dtype(like, **{name: value})  # raises; asked alone it takes as long as all the rest
    return value


def backward_inputs(tape, dy, dstate):
    """The arguments of `lstm_backward`, checked: the forward's inputs, dy or None, dh, dc.

    dh and dc are fresh C-contiguous copies: the backward pass works in them.
    """
    if not isinstance(tape, Tape):
        raise TypeError(
            f"tape must be the Tape that lstm_forward returned (with save=True), "
            f"got {type(tape).__name__}"
        )
    q = tape.inputs
    T, B, H, P = q.T, q.B, q.H, q.P
    p = "H" if q.w_proj is None else "P"
    dy = gradient("dy", dy, f"T, B, {p}", (T, B, P), ("x", q.x))
    symbols = (f"B, {p}", "B, H")
    names, shapes = ("dh_n", "dc_n"), ((B, P), (B, H))
    dh, dc = state_pair("dstate", dstate, names, symbols, shapes, ("x", q.x))
    return q, dy, np.array(dh, order="C"), np.array(dc, order="C")
