# SPDX-License-Identifier: MIT
"""JAX: the LSTM as a differentiable function, under ``jit``, ``vmap`` and ``grad``.

    from fastlstm.jax import lstm

    y, (h_n, c_n) = lstm(x, w_ih, w_hh, b)

Needs the extra ``fastlstm[jax]``. The LSTM runs on the CPU in float32, or float64 where JAX has
``jax_enable_x64``.
"""

from functools import cache, partial
from math import prod
from typing import NamedTuple

import numpy as np

try:
    import jax
except ImportError as error:
    raise ImportError('fastlstm.jax needs JAX: pip install "fastlstm[jax]"') from error

from . import checks
from .backend import select
from .spec import Spec

__all__ = ["lstm"]


class _Static(NamedTuple):
    """What is no array: hashable, so that a compiled function is found again."""

    spec: Spec
    reverse: bool


def lstm(
    x,
    w_ih,
    w_hh,
    b=None,
    state=None,
    *,
    lengths=None,
    reverse=False,
    w_proj=None,
    w_peephole=None,
    w_fgr=None,
    ln_x=None,
    ln_h=None,
    ln_c=None,
    spec=Spec(),
):
    """The outputs and the final state of one LSTM layer in one direction.

    The arguments are those of `fastlstm.lstm_forward`, JAX arrays or what becomes one; gradients
    flow to all of them but ``lengths``.

    Parameters
    ----------
    x : array (T, B, I), float32 or float64
    w_ih, w_hh : array (4H, I), (4H, H|P)
        The gates in the order i f g o.
    b : array (4H,), optional
    state : pair (h0, c0) of arrays (B, H|P), (B, H), optional
        None, also for one of them: zeros.
    lengths : array (B,) of int, optional
        Row b has ``lengths[b]`` steps, 0 to T.
    reverse : bool
        Run from the end to the start, inside each length.
    w_proj, w_peephole, w_fgr, ln_x, ln_h, ln_c : array, optional
        Of the projection and of the variants.
    spec : Spec
        The variant of the cell.

    Returns
    -------
    y : array (T, B, H|P)
    (h_n, c_n) : pair of arrays (B, H|P), (B, H)

    Raises
    ------
    TypeError, ValueError
        As `fastlstm.lstm_forward`, when the function is called or traced. Lengths that are not
        known then are checked when they are: a wrong one is JAX's runtime error.

    Notes
    -----
    A `jax.pure_callback`, so only the CPU's; the backward pass runs the forward pass again
    rather than have its tape copied by JAX. Only first derivatives, in reverse mode. ``vmap`` over
    x or the state is one call with a larger batch; over weights, and in the backward pass, it is
    one call for each.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> key = jax.random.key(0)
    >>> x, w_ih, w_hh = (jax.random.normal(key, s) for s in [(5, 2, 3), (16, 3), (16, 4)])
    >>> y, (h_n, c_n) = jax.jit(lstm)(x, w_ih, w_hh)
    >>> y.shape
    (5, 2, 4)
    >>> jax.grad(lambda w: lstm(x, w, w_hh)[0].sum())(w_ih).shape
    (16, 3)
    """
    h0, c0 = checks.parts("state", state, "h0, c0")
    named = dict(
        x=x, w_ih=w_ih, w_hh=w_hh, b=b, h0=h0, c0=c0, w_proj=w_proj, w_peephole=w_peephole,
        w_fgr=w_fgr, ln_x=ln_x, ln_h=ln_h, ln_c=ln_c, lengths=lengths,
    )  # fmt: skip
    arrays = {name: jax.numpy.asarray(a) for name, a in named.items() if a is not None}
    static = _Static(spec, bool(reverse))
    _inputs(static, arrays)
    if lengths is not None and not isinstance(lengths, jax.core.Tracer):
        checks.lengths_array(lengths, *arrays["x"].shape[:2])
    return _lstm(static, arrays)


def _arguments(static, arrays):
    """The arguments of `lstm_forward` by name."""
    rest = {name: a for name, a in arrays.items() if name not in ("h0", "c0")}
    state = arrays.get("h0"), arrays.get("c0")
    return dict(rest, state=state, reverse=static.reverse, spec=static.spec)


def _inputs(static, arrays):
    """The arguments checked by their shapes and dtypes alone, as `checks.Inputs`."""
    bare = {name: np.broadcast_to(np.zeros((), a.dtype), a.shape) for name, a in arrays.items()}
    given = _arguments(static, bare)
    variants = {n: given.pop(n, None) for n in ("w_peephole", "w_fgr", "ln_x", "ln_h", "ln_c")}
    given = dict.fromkeys(("b", "w_proj", "lengths")) | given
    return checks.forward_inputs(**given, variants=variants, out=None)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lstm(static, arrays):
    """y, (h_n, c_n) of arrays by name."""
    q = _inputs(static, arrays)
    y, h, c = (
        jax.ShapeDtypeStruct(shape, q.x.dtype)
        for shape in ((q.T, q.B, q.P), (q.B, q.P), (q.B, q.H))
    )
    return jax.pure_callback(_forward(static), (y, (h, c)), arrays, vmap_method="expand_dims")


