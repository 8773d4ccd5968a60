# SPDX-License-Identifier: MIT
"""Learning-rate schedules, as `fit` takes them: ``fit(..., schedule=Cosine(50))``.

A schedule answers one question, ``rate(epoch, base)``: the learning rate of an epoch (counted
from 0) where the optimiser was made with ``base``. After each epoch it is told the loss
(``observe``), on the validation data where there is any. Numbers agree with
``torch.optim.lr_scheduler``.
"""

import math

__all__ = ["SCHEDULES", "Constant", "Cosine", "Plateau", "Schedule", "Step", "get_schedule"]


class Schedule:
    """A schedule without state; a subclass defines `rate`.

    Examples
    --------
    >>> class Inverse(Schedule):
    ...     def rate(self, epoch, base):
    ...         return base / (1 + epoch)
    >>> Inverse().rate(3, 0.1)
    0.025
    """

    def rate(self, epoch, base):
        """Return the learning rate of an epoch.

        Parameters
        ----------
        epoch : int
            Counted from 0.
        base : float
            The rate that the optimiser was made with.

        Returns
        -------
        float
        """
        raise NotImplementedError(f"{type(self).__name__} must define rate(epoch, base)")

    def observe(self, loss):
        """Take note of the loss of the epoch that has ended.

        Parameters
        ----------
        loss : float
            On the validation data where there is any, else in training.
        """

    def state_dict(self):
        """Return what `observe` has gathered, as a dict of JSON-able numbers."""
        return {}

    def load_state_dict(self, state):
        """Take over the result of `state_dict`, a dict."""


class Constant(Schedule):
    """The optimiser's own learning rate throughout.

    Examples
    --------
    >>> Constant().rate(7, 0.1)
    0.1
    """

    def rate(self, epoch, base):
        """Return ``base``."""
        return base


class Cosine(Schedule):
    """Half a cosine from the optimiser's rate down to ``minimum``, after a linear warm-up.

    Parameters
    ----------
    epochs : int, >= 1
        Where the half cosine ends; later epochs stay at ``minimum``.
    minimum : float
    warmup : int
        Epochs before the cosine, with ``base * (epoch + 1) / (warmup + 1)``; part of ``epochs``.

    Raises
    ------
    ValueError
        ``epochs`` is not greater than ``warmup``, or a number is negative.

    Examples
    --------
    >>> [round(Cosine(4).rate(epoch, 1.0), 4) for epoch in range(5)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0]
    """

    def __init__(self, epochs, minimum=0.0, warmup=0):
        if warmup < 0 or epochs <= warmup:
            raise ValueError(f"epochs must exceed warmup >= 0, got {epochs!r} and {warmup!r}")
        if not minimum >= 0:
            raise ValueError(f"minimum must not be negative, got {minimum!r}")
        self.epochs, self.minimum, self.warmup = epochs, minimum, warmup

    def rate(self, epoch, base):
        """Return the point of the curve at ``epoch``."""
        if epoch < self.warmup:
            return base * (epoch + 1) / (self.warmup + 1)
        done = min(1.0, (epoch - self.warmup) / (self.epochs - self.warmup))
        return self.minimum + (base - self.minimum) * (1 + math.cos(math.pi * done)) / 2


class Step(Schedule):
    """Multiply the rate by ``factor`` every so many epochs.

    Parameters
    ----------
    every : int, >= 1
    factor : float, > 0

    Raises
    ------
    ValueError
        A number is out of range.

    Examples
    --------
    >>> [Step(2, factor=0.5).rate(epoch, 1.0) for epoch in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, every, factor=0.1):
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every!r}")
        _check_factor(factor)
        self.every, self.factor = every, factor

    def rate(self, epoch, base):
        """Return ``base * factor**(epoch // every)``."""
        return base * self.factor ** (epoch // self.every)


class Plateau(Schedule):
    """Multiply the rate by ``factor`` when the loss has not improved for more than ``patience``
    epochs.

    Parameters
    ----------
    factor : float, > 0
    patience : int
    threshold : float
        An improvement is a loss below ``best * (1 - threshold)``.
    minimum : float
        The rate does not fall below it.

    Raises
    ------
    ValueError
        A number is out of range.

    Examples
    --------
    >>> schedule = Plateau(factor=0.5, patience=1)
    >>> for loss in (1.0, 1.0, 1.0):
    ...     schedule.observe(loss)
    >>> schedule.rate(3, 0.1)
    0.05
    """

    def __init__(self, factor=0.1, patience=10, threshold=1e-4, minimum=0.0):
        _check_factor(factor)
        if not (patience >= 0 and threshold >= 0 and minimum >= 0):
            raise ValueError("patience, threshold and minimum must not be negative")
        self.factor, self.patience = factor, patience
        self.threshold, self.minimum = threshold, minimum
        self.best, self.bad_epochs, self.cuts = math.inf, 0, 0

    def rate(self, epoch, base):
        """Return ``base`` after the cuts so far."""
        return max(base * self.factor**self.cuts, self.minimum)

    def observe(self, loss):
        """Count the epochs without improvement."""
        if loss < self.best * (1 - self.threshold):
            self.best, self.bad_epochs = loss, 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs > self.patience:
            self.bad_epochs, self.cuts = 0, self.cuts + 1

    def state_dict(self):
        """Return the best loss, the epochs since, and the number of cuts."""
        return {"best": self.best, "bad_epochs": self.bad_epochs, "cuts": self.cuts}

    def load_state_dict(self, state):
        """Take over the result of `state_dict`."""
        self.best, self.bad_epochs = state["best"], state["bad_epochs"]
        self.cuts = state["cuts"]


SCHEDULES = ("constant", "cosine", "plateau")


def get_schedule(schedule, epochs):
    """Return a new schedule for a name in `SCHEDULES`, or the `Schedule` itself.

    Parameters
    ----------
    schedule : str, Schedule or None
        None is "constant"; "cosine" falls to 0 over ``epochs``; "plateau" is ``Plateau()``.
    epochs : int

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        The name is not known.

    Examples
    --------
    >>> get_schedule("cosine", epochs=10).epochs
    10
    """
    if isinstance(schedule, Schedule):
        return schedule
    if schedule is None or schedule == "constant":
        return Constant()
    if schedule == "cosine":
        return Cosine(epochs)
    if schedule == "plateau":
        return Plateau()
    raise ValueError(
        f"schedule must be one of {', '.join(SCHEDULES)}, or a Schedule, got {schedule!r}"
    )


def _check_factor(factor):
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be a positive number, got {factor!r}")
