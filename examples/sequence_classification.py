# SPDX-License-Identifier: MIT
"""Handwritten digits, read row by row: a sequence of 8 steps with 8 numbers each.

The estimators are scikit-learn's kind: they stand in a pipeline, a grid search and a confusion
matrix.
"""

# %% The data
import argparse
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import GridSearchCV, train_test_split

from fastlstm.sklearn import LSTMClassifier

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--plot", metavar="FILE")
arguments = parser.parse_args()
warnings.simplefilter("ignore", ConvergenceWarning)  # so few epochs do for an example

digits = load_digits()
X = digits.images.astype(np.float32) / 16  # (n, steps, channels)
X, X_test, y, y_test = train_test_split(
    X, digits.target, test_size=0.25, random_state=0, stratify=digits.target
)

# %% How large should the layer be? Three-fold cross-validation says
search = GridSearchCV(
    LSTMClassifier(
        learning_rate_init=0.005, max_iter=arguments.epochs, early_stopping=True,
        n_iter_no_change=arguments.epochs, random_state=0,
    ),
    {"hidden_size": [8, 48]},
    cv=3,
).fit(X, y)  # fmt: skip
for settings, score in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    print(f"{settings}: {score:.1%}")

# %% On digits that it has never seen
print(f"\n{search.score(X_test, y_test):.1%} of {len(y_test)} unseen digits are read as they are")
print(confusion_matrix(y_test, search.predict(X_test)))

# %% Series of different lengths: digits that end after 3 to 8 rows, as a list of arrays
ends = np.random.default_rng(0).integers(3, 9, len(X))
model = search.best_estimator_.fit([x[:n] for x, n in zip(X, ends, strict=True)], y)
for rows in (2, 4, 6, 8):
    print(f"after {rows} rows: {model.score([x[:rows] for x in X_test], y_test):.0%}")

# %% The picture
if arguments.plot:
    from matplotlib.figure import Figure

    from fastlstm import plot

    figure = Figure(figsize=(7, 4), layout="constrained")
    curves = {"loss": model.loss_curve_, "val_loss": model.validation_loss_curve_}
    plot.loss_curve(curves, ax=figure.subplots()).set_title("cross entropy")
    figure.savefig(arguments.plot, dpi=100)
    print(f"wrote {arguments.plot}")
