# SPDX-License-Identifier: MIT
"""What an engine is: something that can do a problem's job, in one or more ways."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

import numpy as np


@dataclass(frozen=True)
class Call:
    """One way to do a problem's job.

    Attributes
    ----------
    run : callable - what is timed, without arguments
    result : callable - runs the same objects; a dict of arrays by the names of `oracle.expected`
    borrowed : tuple of arrays that the engine reads but does not keep alive
    """

    run: Callable[[], object]
    result: Callable[[], dict]
    borrowed: tuple = ()


def streamed(step, reset, xs):
    """The result of a stepwise call: every row of `xs` (T, B, I) streamed from a zero state."""

    def result():
        reset()
        return {"y": np.stack([np.array(step(x_t)) for x_t in xs])}

    return result


class Engine:
    """A competitor. Subclasses say what they can do and how.

    Attributes
    ----------
    name, label : str - for the command line and for tables
    package : str - the distribution whose version is reported
    dtypes, whats : tuple of str - what it can do
    """

    name = label = package = ""
    dtypes: tuple = ("float32",)
    whats: tuple = ("forward", "step")

    def version(self):
        """The installed version, or None where it is not installed."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    def supports(self, dtype, what):
        return dtype in self.dtypes and what in self.whats

    def set_threads(self, n):
        """Use `n` threads, BLAS included; called once, before the first `calls`."""
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            return  # a worker's environment says the same
        threadpool_limits(n)

    def calls(self, problem, threads):
        """The ways to do `problem`: a dict of `Call` by name."""
        return getattr(self, problem.what)(problem, threads)
