"""Docstrings as this project writes them, in the reStructuredText that Sphinx wants.

A docstring is plain text with three forms at the beginning of a line: `name: what it is` for a parameter,
`RETURNS: ...` and `Raises X if ...`. Further lines of a parameter are indented; the other two end at an empty line.
A single backtick is code.
"""

from __future__ import annotations

import inspect
import io
import re
import tokenize
from typing import Any

PARAMETER = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \((?P<kind>.+?)\))?: (?P<text>.+)$")
RETURNS = re.compile(r"(?:RETURNS|YIELDS): (?P<text>.+)$")
RAISES = re.compile(r"Raises (?P<error>\w+) (?P<text>.+)$")
INLINE = re.compile(r"(?<![`:\\])`([^`]+)`(?!`)")


def converted(lines: list[str], parameters: set[str]) -> list[str]:
    """parameters: of the function that is described; a line that begins with another name is text."""
    text: list[str] = []
    fields: list[str] = []
    indent: str | None = None  # of a line that continues the last field
    for line in map(literals, lines):
        field = _field(line, parameters)
        if field:
            fields += field
            indent = " " if field[0].startswith(":param") else ""
        elif indent is not None and line.strip() and line.startswith(indent):
            fields = _joined(fields, line.strip())
        else:
            indent = None
            text.append(line)
    while text and not text[-1]:
        text.pop()
    return [*text, "", *fields, ""] if fields else [*text, ""]


def literals(text: str) -> str:
    """Single backticks become double ones."""
    return INLINE.sub(r"``\1``", text)


def _field(line: str, parameters: set[str]) -> list[str]:
    if match := RETURNS.match(line):
        return [f":returns: {match['text']}"]
    if match := RAISES.match(line):
        return [f":raises {match['error']}: {match['text']}"]
    match = PARAMETER.match(line)
    names = [name.lstrip("*") for name in match["names"].split(", ")] if match else []
    if match is None or not parameters.issuperset(names):
        return []
    kind = f"({match['kind']}) " if match["kind"] else ""
    return [f":param {name}: {kind}{match['text']}" for name in names]


def _joined(fields: list[str], more: str) -> list[str]:
    """Add a line to the last field, and to those before it that say the same: of parameters named together."""
    said = fields[-1].split(": ", 1)[1]
    return [f"{field} {more}" if field.split(": ", 1)[1] == said else field for field in fields]


def parameters_of(value: Any) -> set[str]:
    """The names that a function, or a class when it is called, takes."""
    try:
        return set(inspect.signature(value).parameters)
    except (TypeError, ValueError):
        return set()


FIELD = re.compile(r"    (?P<name>[a-z]\w*): [^#]*#\s*(?P<text>.+)$")


def fields_of(cls: type) -> dict[str, str]:
    """What the comments beside the fields of a class say."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):
        return {}
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc("\n" + source) + "\n").readline):
        if token.type == tokenize.COMMENT and (match := FIELD.match(token.line.rstrip())):
            found[match["name"]] = match["text"]
    return found
