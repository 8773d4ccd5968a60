# SPDX-License-Identifier: MIT
"""What README.md says is so: its code runs, its commands, files and names exist."""

import argparse
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import fastlstm
from fastlstm import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def sections():
    """(heading, text below it) for each part of the README."""
    parts = re.split(r"^##+ (.+)$", README, flags=re.M)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def blocks(language):
    """(heading, code) for each block in this language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.M | re.S)
    return [(heading, code) for heading, text in sections() for code in fence.findall(text)]


def python_blocks():
    return [
        pytest.param(
            code, id=f"{k}-{heading}", marks=[pytest.mark.parity] * ("import torch" in code)
        )
        for k, (heading, code) in enumerate(blocks("python"))
    ]


def commands():
    """The lines of the sh blocks, and of what stands in the text like one."""
    lines = [line for _, code in blocks("sh") for line in code.splitlines()]
    lines += re.findall(r"`((?:make|fastlstm|python -m|pip) [^`]+)`", README)
    return [shlex.split(line, comments=True) for line in lines]


def files():
    """The paths in the first column of the map, and the tests in the table of promises.

    In a cell of the map a name without a folder is in the folder of the first.
    """
    names = re.findall(r"`(tests/[^`]+)`", README)
    for cell in re.findall(r"^\| (`\w+/.*?) \|", dict(sections())["The house"], re.M):
        first, *others = re.findall(r"`([^`]+)`", cell)
        folder = first[: first.rindex("/") + 1]
        names += [first, *(name if "/" in name else folder + name for name in others)]
    return sorted(set(names))


@pytest.mark.parametrize("code", python_blocks())
def test_readme_code_runs(code, tmp_path, monkeypatch):
    for name in re.findall(r"^(?:import|from) (torch|fastlstm\.sklearn)\b", code, re.M):
        pytest.importorskip(name.replace("fastlstm.", ""))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_readme_has_an_example_for_everybody():
    headings = [heading for heading, _ in blocks("python")]
    wanted = ("LSTM in NumPy", "PyTorch", "forecast", "serve", "look inside")
    assert [w for w in wanted if not any(w in heading for heading in headings)] == []


def check_command(words):
    """Raise where the command or one of its options does not exist."""
    program, *arguments = words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", MAKEFILE, re.M), f"make has no {arguments[0]}"
    elif program == "pip":
        assert arguments[0] == "install"
        extras = re.findall(r"\[(.*)\]", arguments[-1])
        wanted = extras[0].split(",") if extras else []
        assert set(wanted) <= set(PROJECT["optional-dependencies"])
    elif program == "fastlstm":
        cli._parser().parse_args(arguments)
    elif arguments[:2] == ["-m", "fastlstm"]:
        cli._parser().parse_args(arguments[2:])
    else:
        assert words[:3] == ["python", "-m", "benchmarks.report"], words
        pytest.importorskip("benchmarks.report").parser().parse_args(arguments[2:])


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_readme_command_exists(words):
    check_command(words)


@pytest.mark.parametrize(
    "line",
    ["make coffee", "pip install .[gpu]", "fastlstm forecast a.csv --colour x", "python -m other"],
)
def test_readme_check_of_commands_bites(line):
    with pytest.raises((AssertionError, cli.InputError, argparse.ArgumentError)):
        check_command(shlex.split(line))


@pytest.mark.parametrize("name", files())
def test_readme_names_files_that_exist(name):
    assert (ROOT / name).exists()


def test_readme_links_lead_somewhere():
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#:]+)\)", prose)
    assert "docs/forecast.png" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_names_what_the_package_has():
    names = set(re.findall(r"\bfl\.([A-Za-z_]\w*)", README))
    assert {"lstm_forward", "LSTM", "fit"} <= names
    assert [name for name in sorted(names) if not hasattr(fastlstm, name)] == []


def test_readme_has_a_place_for_the_benchmark():
    begin, end = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
    assert README.count(begin) == README.count(end) == 1
    assert README.index(begin) < README.index(end)
