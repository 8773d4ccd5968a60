# SPDX-License-Identifier: MIT
"""The rules for the arguments of `lstm_jvp` and `lstm_hvp`: what `checks` is for the others."""

from collections.abc import Mapping

import numpy as np

from . import checks
from .spec import Spec
from .tape import Tape

__all__ = ["cotangent_inputs", "forward_arguments", "tangent_inputs"]

_NAMES = ("x", "w_ih", "w_hh", "b", "h0", "c0", "w_peephole", "w_proj")
_SYMBOLS = {
    "x": "T, B, I",
    "w_ih": "4*H, I",
    "w_hh": "4*H, H|P",
    "b": "4*H",
    "h0": "B, H|P",
    "c0": "B, H",
    "w_peephole": "3, H",
    "w_proj": "P, H",
}
FIELDS = ("peepholes", "coupled", "cell_clip")  # of Spec: the variants with second derivatives


def _named(what, arrays):
    """The arrays of a dict by the names of `_NAMES`, without those that are None."""
    if not isinstance(arrays, Mapping):
        raise TypeError(
            f"{what} must be a dict of arrays by the names of lstm_forward, "
            f"got {type(arrays).__name__}"
        )
    for name in arrays:
        if name not in _NAMES:
            raise ValueError(f"{what} may have {', '.join(_NAMES)}, got {name!r}")
    return {name: a for name, a in arrays.items() if a is not None}


def forward_arguments(primals, spec):
    """The arguments of lstm_forward that ``primals`` holds, by name."""
    named = _named("primals", primals)
    for name in ("x", "w_ih", "w_hh"):
        if name not in named:
            raise ValueError(f"primals must have x, w_ih and w_hh, {name} is missing")
    if isinstance(spec, Spec):  # else lstm_forward says what is wrong
        for field, value in spec.changed.items():
            if field not in FIELDS:
                raise NotImplementedError(
                    f"second derivatives of Spec({field}={value!r}) cannot be computed yet, "
                    f"only of {', '.join(FIELDS)}"
                )
    state = named.pop("h0", None), named.pop("c0", None)
    return {**named, "state": state}


def tangent_inputs(tape, tangents):
    """``tangents`` as the forward's inputs, array by array; those that are missing are zeros.

    Parameters
    ----------
    tape : Tape
        Of the forward pass at which the derivatives are taken.
    tangents : dict of str to array_like

    Returns
    -------
    Inputs
        The tangent of each of ``tape.inputs``; None where that is None. There is no ``y``.
    """
    q = tape.inputs
    named = _named("tangents", tangents)
    v = {}
    for name in _NAMES:
        primal, tangent = getattr(q, name), named.get(name)
        if primal is None and tangent is not None:
            raise ValueError(f"tangents has {name}, which primals has not")
        if tangent is not None:
            tangent = checks.array(f"tangents[{name!r}]", tangent)
            checks.shape(f"tangents[{name!r}]", tangent, _SYMBOLS[name], primal.shape)
            checks.same_dtype(("x", q.x), **{f"tangents[{name!r}]": tangent})
        elif primal is not None:
            tangent = np.zeros(primal.shape, primal.dtype)
        v[name] = tangent
    return checks.Inputs(**v, lengths=q.lengths, reverse=q.reverse, spec=q.spec, y=None)


def cotangent_inputs(tape, dy, dstate, tdy, tdstate):
    """dy, dh, dc and their tangents, checked; the states are fresh copies to work in.

    Returns
    -------
    (dy, dh, dc), (tdy, tdh, tdc)
        dy (T, B, H|P) or None, dh (B, H|P), dc (B, H); tdy is None only where dy is.
    """
    assert isinstance(tape, Tape)
    q, dy, dh, dc = checks.backward_inputs(tape, dy, dstate)
    p = "H" if q.w_proj is None else "P"
    tdy = checks.gradient("tdy", tdy, f"T, B, {p}", (q.T, q.B, q.P), ("x", q.x))
    shapes, symbols = (dh.shape, dc.shape), (f"B, {p}", "B, H")
    names = ("tdh_n", "tdc_n")
    tdh, tdc = checks.state_pair("tdstate", tdstate, names, symbols, shapes, ("x", q.x))
    if dy is not None or tdy is not None:
        zeros = np.zeros((q.T, q.B, q.P), q.x.dtype)
        dy, tdy = zeros if dy is None else dy, zeros if tdy is None else tdy
    return (dy, dh, dc), (tdy, np.array(tdh, order="C"), np.array(tdc, order="C"))
