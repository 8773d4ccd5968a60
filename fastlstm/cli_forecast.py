# SPDX-License-Identifier: MIT
"""``fastlstm forecast``: the next values of a column of a CSV file.

Trains and measures beside baselines, on the unseen last part or walking forward; or forecasts with
a network that was trained before. What it finds is written by `cli_output`.
"""

import numpy as np

from . import cli_output
from .backtest import backtest, fold_size
from .cli_arguments import check_outputs, integer, number, say
from .csvfile import InputError, read_series
from .forecast import CELLS, Settings, check_length, run, verdict
from .forecast_file import load_network, save_network
from .plot import FORMATS, save_picture
from .series import SCALINGS

__all__ = ["add_forecast", "add_training", "say_errors", "say_job", "write_files"]

# What means something only where a network is trained or measured.
_OF_TRAINING = (
    "window", "horizon", "test_fraction", "hidden", "layers", "scaling", "cell", "epochs", "seed",
    "interval", "exog", "backtest", "season", "plot", "save",
)  # fmt: skip


def add_forecast(commands):
    """Add the command to the subparsers ``commands``."""
    forecast = commands.add_parser(
        "forecast",
        help="forecast a column of a CSV file, beside two baselines",
        description="Train on the first part of a column, measure on the last part beside "
        "persistence and a linear autoregression, forecast what comes after the end.",
    )
    add = forecast.add_argument
    add("file", metavar="FILE.csv", help="UTF-8, with a header; cells by comma, semicolon or tab")
    _add_columns(add)
    add(
        "--model", metavar="FILE",
        help="a network that --save has written: forecast with it, train nothing",
    )  # fmt: skip
    _add_task(add, Settings())
    _add_network(add, Settings())
    _add_output(forecast)
    add_training(forecast)
    forecast.set_defaults(run=_forecast)


def _add_columns(add):
    """Which columns are read."""
    add("--column", metavar="NAME", help="the column to forecast")
    add(
        "--date-column",
        metavar="NAME",
        help="a column of dates (ISO 8601) or numbers, which must ascend",
    )
    add(
        "--exog", metavar="NAME", action="append", default=[],
        help="another column, whose past is read too; may be given again",
    )  # fmt: skip


def _add_task(add, settings):
    """What is forecast from what, and how it is measured."""
    add(
        "--window", metavar="N", type=integer(2, 100_000), default=settings.window,
        help="values that a forecast sees (%(default)s)",
    )  # fmt: skip
    add(
        "--horizon", metavar="N", type=integer(1, 10_000), default=settings.horizon,
        help="values ahead that are forecast (%(default)s)",
    )  # fmt: skip
    add(
        "--interval", metavar="F", type=number(0.01, 0.999),
        help="0.9: forecast the median, with the two ends of a 90 %% interval",
    )  # fmt: skip
    add(
        "--test-fraction", metavar="F", type=number(0.01, 0.9), default=settings.test_fraction,
        help="the last part, unseen in training, that errors are measured on (%(default)s)",
    )  # fmt: skip
    add(
        "--backtest", metavar="FOLDS", nargs="?", type=integer(1, 1000), const=5,
        help="instead: walk forward through so many folds (5), training anew for each",
    )  # fmt: skip
    add(
        "--season", metavar="N", type=integer(1, 1_000_000),
        help="with --backtest: the period of the baseline that repeats the last season",
    )  # fmt: skip


def _add_network(add, settings):
    """What the network is made of, and what it sees."""
    add(
        "--cell", choices=CELLS, default=settings.cell,
        help="what the layers are made of (%(default)s)",
    )  # fmt: skip
    add(
        "--hidden", metavar="N", type=integer(1, 4096), default=settings.hidden,
        help="units of each layer (%(default)s)",
    )  # fmt: skip
    add(
        "--layers", metavar="N", type=integer(1, 64), default=settings.layers,
        help="layers (%(default)s)",
    )  # fmt: skip
    add(
        "--scaling", choices=sorted(SCALINGS), default=settings.scaling,
        help="the network sees changes from value to value, or values scaled to [0, 1] by the "
        "training part (%(default)s)",
    )  # fmt: skip


def _add_output(forecast):
    """Where the forecast goes."""
    forecast.add_argument("--plot", metavar="FILE", help=f"write a picture: {', '.join(FORMATS)}")
    output = forecast.add_mutually_exclusive_group()
    for name, what in (("json", "everything"), ("csv", "the forecast")):
        output.add_argument(
            f"--{name}", dest="output", action="store_const", const=name, default="table",
            help=f"print {what} as {name.upper()}, and nothing else",
        )  # fmt: skip


def add_training(parser):
    """The options that demo and forecast share."""
    defaults = Settings()
    parser.add_argument(
        "--epochs", metavar="N", type=integer(1, 1_000_000), default=defaults.epochs,
        help="passes over the training part (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", metavar="N", type=integer(0, 2**63 - 1), default=defaults.seed,
        help="of weights, order and dropout: the same seed, the same result (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--save", metavar="FILE", help="write the trained network, for fastlstm.load (safetensors)"
    )


