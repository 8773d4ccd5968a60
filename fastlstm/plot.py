# SPDX-License-Identifier: MIT
"""Pictures of forecasts, of training, and of what happens inside a cell.

They need matplotlib: ``pip install "fastlstm[plot]"``. It is imported by the first picture, not by
``import fastlstm.plot``.
"""

from collections.abc import Mapping

import numpy as np

__all__ = [
    "MissingExtra",
    "backtest",
    "forecast",
    "gates_over_time",
    "gradient_flow",
    "gradient_norms",
    "loss_curve",
    "require_matplotlib",
    "save_picture",
]

FORMATS = ("png", "pdf", "svg", "jpg")


class MissingExtra(ImportError):
    """A package that an extra of fastlstm's brings is not installed."""


def require_matplotlib(who):
    """Raise `MissingExtra` where matplotlib is not installed; ``who`` needs it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtra(f'{who} needs matplotlib: pip install "fastlstm[plot]"') from None


def forecast(
    truth, prediction, *, interval=None, dates=None, label="prediction", ylabel=None, ax=None
):
    """Draw predictions on the truth.

    Parameters
    ----------
    truth : array_like (n,)
    prediction : array_like (n,), or dict of str to array_like (n,)
        Several predictions by their names.
    interval : array_like (n, 2), optional
        The two ends of an interval of the last prediction, drawn as a band.
    dates : array_like (n,), optional
        The horizontal axis; None = 0, 1, ...
    label : str
        The name of a single prediction.
    ylabel : str, optional
    ax : matplotlib Axes, optional
        None = those of a new figure of pyplot.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        A prediction, ``dates`` or ``interval`` does not fit the shape of ``truth``.
    MissingExtra
        matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = forecast([1.0, 2.0, 3.0], [1.5, 2.5, 2.5], ax=Figure().add_subplot())
    >>> [line.get_label() for line in ax.lines]
    ['truth', 'prediction']
    """
    truth = np.asarray(truth)
    if truth.ndim != 1:
        raise ValueError(f"truth must have shape (n,), got {truth.shape}")
    several = prediction if isinstance(prediction, Mapping) else {label: prediction}
    curves = {name: np.asarray(p) for name, p in several.items()}
    dates = np.arange(len(truth)) if dates is None else np.asarray(dates)
    for name, curve in {**curves, "dates": dates}.items():
        if curve.shape != truth.shape:
            raise ValueError(f"{name} must have truth's shape {truth.shape}, got {curve.shape}")
    if interval is not None:
        interval = np.asarray(interval)
        if interval.shape != (*truth.shape, 2):
            raise ValueError(f"interval must have shape {(*truth.shape, 2)}, got {interval.shape}")
    ax = _axes(ax)
    ax.plot(dates, truth, color="black", linewidth=1.6, label="truth")
    for k, (name, curve) in enumerate(curves.items()):
        ax.plot(dates, curve, color=f"C{k}", linewidth=1.1, label=name)
    if interval is not None:
        color = f"C{len(curves) - 1}"
        ax.fill_between(dates, *interval.T, color=color, alpha=0.2, linewidth=0, label="interval")
    if ylabel is not None:
        ax.set_ylabel(ylabel)
    return _finish(ax)


def backtest(result, *, step=1, dates=None, ylabel=None, ax=None):
    """Draw what a backtest forecast, with a line where each fold begins.

    Parameters
    ----------
    result : Backtest
        From `LSTMForecaster.backtest` or `fastlstm.backtest.backtest`.
    step : int, 1 to H
        Which of the H forecasts ahead.
    dates : array_like (n,), optional
        Of the whole series; None = its indices.
    ylabel : str, optional
    ax : matplotlib Axes, optional
        None = those of a new figure of pyplot.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        ``step`` is out of range, or ``dates`` are fewer than the series has values.
    MissingExtra
        matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from fastlstm.backtest import Backtest
    >>> origins, fold, truth = np.arange(4, 8), np.array([0, 0, 1, 1]), np.ones((4, 1))
    >>> result = Backtest(origins, fold, truth, {"LSTM": 0 * truth}, None)
    >>> ax = backtest(result, ax=Figure().add_subplot())
    >>> [line.get_label() for line in ax.lines][:2]
    ['truth', 'LSTM']
    """
    horizon = result.truth.shape[1]
    if not 1 <= step <= horizon:
        raise ValueError(f"step must be from 1 to {horizon}, got {step}")
    rows = result.origins + step
    if dates is not None:
        dates = np.asarray(dates)
        if len(dates) <= rows[-1]:
            raise ValueError(
                f"dates must be of all {rows[-1] + 1} values or more, got {len(dates)}"
            )
        dates = dates[rows]
    k, interval = step - 1, result.interval
    at = rows if dates is None else dates
    ax = forecast(
        result.truth[:, k], {name: p[:, k] for name, p in result.predictions.items()},
        interval=None if interval is None else interval[:, k], dates=at, ylabel=ylabel, ax=ax,
    )  # fmt: skip
    for start in np.flatnonzero(np.diff(result.fold, prepend=-1)):
        ax.axvline(at[start], color="gray", linewidth=0.8, linestyle=":")
    ax.set_title(f"{step} ahead, {result.fold[-1] + 1} folds")
    return ax


def loss_curve(history, *, label=None, ax=None):
    """Draw the losses of a training over its epochs, on a logarithmic axis.

    Parameters
    ----------
    history : History, or dict of str to History
        As `fit` returns it: ``loss``, and ``val_loss`` where there is one. Several by their names.
    label : str, optional
        The name of a single history.
    ax : matplotlib Axes, optional
        None = those of a new figure of pyplot.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        A history has no ``loss``.
    MissingExtra
        matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = loss_curve({"loss": [1.0, 0.5], "val_loss": [1.1, 0.8]}, ax=Figure().add_subplot())
    >>> [line.get_label() for line in ax.lines]
    ['training', 'validation']
    """
    nested = history and all(isinstance(h, Mapping) for h in history.values())
    several = history if nested else {label: history}
    for one in several.values():
        if not one.get("loss"):
            raise ValueError("history must have a loss for one epoch or more, got none")
    ax = _axes(ax)
    for k, (name, one) in enumerate(several.items()):
        prefix = "" if name is None else f"{name}, "
        for key, what, style in (("loss", "training", "-"), ("val_loss", "validation", "--")):
            if one.get(key):
                epochs = np.arange(1, len(one[key]) + 1)
                ax.plot(epochs, one[key], style, color=f"C{k}", marker=".", label=prefix + what)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    if all(value > 0 for one in several.values() for value in one["loss"]):
        ax.set_yscale("log")
    return _finish(ax)


def save_picture(
    path, truth, prediction, history, *, title, dates=None, ylabel=None, interval=None,
    what="mean squared error",
):  # fmt: skip
    """Write a picture of two panels: `forecast` above, `loss_curve` below.

    Parameters
    ----------
    path : str or os.PathLike
        Its suffix says the format: one of `FORMATS`.
    truth, prediction, dates, ylabel, interval
        As for `forecast`.
    history
        As for `loss_curve`.
    title : str
    what : str
        The loss.

    Raises
    ------
    OSError
        The file cannot be written.
    MissingExtra
        matplotlib is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_picture(
    ...         folder + "/a.svg", [1.0, 2.0], [1.5, 1.5], {"loss": [0.5, 0.25]}, title="Two days"
    ...     )
    ...     os.listdir(folder)
    ['a.svg']
    """
    require_matplotlib("a picture")
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(9, 8), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    forecast(truth, prediction, dates=dates, interval=interval, ax=above).set_title(_plain(title))
    above.set_ylabel(_plain(ylabel or ""))
    loss_curve(history, ax=below).set_title(f"{what} in scaled units; validation = the unseen part")
    figure.savefig(path, dpi=120)


def _axes(ax):
    if ax is not None:
        return ax
    require_matplotlib("a picture")
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]


def _finish(ax):
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def _plain(text):
    """``text`` with its dollar signs as they are: matplotlib would read mathematics."""
    return text.replace("$", r"\$")


from .plot_gates import gates_over_time, gradient_flow, gradient_norms  # noqa: E402  uses the above
