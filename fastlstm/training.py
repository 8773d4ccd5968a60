# SPDX-License-Identifier: MIT
"""The training loop behind `fit`:

    for every epoch:  for every batch:
        prediction, tape = model.forward(x)
        value, dprediction = loss(prediction, y)
        _, grads = model.backward(tape, dprediction)
        penalties, clipping, optimizer.step(model.flat, grads.flat)

With ``bptt`` every batch is cut along time into pieces, each of them a step of the optimiser; a
piece begins with the state in which the one before has ended, and no gradient goes back there.

One NumPy generator draws the order of the samples and all dropout masks: its seed fixes every
bit of the result, and its state in a checkpoint makes a resumed run the same as a whole one.
"""

import math
import time

import numpy as np

from .norm_penalty import NormPenalty
from .optim import clip_grad_norm, clip_grad_value, grad_norm

__all__ = ["DivergenceError", "EarlyStopping", "History", "Run", "mean_loss"]


class DivergenceError(FloatingPointError):
    """Training left the finite numbers; the message says what to try.

    Attributes
    ----------
    epoch, batch : int
        Where, counted from 0; batch is None after the last one.
    loss : float
    gradient_norm : float
        Of the last gradient there was; NaN if there was none.
    """

    def __init__(self, epoch, batch, loss, gradient_norm, learning_rate):
        where = f"epoch {epoch}, " + ("after the last batch" if batch is None else f"batch {batch}")
        super().__init__(
            f"training diverged in {where} (counted from 0): the loss is {loss:g}, the last "
            f"gradient norm {gradient_norm:g}, the learning rate {learning_rate:g}. Try a smaller "
            f"learning rate, clip_norm=1.0, or inputs and targets scaled to about [-1, 1]"
        )
        self.epoch, self.batch, self.loss = epoch, batch, loss
        self.gradient_norm = gradient_norm


class EarlyStopping:
    """Stop when the loss has not improved for some epochs, and go back to the best weights.

    Watched is ``val_loss`` where there is validation data, ``loss`` otherwise.

    Parameters
    ----------
    patience : int, >= 1
        Stop after so many epochs without an improvement.
    min_delta : float
        An improvement is a loss below ``best - min_delta``.

    Raises
    ------
    ValueError
        A number is out of range.

    Examples
    --------
    >>> EarlyStopping(patience=3).min_delta
    0.0
    """

    def __init__(self, patience=10, min_delta=0.0):
        if patience < 1 or not min_delta >= 0:
            raise ValueError(
                f"patience must be at least 1 and min_delta not negative, got {patience!r} "
                f"and {min_delta!r}"
            )
        self.patience, self.min_delta = patience, min_delta


