# SPDX-License-Identifier: MIT
"""One column of numbers from a CSV file, and one clear line for whatever is wrong with it."""

import csv
import io
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["InputError", "Series", "read_series"]

DELIMITERS = ",;\t"
LARGEST = 1e100  # beyond it the squares of errors leave float64
_SHOWN_COLUMNS = 20


class InputError(ValueError):
    """What the user gave cannot be used; the message is one line that says what and where."""


class Series(NamedTuple):
    """A series of numbers in the order of time.

    Attributes
    ----------
    name : str
    values : ndarray (n,), float64
        All finite.
    dates : ndarray (n,) of datetime64[us] or float64, or None
        Strictly ascending.
    last_date : str or None
        The last date as the file writes it.
    exog : ndarray (n, k), float64, or None
        Other columns, known at the same times.
    """

    name: str
    values: np.ndarray
    dates: np.ndarray | None = None
    last_date: str | None = None
    exog: np.ndarray | None = None

    def until(self, stop):
        """The first ``stop`` values, with what belongs to them; without the last date."""
        cut = (None if a is None else a[:stop] for a in (self.values, self.dates, self.exog))
        values, dates, exog = cut
        return Series(self.name, values, dates, None, exog)


def read_series(path, column, date_column=None, exog=()):
    """Read one column of a CSV file with a header, as a `Series`.

    The file is UTF-8, with or without a byte order mark; cells are separated by comma, semicolon
    or tab and may be quoted. Every row must hold a finite number in the column: none is skipped
    or filled, because that would shift the series in time.

    Parameters
    ----------
    path : str or os.PathLike
    column : str
        Its name in the header.
    date_column : str, optional
        Dates as ISO 8601 writes them (2004-08-19, 2004-08, 2004-08-19T10:30) or numbers (years,
        seconds). They must be strictly ascending.
    exog : sequence of str
        Other columns of numbers.

    Returns
    -------
    Series

    Raises
    ------
    InputError
        The file cannot be read, is empty or is not UTF-8; a column is not there; a row has more or
        fewer cells than the header; a cell is no finite number; the dates are not in order. The
        message names the file, the line and the cell.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "prices.csv")
    ...     _ = path.write_text("day;close\\n2004-08-19;100.34\\n2004-08-20;108.31\\n")
    ...     series = read_series(path, "close", "day")
    >>> series.values
    array([100.34, 108.31])
    """
    text = _read_text(path)
    delimiter = _delimiter(text, column)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = _rows(reader, path)
    _, header = next(rows, (1, []))
    if not any(name.strip() for name in header):
        raise InputError(f"{path} is empty; a header line and rows of numbers are expected")
    header = [name.strip() for name in header]
    k = _find(path, header, column)
    d = None if date_column is None else _find(path, header, date_column)
    others = [(name, _find(path, header, name)) for name in exog]
    values, beside, dates, last_date = [], [], _Dates(date_column), None
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) != len(header):
            raise InputError(f"{where}: {_cells(len(row))} where the header has {len(header)}")
        values.append(_number(where, column, row[k]))
        beside.append([_number(where, name, row[j]) for name, j in others])
        if d is not None:
            last_date = row[d].strip()
            dates.append(where, last_date)
    beside = np.array(beside, np.float64) if others else None
    return Series(column, np.array(values, np.float64), dates.array(), last_date, beside)


def _read_text(path):
    try:
        data = Path(path).read_bytes()
    except IsADirectoryError:
        raise InputError(f"{path} is a directory, a CSV file is expected") from None
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as fault:  # ValueError: a null character in the path
        raise InputError(f"{path} cannot be read: {_reason(fault)}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(f"{path} is UTF-16 text; save it as UTF-8") from None
        line = data.count(b"\n", 0, fault.start) + 1
        byte = data[fault.start]
        raise InputError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8 text") from None
    if not text.strip():
        raise InputError(f"{path} is empty; a header line and rows of numbers are expected")
    return text


def _reason(fault):
    return getattr(fault, "strerror", None) or str(fault)


def _delimiter(text, column):
    """The delimiter that finds the column in the header, else the one that finds most names."""

    def score(delimiter):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            names = [name.strip() for name in next(reader, [])]
        except csv.Error:
            names = []
        return column in names, len(names)

    return max(DELIMITERS, key=score)  # the first of equals: the comma


def _rows(reader, path):
    """Yield (number of the first line, cells); blank lines are allowed at the end alone."""
    blank = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as fault:
            raise InputError(f"{path}, line {line}: {fault}") from None
        if row is None:
            return
        if not row or (len(row) == 1 and not row[0].strip()):
            blank = blank or line
            continue
        if blank is not None:
            raise InputError(f"{path}, line {blank}: the line is blank, and rows follow it")
        yield line, row


def _cells(n):
    return f"{n} cell" if n == 1 else f"{n} cells"


def _find(path, header, column):
    """The index of a column."""
    count = header.count(column)
    if count == 1:
        return header.index(column)
    if count > 1:
        raise InputError(f"{path} has {count} columns {column!r}; rename all but one")
    names = ", ".join(map(repr, header[:_SHOWN_COLUMNS]))
    if len(header) > _SHOWN_COLUMNS:
        names += f" and {len(header) - _SHOWN_COLUMNS} more"
    hint = ""
    if any(_as_float(name) is not None for name in header):
        hint = " (the first line must be a header)"
    raise InputError(f"{path} has no column {column!r}; it has {names}{hint}")


def _as_float(text):
    """The number that a cell holds, or None."""
    if "_" in text:  # float() would read 1_000
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _number(where, column, cell):
    value = _as_float(cell)
    if value is not None and abs(value) <= LARGEST:
        return value
    if not cell.strip():
        raise InputError(f"{where}: {column} is empty, a number is expected")
    if value is None:
        hint = " (decimal point, no thousands separator)" if "," in cell else ""
        raise InputError(f"{where}: {column} must be a number{hint}, got {_short(cell)}")
    raise InputError(f"{where}: {column} must be finite, up to {LARGEST:g}, got {_short(cell)}")


def _short(cell):
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")


class _Dates:
    """Collects dates and refuses one that does not come after the one before."""

    def __init__(self, column):
        self.column, self.keys, self.text = column, [], None

    def append(self, where, text):
        """Take the next date; ``where`` it stands begins the message of what is wrong with it."""
        key = _date_key(text)
        if key is None:
            raise InputError(
                f"{where}: {self.column} must be a date such as 2004-08-19 (ISO 8601) or a "
                f"number, got {_short(text)}"
            )
        if self.keys:
            before = self.keys[-1]
            if type(key) is not type(before):
                raise InputError(
                    f"{where}: {self.column} must be written as in the lines before "
                    f"({_short(self.text)}), got {_short(text)}"
                )
            if not key > before:
                raise InputError(
                    f"{where}: {self.column} must ascend, got {_short(text)} after "
                    f"{_short(self.text)}; sort the file, oldest row first"
                )
        self.keys.append(key)
        self.text = text

    def array(self):
        """All dates, or None where no column of dates was asked for."""
        if self.column is None:
            return None
        number = bool(self.keys) and isinstance(self.keys[0], float)
        return np.array(self.keys, np.float64 if number else "datetime64[us]")


def _date_key(text):
    """A float or a datetime (in UTC where it names a time zone), or None."""
    number = _as_float(text)
    if number is not None:
        return number if math.isfinite(number) else None
    if re.fullmatch(r"\d{4}-\d{2}", text):
        text += "-01"
    try:
        date = datetime.fromisoformat(text)
        return date if date.tzinfo is None else date.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
