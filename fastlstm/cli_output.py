# SPDX-License-Identifier: MIT
"""What ``fastlstm forecast`` has found, as JSON and as CSV."""

import csv as csv_module
import io
import json as json_module

__all__ = ["Result", "csv", "json"]


class Result:
    """What is printed.

    Attributes
    ----------
    series : Series
    settings : Settings
    future : ndarray (H,)
        The values after the end of the series.
    interval : ndarray (H, 2), or None
    errors : dict of str to (root mean squared error, mean absolute error)
        Empty where nothing was measured.
    coverage : float or None
    backtest : Backtest or None
    """

    def __init__(self, series, settings, future, interval, measured=None, backtest=None):
        self.series, self.settings = series, settings
        self.future, self.interval, self.backtest = future, interval, backtest
        self.errors = {} if measured is None else measured.errors
        self.coverage = None if measured is None else measured.coverage

    @classmethod
    def of(cls, series, settings, report, found):
        """That of a training, and of a backtest or None."""
        measured = report if found is None else found
        return cls(series, settings, report.future, report.future_interval, measured, found)


def json(result):
    """Everything, as one JSON object.

    ``column``, ``rows``, ``last_date``, ``cell``; ``forecast``: a list of objects with ``step``,
    ``value`` and, with an interval, ``lower`` and ``upper``; where a network was trained
    ``errors``: name -> ``{"rmse", "mae"}``, and ``coverage``; with a backtest ``folds``: the errors
    of each.
    """
    series = result.series
    found = {
        "column": series.name,
        "rows": len(series.values),
        "last_date": series.last_date,
        "cell": result.settings.cell,
        "forecast": _steps(result),
    }
    if result.errors:
        found["errors"] = _by_name(result.errors)
    if result.coverage is not None:
        found |= {"interval": result.settings.interval, "coverage": result.coverage}
    if result.backtest is not None:
        found["folds"] = [_by_name(fold) for fold in result.backtest.fold_errors]
    return json_module.dumps(found, indent=1, ensure_ascii=False)


def csv(result):
    """The forecast: step,value and, with an interval, lower,upper."""
    steps, text = _steps(result), io.StringIO()
    writer = csv_module.DictWriter(text, list(steps[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps)
    return text.getvalue().rstrip("\n")


def _steps(result):
    steps = [{"step": k + 1, "value": float(v)} for k, v in enumerate(result.future)]
    if result.interval is not None:
        for step, (low, high) in zip(steps, result.interval.tolist(), strict=True):
            step |= {"lower": low, "upper": high}
    return steps


def _by_name(errors):
    return {name: {"rmse": rmse, "mae": mae} for name, (rmse, mae) in errors.items()}
