# SPDX-License-Identifier: MIT
"""The weight layouts of other frameworks, as data: `weights` converts between them.

A layout says for every array of a framework what lies in it and along which axes::

    "kernel": "w_ih: i gh"              (I, 4*H), the four gates side by side in columns
    "w": "w_ih: i gh + w_hh: r gh"      two weights joined, along the first axis that is not 1
    "bias": "b_ih: 1 gh / b_hh: 1 gh"   one below the other, along the first axis: (2, 3*H)
    "ii.kernel": "w_ih[i]: i h"         one gate only; the dot is one nesting deeper

One word is one axis, its letters run slow to fast: ``g`` the gates in the layout's order,
``h`` the hidden units, ``i`` the inputs, ``r`` the size of the recurrent h (P with a
projection, else H), ``1`` an axis of length one. A weight that appears twice is a sum.

The LSTM's gates are i f g o, the GRU's r z n; the simple recurrent cell has one "gate", h. A GRU
has two biases, b_ih and b_hh: with the reset after the product those of n cannot be summed.
"""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import NamedTuple

__all__ = ["AXES", "CELLS", "GATES", "GRU_LAYOUTS", "LAYOUTS", "OWN", "RNN_LAYOUTS", "Layout"]

# The blocks in which a weight travels between two layouts; gates in the order i f g o,
# those of the peepholes i f o.
AXES = {
    "w_ih": "ghi",
    "w_hh": "ghr",
    "b": "gh",
    "b_ih": "gh",
    "b_hh": "gh",
    "w_peephole": "gh",
    "w_proj": "rh",
}
GATES = {
    "lstm": {"w_ih": "ifgo", "w_hh": "ifgo", "b": "ifgo", "w_peephole": "ifo", "w_proj": ""},
    "gru": {"w_ih": "rzn", "w_hh": "rzn", "b_ih": "rzn", "b_hh": "rzn"},
    "rnn": {"w_ih": "h", "w_hh": "h", "b": "h"},
}


class Part(NamedTuple):
    """One weight, or some gates of it, inside an array."""

    weight: str
    gates: str
    words: tuple  # one for each axis of the array

    @property
    def letters(self):
        """All axes, slow to fast; a single gate without an axis of its own leads."""
        letters = "".join(self.words).replace("1", "")
        alone = "g" in AXES[self.weight] and "g" not in letters
        return "g" + letters if alone else letters

    def lengths(self, letters, sizes):
        """The length of each of ``letters``."""
        own = {"1": 1, "g": len(self.gates)}
        return [own[k] if k in own else sizes[k] for k in letters]

    def size(self, axis, sizes):
        """The length of an axis of the array."""
        return prod(self.lengths(self.words[axis], sizes))

    def symbol(self, axis, projected):
        """The length of an axis of the array in symbols, as "4*H"."""
        names = {"1": "1", "g": str(len(self.gates)), "h": "H", "i": "I", "r": "HP"[projected]}
        return "*".join(names[k] for k in self.words[axis])


@dataclass(frozen=True, eq=False)
class Layout:
    """How one framework stores the weights of one LSTM layer in one direction.

    Parameters
    ----------
    gates : str
        Order of the gate blocks: a permutation of ``"ifgo"``.
    arrays : dict of str to str
        Name of each array -> what lies in it, in the notation of this module's docstring.
    peepholes : str
        Order of the peephole rows: a permutation of ``"ifo"``.
    forget_bias : float or None
        What the framework adds to the forget gate at run time; None: nothing.
    bias_optional : bool
        The framework has layers without a bias.
    cell : {"lstm", "gru", "rnn"}
    reset_after : bool
        Of a GRU: whether the reset gate comes after the recurrent product.
    constants : dict
        Entries that are no weights, written as they are; ``"H"`` stands for the hidden size.
        Arrays are nested lists then, for JSON.

    Examples
    --------
    >>> LAYOUTS["onnx"].gates, LAYOUTS["onnx"].arrays["W"]
    ('iofg', 'w_ih: 1 gh i')
    """

    gates: str
    arrays: dict
    peepholes: str = "ifo"
    forget_bias: float | None = None
    bias_optional: bool = False
    cell: str = "lstm"
    reset_after: bool = True
    constants: dict = field(default_factory=dict)

    @cached_property
    def parts(self):
        """Name of each array -> its parts, in order."""
        orders = {"w_peephole": self.peepholes, "w_proj": ""}
        parts = {}
        for path, text in self.arrays.items():
            parts[path] = []
            for piece in text.replace("/", "+").split("+"):
                weight, words = piece.split(":")
                weight, _, gates = weight.strip().rstrip("]").partition("[")
                gates = gates or orders.get(weight, self.gates)
                parts[path].append(Part(weight, gates, tuple(words.split())))
        return parts

    def join_axis(self, path):
        """The axis along which the parts of an array are joined: the first (that is not 1)."""
        if "/" in self.arrays[path]:
            return 0
        return next(k for k, word in enumerate(self.parts[path][0].words) if word != "1")

    def along(self, path, axis):
        """The parts of an array that share the length of ``axis``."""
        return self.parts[path] if axis == self.join_axis(path) else self.parts[path][:1]

    def symbols(self, path, projected):
        """The shape of an array in symbols, one for each axis, as ["I + H", "4*H"]."""
        return [
            " + ".join(part.symbol(axis, projected) for part in self.along(path, axis))
            for axis in range(len(self.parts[path][0].words))
        ]

    def holders(self, weight):
        """The names of the arrays in which ``weight`` lies."""
        return [p for p, parts in self.parts.items() if any(q.weight == weight for q in parts)]


