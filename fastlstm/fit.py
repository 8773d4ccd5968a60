# SPDX-License-Identifier: MIT
"""Training without a framework: ``fit(model, x, y, epochs=20)``; the loop is in training.py."""

import contextlib
import math
import sys

import numpy as np

from .between import Reverse
from .checkpoint import Checkpoint
from .dataset import Dataset
from .echo import check_readout, fit_readout
from .heads import LastState
from .losses import get_loss
from .modules import is_recurrent
from .norm_penalty import check_penalised
from .optim import get_optimizer
from .schedules import get_schedule
from .training import DivergenceError, EarlyStopping, History, Run, mean_loss

__all__ = ["DivergenceError", "EarlyStopping", "History", "evaluate", "fit"]


def fit(
    model,
    x,
    y,
    *,
    epochs=None,
    loss="squared_error",
    optimizer="adam",
    batch_size=32,
    shuffle=True,
    validation_data=None,
    validation_fraction=0.0,
    callback=None,
    clip_norm=None,
    clip_value=None,
    l2=0.0,
    l1=0.0,
    norm_penalty=0.0,
    bptt=None,
    train_recurrent=True,
    spectral_radius=0.9,
    schedule=None,
    early_stopping=None,
    sample_weight=None,
    lengths=None,
    seed=None,
    progress=None,
    checkpoint=None,
    checkpoint_minutes=0.0,
    resume=False,
):
    """Train a model in place and return the `History`.

    Parameters
    ----------
    model : Sequential, or any module with ``forward(x, rng)`` and ``backward(tape, dy)``
    x : ndarray (n, T, I), or whatever (n, ...) the model takes; dtype of the model
        May be a `sliding_window_view`: a batch at a time is gathered, the whole never expanded.
    y : ndarray (n, ...)
        Shaped as the prediction and of its dtype, or what `loss` takes (labels).
    epochs : int
        Passes over the data, all in all: with ``resume`` those of the checkpoint count.
        Not with ``train_recurrent=False``.
    loss : str or callable
        See `losses`.
    optimizer : str or Optimizer
        See `optim`. Its state lives on in it, so that a second `fit` goes on from there.
    batch_size : int
        The last batch of an epoch may be smaller; it is used.
    shuffle : bool
        A new order in every epoch.
    validation_data : tuple (x, y) or (x, y, lengths), optional
    validation_fraction : float, in [0, 1)
        Hold back the LAST part of the data instead: in time it comes after the rest. With
        ``bptt`` that is the last steps of every sample, which then begin in the zero state.
    callback : callable, optional
        ``callback(epoch, logs)`` after each epoch, with the entries of the History of this
        epoch; training stops when it returns True.
    clip_norm, clip_value : float, optional
        See `optim.clip_grad_norm` and `optim.clip_grad_value`, applied in this order.
    l2, l1 : float
        Add the gradient of ``l2/2 * sum(w**2) + l1 * sum(abs(w))`` over all weights, not over
        biases. The reported losses are those of the data alone.
    norm_penalty : float
        Add ``norm_penalty`` times the penalty of Pascanu et al. (2013) on the norms of errors on
        their way back through time, see norm_penalty.py. For RNN, GRU and LSTM, but not for a
        `Spec` with layer norm, full gate recurrence or random masks.
    bptt : int, optional
        Truncated back-propagation through time: x is (n, T, I) with long, maybe few series
        (``series[None]`` is one), y and the prediction are (n, T, ...). Each batch is cut into
        pieces of ``bptt`` steps, in order, each of them a step of the optimiser. The state is
        carried from piece to piece, the gradient is not. An epoch begins in the zero state.
    train_recurrent : bool
        False: an echo-state network. The recurrent weights are scaled to ``spectral_radius`` and
        left so, and the last member, a Dense, is solved for by ridge regression: the weights of
        least mean squared error with the penalty ``l2``. One pass over the data; of the other
        settings it takes batch_size, lengths, sample_weight and those of validation.
    spectral_radius : float, > 0
        For ``train_recurrent=False``: of the recurrent matrix of each gate, layer and direction.
    schedule : str or Schedule, optional
        See `schedules`. The optimiser's own rate is put back at the end.
    early_stopping : EarlyStopping or int, optional
        An int is its patience. The best weights are put back at the end.
    sample_weight : array_like (n,), optional
        See `losses`. The loss of an epoch weighs each batch by the sum of its weights.
    lengths : ndarray (n,) of int, optional
        Valid steps of each row. Where the prediction is (B, T, ...) only those steps count.
    seed : int, optional
        The same seed, data and settings give the same bits.
    progress : bool, optional
        A tqdm bar; None = where tqdm is installed and stderr is a terminal.
    checkpoint : path, optional
        Write the state of the training to this file after an epoch, in one step (a crash
        leaves the old file or the new one).
    checkpoint_minutes : float
        At most once in so many minutes, and at the end; 0 = after every epoch.
    resume : bool
        Go on from ``checkpoint`` if that file exists: the result has the same bits as that of an
        uninterrupted run with the same arguments.

    Returns
    -------
    history : History

    Raises
    ------
    ValueError
        Lengths, shapes or settings do not fit; x or y hold NaN or infinities; the model is
        frozen; the checkpoint is of another run.
    TypeError
        x or y have another dtype than the model.
    NotImplementedError
        ``norm_penalty`` with cells that it does not know.
    DivergenceError
        The loss, the weights or, with ``clip_norm``, the gradient are not finite. It is a
        FloatingPointError; the weights are left as they are then.

    Examples
    --------
    >>> import numpy as np
    >>> import fastlstm as fl
    >>> series = np.sin(np.arange(200, dtype="float32") / 5)
    >>> windows = np.lib.stride_tricks.sliding_window_view(series, 21)
    >>> x, y = windows[:, :20, None], windows[:, 20:]
    >>> model = fl.Sequential(
    ...     [fl.LSTM(1, 8, batch_first=True, seed=0), fl.LastState(), fl.Dense(8, 1, seed=0)]
    ... )
    >>> history = fl.fit(model, x, y, epochs=5, optimizer=fl.optim.Adam(0.01), seed=0)
    >>> history["loss"][-1] < history["loss"][0]
    True
    """
    _check_settings(
        epochs=epochs, batch_size=batch_size, clip_norm=clip_norm, clip_value=clip_value, l2=l2,
        l1=l1, norm_penalty=norm_penalty, bptt=bptt, spectral_radius=spectral_radius,
        validation_fraction=validation_fraction, checkpoint_minutes=checkpoint_minutes,
    )  # fmt: skip
    if validation_data is not None and validation_fraction:
        raise ValueError("give validation_data or validation_fraction, not both")
    if resume and checkpoint is None:
        raise ValueError("resume needs a checkpoint to resume from")
    _check_model(model)
    loss, optimizer = get_loss(loss), get_optimizer(optimizer)
    data, held_back = Dataset(x, y, lengths, sample_weight, model, loss), None
    _check_recurrent(model, data, bptt, norm_penalty)
    if validation_data is not None:
        held_back = _validation_set(validation_data, model, loss)
    elif validation_fraction:
        data, held_back = data.split(validation_fraction, by_time=bptt is not None)
    if not train_recurrent:
        refused = {
            "epochs": epochs, "clip_norm": clip_norm, "clip_value": clip_value, "l1": l1,
            "norm_penalty": norm_penalty, "bptt": bptt, "schedule": schedule, "callback": callback,
            "early_stopping": early_stopping, "checkpoint": checkpoint,
        }  # fmt: skip
        check_readout(model, loss, refused)
        return fit_readout(model, loss, data, held_back, batch_size, spectral_radius, l2)
    if epochs is None:
        raise ValueError("epochs must be given: how often to pass over the data")
    run = Run(
        model, loss, optimizer, get_schedule(schedule, epochs), _early_stopping(early_stopping),
        np.random.default_rng(seed), clip_norm=clip_norm, clip_value=clip_value, l2=l2, l1=l1,
        norm_penalty=norm_penalty, bptt=bptt,
    )  # fmt: skip
    store = None
    if checkpoint is not None:
        store = _store(run, checkpoint, checkpoint_minutes, len(data), batch_size, shuffle)
        if resume:
            store.restore(run)
    samples = len(data) if bptt is None else math.prod(data.x.shape[:2])
    with _bar(progress, epochs * samples, run.epoch * samples, bptt is not None) as bar:
        batches = data, held_back, batch_size, shuffle, bar
        _train(run, epochs, batches, callback, store)
    return run.finish()


