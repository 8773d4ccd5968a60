# SPDX-License-Identifier: MIT
"""A column of a CSV file: what is read, and the line that says why not."""

import codecs

import numpy as np
import pytest

from fastlstm.csvfile import InputError, read_series


@pytest.fixture
def read(tmp_path, monkeypatch):
    """read(content, column, date_column) of a file named prices.csv in the working directory."""
    monkeypatch.chdir(tmp_path)

    def call(content, column="close", date_column=None):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "prices.csv").write_bytes(data)
        return read_series("prices.csv", column, date_column)

    return call


@pytest.mark.parametrize("delimiter", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8], ids=["plain", "bom"])
def test_csvfile_reads_every_usual_form(read, delimiter, newline, bom):
    rows = [
        ["day", "close", "note"],
        ["2004-08-19", "100.34", '"a, b; c\td"'],
        ["2004-08-20", " 1.5e2", '"said ""x"""'],
        ["2004-08-23", '"-7"', '"two\nlines"'],
    ]
    text = newline.join(delimiter.join(row) for row in rows) + newline
    series = read(bom + text.encode(), "close", "day")
    np.testing.assert_array_equal(series.values, [100.34, 150, -7])
    assert series.values.dtype == np.float64
    assert list(series.dates.astype("M8[D]").astype(str)) == [
        "2004-08-19", "2004-08-20", "2004-08-23",
    ]  # fmt: skip
    assert (series.name, series.last_date) == ("close", "2004-08-23")


def test_csvfile_takes_the_delimiter_that_finds_the_column(read):
    # by commas alone this header has two names, by semicolons two as well
    series = read("day;close, adjusted\n1;10\n2;20\n", "close, adjusted")
    np.testing.assert_array_equal(series.values, [10, 20])


def test_csvfile_reads_a_single_column_without_a_last_newline(read):
    series = read("close\n1\n2")
    np.testing.assert_array_equal(series.values, [1, 2])
    assert series.dates is None and series.last_date is None


def test_csvfile_ignores_blank_lines_at_the_end_alone(read):
    assert read("close\n1\n2\n\n  \n\n").values.size == 2


def test_csvfile_has_no_rows_below_a_bare_header(read):
    assert read("close\n").values.shape == (0,)


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        (["1749", "1750.5"], [1749, 1750.5]),
        (["1949-01", "1949-02"], ["1949-01-01", "1949-02-01"]),
        (["2004-08-19 09:30", "2004-08-19T10:30"], ["2004-08-19T09:30", "2004-08-19T10:30"]),
        (["2004-08-19T12:00+02:00", "2004-08-19T11:00Z"], ["2004-08-19T10:00", "2004-08-19T11:00"]),
    ],
    ids=["numbers", "months", "times", "zones"],
)
def test_csvfile_reads_dates(read, dates, expected):
    series = read("day,close\n" + "".join(f"{d},1\n" for d in dates), date_column="day")
    kind = np.float64 if isinstance(expected[0], int) else "datetime64[us]"
    np.testing.assert_array_equal(series.dates, np.array(expected, kind))