def _lstm_fwd(static, arrays):
    return _lstm(static, arrays), arrays


def _lstm_bwd(static, arrays, cotangents):
    like = {
        name: jax.ShapeDtypeStruct(a.shape, a.dtype)
        for name, a in arrays.items()
        if name != "lengths"
    }
    grads = jax.pure_callback(
        _backward(static), like, arrays, cotangents, vmap_method="expand_dims"
    )
    if "lengths" in arrays:  # integers have no gradient
        grads["lengths"] = np.zeros(arrays["lengths"].shape, jax.dtypes.float0)
    return (grads,)


_lstm.defvjp(_lstm_fwd, _lstm_bwd)


# -- what JAX calls back: NumPy only, for JAX in a callback can wait for itself ----------------

# The axes that each array has without vmap; all axes of vmap come before them, and are 1 where
# an array does not have them.
_AXES = {"x": 3, "dy": 3, "lengths": 1, "b": 1, "ln_x": 1, "ln_h": 1}  # else 2
_BATCH = {"x": 1, "h0": 0, "c0": 0, "lengths": 0}  # the axis of the rows, for those that have one


def _mapped(name, a):
    """The lengths of the axes that ``vmap`` put before an array."""
    return a.shape[: a.ndim - _AXES.get(name, 2)]


@cache  # one function for each, lest JAX compile a call anew
def _forward(static):
    """A function of the arrays that gives y, (h_n, c_n)."""

    def one(arrays):
        y, state, _ = select().lstm_forward(**_arguments(static, arrays), save=False)
        return y, state

    def run(arrays):
        arrays = {name: np.asarray(a) for name, a in arrays.items()}
        mapped = np.broadcast_shapes(*(_mapped(name, a) for name, a in arrays.items()))
        if not mapped:
            return one(arrays)
        if all(prod(_mapped(n, a)) == 1 for n, a in arrays.items() if n not in _BATCH):
            return _in_one_batch(one, arrays, mapped)
        y, h, c = _one_by_one(lambda part: _flat(one(part)), arrays, mapped)
        return y, (h, c)

    return run


@cache
def _backward(static):
    """A function of the arrays and the gradients of y, (h_n, c_n) that gives theirs, by name."""

    def one(parts):
        dy, dh, dc = (parts.pop(name) for name in ("dy", "dh", "dc"))
        module = select()
        _, _, tape = module.lstm_forward(**_arguments(static, parts))
        dx, (dh0, dc0), grads = module.lstm_backward(tape, dy, (dh, dc))
        grads |= dict(x=dx, h0=dh0, c0=dc0)
        return [grads[name] for name in parts if name != "lengths"]

    def run(arrays, cotangents):
        dy, dh, dc = _flat(cotangents)
        named = {**arrays, "dy": dy, "dh": dh, "dc": dc}
        named = {name: np.asarray(a) for name, a in named.items()}
        mapped = np.broadcast_shapes(*(_mapped(name, a) for name, a in named.items()))
        grads = _one_by_one(one, named, mapped) if mapped else one(named)
        return dict(zip((name for name in arrays if name != "lengths"), grads, strict=True))

    return run


def _flat(results):
    y, (h, c) = results
    return y, h, c


def _in_one_batch(one, arrays, mapped):
    """`one` for all mapped indices at once: they become rows, for the weights are the same."""
    k, joined = len(mapped), {}
    for name, a in arrays.items():
        core = a.shape[a.ndim - _AXES.get(name, 2) :]
        if name in _BATCH:  # (*mapped, T, B, I) -> (T, prod(mapped) * B, I)
            a = np.broadcast_to(a, (*mapped, *core))
            axis = _BATCH[name]
            a = np.moveaxis(a, range(k), range(axis, axis + k))
            core = (*core[:axis], prod(mapped) * core[axis], *core[axis + 1 :])
        joined[name] = a.reshape(core)
    y, (h, c) = one(joined)
    rows = (*mapped, y.shape[1] // max(1, prod(mapped)))
    y = y.reshape(len(y), *rows, y.shape[2])
    y = np.moveaxis(y, range(1, 1 + k), range(k))
    return y, tuple(s.reshape(*rows, s.shape[1]) for s in (h, c))


def _one_by_one(one, arrays, mapped):
    """The results of ``one`` for each mapped index, stacked."""
    parts = []
    for index in np.ndindex(mapped):
        part = {}
        for name, a in arrays.items():
            own = _mapped(name, a)
            part[name] = a[tuple(min(i, n - 1) for i, n in zip(index, own, strict=True))]
        parts.append(one(part))
    stacked = (np.stack(results) for results in zip(*parts, strict=True))
    return [a.reshape(*mapped, *a.shape[1:]) for a in stacked]
