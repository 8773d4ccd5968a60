# SPDX-License-Identifier: MIT
"""Which variant of the cell: a frozen, hashable value that is validated once."""

from dataclasses import dataclass, fields
from functools import cached_property
from math import isfinite

from .activations import ACTIVATIONS

__all__ = ["Spec", "check_activation", "check_limit"]

_FLAGS = (
    "coupled",
    "input_gate",
    "forget_gate",
    "output_gate",
    "full_gate_recurrence",
    "layer_norm",
)
_RATES = ("zoneout_h", "zoneout_c", "recurrent_dropout", "weight_drop")


@dataclass(frozen=True, repr=False)
class Spec:
    """The variant of an LSTM cell.

    The defaults are the LSTM of Hochreiter & Schmidhuber (1997) with the forget gate of
    Gers et al. (2000), as every framework has it. All fields can be combined; the few pairs
    that contradict each other are refused.

    Parameters
    ----------
    peepholes : str
        Which gates see the cell state: any subset of ``"ifo"`` (order does not matter).
        i and f see c[t-1], o sees the new c[t] (Gers & Schmidhuber 2000).
    coupled : bool
        Coupled input and forget gate: f = 1 - i. The weights' rows of f are ignored.
    input_gate, forget_gate, output_gate : bool
        ``False``: that gate is exactly 1, and its rows of the weights are ignored.
    candidate, output : str or tuple
        What squashes the candidate g, and the cell on its way out: an activation (see Notes).
    full_gate_recurrence : bool
        The gates of t-1 feed the gates of t (Greff et al. 2017), zeros those of the first step.
    cell_clip : float or None
        The carried c is clipped to [-cell_clip, cell_clip]; no gradient where it is.
    layer_norm : bool
        Layer normalisation inside the cell (Ba et al. 2016), eps 1e-5: W_ih x and W_hh h over
        all gates that are computed, with gains; c with gain and bias on its way out, while
        the c that is carried stays as it is.
    gate : str or tuple
        The activation of the gates i, f, o.
    clip : float or None
        What the activations of i, f, g, o see is clipped to [-clip, clip], as ONNX Runtime
        does it: after bias and peepholes, not the cell on its way out; no gradient where it is.
    zoneout_h, zoneout_c : float
        Probability, for each step, row and unit, with which h[t] or c[t] stays that of t-1
        (Krueger et al. 2017); h is made of the c before its zoneout. At inference both are
        mixed in these shares: the expectation.
    recurrent_dropout : float
        Probability with which an element is zeroed for the whole sequence, the others divided
        by 1 - recurrent_dropout; at inference nothing is.
    recurrent_dropout_on : {"h", "candidate"}
        What is zeroed: h[t-1] on its way to the gates (Gal & Ghahramani 2016), or the
        candidate g on its way to c, which loses no memory (Semeniuta et al. 2016).
    weight_drop : float
        The same for the elements of W_hh, once for each call: DropConnect, with the factor
        1 / (1 - weight_drop), as AWD-LSTM does it (Merity et al. 2018).

    Raises
    ------
    ValueError
        A field has a value that does not exist, or two fields contradict each other.
    TypeError
        A field has the wrong type.

    Notes
    -----
    An activation is a name, or a tuple of a name and its parameters: "sigmoid", "tanh",
    "identity", "relu", "softsign", "softplus", ("hard_sigmoid", alpha, beta),
    ("leaky_relu", alpha), ("thresholded_relu", alpha), ("elu", alpha),
    ("scaled_tanh", alpha, beta), ("affine", alpha, beta), with ONNX's formulas. Parameters have
    no defaults, since frameworks differ: hard sigmoid is clip(alpha x + beta, 0, 1) with
    alpha = 0.2 in ONNX and old Keras, 1/6 in Keras 3 and PyTorch, beta = 0.5 in all.

    Examples
    --------
    >>> Spec(peepholes="oi", gate=("hard_sigmoid", 0.2, 0.5))
    Spec(peepholes='io', gate=('hard_sigmoid', 0.2, 0.5))
    """

    peepholes: str = ""
    coupled: bool = False
    input_gate: bool = True
    forget_gate: bool = True
    output_gate: bool = True
    candidate: str | tuple = "tanh"
    output: str | tuple = "tanh"
    full_gate_recurrence: bool = False
    cell_clip: float | None = None
    layer_norm: bool = False
    gate: str | tuple = "sigmoid"
    clip: float | None = None
    zoneout_h: float = 0.0
    zoneout_c: float = 0.0
    recurrent_dropout: float = 0.0
    recurrent_dropout_on: str = "h"
    weight_drop: float = 0.0

    def __post_init__(self):
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not isinstance(self.peepholes, str):
            raise TypeError(f"peepholes must be a str, a subset of 'ifo', got {self.peepholes!r}")
        if not set(self.peepholes) <= set("ifo") or len(set(self.peepholes)) < len(self.peepholes):
            raise ValueError(f"peepholes must be a subset of 'ifo', got {self.peepholes!r}")
        object.__setattr__(self, "peepholes", "".join(q for q in "ifo" if q in self.peepholes))
        for name in ("candidate", "output", "gate"):
            object.__setattr__(self, name, check_activation(name, getattr(self, name)))
        for name in ("cell_clip", "clip"):
            object.__setattr__(self, name, check_limit(name, getattr(self, name)))
        for name in _RATES:
            object.__setattr__(self, name, _rate(name, getattr(self, name)))
        if self.recurrent_dropout_on not in ("h", "candidate"):
            on = self.recurrent_dropout_on
            raise ValueError(f"recurrent_dropout_on must be 'h' or 'candidate', got {on!r}")
        self._check_pairs()

    def _check_pairs(self):
        """Refuse what contradicts itself, with the reason."""
        for name, gate in (("input_gate", "i"), ("forget_gate", "f"), ("output_gate", "o")):
            if not getattr(self, name) and gate in self.peepholes:
                raise ValueError(
                    f"{name}=False makes {gate} the constant 1, so it can have no peephole: "
                    f"peepholes={self.peepholes!r}"
                )
        if self.coupled and "f" in self.peepholes:
            raise ValueError(
                f"coupled=True makes f = 1 - i, so f can have no peephole: "
                f"peepholes={self.peepholes!r}"
            )
        if self.coupled and not (self.input_gate and self.forget_gate):
            raise ValueError(
                "coupled=True makes f = 1 - i and needs both gates, got "
                f"input_gate={self.input_gate}, forget_gate={self.forget_gate}"
            )
        if self.live == (False, False, True, False):
            for name, default in (("full_gate_recurrence", False), ("gate", "sigmoid")):
                if getattr(self, name) != default:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} needs a gate, but input_gate, "
                        f"forget_gate and output_gate are all False"
                    )

    @property
    def live(self):
        """Which of i f g o are computed from their rows of the weights: four bools."""
        forget = self.forget_gate and not self.coupled
        return self.input_gate, forget, True, self.output_gate

    @property
    def draws(self):
        """Whether training draws masks."""
        return any(getattr(self, name) for name in _RATES)

    @cached_property
    def changed(self):
        """The fields that differ from the default LSTM, as a dict."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {f.name: values[f.name] for f in fields(self) if values[f.name] != f.default}

    def __repr__(self):
        return f"Spec({', '.join(f'{name}={value!r}' for name, value in self.changed.items())})"


def check_activation(name, value):
    """An activation in its one form: a str, or a tuple (name, alpha) or (name, alpha, beta)."""
    kind, *numbers = value if isinstance(value, (tuple, list)) and value else (value,)
    if not isinstance(kind, str) or kind not in ACTIVATIONS:
        raise ValueError(f"{name} must be one of {', '.join(ACTIVATIONS)}, got {value!r}")
    _, _, parameters, positive_alpha = ACTIVATIONS[kind]
    if len(numbers) != len(parameters):
        form = repr(kind) if not parameters else f"({kind!r}, {', '.join(parameters)})"
        raise ValueError(f"{name} must be given as {form}, got {value!r}")
    for parameter, number in zip(parameters, numbers, strict=True):
        if not _is_number(number):
            raise TypeError(f"{parameter} of {name} must be a float, got {value!r}")
        if not isfinite(number):
            raise ValueError(f"{parameter} of {name} must be finite, got {value!r}")
    if positive_alpha and not numbers[0] > 0:
        raise ValueError(f"alpha of {name} must be positive, got {value!r}")
    return (kind, *map(float, numbers)) if numbers else kind


def check_limit(name, value):
    """A limit of a clip as a float, or None."""
    if value is None:
        return None
    if not _is_number(value):
        raise TypeError(f"{name} must be a positive float or None, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return float(value)


def _rate(name, value):
    """A probability of masks as a float."""
    if not _is_number(value):
        raise TypeError(f"{name} must be a float in [0, 1), got {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return float(value)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
