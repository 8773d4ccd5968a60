# SPDX-License-Identifier: MIT
"""What LSTMRegressor and LSTMClassifier share: parameters, network, training.

The network is a `Sequential` in ``model_``: a recurrent stack, its last state, a dense head.
`fastlstm.fit` trains it; what is added here is scikit-learn's contract.
"""

import warnings

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ..fit import EarlyStopping, fit
from ..modules import MODULES, Dense, Dropout, LastState, Sequential
from ..optim import SGD, Adam, AdamW
from ..schedules import SCHEDULES, get_schedule
from ..spec import Spec
from ._inputs import read_sequences

__all__ = ["Network", "check_choice", "check_given", "store"]

CELLS = ("lstm", "gru", "rnn")
SOLVERS = ("adam", "adamw", "sgd")


class Network(BaseEstimator):
    """The base of the two. A subclass has ``_read_targets``, ``_n_units`` and ``_loss``."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # -- the data ----------------------------------------------------------------------------

    def _read(self, X, y, sample_weight, reset):
        """x (n, T, I), the targets as the loss takes them, lengths or None, weights or None."""
        if reset:
            dtype = [np.float64, np.float32] if self.dtype is None else np.dtype(self.dtype)
        else:
            dtype = self.model_.dtype
        x, lengths = read_sequences(self, X, dtype=dtype, reset=reset)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, x, dtype=np.float64)
        y = self._read_targets(y, x.dtype, sample_weight, reset)
        check_consistent_length(x, y, sample_weight)
        return x, y, lengths, sample_weight

    def _outputs(self, X):
        """What the network gives for X, (n, outputs)."""
        check_is_fitted(self, "model_")
        x, lengths = read_sequences(self, X, dtype=self.model_.dtype, reset=False)
        return self.model_.predict(x, lengths=lengths)

    # -- the network -------------------------------------------------------------------------

    def _build(self, input_size, dtype):
        """A new ``model_``, its generator, and an empty record of the training."""
        random = check_random_state(self.random_state)
        seeds = random.randint(np.iinfo(np.int32).max, size=3)
        arguments = {} if self.spec is None else {"spec": self.spec}
        layer = self._cell()(
            input_size, self.hidden_size, self.num_layers, batch_first=True, dropout=self.dropout,
            bidirectional=self.bidirectional, dtype=dtype.name, seed=int(seeds[0]), **arguments,
        )  # fmt: skip
        head = Dense(layer.output_size, self._n_units(), dtype=dtype.name, seed=int(seeds[1]))
        self.model_ = Sequential([layer, LastState(), Dropout(self.dropout), head])
        self._rng = np.random.default_rng(seeds[2])  # of the order of the samples and the dropout
        self.n_iter_, self.loss_curve_, self.best_loss_ = 0, [], np.inf
        self.validation_loss_curve_ = []

    def _cell(self):
        """The class of the recurrent layer."""
        check_choice("cell", self.cell, CELLS)
        if self.cell != "lstm" and self.spec is not None:
            raise ValueError(f"spec is for cell='lstm' only, got cell={self.cell!r}")
        return MODULES[self.cell.upper()]

    def _new_optimizer(self):
        rate = self.learning_rate_init
        if self.solver == "adamw":
            return AdamW(rate, weight_decay=self.alpha)
        # As MLPRegressor does by default
        return Adam(rate) if self.solver == "adam" else SGD(rate, momentum=0.9, nesterov=True)

    # -- the training ------------------------------------------------------------------------

    def _fit(self, X, y, sample_weight):
        """Train for up to max_iter epochs; return whether training came to its own end."""
        self._check_parameters()
        fresh = not (self.warm_start and hasattr(self, "model_"))
        data = self._read(X, y, sample_weight, fresh)
        if fresh:
            self._build(data[0].shape[2], data[0].dtype)
        self._optimizer = self._new_optimizer()
        self._schedule = get_schedule(self.learning_rate, self.max_iter)
        early, patience = self.early_stopping, self.n_iter_no_change
        history = self._run(
            *data,
            epochs=self.max_iter,
            schedule=self._schedule,
            callback=None if early else _Patience(patience, self.tol),
            early_stopping=EarlyStopping(patience, self.tol) if early else None,
            validation_fraction=self.validation_fraction if early else 0.0,
        )
        return history.stopped != "epochs"

    def _partial_fit(self, X, y, sample_weight):
        """Train for one epoch, going on with the optimiser and the schedule."""
        self._check_parameters()
        fresh = not hasattr(self, "model_")
        data = self._read(X, y, sample_weight, fresh)
        if fresh:
            self._build(data[0].shape[2], data[0].dtype)
        if fresh or not hasattr(self, "_optimizer"):
            self._optimizer = self._new_optimizer()
            self._schedule = get_schedule(self.learning_rate, self.max_iter)
        self._optimizer.lr = self._schedule.rate(self.n_iter_, self.learning_rate_init)
        history = self._run(*data, epochs=1)
        self._schedule.observe(history["loss"][-1])
        return self

    def _run(self, x, y, lengths, weight, *, callback=None, **keywords):
        """`fit` with the parameters of the estimator; keep the record."""
        before = self.n_iter_

        def after_epoch(epoch, logs):
            if self.verbose:
                losses = f"Iteration {before + epoch + 1}, loss = {logs['loss']:.8f}"
                if "val_loss" in logs:
                    losses += f", validation loss = {logs['val_loss']:.8f}"
                print(losses)
            return callback is not None and callback(logs["loss"])

        history = fit(
            self.model_, x, y, lengths=lengths, sample_weight=weight, loss=self._loss(),
            optimizer=self._optimizer, batch_size=self.batch_size, shuffle=self.shuffle,
            clip_norm=self.clip_norm, l2=0.0 if self.solver == "adamw" else self.alpha,
            callback=after_epoch, seed=self._rng, progress=False, **keywords,
        )  # fmt: skip
        self.n_iter_ += len(history["loss"])
        self.loss_curve_ += history["loss"]
        self.validation_loss_curve_ += history.get("val_loss", [])
        self.best_loss_ = min(self.best_loss_, *history.get("val_loss", history["loss"]))
        return history

    def _warn(self, finished):
        if not finished:
            warnings.warn(
                f"Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _check_parameters(self):
        """Refuse what neither the network nor `fit` would refuse by the name it has here."""
        check_choice("solver", self.solver, SOLVERS)
        check_choice("learning_rate", self.learning_rate, SCHEDULES)
        for name in ("max_iter", "n_iter_no_change"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("alpha", "tol"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if not self.learning_rate_init > 0:
            raise ValueError(f"learning_rate_init must be positive, got {self.learning_rate_init}")
        if self.early_stopping and not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be in (0, 1), got {self.validation_fraction!r}"
            )
        if self.spec is not None and not isinstance(self.spec, Spec):
            raise TypeError(f"spec must be a fastlstm.Spec or None, got {self.spec!r}")


class _Patience:
    """Says when the loss has not fallen by ``tol`` for so many epochs, as MLPRegressor does."""

    def __init__(self, epochs, tol):
        self.epochs, self.tol = epochs, tol
        self.best, self.waited = np.inf, 0

    def __call__(self, loss):
        self.waited = 0 if loss < self.best - self.tol else self.waited + 1
        self.best = min(self.best, loss)
        return self.waited >= self.epochs


def check_choice(name, value, known):
    """Raise ValueError where ``value`` is none of the strings ``known``."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def check_given(estimator, y):
    """Raise ValueError where there are no targets."""
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None"
        )


def store(estimator, arguments):
    """Keep the arguments of a constructor, its ``locals()``, unchanged under their names."""
    for name in estimator._get_param_names():
        setattr(estimator, name, arguments[name])
