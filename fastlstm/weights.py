# SPDX-License-Identifier: MIT
"""Weights of one recurrent layer between fastlstm's form and every framework's.

`layouts` says how each framework stores them; here is one reader and one writer for all.

Where a bias appears twice, only the sum matters: it is read as the sum, and written wholly
into the first, zeros into the second, as Keras does for PyTorch. A forget bias that the
framework adds at run time is added to b when read and subtracted when written: that rounds
b's forget rows once. Where a layout has one bias for a gate of the GRU, it gets the sum of b_ih
and b_hh. Everything else is exact.
"""

from collections.abc import Mapping
from math import prod
from operator import index

import numpy as np

from . import checks
from .layouts import AXES, CELLS, GATES, LAYOUTS, OWN

__all__ = ["CELLS", "LAYOUTS", "PARAMETERS", "from_layout", "to_layout"]

# The names of weights here -> what the names of a layer's parameters begin with
PARAMETERS = {
    "w_ih": "weight_ih",
    "w_hh": "weight_hh",
    "b": "bias",
    "b_ih": "bias_ih",
    "b_hh": "bias_hh",
    "w_peephole": "weight_peephole",
    "w_proj": "weight_hr",
}


def from_layout(name, arrays, *, cell="lstm", hidden_size=None, forget_bias=None):
    """The weights of one recurrent layer in fastlstm's form, from a framework's.

    Parameters
    ----------
    name : str
        One of ``CELLS[cell]``; those of the LSTM are ``LAYOUTS`` too.
    arrays : dict
        The framework's arrays by their names in ``CELLS[cell][name].arrays``, nested where the
        framework nests them; float32 or float64, or lists of numbers. None counts as absent.
    cell : {"lstm", "gru", "rnn"}
    hidden_size : int, optional
        H. Needed for "thinc" alone, whose arrays do not tell.
    forget_bias : float, optional
        What this cell was made to add to its forget gate at run time; None: the framework's
        default. Only for layouts that have a run-time forget bias.

    Returns
    -------
    dict of str to ndarray
        ``w_ih`` (4H, I), ``w_hh`` (4H, H|P) and, where the source has them, ``b`` (4H,),
        ``w_peephole`` (3, H), ``w_proj`` (P, H): new arrays, gates in the order i f g o. Of a
        GRU ``w_ih`` (3H, I), ``w_hh`` (3H, H), ``b_ih``, ``b_hh`` (3H,), gates in the order r z n;
        of the simple cell ``w_ih`` (H, I), ``w_hh`` (H, H), ``b`` (H,).

    Raises
    ------
    ValueError
        An unknown layout; an array that is missing, unexpected or of the wrong shape, by name.
    TypeError
        An array is not float32 or float64, or not all are of one dtype.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> keras = {"kernel": rng.random((3, 20)), "recurrent_kernel": rng.random((5, 20))}
    >>> {name: a.shape for name, a in from_layout("keras", keras).items()}
    {'w_ih': (20, 3), 'w_hh': (20, 5)}
    """
    layout = _layout(name, cell)
    shift = _forget_bias(name, layout, forget_bias)
    blocks, sizes = _read(name, layout, arrays, hidden_size)
    if shift and "b" in blocks:
        blocks["b"][1] += shift
    return _write(OWN[cell], blocks, sizes)


def to_layout(name, weights, *, cell="lstm", forget_bias=None):
    """The weights of one recurrent layer in a framework's form, from fastlstm's.

    Parameters
    ----------
    name : str
        One of ``CELLS[cell]``.
    weights : dict of str to array_like
        By the names that `from_layout` gives: ``w_ih``, ``w_hh`` and what else there is; float32
        or float64. None counts as absent.
    cell : {"lstm", "gru", "rnn"}
    forget_bias : float, optional
        As for `from_layout`.

    Returns
    -------
    dict
        The framework's arrays by their names. Without ``b`` the bias is left out where the
        framework has layers without one, and zero elsewhere.

    Raises
    ------
    ValueError
        An unknown layout; an array that is missing, unexpected or of the wrong shape, by name;
        a weight that the framework has no place for.
    TypeError
        An array is not float32 or float64, or not all are of one dtype.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> weights = {"w_ih": rng.random((20, 3)), "w_hh": rng.random((20, 5)), "b": rng.random(20)}
    >>> onnx = to_layout("onnx", weights)
    >>> {name: a.shape for name, a in onnx.items()}
    {'W': (1, 20, 3), 'R': (1, 20, 5), 'B': (1, 40)}
    >>> all(np.array_equal(a, weights[k]) for k, a in from_layout("onnx", onnx).items())
    True
    """
    layout = _layout(name, cell)
    shift = _forget_bias(name, layout, forget_bias)
    blocks, sizes = _read("fastlstm", OWN[cell], weights, None)
    biases = [weight for weight in GATES[cell] if weight.startswith("b")]
    if not layout.bias_optional or any(bias in blocks for bias in biases):
        for bias in biases:
            shape = (len(GATES[cell][bias]), sizes["h"])
            blocks.setdefault(bias, np.zeros(shape, blocks["w_ih"].dtype))
    if "b_hh" in blocks:
        _fold(layout, blocks)
    for weight in blocks:
        if not layout.holders(weight):
            raise ValueError(f"{name} has no place for {weight}")
    if shift and "b" in blocks:
        blocks["b"][1] -= shift
    return _write(layout, blocks, sizes)


