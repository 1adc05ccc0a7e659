"""What the modules of this project import, read from their source."""

import ast
from pathlib import Path

from tests.conftest import ROOT

SRC = ROOT / "src"


def imported(path: Path, typing: bool = False) -> set[str]:
    """Dotted names that a module imports, also inside functions. typing: also those under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    package = path.parent.relative_to(SRC if path.is_relative_to(SRC) else ROOT).parts
    ignored = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING" and not typing
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*parents, *filter(None, [node.module])])
            names.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return names


def files_of(name: str) -> list[Path]:
    """The files of this project that the import of a dotted name runs."""
    path = Path(*name.split("."))
    files = []
    for root in (ROOT, SRC):
        files += [p for p in (root / path.with_suffix(".py"), root / path / "__init__.py") if p.is_file()]
    return files


def closure(*paths: Path, typing: bool = False) -> set[Path]:
    """These files, and the files of this project that they import, directly or indirectly."""
    reached: set[Path] = set()
    todo = list(paths)
    while todo:
        path = todo.pop()
        if path not in reached:
            reached.add(path)
            todo += [file for name in imported(path, typing) for file in files_of(name)]
    return reached


def packages(paths: set[Path]) -> set[str]:
    """The top-level packages that these files import."""
    return {name.partition(".")[0] for path in paths for name in imported(path)}
