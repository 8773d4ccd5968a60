# SPDX-License-Identifier: MIT
"""Pictures of what happens inside: gates over time, gradients through time.

`fastlstm.plot` has these too. matplotlib is imported by the first picture.
"""

from collections.abc import Mapping

import numpy as np

from . import checks
from .layer import LSTM, LSTMTape
from .siblings import SiblingTape
from .tape import Tape

__all__ = ["gates_over_time", "gradient_flow", "gradient_norms"]

# Of a panel with all units: what is drawn, the colours' map and limits (None: symmetric)
_GATES = {
    "i": ("input gate $i$", "viridis", (0, 1)),
    "f": ("forget gate $f$", "viridis", (0, 1)),
    "o": ("output gate $o$", "viridis", (0, 1)),
    "g": ("candidate $g$", "RdBu_r", None),
    "c": ("cell $c$", "RdBu_r", None),
    "h": ("output $h$", "RdBu_r", None),
}


def gates_over_time(source, x=None, *, layer=0, direction=0, row=0, unit=None, figure=None):
    """Draw the gates, the cell and the output of an LSTM, step by step.

    Parameters
    ----------
    source : Tape, LSTMTape or LSTM
        A record of a forward pass, not consumed by a backward pass, or a layer that ``x`` is
        run through (its `forward`: with dropout, where it has any).
    x : array_like, optional
        With a layer: its input.
    layer, direction : int
        Which cell of a layer with several; direction 1 is the one that runs in reverse.
    row : int
        Which row of the batch.
    unit : int, optional
        Lines for this unit: its gates in one panel, g, c and h in another, above them the input
        where that is not too wide. None: a map of all units for each of i f o g c h.
    figure : matplotlib Figure or SubFigure, optional
        None = a new figure of pyplot.

    Returns
    -------
    list of matplotlib.axes.Axes
        From top to bottom, for all units column by column.

    Raises
    ------
    TypeError
        The source is something else, or ``x`` is missing, or given with a tape.
    ValueError
        There is no such layer, direction, row or unit, or the row has no step.
    RuntimeError
        The tape was consumed by a backward pass.
    MissingExtra
        matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> lstm = LSTM(3, 8, seed=0)
    >>> x = np.zeros((20, 2, 3), np.float32)
    >>> axes = gates_over_time(lstm, x, unit=5, figure=Figure())
    >>> [line.get_label() for line in axes[1].lines]
    ['input gate $i$', 'forget gate $f$', 'output gate $o$']
    """
    tape = _cell_tape(source, x, layer, direction)
    q = tape.inputs
    row = _index("row", row, q.B, "B")
    steps = slice(0, q.T if q.lengths is None else q.lengths[row])
    if steps.stop == 0:
        raise ValueError(f"row {row} has no step")
    after = slice(0, q.T) if q.reverse else slice(1, q.T + 1)  # the states after each step
    gates = tape.gates[steps, row]
    curves = dict(zip("ifgo", gates.swapaxes(0, 1), strict=True))
    curves["c"], curves["h"] = (a[after][steps, row] for a in (tape.c, tape.h))
    if unit is None:
        return _maps(_figure(figure, (9, 6.5)), curves)
    unit = _index("unit", unit, min(q.H, q.P), "H")
    unit_curves = {name: a[:, unit] for name, a in curves.items()}
    shown = q.x[steps, row] if q.I <= 4 else None
    return _lines(_figure(figure, (9, 5.5)), unit_curves, shown)


def _cell_tape(source, x, layer, direction):
    """The tape of one cell."""
    if isinstance(source, LSTM):
        if x is None:
            raise TypeError("x is missing: gates_over_time runs the layer on it")
        *_, source = source.forward(x)
    elif x is not None:
        raise TypeError("x is given with a tape, which has its own input")
    if isinstance(source, LSTMTape):
        layer = _index("layer", layer, len(source.tapes), "num_layers")
        direction = _index("direction", direction, len(source.tapes[0]), "directions")
        return source.tapes[layer][direction]
    if not isinstance(source, Tape) or isinstance(source, SiblingTape):
        raise TypeError(
            f"source must be a Tape, an LSTMTape or an LSTM, got {type(source).__name__}"
        )
    return source


def _index(name, value, n, symbol):
    value = checks.integer(name, value, 0)
    if value >= n:
        raise ValueError(f"{name} must be less than {symbol} = {n}, got {value}")
    return value


def _maps(figure, curves):
    """A map units x time for each; gates in the left column, values in the right."""
    grid = figure.subplots(3, 2, sharex=True, sharey=True)
    axes = [*grid[:, 0], *grid[:, 1]]
    for ax, (name, (title, colours, limits)) in zip(axes, _GATES.items(), strict=True):
        a = curves[name].T
        bound = np.abs(a).max(initial=1e-12)
        low, high = limits or (-bound, bound)
        image = ax.imshow(a, cmap=colours, vmin=low, vmax=high, aspect="auto", origin="lower",
                          interpolation="nearest")  # fmt: skip
        ax.set_title(title, fontsize="medium")
        figure.colorbar(image, ax=ax, pad=0.02)
    for ax in grid[:, 0]:
        ax.set_ylabel("unit")
    for ax in grid[-1]:
        ax.set_xlabel("step $t$")
    return axes