# fastlstm's own form is a layout like any other
OWN = {
    "lstm": Layout(
        "ifgo",
        {
            "w_ih": "w_ih: gh i",
            "w_hh": "w_hh: gh r",
            "b": "b: gh",
            "w_peephole": "w_peephole: g h",
            "w_proj": "w_proj: r h",
        },
        bias_optional=True,
    ),
    "gru": Layout(
        "rzn",
        {"w_ih": "w_ih: gh i", "w_hh": "w_hh: gh r", "b_ih": "b_ih: gh", "b_hh": "b_hh: gh"},
        bias_optional=True,
        cell="gru",
    ),
    "rnn": Layout(
        "h",
        {"w_ih": "w_ih: gh i", "w_hh": "w_hh: gh r", "b": "b: gh"},
        bias_optional=True,
        cell="rnn",
    ),
}

LAYOUTS = {
    # torch.nn.LSTM without the suffix _l0, torch.nn.LSTMCell as it is
    "pytorch": Layout(
        "ifgo",
        {
            "weight_ih": "w_ih: gh i",
            "weight_hh": "w_hh: gh r",
            "bias_ih": "b: gh",
            "bias_hh": "b: gh",
            "weight_hr": "w_proj: r h",
        },
        bias_optional=True,
    ),
    "keras": Layout(
        "ifgo",
        {"kernel": "w_ih: i gh", "recurrent_kernel": "w_hh: r gh", "bias": "b: gh"},
        bias_optional=True,
    ),
    # one direction: W[d:d+1] and so on
    "onnx": Layout(
        "iofg",
        {
            "W": "w_ih: 1 gh i",
            "R": "w_hh: 1 gh r",
            "B": "b: 1 gh + b: 1 gh",
            "P": "w_peephole: 1 gh",
        },
        peepholes="iof",
        bias_optional=True,
    ),
    # the params of flax.linen.LSTMCell and OptimizedLSTMCell
    "flax": Layout(
        "ifgo",
        {f"i{k}.kernel": f"w_ih[{k}]: i h" for k in "ifgo"}
        | {f"h{k}.kernel": f"w_hh[{k}]: r h" for k in "ifgo"}
        | {f"h{k}.bias": f"b[{k}]: h" for k in "ifgo"},
    ),
    "equinox": Layout(
        "ifgo",
        {"weight_ih": "w_ih: gh i", "weight_hh": "w_hh: gh r", "bias": "b: gh"},
        bias_optional=True,
    ),
    # the Linear inside haiku.LSTM: params["lstm/linear"]
    "haiku": Layout("igfo", {"w": "w_ih: i gh + w_hh: r gh", "b": "b: gh"}, forget_bias=1.0),
    "tf1_basic": Layout(  # BasicLSTMCell
        "igfo", {"kernel": "w_ih: i gh + w_hh: r gh", "bias": "b: gh"}, forget_bias=1.0
    ),
    "tf1": Layout(  # LSTMCell
        "igfo",
        {"kernel": "w_ih: i gh + w_hh: r gh", "bias": "b: gh"}
        | {f"w_{k}_diag": f"w_peephole[{k}]: h" for k in "ifo"}
        | {"projection/kernel": "w_proj: h r"},
        forget_bias=1.0,
    ),
    # its forget_bias is used at initialisation only
    "haste": Layout(
        "igfo", {"kernel": "w_ih: i gh", "recurrent_kernel": "w_hh: r gh", "bias": "b: gh"}
    ),
    # format tags ldigo, ldgo and ldio; one layer and direction: [l:l+1, d:d+1]
    "onednn": Layout(
        "ifgo",
        {
            "weights_layer": "w_ih: 1 1 i g h",
            "weights_iter": "w_hh: 1 1 r g h",
            "bias": "b: 1 1 g h",
            "weights_peephole": "w_peephole: 1 1 g h",
            "weights_projection": "w_proj: 1 1 h r",
        },
    ),
    # one layer and direction of the flat parameter "LSTM"
    "thinc": Layout("fiog", {"LSTM": "w_ih: ghi + b: gh + w_hh: ghr + b: gh"}),
    # one entry of "layers" in the JSON file
    "rtneural": Layout(
        "ifgo",
        {"weights.0": "w_ih: i gh", "weights.1": "w_hh: r gh", "weights.2": "b: gh"},
        constants={"type": "lstm", "activation": "", "shape": [None, None, "H"]},
    ),
}

