"""The documentation says what the code does: messages, settings, stages, staleness, links."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from docs import docstrings, generate
from tests.conftest import ROOT
from workflow.engine import dag

QUOTED = re.findall(r"^```text\n(.*?)\n```", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE | re.DOTALL)
SOURCES = [path for folder in ("src", "workflow") for path in sorted((ROOT / folder).rglob("*.py"))]
RAISED = {"Problem", "ValueError", "WeightsError", "BadRow", "warnings.warn"}
# What stands for the variable parts of a message: capitals, or one of these.
AS_IT_IS = (
    "params.yaml", "workflow/versions.yaml", "trf_rows", "FOLDER/model.safetensors", "PACKAGE VERSION (expected VERSION)",
    "; raise data.dev_fraction, or add a dev file",
)  # fmt: skip
VARIABLE = f"(?:[^a-z]*|{'|'.join(map(re.escape, AS_IT_IS))})"


def patterns(node: ast.AST, names: dict[str, ast.AST]) -> list[str]:
    """What a string, written in one of the ways that messages are, can look like: its first line, as regular expressions."""
    if isinstance(node, ast.Constant):
        return [re.escape(node.value.partition("\n")[0])] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        text = "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
        return [VARIABLE.join(map(re.escape, text.partition("\n")[0].split("\0")))]
    if isinstance(node, ast.IfExp):
        return patterns(node.body, names) + patterns(node.orelse, names)
    if isinstance(node, ast.Name):
        return patterns(names[node.id], names) if node.id in names else []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "rstrip":
        return patterns(node.func.value, names)
    return []


@cache
def source() -> tuple[set[str], set[str]]:
    """Every string of the source, and those that are raised or warned of."""
    written, raised = set(), set()
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        names = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            written.update(patterns(node, {}))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in RAISED and node.args:
                raised.update(patterns(node.args[0], names))
            if isinstance(node, ast.FunctionDef) and node.name == "_explain":  # of a bad setting
                raised.update(
                    one for part in ast.walk(node) if isinstance(part, ast.Return) for one in patterns(part.value, {})
                )
    makefile = (ROOT / "Makefile").read_text()
    written.update(re.escape(text) + ".*" for text in re.findall(r'"(error: [^"]+)"', makefile))
    said = {
        one for one in written if len(re.sub(r"\\.|\W", "", one.replace(VARIABLE, ""))) >= 8
    }  # not `: ` and the like
    return said | raised, raised


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_that_is_quoted_is_in_the_source(message):
    assert any(re.fullmatch(pattern, message) for pattern in source()[0])


def test_every_message_is_explained():
    assert [one for one in sorted(source()[1]) if not any(re.fullmatch(one, message) for message in QUOTED)] == []


def rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables of a page, by their first cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {row[0]: row[1:] for row in cells}


def test_every_setting_has_a_meaning():
    text = (ROOT / "params.yaml").read_text()
    table = rows(generate.settings_page(text))
    keys = {
        f"{name}.{key}" if name not in ("sweep",) and isinstance(value, dict) else name
        for name, value in yaml.safe_load(text).items()
        for key in (value if isinstance(value, dict) else [""])
    }
    assert keys == {key.strip("`") for key in table if key.startswith("`")}
    assert [key for key, (*_, meaning) in table.items() if not meaning] == []


def test_settings_in_words():
    table = rows(generate.settings_page((ROOT / "params.yaml").read_text()))
    assert table["`data.on_bad_row`"][:2] == ["`fail`", "`fail`, `skip`"]
    assert table["`wordpiece.spans`"][1] == "`sentence`, `document`, or a whole number ≥ 1"
    assert table["`finetune.contrastive`"][1] == "`auto`, `true`, `false`"
    assert table["`search.space`"][1].startswith("keys of `finetune`, or `seed`; each with a list of choices")
    assert table["`finetune.warmup`"][1] == "a number ≥ 0 and < 1"
    assert "matches" not in " ".join(allowed for _, allowed, _ in table.values())  # no bare regular expression


def test_comments_of_yaml():
    text = "# the file\n\na: 1 # one\nb:\n  # above,\n  # in two lines\n  c: x#y # beside\n  d: 2\n"
    assert generate.comments(text) == {"a": "one", "b.c": "beside"}
    assert generate.comments("b:\n  # above,\n  # in two lines\n  c: 1\n") == {"b.c": "above, in two lines"}


def test_every_stage_is_on_the_page_of_the_dag():
    page = generate.dag_page(generate.with_all_stages())
    for name in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]:
        assert f"\n## {name}\n" in page and re.search(rf'<text class="name"[^>]*>{name}( ×[^<]*)?</text>', page)
        assert f"python -m workflow.stages.{name.replace('evaluate_student', 'evaluate')}" in page


def test_the_readme_draws_the_dag():
    """Those that come only if params.yaml asks for them are one box, and rows of a table."""
    [drawn] = re.findall(r"```mermaid\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = set(re.findall(r"\b[a-z_]+\b", re.sub(r'\["[^"]*"\]', "", drawn))) - {"flowchart", "more"}
    stages = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    always = {name.partition("@")[0] for name in dag.load(ROOT)}
    assert names == always and {name for name in stages - always if "student" not in name} == set(
        re.findall(r"^\| \[`(\w+)`\]\(docs", (ROOT / "README.md").read_text(), re.MULTILINE)
    )


@pytest.mark.parametrize(
    "change, expected",
    [
        ("tracking.experiment", set()),
        ("a_new_section.key", set()),
        ("evaluate.a_new_key", {"evaluate@base"}),
        ("workflow/records", set()),
        ("workflow/engine", set()),
        ("mlflow", set()),
        ("finetune.epochs", {"finetune@base"}),
        ("workflow/stages/finetune.py", {"finetune@base"}),
        ("data/sample/train.jsonl", {"sentencize@train", "sentencize@dev", "sentencize@test"}),
        ("sweep.hot", {"compare", "package"}),
    ],
)
def test_stale_at_once(change, expected):
    assert generate.stale(change, dag.load(ROOT)) == expected


def test_a_newer_torch_trains_again():
    stages = dag.load(ROOT)
    assert {"encode", "finetune@base", "evaluate@base"} <= generate.stale("torch", stages)
    assert generate.stale("torch", stages).isdisjoint({"download_weights", "sentencize@train", "compare"})


def test_what_follows_a_new_row():
    stages = dag.load(ROOT)
    following = generate.downstream(generate.stale("data/sample/train.jsonl", stages), stages)
    assert following == set(stages) - {"download_weights", "package_weights"} - {
        f"sentencize@{s}" for s in ("train", "dev", "test")
    }


def test_one_more_point_trains_no_other():
    stages = generate.with_point("hot")
    assert generate.stale("sweep.hot", stages) == {"finetune@hot", "compare", "package"}
    assert generate.downstream(generate.stale("sweep.hot", stages), stages) == {"evaluate@hot"}


def test_docstrings_become_fields():
    text = """Does it.

one, two (int): both,
    of them.
other: is no parameter.
RETURNS: `x`,
or `y`.
Raises ValueError if not."""
    assert docstrings.converted(text.splitlines(), {"one", "two"}) == [
        "Does it.", "", "other: is no parameter.", "",
        ":param one: (int) both, of them.", ":param two: (int) both, of them.",
        ":returns: ``x``, or ``y``.", ":raises ValueError: if not.", "",
    ]  # fmt: skip


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
    assert Path(ROOT / page).is_file()
