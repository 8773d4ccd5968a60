# SPDX-License-Identifier: MIT
"""The members of a Sequential: which may stand behind which, and how a mask goes through them."""

from .between import Embedding, Flatten, Reverse
from .heads import LastState
from .masking import Masking

__all__ = ["check_members", "is_recurrent", "makes_mask", "next_mask"]


def next_mask(module, x, mask):
    """The mask of what a member gives: which steps count, or None where all do.

    Parameters
    ----------
    module : module
    x : ndarray
        What the member was given.
    mask : ndarray of bool or None
        That of x.
    """
    if hasattr(module, "mask_of"):
        return module.mask_of(x)
    if mask is None or isinstance(module, (LastState, Flatten)):
        return None
    return module.turned(mask) if isinstance(module, Reverse) else mask


def is_recurrent(module):
    """Whether a module takes and returns a state."""
    return hasattr(module, "hidden_size")


def makes_mask(module):
    """Whether a member marks steps that do not count."""
    return isinstance(module, Masking) or getattr(module, "mask_zero", False)


def check_members(modules):
    """Refuse a list of members that cannot stand behind each other."""
    if not modules:
        raise ValueError("modules must not be empty")
    owner = size = giver = batch_first = None
    for k, m in enumerate(modules):
        name = f"member {k} ({type(m).__name__})"
        if not (hasattr(m, "forward") and hasattr(m, "backward") and hasattr(m, "parameters")):
            raise TypeError(f"{name} is not a module")
        if any(m is other for other in modules[:k]):
            raise TypeError(f"{name} stands in the list twice")
        if m.dtype is not None:
            owner = owner or (name, m.dtype)
            if m.dtype != owner[1]:
                raise TypeError(f"{owner[0]} is {owner[1]} but {name} is {m.dtype}")
        if isinstance(m, LastState) and (k == 0 or not is_recurrent(modules[k - 1])):
            raise ValueError(f"{name} must stand directly behind a recurrent layer")
        if hasattr(m, "modules"):
            _check_nested(m, name)
        if isinstance(m, Embedding) and k > 0:
            raise ValueError(f"{name} takes integers: it must be the first member")
        if is_recurrent(m) or isinstance(m, Reverse):
            if batch_first not in (None, m.batch_first):
                raise ValueError(f"{name} has batch_first={m.batch_first}, unlike the one before")
            ends = (o for o in modules[:k] if isinstance(o, (LastState, Flatten)))
            if end := next(ends, None):
                end = type(end).__name__
                raise ValueError(f"{name} needs a sequence, but a {end} stands before it")
            batch_first = m.batch_first
        takes, gives = _sizes(m)
        if None not in (takes, size) and takes != size:
            raise ValueError(f"{name} takes {takes} features, but {giver} gives {size}")
        if gives is not None or getattr(m, "changes_size", False):
            size, giver = gives, name


def _check_nested(sequential, name):
    """What goes between members, a state or a mask, does not go into a Sequential among them."""
    if sequential.batch_first is not None:
        raise TypeError(f"{name} holds a recurrent layer: put its members in the list instead")
    if any(makes_mask(m) for m in sequential.modules):
        raise TypeError(f"{name} makes a mask: put its members in the list instead")


def _sizes(module):
    """(features that go in, features that come out), None where any number does."""
    if is_recurrent(module):
        return module.input_size, module.output_size
    return getattr(module, "in_features", None), getattr(module, "out_features", None)
