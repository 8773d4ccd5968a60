# SPDX-License-Identifier: MIT
"""Pictures: what is drawn is what was given, and matplotlib comes late."""

import subprocess
import sys

import numpy as np
import pytest

from fastlstm.backtest import Backtest
from fastlstm.plot import (
    MissingExtra,
    backtest,
    forecast,
    loss_curve,
    require_matplotlib,
    save_picture,
)

figure = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def ax():
    """Axes without a window."""
    return figure.Figure().add_subplot()


def curves(ax):
    """Label -> (x, y) of the lines."""
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in ax.lines}


def test_forecast_draws_truth_and_predictions(ax):
    truth, predictions = [1.0, 3.0], {"a": [1.5, 2.5], "b": np.array([0.0, 1.0])}
    days = np.array(["2004-08-19", "2004-08-20"], "M8[D]")
    assert forecast(truth, predictions, dates=days, ylabel="dollars", ax=ax) is ax
    drawn = curves(ax)
    assert list(drawn) == ["truth", "a", "b"]
    for name, values in {"truth": truth, **predictions}.items():
        np.testing.assert_array_equal(drawn[name][0], days)
        np.testing.assert_array_equal(drawn[name][1], values)
    assert ax.get_ylabel() == "dollars"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["truth", "a", "b"]


def test_forecast_counts_without_dates(ax):
    drawn = curves(forecast([5.0, 6.0, 7.0], [5.0, 5.0, 5.0], label="LSTM", ax=ax))
    np.testing.assert_array_equal(drawn["LSTM"][0], [0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0]], [1.0]), "truth must have shape (n,), got (1, 1)"),
        (([1.0, 2.0], {"LSTM": [1.0]}), "LSTM must have truth's shape (2,), got (1,)"),
        (([1.0], [1.0, 2.0]), "prediction must have truth's shape (1,), got (2,)"),
    ],
    ids=["truth", "named", "single"],
)
def test_forecast_refuses_other_shapes(ax, arguments, message):
    with pytest.raises(ValueError) as fault:  # noqa: PT011  the whole text is compared
        forecast(*arguments, ax=ax)
    assert str(fault.value) == message
    assert not ax.lines


def test_forecast_refuses_dates_of_another_length(ax):
    with pytest.raises(ValueError, match=r"dates must have truth's shape \(1,\), got \(3,\)"):
        forecast([1.0], [1.0], dates=[1, 2, 3], ax=ax)


def test_loss_curve_draws_both_losses_from_epoch_1(ax):
    history = {"loss": [1.0, 0.1], "val_loss": [2.0, 0.3], "seconds": [9, 9]}
    drawn = curves(loss_curve(history, ax=ax))
    assert list(drawn) == ["training", "validation"]
    np.testing.assert_array_equal(drawn["validation"], [[1, 2], [2.0, 0.3]])
    assert ax.get_yscale() == "log"


def test_loss_curve_draws_several_histories(ax):
    several = {"a": {"loss": [1.0]}, "b": {"loss": [0.0], "val_loss": [1.0]}}
    assert list(curves(loss_curve(several, ax=ax))) == [
        "a, training",
        "b, training",
        "b, validation",
    ]
    assert ax.get_yscale() == "linear"  # a loss of 0 has no logarithm


@pytest.mark.parametrize("history", [{}, {"loss": []}, {"a": {"val_loss": [1.0]}}])
def test_loss_curve_refuses_a_history_without_loss(ax, history):
    with pytest.raises(ValueError, match="history must have a loss for one epoch or more"):
        loss_curve(history, ax=ax)


def test_plots_make_their_own_axes():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made = [forecast([1.0], [1.0]), loss_curve({"loss": [1.0]})]
    assert made[0].figure is not made[1].figure
    pyplot.close("all")


@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG\r\n\x1a\n"), ("pdf", b"%PDF-"), ("svg", b"<?xml")]
)
def test_save_picture_writes_the_format_of_the_suffix(tmp_path, suffix, magic):
    path = tmp_path / f"picture.{suffix}"
    save_picture(
        path, [1.0, 2.0], {"LSTM": [1.0, 2.0]}, {"loss": [1.0]},
        title="price in $ and $_{", ylabel="close $x^",
    )  # fmt: skip
    assert path.read_bytes().startswith(magic)


def test_plot_imports_matplotlib_late():
    code = (
        "import sys, fastlstm, fastlstm.plot, fastlstm.cli\n"
        "late = {'matplotlib', 'tqdm', 'scipy.stats', 'torch', 'sklearn'}\n"
        "print(sorted(late & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_plot_says_how_to_install_matplotlib(monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra) as fault:
        require_matplotlib("--plot")
    assert str(fault.value) == '--plot needs matplotlib: pip install "fastlstm[plot]"'
    with pytest.raises(MissingExtra):
        forecast([1.0], [1.0])


def test_forecast_draws_an_interval_as_a_band(ax):
    forecast([1.0, 2.0], {"a": [0.0, 0.0], "LSTM": [1.5, 1.5]}, interval=[[1, 2], [0, 3]], ax=ax)
    (band,) = ax.collections
    corners = {tuple(v) for v in band.get_paths()[0].vertices}
    assert {(0, 1), (0, 2), (1, 0), (1, 3)} <= corners
    assert [t.get_text() for t in ax.get_legend().get_texts()][-1] == "interval"
    with pytest.raises(ValueError, match=r"interval must have shape \(2, 2\), got \(2,\)"):
        forecast([1.0, 2.0], [1.0, 2.0], interval=[1, 2], ax=ax)


def two_folds(interval=None):
    truth = np.arange(8.0).reshape(4, 2)
    return Backtest(
        np.array([4, 5, 7, 8]), np.array([0, 0, 1, 1]), truth, {"LSTM": truth + 1}, interval
    )


def test_backtest_draws_the_folds(ax):
    days = np.datetime64("2020-01-01") + np.arange(12)
    assert backtest(two_folds(), step=2, dates=days, ylabel="euros", ax=ax) is ax
    drawn = curves(ax)
    np.testing.assert_array_equal(drawn["truth"][0], days[[6, 7, 9, 10]])
    np.testing.assert_array_equal(drawn["truth"][1], [1, 3, 5, 7])
    np.testing.assert_array_equal(drawn["LSTM"][1], [2, 4, 6, 8])
    lines = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert lines == [days[6], days[9]]
    assert (ax.get_ylabel(), ax.get_title()) == ("euros", "2 ahead, 2 folds")
    backtest(two_folds(np.zeros((4, 2, 2))), ax=ax)
    assert len(ax.collections) == 1


def test_backtest_refusals(ax):
    with pytest.raises(ValueError, match="step must be from 1 to 2, got 3"):
        backtest(two_folds(), step=3, ax=ax)
    with pytest.raises(ValueError, match="dates must be of all 10 values or more, got 9"):
        backtest(two_folds(), dates=np.arange(9), ax=ax)
