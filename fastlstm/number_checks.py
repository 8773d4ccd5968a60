# SPDX-License-Identifier: MIT
"""The rules for arguments that are no arrays: numbers, sizes, generators. Also in `checks`."""

import numpy as np

__all__ = ["checkpoint", "generator", "integer", "probability", "sizes", "truncation"]


def integer(name, value, least):
    """``value`` as an int that is at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def sizes(name, value, n):
    """``value``, an int of at least 1 or a sequence of n of them, as a tuple of n.

    n None: as many as the sequence has, 1 for an int.
    """
    if n is not None:
        n = integer("num_layers", n, 1)
    if not isinstance(value, (list, tuple)):
        return (integer(name, value, 1),) * (1 if n is None else n)
    if not value:
        raise ValueError(f"{name} must have a size for each layer, got {value!r}")
    if n not in (None, len(value)):
        raise ValueError(f"{name} has {len(value)} sizes, but num_layers is {n}: {value!r}")
    return tuple(integer(f"{name}[{k}]", size, 1) for k, size in enumerate(value))


def probability(name, value):
    """``value`` as a float in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)):
        raise TypeError(f"{name} must be a float in [0, 1], got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
    return float(value)


def checkpoint(value, spec):
    """The steps between two checkpoints: 0 for True, about sqrt(T); None for False."""
    if not isinstance(value, (bool, np.bool_)):
        steps = integer("checkpoint", value, 1)
    elif value:
        steps = 0
    else:
        return None
    _no_gates_carried("checkpoint", spec)
    return steps


def truncation(k1, k2, spec, step_norms=False):
    """k1 and k2 of truncated BPTT, k2 = k1 where it is None; (None, None) without."""
    if k1 is None:
        if k2 is not None:
            raise ValueError(f"k2 needs k1, the steps after which it goes back, got k2 = {k2!r}")
        return None, None
    k1 = integer("k1", k1, 1)
    _no_gates_carried("k1", spec)
    if step_norms:
        raise ValueError("step_norms is of one pass over the tape: it cannot go with k1")
    return k1, k1 if k2 is None else integer("k2", k2, k1)


def _no_gates_carried(name, spec):
    if spec is not None and spec.full_gate_recurrence:
        raise ValueError(
            f"{name} cuts time between states (h, c), but with full_gate_recurrence=True the gates "
            "of a step are part of the state"
        )


def generator(rng):
    """``rng``, a numpy.random.Generator or None; masks that one drew before (a dict) pass."""
    if rng is not None and not isinstance(rng, (np.random.Generator, dict)):
        raise TypeError(f"rng must be a numpy.random.Generator or None, got {type(rng).__name__}")
    return rng
