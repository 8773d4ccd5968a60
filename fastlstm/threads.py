# SPDX-License-Identifier: MIT
"""How many threads the engine may have: what the caller says, or what this process may use."""

import os
from pathlib import Path, PurePosixPath

from . import _kernels, checks
from ._version import __version__

__all__ = ["cpu_quota", "get_num_threads", "set_num_threads", "threads_at_start"]


def set_num_threads(n):
    """Let the engine use at most n threads.

    Parameters
    ----------
    n : int, >= 1
        More than 256 are taken as 256.

    Raises
    ------
    TypeError, ValueError
        n is not an int of at least 1.

    Notes
    -----
    The default is FASTLSTM_NUM_THREADS from the environment, else the processors that this
    process may use (its affinity and the quotas of its control groups). BLAS has threads of its
    own. ``threadpoolctl.threadpool_limits`` limits both.

    Examples
    --------
    >>> before = get_num_threads()
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(before)
    """
    _kernels.set_threads(checks.integer("n", n, 1))


def get_num_threads():
    """How many threads the engine uses at most.

    Returns
    -------
    int

    Examples
    --------
    >>> get_num_threads() >= 1
    True
    """
    return _kernels.get_threads()


def _available_processors():
    """Processors that this process may use: its affinity, and the quota of its control group."""
    try:
        n = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        n = os.cpu_count() or 1
    return max(1, int(min(n, cpu_quota())))


def cpu_quota(proc="/proc/self/cgroup", mount="/sys/fs/cgroup"):
    """How many processors' time the control groups of this process give it; inf: all.

    Parameters
    ----------
    proc : str
        The file with its groups, one for version 2 (``0::/path``), and one for each controller of
        version 1 (``1:cpu,cpuacct:/path``).
    mount : str
        Where the file systems of the groups are mounted.
    """
    quota = float("inf")
    for line in _text(proc).splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        root = PurePosixPath(mount, controllers)
        if path.startswith("/.."):  # of a container, which sees its own group as the root
            path = "/"
        group = root / path.strip("/")
        for folder in (group, *group.parents):  # the tightest of all around it counts
            if root in (folder, *folder.parents):
                quota = min(quota, _quota_of(folder))
    return quota


def _quota_of(folder):
    """The quota that one control group sets."""
    limits = _text(f"{folder}/cpu.max").split() or [
        _text(f"{folder}/cpu.cfs_quota_us").strip(),
        _text(f"{folder}/cpu.cfs_period_us").strip(),
    ]
    try:
        quota, period = map(int, limits)
    except ValueError:  # no such file, or "max"
        return float("inf")
    return quota / period if quota > 0 and period > 0 else float("inf")


def _text(path):
    """What the file says; nothing where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return lines.read()
    except OSError:
        return ""


def threads_at_start():
    """FASTLSTM_NUM_THREADS, or the processors that this process may use."""
    given = os.environ.get("FASTLSTM_NUM_THREADS")
    if not given:
        return _available_processors()
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"FASTLSTM_NUM_THREADS must be an int of at least 1, got {given!r}")
    return int(given)


def _register():
    """Let threadpoolctl, where it is installed, find and limit the engine's threads."""
    try:
        from threadpoolctl import LibController, register
    except ImportError:  # not installed, or of before 3.2
        return

    class Controller(LibController):
        """The team's threads: those of this process, whose number `_kernels` has."""

        user_api = internal_api = "fastlstm"
        filename_prefixes = (Path(_kernels.__file__).name.lower(),)
        check_symbols = ("PyInit__kernels",)

        def get_num_threads(self):
            return get_num_threads()

        def set_num_threads(self, num_threads):
            set_num_threads(num_threads)

        def get_version(self):
            return __version__

    register(Controller)


_kernels.set_threads(threads_at_start())
_register()