class History(dict):
    """What `fit` returns: lists with one entry for each epoch.

    Keys are ``loss``, ``val_loss`` (with validation data), ``norm_penalty`` (with that penalty:
    its value before it is multiplied), ``seconds`` and ``learning_rate``.

    Attributes
    ----------
    best_epoch : int or None
        The epoch, counted from 0, of the smallest val_loss (or loss); None without epochs.
    stopped : str
        Why training ended: "epochs", "early_stopping" or "callback".

    Examples
    --------
    >>> History(loss=[0.5, 0.25])["loss"][-1]
    0.25
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.best_epoch = None
        self.stopped = "epochs"


def mean_loss(model, loss, data, batch_size):
    """Return the loss over all batches of a `Dataset`, dropout off."""
    total = weight = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for batch in data.batches(batch_size):
            value, _ = loss(model(batch.x, **batch.keywords), batch.y, batch.weight)
            total += value * batch.total
            weight += batch.total
    return total / weight


class Run:
    """A training under way: what an epoch changes, and what it needs for that."""

    def __init__(
        self, model, loss, optimizer, schedule, early_stopping, rng, *, clip_norm, clip_value, l2,
        l1, norm_penalty, bptt,
    ):  # fmt: skip
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.schedule, self.early_stopping, self.rng = schedule, early_stopping, rng
        self.clip_norm, self.clip_value, self.l2, self.l1 = clip_norm, clip_value, l2, l1
        self.norm_penalty, self.bptt = norm_penalty, bptt
        # "0.weight_hh_l0", "2.weight": biases are not penalised
        names = [n for n in model.parameters() if n.rpartition(".")[2].startswith("weight")]
        self.penalised = names if l2 or l1 else []
        self.history = History()
        self.best_loss, self.best_parameters = math.inf, None
        self.grads = self.states = None  # of the last batch

    @property
    def epoch(self):
        """How many epochs are done."""
        return len(self.history.get("loss", ()))

    def train_epoch(self, data, held_back, batch_size, shuffle, bar):
        """Train on all batches once; return the entries of the history."""
        base, start = self.optimizer.lr, time.perf_counter()
        self.optimizer.lr = rate = self.schedule.rate(self.epoch, base)
        total = weight = omega = 0.0
        try:
            order = data.batches(batch_size, self.rng if shuffle else None)
            for k, (batch, state) in enumerate(self._pieces(order)):
                value, penalty = self._train_batch(k, batch, state)
                total, omega = total + value * batch.total, omega + penalty * batch.total
                weight += batch.total
                bar.update(len(batch.x) if self.bptt is None else math.prod(batch.x.shape[:2]))
            logs = {"loss": total / weight}
            if self.norm_penalty:
                logs["norm_penalty"] = omega / weight
            if not np.isfinite(self.model.flat).all():
                raise self._divergence(None, logs["loss"])
            if held_back is not None:
                size = max(batch_size, 256)
                logs["val_loss"] = mean_loss(self.model, self.loss, held_back, size)
        finally:
            self.optimizer.lr = base
        logs |= {"seconds": time.perf_counter() - start, "learning_rate": rate}
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        self._watch(logs.get("val_loss", logs["loss"]))
        bar.set_postfix({k: f"{v:.4g}" for k, v in logs.items() if k.endswith("loss")})
        return logs

    def _pieces(self, batches):
        """Yield what one step of the optimiser sees, with the state that it begins in."""
        for batch in batches:
            if self.bptt is None:
                yield batch, None
                continue
            self.states = None
            for piece in batch.pieces(self.bptt):
                yield piece, self.states  # which _train_batch has left there

    def _train_batch(self, k, batch, state):
        """Take one step of the optimiser; return the loss and the norm penalty before it."""
        begins = {} if state is None else {"state": state}
        with np.errstate(over="ignore", invalid="ignore"):
            y, tape = self.model.forward(batch.x, rng=self.rng, **batch.keywords, **begins)
            self.states = tape.states if self.bptt else None
            value, dy = self.loss(y, batch.y, batch.weight)
            if not math.isfinite(value):
                raise self._divergence(k, value)
            omega = self._backward(tape, dy)
            for name in self.penalised:
                w, dw = self.model.parameters()[name], self.grads[name]
                dw += self.l2 * w
                dw += self.l1 * np.sign(w)
            if self.clip_norm is not None:
                norm = clip_grad_norm(self.grads, self.clip_norm)
                if not math.isfinite(norm):
                    raise self._divergence(k, value)
            if self.clip_value is not None:
                clip_grad_value(self.grads, self.clip_value)
            self.optimizer.step(self.model.flat, self.grads.flat)
        return value, omega

    def _backward(self, tape, dy):
        """Set ``grads``; return the norm penalty, whose gradient they have."""
        if not self.norm_penalty:
            _, self.grads = self.model.backward(tape, dy)
            return 0.0
        penalty = NormPenalty()
        _, self.grads = self.model.backward(tape, dy, watch=penalty.look)
        return penalty.add(self.grads, self.norm_penalty)

    def _divergence(self, batch, value):
        norm = math.nan if self.grads is None else grad_norm(self.grads)
        return DivergenceError(self.epoch, batch, value, norm, self.optimizer.lr)

    def _watch(self, value):
        """Note the best epoch; tell the schedule; stop early."""
        self.schedule.observe(value)
        stopping = self.early_stopping
        min_delta = 0.0 if stopping is None else stopping.min_delta
        if value < self.best_loss - min_delta or self.history.best_epoch is None:
            self.best_loss, self.history.best_epoch = value, self.epoch - 1
            if stopping is not None:
                self.best_parameters = self.model.flat.copy()
        elif stopping and self.epoch - 1 - self.history.best_epoch >= stopping.patience:
            self.history.stopped = "early_stopping"

    def finish(self):
        """Put the best weights back, if that was asked for; return the history."""
        if self.best_parameters is not None:
            self.model.flat[:] = self.best_parameters
        return self.history

    def state_dict(self):
        """Return (arrays, JSON-able rest): all that the coming epochs depend on."""
        optimizer = self.optimizer.state_dict()
        numbers = {
            "history": dict(self.history),
            "best_epoch": self.history.best_epoch,
            "best_loss": self.best_loss,
            "stopped": self.history.stopped,
            "rng": self.rng.bit_generator.state,
            "schedule": self.schedule.state_dict(),
            "steps": optimizer.pop("steps"),
        }
        arrays = {f"optimizer.{name}": a for name, a in optimizer.items()}
        arrays["parameters"] = self.model.flat
        if self.best_parameters is not None:
            arrays["best_parameters"] = self.best_parameters
        return arrays, numbers

    def load_state_dict(self, arrays, numbers):
        """Take over the result of `state_dict`."""
        prefix = "optimizer."
        optimizer = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        self.optimizer.load_state_dict({"steps": numbers["steps"], **optimizer})
        self.model.flat[:] = arrays["parameters"]
        self.best_parameters, self.best_loss = arrays.get("best_parameters"), numbers["best_loss"]
        self.history = History(numbers["history"])
        self.history.best_epoch = numbers["best_epoch"]
        # Whoever resumes after a callback has stopped the run wants it to go on.
        self.history.stopped = numbers["stopped"].replace("callback", "epochs")
        self.rng.bit_generator.state = numbers["rng"]
        self.schedule.load_state_dict(numbers["schedule"])
