# SPDX-License-Identifier: MIT
"""``fastlstm demo``: real stock prices, forecast by two networks beside two baselines."""

from dataclasses import replace

from .cli_arguments import check_outputs, say
from .cli_forecast import add_training, say_errors, say_job, write_files
from .forecast import LSTM_NAME, Settings, check_length, google_prices, run, training_data

__all__ = ["add_demo"]


def add_demo(commands):
    """Add the command to the subparsers ``commands``."""
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
    add_training(demo)
    demo.set_defaults(run=_demo)


def _demo(arguments):
    check_outputs(arguments.output, arguments.save)
    series = google_prices()
    settings = Settings(epochs=arguments.epochs, seed=arguments.seed)
    split = check_length(series, settings)
    say(
        f"Google's closing price in dollars, {series.values.size} days from "
        f"{str(series.dates[0])[:10]} to {series.last_date} (matplotlib's sample data)."
    )
    say_job(settings, split)
    say(
        "It is trained twice: on the changes from day to day, and as the tutorial does, on prices\n"
        "scaled to [0, 1] by the smallest and the largest price of the training part."
    )
    changes = run(series, settings)
    prices = run(series, replace(settings, scaling="minmax"))
    networks = {"LSTM on changes": changes, "LSTM on scaled prices": prices}
    errors = {name: pair for name, pair in changes.errors.items() if name != LSTM_NAME}
    errors |= {name: report.errors[LSTM_NAME] for name, report in networks.items()}
    say_errors(errors, "error in dollars")
    say(
        "A stock price is close to a random walk: the last price says nearly all that can be\n"
        "known of the next one, and no network can beat persistence by much."
    )
    _say_time(settings, training_data(series, settings, split), split)
    say(f"\nThe day after {series.last_date}, by the LSTM on changes: {changes.future[0]:.2f}")
    write_files(
        arguments, arguments.output, series, changes,
        {name: report.predictions[LSTM_NAME] for name, report in networks.items()},
        {name: report.history for name, report in networks.items()},
        "Google, a day ahead, on the unseen part", "dollars",
    )  # fmt: skip


def _say_time(settings, data, split):
    from .quickbench import time_epoch

    _, x, y = data
    t = time_epoch(settings, x[: split.train], y[: split.train])
    say(
        f"\nTime per epoch of {t.batches} batches: {t.engine:.2f} s, NumPy reference "
        f"{t.reference:.2f} s, {t.reference / t.engine:.1f} times that.\n"
        f"Both from the first {t.measured} batches, same weights, dropout and steps, best of "
        f"3, scaled to the epoch;\nloss over them {t.losses[0]:.6f} and {t.losses[1]:.6f}."
    )
