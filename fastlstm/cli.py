# SPDX-License-Identifier: MIT
"""The command line: demo, forecast, convert, info, bench.

Whatever the user can get wrong is one line on stderr that starts with "fastlstm: error:", and
exit status 2. Results go to stdout.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ._version import __version__
from .csvfile import InputError, read_series
from .forecast import (
    LSTM_NAME,
    Settings,
    check_length,
    google_prices,
    run,
    save_network,
    training_data,
    verdict,
)
from .plot import FORMATS, MissingExtra, require_matplotlib, save_picture
from .series import SCALINGS

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
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser():
    parser = _Parser(prog="fastlstm", description="Forecast series with LSTM networks on the CPU.")
    parser.add_argument("--version", action="version", version=f"fastlstm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_forecast(commands)
    _add_convert(commands)
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


def _add_demo(commands):
    demo = commands.add_parser(
        "demo",
        help="forecast real stock prices, beside two baselines",
        description="Google's daily prices 2004-2008 (matplotlib's sample data): train on the "
        "first 80 %%, measure on the last 20 %%, beside persistence and a linear autoregression. "
        "Takes about half a minute.",
    )
    demo.add_argument(
        "--output", metavar="FILE", default="forecast.png", help="the picture (forecast.png)"
    )
    _add_training(demo)
    demo.set_defaults(run=_demo)


def _add_forecast(commands):
    forecast = commands.add_parser(
        "forecast",
        help="forecast a column of a CSV file, beside two baselines",
        description="Train on the first part of a column, measure on the last part beside "
        "persistence and a linear autoregression, forecast what comes after the end.",
    )
    add, settings = forecast.add_argument, Settings()
    add("file", metavar="FILE.csv", help="UTF-8, with a header; cells by comma, semicolon or tab")
    add("--column", metavar="NAME", required=True, help="the column to forecast")
    add(
        "--date-column",
        metavar="NAME",
        help="a column of dates (ISO 8601) or numbers, which must ascend",
    )
    add(
        "--window", metavar="N", type=_integer(2, 100_000), default=settings.window,
        help="values that a forecast sees (%(default)s)",
    )  # fmt: skip
    add(
        "--horizon", metavar="N", type=_integer(1, 10_000), default=settings.horizon,
        help="values ahead that are forecast (%(default)s)",
    )  # fmt: skip
    add(
        "--test-fraction", metavar="F", type=_fraction, default=settings.test_fraction,
        help="the last part, unseen in training, that errors are measured on (%(default)s)",
    )  # fmt: skip
    add(
        "--hidden", metavar="N", type=_integer(1, 4096), default=settings.hidden,
        help="units of each LSTM layer (%(default)s)",
    )  # fmt: skip
    add(
        "--layers", metavar="N", type=_integer(1, 64), default=settings.layers,
        help="LSTM layers (%(default)s)",
    )  # fmt: skip
    add(
        "--scaling", choices=sorted(SCALINGS), default=settings.scaling,
        help="the network sees changes from value to value, or values scaled to [0, 1] by the "
        "training part (%(default)s)",
    )  # fmt: skip
    add("--plot", metavar="FILE", help=f"write a picture: {', '.join(FORMATS)}")
    _add_training(forecast)
    forecast.set_defaults(run=_forecast)


def _add_convert(commands):
    convert = commands.add_parser(
        "convert",
        help="turn a model file of one framework into that of another",
        description="Between .safetensors (fastlstm's own, or a PyTorch state dict), .keras, "
        ".onnx, .pt (a PyTorch state dict) and .json (RTNeural). The new file is run beside the "
        "old one.",
    )
    convert.add_argument("source", metavar="IN", help="the file to read")
    convert.add_argument("target", metavar="OUT", help="the file to write")
    convert.add_argument(
        "--head", choices=("last", "all"),
        help="what the dense layer of a PyTorch state dict reads: the last step, or all steps",
    )  # fmt: skip
    convert.set_defaults(run=_convert)


def _add_training(parser):
    """The options that demo and forecast share."""
    defaults = Settings()
    parser.add_argument(
        "--epochs", metavar="N", type=_integer(1, 1_000_000), default=defaults.epochs,
        help="passes over the training part (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", metavar="N", type=_integer(0, 2**63 - 1), default=defaults.seed,
        help="of weights, order and dropout: the same seed, the same result (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--save", metavar="FILE", help="write the trained network, for fastlstm.load (safetensors)"
    )


def _integer(least, most):
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


def _fraction(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 0.9:
        raise argparse.ArgumentTypeError(f"must be a number from 0.01 to 0.9, got {text!r}")
    return value


def _check_outputs(picture, network, source=None):
    """Refuse, before the work, files that could not be written after it."""
    if picture is not None:
        suffix = Path(picture).suffix.lower().removeprefix(".")
        if suffix not in FORMATS:
            raise InputError(f"{picture} must end in one of .{', .'.join(FORMATS)}")
        require_matplotlib("a picture")
    seen = set() if source is None else {os.path.realpath(source)}
    for path in (picture, network):
        if path is not None:
            if os.path.realpath(path) in seen:
                raise InputError(f"{path} is named twice: it would be overwritten")
            seen.add(os.path.realpath(path))
            _check_writable(path)


def _check_writable(path):
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


# -- commands ----------------------------------------------------------------------------------


def _demo(arguments):
    _check_outputs(arguments.output, arguments.save)
    series = google_prices()
    settings = Settings(epochs=arguments.epochs, seed=arguments.seed)
    split = check_length(series, settings)
    _say(
        f"Google's closing price in dollars, {series.values.size} days from "
        f"{str(series.dates[0])[:10]} to {series.last_date} (matplotlib's sample data)."
    )
    _say_job(settings, split)
    _say(
        "It is trained twice: on the changes from day to day, and as the tutorial does, on prices\n"
        "scaled to [0, 1] by the smallest and the largest price of the training part."
    )
    changes = run(series, settings)
    prices = run(series, replace(settings, scaling="minmax"))
    networks = {"LSTM on changes": changes, "LSTM on scaled prices": prices}
    errors = {name: pair for name, pair in changes.errors.items() if name != LSTM_NAME}
    errors |= {name: report.errors[LSTM_NAME] for name, report in networks.items()}
    _say_errors(errors, "error in dollars")
    _say(
        "A stock price is close to a random walk: the last price says nearly all that can be\n"
        "known of the next one, and no network can beat persistence by much."
    )
    _say_time(settings, training_data(series.values, settings, split), split)
    _say(f"\nThe day after {series.last_date}, by the LSTM on changes: {changes.future[0]:.2f}")
    _write(
        arguments, arguments.output, series, changes,
        {name: report.predictions[LSTM_NAME] for name, report in networks.items()},
        {name: report.history for name, report in networks.items()},
        "Google, a day ahead, on the unseen part", "dollars",
    )  # fmt: skip


def _forecast(arguments):
    _check_outputs(arguments.plot, arguments.save, arguments.file)
    series = read_series(arguments.file, arguments.column, arguments.date_column)
    settings = Settings(
        **{
            name: value
            for name, value in vars(arguments).items()
            if name in Settings.__dataclass_fields__
        }
    )
    split = check_length(series, settings)
    _say(f"{arguments.file}: {series.name}, {series.values.size} rows{_until(series)}.")
    _say_job(settings, split)
    report = run(series, settings)
    _say_errors(report.errors, "error")
    _say(f"\nThe next {settings.horizon} after the last row{_until(series)}, by the LSTM:")
    for k, value in enumerate(report.future, 1):
        _say(f"  {f'+{k}':<8}{value:.6g}")
    _write(
        arguments, arguments.plot, series, report, report.predictions, report.history,
        f"{series.name}, one row ahead, on the unseen part", series.name,
    )  # fmt: skip


def _convert(arguments):
    from .convert import convert

    _check_writable(arguments.target)
    try:
        report = convert(arguments.source, arguments.target, head=arguments.head)
    except (ValueError, TypeError, NotImplementedError, ImportError) as fault:
        raise InputError(fault) from fault
    members = getattr(report.model, "modules", [report.model])
    _say(f"{arguments.source}: {report.model.flat.size} parameters, {report.model.dtype}")
    for member in members:
        _say(f"  {member!r}")
    for note in report.notes:
        _say(note)
    _say(
        f"wrote {arguments.target}; largest difference on random input: {report.difference:.2g} "
        f"({report.runner} runs the new file, fastlstm the old one)"
    )


def _info(arguments):
    from .backend import info

    facts = info()
    width = max(map(len, facts))
    for name, value in facts.items():
        _say(f"{name:<{width}}  {value}")


def _bench(arguments):
    from .quickbench import shapes

    _say("Microseconds of one LSTM layer, float32: engine beside the NumPy reference.\n")
    _say(f"{'':>18}{'forward':>26}{'forward + backward':>30}")
    _say(f"{'T, B, I, H':>18}" + f"{'engine':>10}{'NumPy':>9}{'ratio':>7}" * 2)
    for row in shapes():
        text = f"{', '.join(map(str, row.shape)):>18}"
        for engine, reference in (row.forward, row.training):
            text += f"{1e6 * engine:>10.0f}{1e6 * reference:>9.0f}{reference / engine:>7.1f}"
        _say(text)
    _say(
        "\nEach pair of results was compared first; best of runs in turn. The full benchmark,\n"
        "with other libraries, is in the repository's benchmarks/ (make bench)."
    )


# -- what they say -----------------------------------------------------------------------------


def _say(text):
    print(text, flush=True)


def _until(series):
    return "" if series.last_date is None else f" ({series.last_date})"


def _say_job(settings, split):
    _say(
        f"{split.train} windows of {settings.window} to train on, "
        f"{split.windows - split.first_test} unseen ones after them; scales are those of the "
        f"training part alone.\n"
        f"Network: {settings.layers} x LSTM of {settings.hidden} units, dropout "
        f"{settings.dropout:g}, dense head; Adam, squared error, batches of "
        f"{settings.batch_size}, {settings.epochs} epoch{'s' * (settings.epochs > 1)}."
    )


def _say_errors(errors, what):
    _say(f"\n{what + ' on the unseen part':<36}{'RMSE':>12}{'MAE':>12}")
    for name, pair in errors.items():
        _say(f"  {name:<34}" + "".join(f"{value:>12.5g}" for value in pair))
    _say(f"\n{verdict(errors)}")


def _say_time(settings, data, split):
    from .quickbench import time_epoch

    _, x, y = data
    t = time_epoch(settings, x[: split.train], y[: split.train])
    _say(
        f"\nTime per epoch of {t.batches} batches: {t.engine:.2f} s, NumPy reference "
        f"{t.reference:.2f} s, {t.reference / t.engine:.1f} times that.\n"
        f"Both from the first {t.measured} batches, same weights, dropout and steps, best of "
        f"3, scaled to the epoch;\nloss over them {t.losses[0]:.6f} and {t.losses[1]:.6f}."
    )


def _write(arguments, picture, series, report, predictions, history, title, ylabel):
    """Write the files that were asked for; ``predictions`` and ``history`` go into the picture."""
    if arguments.save is not None:
        save_network(arguments.save, report, series)
        _say(f"wrote {arguments.save}")
    if picture is None:
        return
    n, first = len(report.truth), report.split.n_train
    dates = range(first, first + n) if series.dates is None else series.dates[first : first + n]
    save_picture(
        picture, report.truth[:, 0], {name: p[:, 0] for name, p in predictions.items()}, history,
        title=title, dates=dates, ylabel=ylabel,
    )  # fmt: skip
    _say(f"wrote {picture}")
