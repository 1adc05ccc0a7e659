"""Docstrings are the API reference: every public name has one, and it documents exceptions and settings."""

import ast

import pytest

from tests.conftest import ROOT

MODULES = sorted((ROOT / "src/rootstock").rglob("*.py"))
# Methods of spaCy's, PyTorch's and Thinc's interfaces, which are documented there.
INTERFACE_METHODS = {
    "add_listener", "annotate", "connect", "find_listeners", "finish_update", "forward", "from_bytes", "from_disk",
    "initialize", "is_trainable", "label_data", "labels", "learn", "listeners", "listening_components", "pipe",
    "predict", "remove_listener", "score", "set_annotations", "to_bytes", "to_device", "to_disk", "update",
}  # fmt: skip


def public(body):
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (method for method in public(node.body) if method.name not in INTERFACE_METHODS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_every_public_name_has_a_docstring(module):
    tree = ast.parse(module.read_text())
    assert ast.get_docstring(tree)
    assert [node.name for node in public(tree.body) if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_docstrings_of_raising_functions_say_so(module):
    undocumented = []
    for node in public(ast.parse(module.read_text()).body):
        raises = isinstance(node, ast.FunctionDef) and any(isinstance(part, ast.Raise) for part in ast.walk(node))
        if raises and "Raises" not in (ast.get_docstring(node) or ""):
            undocumented.append(node.name)
    assert undocumented == []


@pytest.mark.parametrize("module", ["wordpiecer", "tok2vec", "textcat", "release"])
def test_docstrings_of_factories_describe_every_setting(module):
    [factory] = [
        node
        for node in ast.parse((ROOT / f"src/rootstock/components/{module}.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    ]
    docstring = ast.get_docstring(factory)
    settings = [arg.arg for arg in factory.args.args if arg.arg not in ("nlp", "name")]
    assert settings and [name for name in settings if name not in docstring] == []
