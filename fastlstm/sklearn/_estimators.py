# SPDX-License-Identifier: MIT
"""LSTMRegressor and LSTMClassifier; what they share is in _network.py."""

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import assert_all_finite, check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from ..losses import LOSSES, quantile, softmax
from ._network import Network, check_choice, check_given, store

__all__ = ["LSTMClassifier", "LSTMRegressor"]

REGRESSION_LOSSES = ("squared_error", "absolute_error", "huber", "quantile")


class LSTMRegressor(RegressorMixin, Network):
    """Numbers from sequences: recurrent layers, their last state, a linear head.

    Nothing is scaled: inputs and targets should be of the order of 1. A ``StandardScaler`` in a
    ``Pipeline``, and a ``TransformedTargetRegressor`` around it, do that.

    Parameters
    ----------
    hidden_size, num_layers : int
        Units of a layer, and how many layers.
    bidirectional : bool
        Read every sequence in both directions.
    dropout : float, in [0, 1]
        Between the layers and before the head, in training.
    cell : {"lstm", "gru", "rnn"}
    spec : Spec, optional
        The variant of the LSTM; see `fastlstm.Spec`.
    channels_first : bool
        3-D X is (n, channels, steps), as aeon and sktime have it, and each array of a list
        (channels, steps). It is never guessed.
    loss : {"squared_error", "absolute_error", "huber", "quantile"}
        "huber" is quadratic up to an error of 1.
    quantile : float or tuple of floats, in (0, 1)
        What "quantile" predicts. A tuple: several at once, along a last axis of the prediction.
    solver : {"adam", "adamw", "sgd"}
        "sgd" has a Nesterov momentum of 0.9, as in MLPRegressor.
    alpha : float
        Weight decay: the L2 penalty ``alpha/2 * sum(w**2)`` on weights, not on biases; with
        "adamw" decoupled from the gradient, and on all parameters.
    batch_size : int
    learning_rate : {"constant", "cosine", "plateau"}
        See `fastlstm.schedules`; "cosine" falls to 0 over ``max_iter`` epochs.
    learning_rate_init : float
    clip_norm : float, optional
        The norm of the gradient is clipped to it; None = never.
    max_iter : int
        Epochs of `fit`.
    shuffle : bool
        A new order of the samples in each epoch.
    early_stopping : bool
        Hold back the LAST ``validation_fraction`` of the samples, watch the loss there, and put
        the best weights back. Without it the loss in training is watched.
    validation_fraction : float, in (0, 1)
    n_iter_no_change : int
        Stop when the watched loss has not fallen by ``tol`` for so many epochs.
    tol : float
    warm_start : bool
        `fit` goes on from the weights of the last one, with a new optimiser.
    random_state : int, RandomState or None
        Of the weights, the order of the samples and the dropout.
    verbose : bool
        Print the loss of each epoch.
    dtype : {None, "float32", "float64"}
        Of the network. None = that of X as scikit-learn's estimators have it: float64 unless X
        is float32. "float32" is about twice as fast.

    Attributes
    ----------
    model_ : Sequential
        The network: ``fastlstm.save("model.safetensors", regressor.model_)``.
    loss_curve_, validation_loss_curve_ : list of float
        One number for each epoch; the second is empty without ``early_stopping``.
    best_loss_ : float
        The smallest watched loss.
    n_iter_ : int
        Epochs so far.
    n_features_in_ : int
        Steps of a table, channels of series.
    feature_names_in_ : ndarray of str
        Where X was a data frame.
    n_outputs_ : int

    Examples
    --------
    >>> import numpy as np
    >>> series = np.sin(np.arange(200) / 5)
    >>> windows = np.lib.stride_tricks.sliding_window_view(series, 21)
    >>> X, y = windows[:, :20], windows[:, 20]
    >>> model = LSTMRegressor(8, learning_rate_init=0.02, max_iter=20, random_state=0, tol=0)
    >>> _ = model.partial_fit(X[:150], y[:150])
    >>> for _ in range(19):
    ...     _ = model.partial_fit(X[:150], y[:150])
    >>> model.predict(X[150:]).shape, bool(model.score(X[150:], y[150:]) > 0.9)
    ((30,), True)
    """

    def __init__(
        self,
        hidden_size=32,
        num_layers=1,
        *,
        bidirectional=False,
        dropout=0.0,
        cell="lstm",
        spec=None,
        channels_first=False,
        loss="squared_error",
        quantile=0.5,
        solver="adam",
        alpha=0.0,
        batch_size=32,
        learning_rate="constant",
        learning_rate_init=0.001,
        clip_norm=1.0,
        max_iter=200,
        shuffle=True,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        warm_start=False,
        random_state=None,
        verbose=False,
        dtype=None,
    ):
        store(self, locals())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Train for up to ``max_iter`` epochs.

        Parameters
        ----------
        X : array_like (n, steps) or (n, steps, channels), or list of ndarray
            A list of arrays (steps,) or (steps, channels) is of series of any lengths.
        y : array_like (n,) or (n, outputs)
        sample_weight : array_like (n,), optional
            A sample of weight 2 counts as two, one of weight 0 as none.

        Returns
        -------
        LSTMRegressor
            The estimator itself.

        Raises
        ------
        ValueError
            As scikit-learn's estimators for NaN, infinities and shapes that do not fit; or a
            parameter is out of range.
        DivergenceError
            The training left the finite numbers.

        Warns
        -----
        ConvergenceWarning
            The watched loss was still falling after ``max_iter`` epochs.
        """
        return self._warn(self._fit(X, y, sample_weight))

    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch, going on from where the last call has ended.

        Parameters, results and exceptions are those of `fit`; ``early_stopping`` is not heeded.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X):
        """The predictions.

        Parameters
        ----------
        X : array_like or list of ndarray
            As for `fit`. Tables must have the same number of steps, series the same channels.

        Returns
        -------
        ndarray (n,) or (n, outputs), with a last axis for several quantiles
            Of the dtype of the network.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            X does not fit what was trained on.
        """
        p = self._outputs(X)
        quantiles = () if self._n_quantiles is None else (self._n_quantiles,)
        outputs = () if self._y_ndim == 1 else (self.n_outputs_,)
        return p.reshape(len(p), *outputs, *quantiles)

    def _check_parameters(self):
        super()._check_parameters()
        check_choice("loss", self.loss, REGRESSION_LOSSES)
        quantile(self.quantile)  # raises where one lies outside (0, 1)

    def _read_targets(self, y, dtype, sample_weight, reset):
        """y as (n, units) of the dtype, each output repeated for each quantile."""
        check_given(self, y)
        y = check_array(y, ensure_2d=False, input_name="y", estimator=self)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        n_outputs = 1 if y.ndim == 1 else y.shape[1]
        if reset:
            self.n_outputs_, self._y_ndim = n_outputs, y.ndim
            several = self.loss == "quantile" and np.ndim(self.quantile) == 1
            self._n_quantiles = len(self.quantile) if several else None
        elif n_outputs != self.n_outputs_:
            raise ValueError(f"y has {n_outputs} outputs, but was fitted with {self.n_outputs_}")
        with np.errstate(over="ignore"):  # an infinity is named by fit
            y = y.reshape(len(y), -1).astype(dtype, copy=False)
        return np.repeat(y, self._n_quantiles or 1, axis=1)

    def _n_units(self):
        return self.n_outputs_ * (self._n_quantiles or 1)

    def _loss(self):
        if self.loss != "quantile":
            return LOSSES[self.loss]
        several = self._n_quantiles is not None
        return quantile(tuple(self.quantile) * self.n_outputs_ if several else self.quantile)


class LSTMClassifier(ClassifierMixin, Network):
    """Classes of sequences: recurrent layers, their last state, a linear head with softmax.

    The loss is the cross entropy. Parameters and attributes are those of `LSTMRegressor`, without
    ``loss`` and ``quantile``.

    Attributes
    ----------
    classes_ : ndarray (C,)
        The labels, in the order of the columns of `predict_proba`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> up = [np.arange(n) / 10 + rng.normal(size=n) / 20 for n in rng.integers(5, 12, 40)]
    >>> X, y = up + [-x for x in up], ["up"] * 40 + ["down"] * 40
    >>> model = LSTMClassifier(4, learning_rate_init=0.02, random_state=0, tol=0.01).fit(X, y)
    >>> model.predict([np.array([0.1, 0.3, 0.7]), np.array([0.0, -0.3, -0.7, -0.9])])
    array(['up', 'down'], dtype='<U4')
    """

    def __init__(
        self,
        hidden_size=32,
        num_layers=1,
        *,
        bidirectional=False,
        dropout=0.0,
        cell="lstm",
        spec=None,
        channels_first=False,
        solver="adam",
        alpha=0.0,
        batch_size=32,
        learning_rate="constant",
        learning_rate_init=0.001,
        clip_norm=1.0,
        max_iter=200,
        shuffle=True,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        warm_start=False,
        random_state=None,
        verbose=False,
        dtype=None,
    ):
        store(self, locals())

    def fit(self, X, y, sample_weight=None):
        """Train for up to ``max_iter`` epochs; warns as `LSTMRegressor.fit`.

        Parameters
        ----------
        X, sample_weight
            As for `LSTMRegressor.fit`.
        y : array_like (n,)
            Labels: numbers or strings, of two classes or more.

        Returns
        -------
        LSTMClassifier
            The estimator itself.

        Raises
        ------
        ValueError, DivergenceError
            As for `LSTMRegressor.fit`; or y has one class only.
        """
        self._known_classes = None
        return self._warn(self._fit(X, y, sample_weight))

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train for one epoch, going on from where the last call has ended.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array_like (C,), optional
            All labels that will ever come; needed in the first call, where not all are in y.

        Returns
        -------
        LSTMClassifier
            The estimator itself.

        Raises
        ------
        ValueError
            As for `fit`; y has labels that are not in ``classes``, or these have changed.
        """
        self._known_classes = None if classes is None else np.unique(classes)
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X):
        """The most probable labels.

        Parameters
        ----------
        X : array_like or list of ndarray
            As for `fit`.

        Returns
        -------
        ndarray (n,)
            Of the labels in ``classes_``.

        Raises
        ------
        NotFittedError, ValueError
            As for `LSTMRegressor.predict`.
        """
        logits = self._outputs(X)
        return self.classes_[logits.argmax(axis=1)]

    def predict_proba(self, X):
        """The probabilities of all classes.

        Parameters
        ----------
        X : array_like or list of ndarray
            As for `fit`.

        Returns
        -------
        ndarray (n, C), float64
            Every row sums to 1; columns in the order of ``classes_``.

        Raises
        ------
        NotFittedError, ValueError
            As for `predict`.
        """
        return softmax(self._outputs(X).astype(np.float64, copy=False))

    def _read_targets(self, y, dtype, sample_weight, reset):
        """y as indices of classes."""
        check_given(self, y)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y", estimator_name=type(self).__name__)
        check_classification_targets(y)
        known = self._known_classes
        if reset:
            self.classes_ = np.unique(y) if known is None else known
            kept = y if sample_weight is None or known is not None else y[sample_weight > 0]
            present = self.classes_ if known is not None else np.unique(kept)
            if len(present) < 2:
                raise ValueError(
                    f"{type(self).__name__} needs samples of at least 2 classes in the data, but "
                    f"the data contains only one class: {present[0] if len(present) else None!r}"
                )
        elif known is not None and not np.array_equal(known, self.classes_):
            raise ValueError(f"classes={known} is not what was fitted on: {self.classes_}")
        strange = np.setdiff1d(y, self.classes_)
        if strange.size:
            raise ValueError(f"y has labels {strange} that are not in classes {self.classes_}")
        return np.searchsorted(self.classes_, y)

    def _n_units(self):
        return len(self.classes_)

    def _loss(self):
        return LOSSES["cross_entropy"]
