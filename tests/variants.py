# SPDX-License-Identifier: MIT
"""The variants that tests go through: each option alone, and combinations drawn at random."""

import random

from fastlstm.spec import Spec

HARD = ("hard_sigmoid", 0.2, 0.5)

OPTIONS = (
    *(Spec(peepholes=p) for p in ("i", "f", "o", "io", "ifo")),
    Spec(coupled=True),
    Spec(coupled=True, peepholes="io"),
    Spec(input_gate=False),
    Spec(forget_gate=False),
    Spec(output_gate=False),
    Spec(input_gate=False, forget_gate=False, output_gate=False),
    Spec(cell_clip=0.6),
    Spec(cell_clip=0.6, peepholes="ifo"),
    Spec(clip=0.9),
    Spec(full_gate_recurrence=True),
    Spec(full_gate_recurrence=True, coupled=True),
    Spec(full_gate_recurrence=True, output_gate=False),
    Spec(layer_norm=True),
    Spec(layer_norm=True, coupled=True),
    Spec(layer_norm=True, input_gate=False, output_gate=False),
    Spec(gate=HARD),
    *(Spec(candidate=name) for name in ("identity", "relu", "softsign", "softplus", "sigmoid")),
    Spec(output="identity"),
    Spec(output=("leaky_relu", 0.1)),
    Spec(candidate=("elu", 1.5), output="softsign"),
    Spec(candidate=("scaled_tanh", 1.7, 0.6), output=("thresholded_relu", 0.3)),
    Spec(gate=("affine", 0.3, 0.4), output="relu"),
    Spec(zoneout_h=0.3),
    Spec(zoneout_c=0.4),
    Spec(zoneout_h=0.4, zoneout_c=0.3, peepholes="ifo", cell_clip=0.6),
    Spec(recurrent_dropout=0.4),
    Spec(recurrent_dropout=0.4, recurrent_dropout_on="candidate"),
    Spec(weight_drop=0.4),
    Spec(weight_drop=0.4, peepholes="o", coupled=True),
)

_CHOICES = {
    "peepholes": ("", "i", "f", "o", "if", "io", "fo", "ifo"),
    "coupled": (False, False, True),
    "input_gate": (True, True, False),
    "forget_gate": (True, True, False),
    "output_gate": (True, True, False),
    "candidate": ("tanh", "tanh", "identity", "relu", "softsign", ("scaled_tanh", 1.7, 0.6)),
    "output": ("tanh", "tanh", "identity", "softplus", ("leaky_relu", 0.1), ("elu", 1.5)),
    "full_gate_recurrence": (False, True),
    "cell_clip": (None, 0.7),
    "layer_norm": (False, True),
    "gate": ("sigmoid", "sigmoid", HARD),
    "clip": (None, 1.1),
    "zoneout_h": (0.0, 0.0, 0.3),
    "zoneout_c": (0.0, 0.0, 0.4),
    "recurrent_dropout": (0.0, 0.3),
    "recurrent_dropout_on": ("h", "candidate"),
    "weight_drop": (0.0, 0.0, 0.3),
}


def _combinations(n):
    """n variants drawn at random; those that contradict themselves are drawn again."""
    rng = random.Random(1)
    found = []
    while len(found) < n:
        try:
            found.append(Spec(**{name: rng.choice(_CHOICES[name]) for name in _CHOICES}))
        except ValueError:
            continue
    return tuple(found)


COMBINATIONS = _combinations(40)