EMPTY = "prices.csv is empty; a header line and rows of numbers are expected"
FAULTS = {
    "nothing": (b"", EMPTY),
    "blank": (b" \n\n", EMPTY),
    "no names": (b",,\n1,2,3\n", EMPTY),
    "not UTF-8": (b"close\n1\n\xe92\n", "prices.csv, line 3: byte 0xe9 is not UTF-8 text"),
    "UTF-16": ("close\n1\n".encode("utf-16"), "prices.csv is UTF-16 text; save it as UTF-8"),
    "unknown": (b"day,open\n1,2\n", "prices.csv has no column 'close'; it has 'day', 'open'"),
    "no header": (b"1,2\n3,4\n",
                  "prices.csv has no column 'close'; it has '1', '2' "
                  "(the first line must be a header)"),
    "many columns": (",".join(f"c{k}" for k in range(25)).encode() + b"\n",
                     "prices.csv has no column 'close'; it has "
                     + ", ".join(f"'c{k}'" for k in range(20)) + " and 5 more"),
    "twice": (b"close,close\n1,2\n", "prices.csv has 2 columns 'close'; rename all but one"),
    "short row": (b"day,close\n1,2\n3\n", "prices.csv, line 3: 1 cell where the header has 2"),
    "long row": (b"day,close\n1,2,3\n", "prices.csv, line 2: 3 cells where the header has 2"),
    "word": (b"day,close\n1,2\n2,n/a\n", "prices.csv, line 3: close must be a number, got 'n/a'"),
    "underscore": (b"close\n1_000\n", "prices.csv, line 2: close must be a number, got '1_000'"),
    "decimal comma": (b"day;close\n1;12,5\n",
                      "prices.csv, line 2: close must be a number (decimal point, no thousands "
                      "separator), got '12,5'"),
    "long word": (b"close\n" + b"x" * 99 + b"\n",
                  f"prices.csv, line 2: close must be a number, got '{'x' * 37}...'"),
    "missing": (b"day,close\n1,\n", "prices.csv, line 2: close is empty, a number is expected"),
    "nan": (b"close\n1\nNaN\n",
            "prices.csv, line 3: close must be finite, up to 1e+100, got 'NaN'"),
    "inf": (b"close\n-inf\n", "prices.csv, line 2: close must be finite, up to 1e+100, got '-inf'"),
    "overflow": (b"close\n1e999\n",
                 "prices.csv, line 2: close must be finite, up to 1e+100, got '1e999'"),
    "blank line": (b"close\n1\n\n2\n", "prices.csv, line 3: the line is blank, and rows follow it"),
    "line after a quoted newline": (b'note,close\n"a\nb",1\nc,x\n',
                                    "prices.csv, line 4: close must be a number, got 'x'"),
    "open quote": (b'close\n1\n"2\n3\n', "prices.csv, line 3: unexpected end of data"),
    "after a quote": (b'day,close\n"a"b,1\n', "prices.csv, line 2: ',' expected after '\"'"),
    "huge cell": (b"close\n" + b"1" * 200_000 + b"\n",
                  "prices.csv, line 2: field larger than field limit (131072)"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_csvfile_says_what_is_wrong(read, content, message):
    with pytest.raises(InputError) as fault:
        read(content)
    assert str(fault.value) == message


DATE_FAULTS = {
    "descending": (["2004-08-20", "2004-08-19"],
                   "prices.csv, line 3: day must ascend, got '2004-08-19' after '2004-08-20'; "
                   "sort the file, oldest row first"),
    "equal": (["7", "7"], "prices.csv, line 3: day must ascend, got '7' after '7'; "
                          "sort the file, oldest row first"),
    "no ISO date": (["08/19/2004"], "prices.csv, line 2: day must be a date such as 2004-08-19 "
                                    "(ISO 8601) or a number, got '08/19/2004'"),
    "impossible": (["2004-02-30"], "prices.csv, line 2: day must be a date such as 2004-08-19 "
                                   "(ISO 8601) or a number, got '2004-02-30'"),
    "missing": ([""], "prices.csv, line 2: day must be a date such as 2004-08-19 (ISO 8601) "
                      "or a number, got ''"),
    "nan": (["nan"], "prices.csv, line 2: day must be a date such as 2004-08-19 (ISO 8601) "
                     "or a number, got 'nan'"),
    "mixed": (["1999", "2004-08-19"], "prices.csv, line 3: day must be written as in the lines "
                                      "before ('1999'), got '2004-08-19'"),
}  # fmt: skip


@pytest.mark.parametrize(("dates", "message"), DATE_FAULTS.values(), ids=DATE_FAULTS.keys())
def test_csvfile_refuses_dates(read, dates, message):
    with pytest.raises(InputError) as fault:
        read("day,close\n" + "".join(f"{d},1\n" for d in dates), date_column="day")
    assert str(fault.value) == message


def test_csvfile_refuses_an_unknown_date_column(read):
    with pytest.raises(InputError) as fault:
        read("day,close\n1,2\n", date_column="Date")
    assert str(fault.value) == "prices.csv has no column 'Date'; it has 'day', 'close'"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.csv", "nowhere.csv does not exist"),
        ("folder", "folder is a directory, a CSV file is expected"),
        ("x" * 300, "x" * 300 + " cannot be read: File name too long"),
        ("a\0b", "a\0b cannot be read: embedded null byte"),
    ],
    ids=["missing", "directory", "long name", "null"],
)
def test_csvfile_says_why_it_cannot_read(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError) as fault:
        read_series(name, "close")
    assert str(fault.value) == message
