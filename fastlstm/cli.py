# SPDX-License-Identifier: MIT
"""The command line: demo, forecast, convert, info, bench.

Whatever the user can get wrong is one line on stderr that starts with "fastlstm: error:", and
exit status 2. Results go to stdout.
"""

import argparse
import os
import sys

# NumPy would load it at its first use, after the first line of output, and while it loads a Ctrl-C
# is lost: Cython drops what is raised in there.
import numpy.random  # noqa: F401

from ._version import __version__
from .cli_arguments import say
from .cli_convert import add_convert
from .cli_demo import add_demo
from .cli_forecast import add_forecast
from .csvfile import InputError
from .plot import MissingExtra

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; None = ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit status: 0, 2 for an error that was told, 130 for Ctrl-C.

    Examples
    --------
    >>> main(["info"])  # doctest: +ELLIPSIS
    fastlstm ...
    0
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal may not know every column's letters
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("fastlstm: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        _drop_output()
        return BROKEN_PIPE
    except MemoryError as fault:
        return _error(f"not enough memory: {str(fault) or 'try a smaller network or window'}")
    except (InputError, MissingExtra, FloatingPointError, OSError) as fault:
        return _error(fault)
    return 0


def _error(fault):
    """Say in one line what is wrong."""
    line = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(fault)
    )
    print(f"fastlstm: error: {line}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # a full disk: the interpreter would try again at its end, and exit with 120
        _drop_output()
    return 2


def _drop_output():
    """Let what stdout still holds go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# -- arguments ---------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are those of `main`."""

    def error(self, message):
        """Raise the error instead of ending the process."""
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser():
    parser = _Parser(prog="fastlstm", description="Forecast series with LSTM networks on the CPU.")
    parser.add_argument("--version", action="version", version=f"fastlstm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_demo(commands)
    add_forecast(commands)
    add_convert(commands)
    info = commands.add_parser(
        "info", help="show versions, processor and choices", description="What a bug report needs."
    )
    info.set_defaults(run=_info)
    bench = commands.add_parser(
        "bench",
        help="time the engine beside the NumPy reference",
        description="Three shapes, a few seconds. The full benchmark, with other libraries, is in "
        "the repository's benchmarks/ (make bench).",
    )
    bench.set_defaults(run=_bench)
    return parser


def _info(arguments):
    from .backend import info

    facts = info()
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:<{width}}  {value}")


def _bench(arguments):
    from .quickbench import shapes

    say("Microseconds of one LSTM layer, float32: engine beside the NumPy reference.\n")
    say(f"{'':>18}{'forward':>26}{'forward + backward':>30}")
    say(f"{'T, B, I, H':>18}" + f"{'engine':>10}{'NumPy':>9}{'ratio':>7}" * 2)
    for row in shapes():
        text = f"{', '.join(map(str, row.shape)):>18}"
        for engine, reference in (row.forward, row.training):
            text += f"{1e6 * engine:>10.0f}{1e6 * reference:>9.0f}{reference / engine:>7.1f}"
        say(text)
    say(
        "\nEach pair of results was compared first; best of runs in turn. The full benchmark,\n"
        "with other libraries, is in the repository's benchmarks/ (make bench)."
    )