GRU_LAYOUTS = {
    "pytorch": Layout(
        "rzn",
        {
            "weight_ih": "w_ih: gh i",
            "weight_hh": "w_hh: gh r",
            "bias_ih": "b_ih: gh",
            "bias_hh": "b_hh: gh",
        },
        bias_optional=True,
        cell="gru",
    ),
    "keras": Layout(
        "zrn",
        {
            "kernel": "w_ih: i gh",
            "recurrent_kernel": "w_hh: r gh",
            "bias": "b_ih: 1 gh / b_hh: 1 gh",
        },
        bias_optional=True,
        cell="gru",
    ),
    "keras_reset_before": Layout(  # reset_after=False, whose two biases can be summed
        "zrn",
        {"kernel": "w_ih: i gh", "recurrent_kernel": "w_hh: r gh", "bias": "b_ih: gh"},
        bias_optional=True,
        cell="gru",
        reset_after=False,
    ),
    # one direction: W[d:d+1] and so on; reset_after is linear_before_reset
    "onnx": Layout(
        "zrn",
        {"W": "w_ih: 1 gh i", "R": "w_hh: 1 gh r", "B": "b_ih: 1 gh + b_hh: 1 gh"},
        bias_optional=True,
        cell="gru",
    ),
    # the params of flax.linen.GRUCell
    "flax": Layout(
        "rzn",
        {f"i{k}.kernel": f"w_ih[{k}]: i h" for k in "rzn"}
        | {f"h{k}.kernel": f"w_hh[{k}]: r h" for k in "rzn"}
        | {f"i{k}.bias": f"b_ih[{k}]: h" for k in "rzn"}
        | {"hn.bias": "b_hh[n]: h"},
        cell="gru",
    ),
    "equinox": Layout(
        "rzn",
        {
            "weight_ih": "w_ih: gh i",
            "weight_hh": "w_hh: gh r",
            "bias": "b_ih: gh",
            "bias_n": "b_hh[n]: h",
        },
        bias_optional=True,
        cell="gru",
    ),
    "rtneural": Layout(
        "zrn",
        {
            "weights.0": "w_ih: i gh",
            "weights.1": "w_hh: r gh",
            "weights.2": "b_ih: 1 gh / b_hh: 1 gh",
        },
        cell="gru",
        constants={"type": "gru", "activation": "", "shape": [None, None, "H"]},
    ),
}

RNN_LAYOUTS = {
    "pytorch": Layout(
        "h",
        {
            "weight_ih": "w_ih: h i",
            "weight_hh": "w_hh: h r",
            "bias_ih": "b: h",
            "bias_hh": "b: h",
        },
        bias_optional=True,
        cell="rnn",
    ),
    "keras": Layout(
        "h",
        {"kernel": "w_ih: i h", "recurrent_kernel": "w_hh: r h", "bias": "b: h"},
        bias_optional=True,
        cell="rnn",
    ),
    "onnx": Layout(
        "h",
        {"W": "w_ih: 1 h i", "R": "w_hh: 1 h r", "B": "b: 1 h + b: 1 h"},
        bias_optional=True,
        cell="rnn",
    ),
}

CELLS = {"lstm": LAYOUTS, "gru": GRU_LAYOUTS, "rnn": RNN_LAYOUTS}