def _lines(figure, curves, x):
    """The input, the gates, and g, c, h of one unit."""
    heights = [2, 3] if x is None else [1, 2, 3]
    axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
    if x is not None:
        axes[0].plot(x, color="0.3", linewidth=1)
        axes[0].set_ylabel("input $x$")
    gates, values = axes[-2:]
    for name, colour in (("i", "C2"), ("f", "C0"), ("o", "C1")):
        gates.plot(curves[name], color=colour, label=_GATES[name][0])
    gates.set_ylim(-0.04, 1.04)
    gates.set_yticks([0, 0.5, 1], ["0 shut", "0.5", "1 open"])
    values.axhline(0, color="0.8", linewidth=0.8)
    for name, colour, style in (("g", "0.6", "-"), ("c", "C3", "-"), ("h", "black", "--")):
        values.plot(curves[name], style, color=colour, label=_GATES[name][0])
    values.set_xlabel("step $t$")
    for ax in axes:
        ax.grid(alpha=0.3)
    for ax in axes[-2:]:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return axes


def gradient_norms(layer, x, *, seed=0):
    """How much a loss after the last step depends on the state k steps before it.

    The loss is a random direction of the last output. Its gradient with respect to the state
    (h, and of an LSTM c too) goes back through the layer step by step.

    Parameters
    ----------
    layer : LSTM, GRU, RNN or another layer with their `forward` and `backward`
        In one direction; of several layers the state is that of all.
    x : array_like (T, B, I), with batch_first (B, T, I), or unbatched (T, I)
    seed : int
        Of the random direction.

    Returns
    -------
    ndarray (T+1,) of float64
        Norms of dL/d(state after step T - k): 1 at k = 0.

    Raises
    ------
    TypeError, ValueError
        As the layer's `forward`; the layer runs in two directions.

    Examples
    --------
    >>> lstm = LSTM(3, 8, seed=0)
    >>> x = np.random.default_rng(0).standard_normal((20, 4, 3)).astype(np.float32)
    >>> norms = gradient_norms(lstm, x)
    >>> norms.shape, bool(norms[20] < norms[1] < norms[0] * 1.0001)
    ((21,), True)
    """
    if getattr(layer, "bidirectional", False):
        raise ValueError("layer must run in one direction, got bidirectional=True")
    x = checks.array("x", x)
    if x.ndim not in (2, 3):
        raise ValueError(f"x must have 2 or 3 dimensions, got shape {x.shape}")
    axis = 1 if x.ndim == 3 and getattr(layer, "batch_first", False) else 0
    state, tapes, y = None, [], None
    for t in range(x.shape[axis]):
        y, state, tape = layer.forward(x[:, t : t + 1] if axis else x[t : t + 1], state)
        tapes.append(tape)
    if y is None:
        raise ValueError("x must have a step or more, got T = 0")
    dy = np.random.default_rng(seed).standard_normal(y.shape).astype(y.dtype)
    dy /= np.linalg.norm(dy)
    norms, dstate = [1.0], None
    for tape in reversed(tapes):
        _, dstate, _ = layer.backward(tape, dy, dstate)
        norms.append(_norm(dstate))
        dy = None
    return np.array(norms)


def _norm(states):
    """The norm of all numbers of a state: an array, or tuples of them."""
    if isinstance(states, (tuple, list)):
        return float(np.linalg.norm([_norm(s) for s in states]))
    return float(np.linalg.norm(states.astype(np.float64)))


def gradient_flow(flows, x=None, *, label=None, seed=0, floor=1e-10, ax=None):
    """Draw how gradients fare on their way back through time: `gradient_norms` against the lag.

    Where a line falls, what happened that long ago cannot be learned any more (the gradient
    vanishes); where it rises without end, training breaks (it explodes). A cell whose forget
    gate is open carries the gradient (Hochreiter & Schmidhuber 1997).

    Parameters
    ----------
    flows : layer, ndarray (n,), or dict of str to these
        Layers that ``x`` is run through, or norms by lag. Several by their names.
    x : array_like, optional
        The input of the layers, as for `gradient_norms`.
    label : str, optional
        The name of a single one.
    seed : int
        As for `gradient_norms`.
    floor : float
        The vertical axis goes down to here at most.
    ax : matplotlib Axes, optional
        None = those of a new figure of pyplot.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        As `gradient_norms`; ``x`` is missing; norms are no curve of numbers.
    MissingExtra
        matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = gradient_flow({"halves": 0.5 ** np.arange(9.0)}, ax=Figure().add_subplot())
    >>> [line.get_label() for line in ax.lines][1:]
    ['halves']
    """
    several = flows if isinstance(flows, Mapping) else {label or "": flows}
    curves = {}
    for name, flow in several.items():
        if hasattr(flow, "backward"):
            if x is None:
                raise TypeError(f"x is missing: gradient_flow runs {name or 'the layer'} on it")
            flow = gradient_norms(flow, x, seed=seed)
        curves[name] = np.asarray(flow, dtype=np.float64)
        if curves[name].ndim != 1 or curves[name].size == 0:
            raise ValueError(f"norms must have shape (n,), got {curves[name].shape}")
    from .plot import _axes  # which re-exports these functions

    ax = _axes(ax)
    ax.axhline(1, color="0.5", linewidth=1, linestyle=":")
    for k, (name, norms) in enumerate(curves.items()):
        norms = np.where(norms > 0, norms, np.nan)  # a logarithmic axis has no 0
        ax.semilogy(np.arange(len(norms)), norms, color=f"C{k}", linewidth=1.8, label=name)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, floor), high)
    ax.set_xlim(0, max(len(norms) for norms in curves.values()) - 1 or 1)
    ax.set_xlabel("lag: steps back in time")
    ax.set_ylabel("norm of the gradient, 1 at lag 0")
    ax.grid(alpha=0.3)
    if any(curves):
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return ax


def _figure(figure, size):
    if figure is not None:
        return figure
    from .plot import require_matplotlib

    require_matplotlib("a picture")
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained")