def _store(run, path, minutes, n, batch_size, shuffle):
    """The checkpoint of a run, which refuses the file of another one."""
    settings = {
        "n": n, "batch_size": batch_size, "shuffle": bool(shuffle),
        "optimizer": type(run.optimizer).__name__, "parameters": run.model.flat.size,
        "bptt": run.bptt, "norm_penalty": run.norm_penalty,
    }  # fmt: skip
    return Checkpoint(path, minutes, settings)


def _train(run, epochs, batches, callback, store):
    """Epoch after epoch, until there were so many or something stops it."""
    while run.epoch < epochs and run.history.stopped == "epochs":
        logs = run.train_epoch(*batches)
        if callback is not None and callback(run.epoch - 1, logs) is True:
            run.history.stopped = "callback"
        if store is not None:
            last = run.epoch == epochs or run.history.stopped != "epochs"
            store.save(run, last)


def evaluate(model, x, y, *, loss="squared_error", batch_size=256, lengths=None):
    """Return the loss of a model on data, dropout off.

    Parameters and exceptions are those of `fit`.

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np
    >>> import fastlstm as fl
    >>> evaluate(fl.Dropout(0.5), np.ones((4, 2), "float32"), np.zeros((4, 2), "float32"))
    1.0
    """
    loss = get_loss(loss)
    return mean_loss(model, loss, Dataset(x, y, lengths, None, model, loss), batch_size)


