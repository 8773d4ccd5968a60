# SPDX-License-Identifier: MIT
"""A trained network as a file, with what it takes to forecast with it again.

`fastlstm.load` gives the network back. ``__metadata__["fastlstm.forecast"]`` is JSON: the column,
the `Settings`, and the numbers of the `Coding`.
"""

import json
from dataclasses import asdict, dataclass, fields

from .csvfile import InputError
from .forecast import Coding, Settings
from .io import load, load_tensors, save, save_tensors
from .modules import Sequential
from .series import SCALINGS, Beside

__all__ = ["Trained", "load_network", "save_network"]

_KEY = "fastlstm.forecast"


@dataclass
class Trained:
    """A network that was trained on a column, ready to forecast.

    Attributes
    ----------
    column : str
    settings : Settings
    coding : Coding
    network : Sequential
    """

    column: str
    settings: Settings
    coding: Coding
    network: Sequential

    def forecast(self, series):
        """The values after a series (H,), and their intervals (H, 2) or None.

        Raises
        ------
        InputError
            The series is shorter than the window.
        """
        window, n = self.settings.window, len(series.values)
        if n < window:
            raise InputError(f"{series.name} has {n} rows; this network reads the last {window}")
        exog = None if series.exog is None else series.exog[-window:]
        x = self.coding.inputs(series.values[-window:], exog)
        path, interval = self.coding.values(series.values[-1:, None], self.network(x))
        return path[0], None if interval is None else interval[0]


def save_network(path, report, series):
    """Write the network of a `Report` on a `Series`.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    save(path, report.network)
    tensors, metadata = load_tensors(path)
    job = {"column": series.name, **asdict(report.settings), **report.coding.config}
    save_tensors(path, tensors, {**metadata, _KEY: json.dumps(job)})


def load_network(path):
    """Read the `Trained` network that `save_network` wrote.

    Raises
    ------
    InputError
        The file cannot be read or is none of these.
    """
    try:
        _, metadata = load_tensors(path)
        job = json.loads(metadata[_KEY])
        known = {field.name for field in fields(Settings)}
        settings = Settings(**{name: value for name, value in job.items() if name in known})
        scaling = SCALINGS[settings.scaling].from_config(job)
        beside = Beside.from_config(scaling, job) if settings.exog else None
        network, column = load(path), job["column"]
    except OSError as fault:
        raise InputError(f"{path} cannot be read: {fault.strerror or fault}") from None
    except KeyError as fault:
        raise InputError(f"{path} is no network of fastlstm forecast: it lacks {fault}") from None
    except (ValueError, TypeError, AttributeError) as fault:
        raise InputError(f"{path} is no network of fastlstm forecast: {fault}") from None
    return Trained(column, settings, Coding(settings, scaling, beside), network)
