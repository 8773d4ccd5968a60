# SPDX-License-Identifier: MIT
"""Pictures of forecasts, of training, and of what happens inside a cell.

They need matplotlib: ``pip install "fastlstm[plot]"``. It is imported by the first picture, not by
``import fastlstm.plot``.
"""

from collections.abc import Mapping

import numpy as np

__all__ = [
    "MissingExtra",
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


def forecast(truth, prediction, *, dates=None, label="prediction", ylabel=None, ax=None):
    """Draw predictions on the truth.

    Parameters
    ----------
    truth : array_like (n,)
    prediction : array_like (n,), or dict of str to array_like (n,)
        Several predictions by their names.
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
        A prediction or ``dates`` has not the shape of ``truth``.
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
    ax = _axes(ax)
    ax.plot(dates, truth, color="black", linewidth=1.6, label="truth")
    for k, (name, curve) in enumerate(curves.items()):
        ax.plot(dates, curve, color=f"C{k}", linewidth=1.1, label=name)
    if ylabel is not None:
        ax.set_ylabel(ylabel)
    return _finish(ax)


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


def save_picture(path, truth, prediction, history, *, title, dates=None, ylabel=None):
    """Write a picture of two panels: `forecast` above, `loss_curve` below.

    Parameters
    ----------
    path : str or os.PathLike
        Its suffix says the format: one of `FORMATS`.
    truth, prediction, dates, ylabel
        As for `forecast`.
    history
        As for `loss_curve`.
    title : str

    Raises
    ------
    OSError
        The file cannot be written.
    MissingExtra
        matplotlib is not installed.
    """
    require_matplotlib("a picture")
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(9, 8), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    forecast(truth, prediction, dates=dates, ax=above).set_title(_plain(title))
    above.set_ylabel(_plain(ylabel or ""))
    loss_curve(history, ax=below).set_title(
        "mean squared error in scaled units; validation = the unseen part"
    )
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