def _fold(layout, blocks):
    """Add to b_ih what the layout has no place for in b_hh: where only the sum matters."""
    held = {part.gates for parts in layout.parts.values() for part in parts
            if part.weight == "b_hh"}  # fmt: skip
    gates = [k for k, gate in enumerate("rzn") if gate not in "".join(held)]
    blocks["b_ih"][gates] += blocks["b_hh"][gates]
    blocks["b_hh"][gates] = 0
    if not held:
        del blocks["b_hh"]


def _layout(name, cell):
    if cell not in CELLS:
        raise ValueError(f"cell must be one of {', '.join(CELLS)}, got {cell!r}")
    if name not in CELLS[cell]:
        raise ValueError(f"name must be one of {', '.join(CELLS[cell])}, got {name!r}")
    return CELLS[cell][name]


def _forget_bias(name, layout, value):
    if value is not None and layout.forget_bias is None:
        raise ValueError(f"{name} adds no forget bias at run time: forget_bias must be None")
    return layout.forget_bias or 0.0 if value is None else float(value)


def _read(name, layout, arrays, hidden_size):
    """Weight -> its block with the axes of `AXES`; and the length of each letter."""
    found = _find(name, layout, arrays)
    sizes = _sizes(name, layout, found, hidden_size)
    blocks = {}
    for path, array in found.items():
        parts = layout.parts[path]
        axis = layout.join_axis(path)
        ends = np.cumsum([part.size(axis, sizes) for part in parts])
        for part, piece in zip(parts, np.split(array, ends[:-1], axis), strict=True):
            axes, gates = AXES[part.weight], GATES[layout.cell][part.weight]
            piece = piece.reshape(part.lengths(part.letters, sizes))
            piece = piece.transpose([part.letters.index(k) for k in axes])
            if part.weight not in blocks:
                shape = [len(gates) if k == "g" else sizes[k] for k in axes]
                blocks[part.weight] = np.zeros(shape, array.dtype)
            rows = [gates.index(gate) for gate in part.gates] if gates else slice(None)
            blocks[part.weight][rows] += piece  # a second bias is added to the first
    return blocks, sizes


def _write(layout, blocks, sizes):
    """The arrays of ``layout`` that hold ``blocks``, by name."""
    result, done = {}, set()
    for path, parts in layout.parts.items():
        if parts[0].weight not in blocks:
            continue
        pieces = []
        for part in parts:
            axes, gates = AXES[part.weight], GATES[layout.cell][part.weight]
            block = blocks[part.weight]
            if gates:
                block = block[[gates.index(gate) for gate in part.gates]]
            if (part.weight, part.gates) in done:
                block = np.zeros_like(block)  # the first bias has it all
            done.add((part.weight, part.gates))
            block = block.transpose([axes.index(k) for k in part.letters])
            pieces.append(block.reshape([part.size(k, sizes) for k in range(len(part.words))]))
        array = np.concatenate(pieces, layout.join_axis(path))
        _put(result, path.split("."), array.tolist() if layout.constants else array)
    for key, value in layout.constants.items():
        value = [sizes["h"] if v == "H" else v for v in value] if type(value) is list else value
        result[key] = value
    return result


