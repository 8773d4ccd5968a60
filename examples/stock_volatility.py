# SPDX-License-Identifier: MIT
"""How much will the S&P 500 move tomorrow?

Where a price goes is close to a coin toss, and no network changes that. How far it goes is not:
calm days follow calm days. What is forecast here is the logarithm of the day's range, high over
low, and the network stands beside "as yesterday" and a linear autoregression.
"""

# %% The data: daily prices 1999 to 2018, as the package `arch` ships them
import argparse

import numpy as np
from arch.data import sp500

from fastlstm.sklearn import LSTMForecaster

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--days", type=int, default=3000, help="the last so many days")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--folds", type=int, default=4)
parser.add_argument("--plot", metavar="FILE")
arguments = parser.parse_args()

prices = sp500.load().iloc[-arguments.days :]
volatility = np.log(np.log(prices["High"] / prices["Low"]).to_numpy())
print(f"{len(volatility)} days, {prices.index[0]:%Y-%m-%d} to {prices.index[-1]:%Y-%m-%d}")

# %% Prices themselves: nothing to be had
price_model = LSTMForecaster(
    20, transform="log_return", hidden_size=16, max_iter=arguments.epochs, random_state=0
)
closes = prices["Close"].to_numpy()
print("\nThe closing price, a day ahead: the last price is hard to beat.")
print(price_model.backtest(closes, arguments.folds))

# %% Volatility: calm follows calm
# The network reads 20 days and is trained anew for each fold, on all days before it. The quantile
# loss gives a median with the two ends of a 90 % interval.
model = LSTMForecaster(
    20, interval=0.9, hidden_size=16, learning_rate_init=0.005, max_iter=arguments.epochs,
    random_state=0,
)  # fmt: skip
result = model.backtest(volatility, arguments.folds)
print("\nThe logarithm of the day's range, a day ahead:")
print(result)
print(f"{result.coverage:.1%} of the days lie in the 90 % interval.")

# %% Tomorrow
model.fit(volatility)
median, (low, high) = model.predict()[0], model.predict_interval()[0]
print(
    f"\nThe day after {prices.index[-1]:%Y-%m-%d}: a range of {np.exp(median):.2%} of the price, "
    f"{np.exp(low):.2%} to {np.exp(high):.2%}"
)

# %% The picture
if arguments.plot:
    from matplotlib.figure import Figure

    from fastlstm import plot

    figure = Figure(figsize=(10, 4), layout="constrained")
    result.predictions = {"LSTM": result.predictions["LSTM"]}
    plot.backtest(
        result, dates=prices.index.to_numpy(), ylabel="log of the range", ax=figure.subplots()
    )
    figure.savefig(arguments.plot, dpi=100)
    print(f"wrote {arguments.plot}")
