# SPDX-License-Identifier: MIT
"""Every name without an underscore says what it is: modules, classes, functions and methods."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fastlstm"
SOURCES = sorted(PACKAGE.rglob("*.py"))
COMPILED = sorted(path.stem for path in PACKAGE.glob("*.pyx"))


def definitions(node, prefix=""):
    """(name, node) of the functions and classes of a module or class, not of those inside."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from definitions(child, prefix)


def is_setter(node):
    """Whether it sets a property, whose getter has the docstring."""
    return any(isinstance(d, ast.Attribute) and d.attr == "setter" for d in node.decorator_list)


def undocumented(text):
    """The names in a module's source that should have a docstring and have none."""
    tree = ast.parse(text)
    names = [] if ast.get_docstring(tree) else ["the module"]
    for name, node in definitions(tree):
        private = name.rsplit(".", 1)[-1].startswith("_")
        if not (private or is_setter(node) or ast.get_docstring(node)):
            names.append(name)
    return names


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(PACKAGE)) for p in SOURCES])
def test_docstrings_are_there(path):
    assert undocumented(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", COMPILED)
def test_docstrings_are_in_compiled_modules(name):
    module = importlib.import_module(f"fastlstm.{name}")
    assert module.__doc__
    own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    own = {key: value for key, value in own.items()
           if getattr(value, "__module__", None) == module.__name__}  # fmt: skip
    named = dict(own)
    for key, value in own.items():
        if inspect.isclass(value):
            methods = inspect.getmembers(value, inspect.isroutine)
            named |= {f"{key}.{k}": f for k, f in methods if not k.startswith("_")}
    assert [key for key, value in named.items() if not inspect.getdoc(value)] == []


def test_docstrings_check_bites():
    text = '''
class _Hidden:
    def seen(self): ...
    def _private(self): ...
    @property
    def size(self):
        """A size."""
    @size.setter
    def size(self, n): ...
if True:
    def function():
        def inside(): ...
'''
    assert undocumented(text) == ["the module", "_Hidden.seen", "function"]
