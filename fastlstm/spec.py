# SPDX-License-Identifier: MIT
"""Which variant of the cell: a frozen, hashable value that is validated once."""

from dataclasses import asdict, dataclass

__all__ = ["Spec"]

_SQUASH = ("tanh", "identity")


@dataclass(frozen=True, slots=True)
class Spec:
    """The variant of an LSTM cell.

    The defaults are the LSTM of Hochreiter & Schmidhuber (1997) with the forget gate of
    Gers et al. (2000), as every framework has it. A gate that is switched off is exactly 1.

    Parameters
    ----------
    peepholes : str
        Which gates see the cell state: any subset of ``"ifo"`` (order does not matter).
        i and f see c[t-1], o sees the new c[t] (Gers & Schmidhuber 2000).
    coupled : bool
        Coupled input and forget gate: f = 1 - i.
    input_gate, forget_gate, output_gate : bool
        ``False``: that gate is 1.
    candidate, output : {"tanh", "identity"}
        What squashes the candidate g, and the cell on its way out.
    full_gate_recurrence : bool
        The gates of t-1 feed the gates of t (Greff et al. 2017).
    cell_clip : float or None
        The carried c is clipped to [-cell_clip, cell_clip].
    layer_norm : bool
        Layer normalisation inside the cell (Ba et al. 2016).

    Raises
    ------
    ValueError
        A field has a value that does not exist, or two fields contradict each other.
    TypeError
        A field has the wrong type.

    Examples
    --------
    >>> Spec(peepholes="oi")
    Spec(peepholes='io', coupled=False, input_gate=True, forget_gate=True, output_gate=True, \
candidate='tanh', output='tanh', full_gate_recurrence=False, cell_clip=None, layer_norm=False)
    """

    peepholes: str = ""
    coupled: bool = False
    input_gate: bool = True
    forget_gate: bool = True
    output_gate: bool = True
    candidate: str = "tanh"
    output: str = "tanh"
    full_gate_recurrence: bool = False
    cell_clip: float | None = None
    layer_norm: bool = False

    def __post_init__(self):
        for name in (
            "coupled",
            "input_gate",
            "forget_gate",
            "output_gate",
            "full_gate_recurrence",
            "layer_norm",
        ):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not isinstance(self.peepholes, str):
            raise TypeError(f"peepholes must be a str, a subset of 'ifo', got {self.peepholes!r}")
        if not set(self.peepholes) <= set("ifo") or len(set(self.peepholes)) < len(self.peepholes):
            raise ValueError(f"peepholes must be a subset of 'ifo', got {self.peepholes!r}")
        object.__setattr__(self, "peepholes", "".join(q for q in "ifo" if q in self.peepholes))
        for name in ("candidate", "output"):
            if getattr(self, name) not in _SQUASH:
                raise ValueError(
                    f"{name} must be one of {', '.join(_SQUASH)}, got {getattr(self, name)!r}"
                )
        self._check_cell_clip()
        self._check_pairs()

    def _check_cell_clip(self):
        if self.cell_clip is None:
            return
        if isinstance(self.cell_clip, bool) or not isinstance(self.cell_clip, (int, float)):
            raise TypeError(f"cell_clip must be a positive float or None, got {self.cell_clip!r}")
        if not 0 < self.cell_clip < float("inf"):
            raise ValueError(f"cell_clip must be positive and finite, got {self.cell_clip!r}")
        object.__setattr__(self, "cell_clip", float(self.cell_clip))

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

    @property
    def changed(self):
        """The fields that differ from the default LSTM, as a dict."""
        if self == _DEFAULT:
            return {}
        default = asdict(_DEFAULT)
        return {name: value for name, value in asdict(self).items() if value != default[name]}


_DEFAULT = Spec()