class _NoBar:
    """Stands in for tqdm where no progress is shown."""

    def update(self, n):
        """Do nothing."""

    def set_postfix(self, values):
        """Do nothing."""


def _bar(progress, total, initial, by_step):
    if progress or (progress is None and sys.stderr is not None and sys.stderr.isatty()):
        try:
            from tqdm import tqdm
        except ImportError:
            if progress:
                raise ImportError("progress=True needs tqdm: pip install tqdm") from None
        else:
            unit = " steps" if by_step else " samples"
            return tqdm(total=total, initial=initial, unit=unit, unit_scale=True)
    return contextlib.nullcontext(_NoBar())


def _check_settings(**settings):
    for name, value in settings.items():
        if value is None:
            continue
        if name in ("epochs", "batch_size", "bptt"):
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        elif name.startswith(("clip", "spectral")) and not value > 0:
            raise ValueError(f"{name} must be positive, got {value!r}")
        elif name == "validation_fraction" and not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value!r}")
        elif not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value!r}")


def _check_model(model):
    if hasattr(model, "hidden_size"):
        name = type(model).__name__
        raise TypeError(f"model is a bare {name}: fit takes Sequential([{name.lower()}, ...])")
    if getattr(model, "batch_first", None) is False:
        raise ValueError("fit takes samples first: build the recurrent layer with batch_first=True")
    if model.flat.size == 0:
        raise ValueError("model has no parameters to train")
    for member in getattr(model, "modules", [model]):
        if not all(a.flags.writeable for a in member.parameters().values()):
            raise ValueError(f"model is frozen: the parameters of {type(member).__name__}")


def _check_recurrent(model, data, bptt, norm_penalty):
    """Refuse what cannot be cut along time, and cells that the norm penalty does not know."""
    members = getattr(model, "modules", [])
    layers = [m for m in members if is_recurrent(m)]
    for name, value in (("bptt", bptt), ("norm_penalty", norm_penalty)):
        if value and not layers:
            raise TypeError(f"{name} needs a Sequential with a recurrent layer, got {model!r}")
    if bptt:
        _check_cut(members, layers, data)
    for layer in layers if norm_penalty else ():
        check_penalised(layer)


def _check_cut(members, layers, data):
    if any(layer.bidirectional for layer in layers):
        raise ValueError("bptt needs layers that read forwards, got a bidirectional one")
    for m in members:
        if isinstance(m, (LastState, Reverse)):
            raise ValueError(f"bptt needs a prediction at each step, got a model with {m!r}")
    expected = data.x.shape[:2]
    for name, shape in (("prediction", data.prediction_shape), ("y", data.y.shape)):
        if shape[:2] != expected:
            raise ValueError(f"bptt needs {name} (n, T, ...) = {(*expected, '...')}, got {shape}")


def _validation_set(validation_data, model, loss):
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
        raise ValueError("validation_data must be a tuple (x, y) or (x, y, lengths)")
    x, y, *lengths = validation_data
    return Dataset(x, y, lengths[0] if lengths else None, None, model, loss, "validation ")


def _early_stopping(value):
    if value is None or isinstance(value, EarlyStopping):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"early_stopping must be an EarlyStopping or its patience, got {value!r}")
    return EarlyStopping(int(value))