def _forecast(arguments):
    if arguments.model is not None:
        _forecast_again(arguments)
        return
    check_outputs(arguments.plot, arguments.save, arguments.file)
    if arguments.column is None:
        raise InputError(
            "the following arguments are required: --column (see fastlstm forecast --help)"
        )
    if arguments.season is not None and arguments.backtest is None:
        raise InputError("--season is of the baselines of --backtest, which is not given")
    settings = _settings(arguments)
    series = read_series(arguments.file, arguments.column, arguments.date_column, arguments.exog)
    quiet = arguments.output != "table"
    found = split = None
    if arguments.backtest is None:
        split = check_length(series, settings)
    else:
        fold_size(series, settings, arguments.backtest, arguments.season)
    if not quiet:
        say(f"{arguments.file}: {series.name}, {series.values.size} rows{until(series)}.")
        say_job(settings, split, arguments.backtest)
    if arguments.backtest is None:
        report = run(series, settings)
    else:
        found, report = backtest(series, settings, arguments.backtest, arguments.season)
    result = cli_output.Result.of(series, settings, report, found)
    _print(arguments, result, series)
    if arguments.save is not None:
        save_network(arguments.save, report, series)
    _draw(arguments, series, report, found)
    if not quiet:
        _say_written(arguments.save, arguments.plot)


def _settings(arguments):
    given = vars(arguments)
    settings = Settings(
        **{name: given[name] for name in Settings.__dataclass_fields__ if name in given}
        | {"exog": tuple(arguments.exog)}
    )
    for name in settings.exog:
        if name == arguments.column or settings.exog.count(name) > 1:
            raise InputError(f"--exog {name} names a column twice")
    return settings


def _forecast_again(arguments):
    """With ``--model``: the next values, by a network that is there."""
    given = [
        "--" + name.replace("_", "-")
        for name in _OF_TRAINING
        if getattr(arguments, name) not in (getattr(Settings, name, None), [])
    ]
    if given:
        raise InputError(f"--model trains nothing, so it takes no {', '.join(given)}")
    trained = load_network(arguments.model)
    column = trained.column if arguments.column is None else arguments.column
    series = read_series(arguments.file, column, arguments.date_column, trained.settings.exog)
    if arguments.output == "table":
        say(f"{arguments.file}: {series.name}, {series.values.size} rows{until(series)}.")
        say(f"Network: {arguments.model}, trained on {trained.column}.")
    result = cli_output.Result(series, trained.settings, *trained.forecast(series))
    _print(arguments, result, series)


def _print(arguments, result, series):
    if arguments.output != "table":
        say(getattr(cli_output, arguments.output)(result))
        return
    if result.backtest is not None:
        say(f"\n{result.backtest}\n\n{verdict(result.errors)}")
    elif result.errors:
        say_errors(result.errors, "error")
    if result.coverage is not None:
        say(
            f"{result.coverage:.1%} of the true values lie in the {result.settings.interval:.0%} "
            "interval."
        )
    settings = result.settings
    say(
        f"\nThe next {settings.horizon} after the last row{until(series)}, by the {settings.title}:"
    )
    for k, value in enumerate(result.future):
        ends = ""
        if result.interval is not None:
            low, high = result.interval[k]
            ends = f"   {low:.6g} to {high:.6g}"
        say(f"  {f'+{k + 1}':<8}{value:.6g}{ends}")


def until(series):
    """The last date in brackets, if there is one."""
    return "" if series.last_date is None else f" ({series.last_date})"


def say_job(settings, split, folds=None):
    """What is trained on, and what is trained."""
    if folds is None:
        where = (
            f"{split.train} windows of {settings.window} to train on, "
            f"{split.windows - split.first_test} unseen ones after them; scales are those of the "
            f"training part alone."
        )
    else:
        where = f"Trained anew for each of {folds} folds, on all values before it."
    loss = "squared error" if settings.interval is None else "quantile loss"
    say(
        f"{where}\nNetwork: {settings.layers} x {settings.title} of {settings.hidden} units, "
        f"dropout {settings.dropout:g}, dense head; Adam, {loss}, batches of "
        f"{settings.batch_size}, {settings.epochs} epoch{'s' * (settings.epochs > 1)}."
    )


def say_errors(errors, what):
    """A table of errors, and who wins."""
    say(f"\n{what + ' on the unseen part':<36}{'RMSE':>12}{'MAE':>12}")
    for name, pair in errors.items():
        say(f"  {name:<34}" + "".join(f"{value:>12.5g}" for value in pair))
    say(f"\n{verdict(errors)}")


def write_files(arguments, picture, series, report, predictions, history, title, ylabel):
    """Write the files that demo was asked for; ``predictions`` and ``history`` are drawn."""
    if arguments.save is not None:
        save_network(arguments.save, report, series)
    n, first = len(report.truth), report.split.n_train
    dates = range(first, first + n) if series.dates is None else series.dates[first : first + n]
    save_picture(
        picture, report.truth[:, 0], {name: p[:, 0] for name, p in predictions.items()}, history,
        title=title, dates=dates, ylabel=ylabel,
    )  # fmt: skip
    _say_written(arguments.save, picture)


def _draw(arguments, series, report, found):
    """The picture of forecast: one row ahead, on what is unseen."""
    if arguments.plot is None:
        return
    known, where = (report, "on the unseen part") if found is None else (found, "walking forward")
    rows = report.split.n_train + np.arange(len(report.truth))
    rows = rows if found is None else found.origins + 1
    dates = rows if series.dates is None else series.dates[rows]
    save_picture(
        arguments.plot, known.truth[:, 0], {name: p[:, 0] for name, p in known.predictions.items()},
        report.history, title=f"{series.name}, one row ahead, {where}", dates=dates,
        ylabel=series.name, interval=None if known.interval is None else known.interval[:, 0],
        what="mean squared error" if report.settings.interval is None else "quantile loss",
    )  # fmt: skip


def _say_written(*paths):
    for path in paths:
        if path is not None:
            say(f"wrote {path}")
