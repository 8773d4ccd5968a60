# SPDX-License-Identifier: MIT
"""Estimators with scikit-learn's interface: the extra ``[sklearn]``.

    LSTMRegressor, LSTMClassifier    a sequence in, numbers or a class out
    LSTMForecaster                   a series in, its next values out; its backtest returns a
                                     Backtest

The first two are in _estimators.py on _network.py; what all read is in _inputs.py. The forecaster
is in _forecaster.py on _windows.py, goes on from its own forecasts in _recursion.py, and walks
forward in _backtest.py.
"""

try:
    import sklearn  # noqa: F401
except ImportError:
    raise ImportError(
        'fastlstm.sklearn needs scikit-learn: pip install "fastlstm[sklearn]"'
    ) from None

from ..backtest import Backtest
from ._estimators import LSTMClassifier, LSTMRegressor
from ._forecaster import LSTMForecaster

__all__ = ["Backtest", "LSTMClassifier", "LSTMForecaster", "LSTMRegressor"]