def _put(tree, keys, value):
    """Set ``tree[keys[0]][keys[1]]...``; numbers are places in a list, filled in order."""
    key, *rest = keys
    if not rest:
        if isinstance(tree, list):
            tree.append(value)
        else:
            tree[key] = value
        return
    _put(tree.setdefault(key, [] if rest[0].isdigit() else {}), rest, value)


def _find(name, layout, arrays):
    """Path -> array for all that is there; refuses what is missing and what is unknown."""
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{name}: expected a dict of arrays, got {type(arrays).__name__}")
    leaves = dict(_leaves(layout, arrays))
    for key, value in layout.constants.items():
        got = leaves.pop(key, value)
        if key == "type" and got != value:
            raise ValueError(f"{name} {key} must be {value!r}, got {got!r}")
    unknown = [path for path in leaves if path not in layout.parts]
    if unknown:
        raise ValueError(
            f"{name} has no array {', '.join(unknown)}; its arrays are {', '.join(layout.parts)}"
        )
    for weight in GATES[layout.cell]:
        paths = layout.holders(weight)
        bias = weight.startswith("b")
        needed = weight in ("w_ih", "w_hh") or (bias and not layout.bias_optional)
        missing = [path for path in paths if path not in leaves]
        if missing and (needed or len(missing) < len(paths)):
            raise ValueError(
                f"{name} array {', '.join(missing)} is missing; found {', '.join(leaves) or 'none'}"
            )
    paths = [path for path in layout.parts if path in leaves]
    found = {path: _array(f"{name} {path}", leaves[path]) for path in paths}
    named = {f"{name} {path}": array for path, array in found.items()}
    checks.same_dtype(next(iter(named.items())), **named)
    return found


def _leaves(layout, tree, prefix=""):
    """Pairs (path, value) of a nested dict; a list is opened where the layout has a path in it."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        inside = any(p.startswith(path + ".") for p in layout.parts)
        if inside and isinstance(value, (list, tuple)):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            yield from _leaves(layout, value, path + ".")
        elif value is not None:
            yield path, value


def _array(name, value):
    """``value`` as a float array; a list, as JSON has it, may hold integers too."""
    if isinstance(value, list):
        try:
            numbers = np.asarray(value)
        except ValueError:
            raise ValueError(f"{name} must be a list of equally long lists") from None
        value = numbers.astype(float) if numbers.dtype.kind in "iu" else numbers
    return checks.array(name, value)


def _sizes(name, layout, found, hidden_size):
    """The lengths of h, i, r, read off the arrays; then every shape is checked against them."""
    projected = any(path in found for path in layout.holders("w_proj"))
    for path, array in found.items():
        symbols = layout.symbols(path, projected)
        if array.ndim != len(symbols):
            raise ValueError(
                f"{name} {path} must have shape ({', '.join(symbols)}), got {array.shape}"
            )
    H = _solve(layout, found, "h", {}) if hidden_size is None else index(hidden_size)
    if H is None:
        raise ValueError(f"hidden_size is needed for {name}: its arrays do not tell it")
    sizes = {"h": H, "r": H}
    if projected:
        holders = {path: found[path] for path in layout.holders("w_proj")}
        sizes["r"] = _solve(layout, holders, "r", {})
    sizes["i"] = _solve(layout, found, "i", sizes)
    for path, array in found.items():
        axes = range(array.ndim)
        expected = (sum(part.size(k, sizes) for part in layout.along(path, k)) for k in axes)
        symbols = ", ".join(layout.symbols(path, projected))
        checks.shape(f"{name} {path}", array, symbols, tuple(expected))
    for letter, symbol in (("h", "H"), ("r", "P"), ("i", "I")):
        if sizes[letter] < 1:
            shapes = ", ".join(f"{path} {array.shape}" for path, array in found.items())
            raise ValueError(f"{name}: {symbol} must be at least 1, got {sizes[letter]}: {shapes}")
    return sizes


def _solve(layout, found, letter, sizes):
    """The length of ``letter`` from the first axis where all else is known; None: nowhere."""
    for path, array in found.items():
        for axis in range(array.ndim):
            here, *others = layout.along(path, axis)
            words = [here.words[axis].replace(letter, "", 1)] + [p.words[axis] for p in others]
            if letter in here.words[axis] and set("".join(words)) <= {"1", "g", *sizes}:
                length = array.shape[axis] - sum(part.size(axis, sizes) for part in others)
                return length // max(1, prod(here.lengths(words[0], sizes)))
    return None
