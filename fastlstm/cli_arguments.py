# SPDX-License-Identifier: MIT
"""Arguments of the command line that need more than argparse: ranges, and files to write."""

import argparse
import math
import os
import tempfile
from pathlib import Path

from .csvfile import InputError
from .plot import FORMATS, require_matplotlib

__all__ = ["check_outputs", "check_writable", "integer", "number", "say"]


def say(text):
    """Print a result."""
    print(text, flush=True)


def integer(least, most):
    """A type for argparse: an integer from ``least`` to ``most``."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be an integer from {least} to {most}, got {text!r}"
            )
        return value

    return parse


def number(least, most):
    """A type for argparse: a number from ``least`` to ``most``."""

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be a number from {least:g} to {most:g}, got {text!r}"
            )
        return value

    return parse


def check_outputs(picture, network, *sources):
    """Refuse, before the work, files that could not be written after it."""
    if picture is not None:
        suffix = Path(picture).suffix.lower().removeprefix(".")
        if suffix not in FORMATS:
            raise InputError(f"{picture} must end in one of .{', .'.join(FORMATS)}")
        require_matplotlib("a picture")
    seen = {os.path.realpath(source) for source in sources}
    for path in (picture, network):
        if path is not None:
            if os.path.realpath(path) in seen:
                raise InputError(f"{path} is named twice: it would be overwritten")
            seen.add(os.path.realpath(path))
            check_writable(path)


def check_writable(path):
    """Refuse, before the work, a file that could not be written after it."""
    if not path:
        raise InputError("the name of an output file is empty")
    if os.path.isdir(path):
        raise InputError(f"{path} cannot be written: it is a directory")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise InputError(f"{path} cannot be written: Permission denied")
    try:  # `save` writes a new file beside the old one
        with tempfile.TemporaryFile(dir=os.path.dirname(path) or "."):
            pass
        os.stat(path)
    except FileNotFoundError as fault:
        if fault.filename != path:
            raise InputError(f"{path} cannot be written: its folder does not exist") from None
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise InputError(f"{path} cannot be written: {reason}") from None
