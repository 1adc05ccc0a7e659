"""Pages written from the code: the DAG, the settings, what makes a stage stale, the API reference.

`conf.py` calls `write` before each build; docs/generated/ is not in git.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
import tempfile
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from workflow.engine import dag  # noqa: E402
from workflow.engine.params import Params  # noqa: E402

Stages = dict[str, dag.Stage]
PARAMS, VERSIONS, SLICES = "params.yaml", "workflow/versions.yaml", "workflow/slices.yaml"


def write(folder: Path) -> None:
    """Write every generated page below this folder; a page that has not changed keeps its time."""
    stages = with_all_stages()
    pages = {
        "dag.md": dag_page(stages),
        "settings.md": settings_page((ROOT / PARAMS).read_text("utf-8")),
        "stale.md": stale_page(stages, with_point("hot")),
        **api_pages(),
    }
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")


def table(header: list[str], rows: list[list[str]], kind: str = "") -> str:
    """A Markdown table. kind: its class, for style.css."""
    lines = [header, ["---"] * len(header), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join([*([f"{{.{kind}}}"] if kind else []), *(f"| {' | '.join(line)} |" for line in lines)])


def code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


# What makes a stage stale


def stale(change: str, stages: Stages) -> set[str]:
    """The stages that a change makes stale at once.

    change: a path (`src/rootstock/encoder`), a key of params.yaml (`finetune.epochs`) or a package (`torch`).
    """
    return {name for name, stage in stages.items() if _reads(stage, change)}


def _reads(stage: dag.Stage, change: str) -> bool:
    paths = any(_overlap(dep, change, "/") for dep in stage.deps)
    keys = any(_overlap(key, change, ".") for key in stage.params.get(PARAMS, {}))
    return paths or keys or change in stage.params.get(VERSIONS, {})


def _overlap(one: str, other: str, separator: str) -> bool:
    """Whether they are the same, or one is part of the other."""
    one, other = one.rstrip(separator) + separator, other.rstrip(separator) + separator
    return one.startswith(other) or other.startswith(one)


def downstream(names: set[str], stages: Stages) -> set[str]:
    """The stages that follow: they run again only where what they read has changed."""
    return {name for name, stage in stages.items() if names & set(dag.chain(stage, stages))} - names


def with_point(point: str) -> Stages:
    """The DAG with one more point in the sweep."""
    values = yaml.safe_load((ROOT / PARAMS).read_text("utf-8"))
    values["sweep"][point] = {"learning_rate": 3.0e-4}
    return _loaded({PARAMS: values})


def with_all_stages() -> Stages:
    """The DAG with the stages that are there only if `params.yaml` asks for them."""
    part = {"file": "data/unlabelled/reviews.jsonl", "first": 0, "rows": 20000, "sha256": "0" * 64}
    values = yaml.safe_load((ROOT / PARAMS).read_text("utf-8"))
    values["distill"]["students"]["small"] = {}
    values["audit"]["methods"] = ["features"]
    values["select"]["corpora"] = ["reviews"]
    values["monitor"]["corpora"]["recent"] = "data/recent"
    return _loaded({PARAMS: values, SLICES: {"slices": {"reviews_00000000_00000": part}}})


def _loaded(changed: dict[str, Any]) -> Stages:
    """The DAG with other contents of some files."""
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp) / "workflow").mkdir()
        for file in ("dvc.yaml", PARAMS, VERSIONS, SLICES):
            if file in changed:
                (Path(tmp) / file).write_text(yaml.safe_dump(changed[file]), encoding="utf-8")
            else:
                shutil.copy(ROOT / file, Path(tmp) / file)
        return dag.load(Path(tmp))


CHANGES = {
    "Settings": {
        "`tracking.experiment`": "tracking.experiment",
        "`carbon.country` or `carbon.pue`": "carbon.country",
        "a new key in a new section of `params.yaml`": "a_new_section.key",
        "a new key in `evaluate`": "evaluate.a_new_key",
        "`finetune.epochs`": "finetune.epochs",
        "`data.dev_fraction`": "data.dev_fraction",
        "`seed`": "seed",
        "one more point in the sweep, `hot`": "+sweep.hot",
        "one point fewer in the sweep": "sweep.hot",
    },
    "Data": {
        "one more row in `data/sample/train.jsonl`": "data/sample/train.jsonl",
    },
    "Code": {
        "`workflow/records/`": "workflow/records",
        "`workflow/engine/`": "workflow/engine",
        "`workflow/stages/finetune.py`": "workflow/stages/finetune.py",
        "`workflow/corpus/shards.py`": "workflow/corpus/shards.py",
        "`src/rootstock/encoder/`": "src/rootstock/encoder",
        "`src/rootstock/pieces/`": "src/rootstock/pieces",
        "`src/rootstock/classifiers.py`": "src/rootstock/classifiers.py",
    },
    "Packages": {
        "a newer `mlflow`": "mlflow",
        "a newer `dvc` or `snakemake`": "dvc",
        "a newer `spacy`": "spacy",
        "a newer `torch`": "torch",
    },
}


def stale_page(stages: Stages, one_more: Stages) -> str:
    """one_more: the DAG with a further point in the sweep; a change that begins with + is made to that one."""
    parts = []
    for title, changes in CHANGES.items():
        rows = []
        for words, change in changes.items():
            after = one_more if change.startswith("+") else stages
            at_once = stale(change.removeprefix("+"), after)
            rows.append([words, _named(at_once, after), _named(downstream(at_once, after), after)])
        parts.append(
            f"### {title}\n\n"
            + table(["change", "stale at once", "runs again if what it reads changed"], rows, "stale")
        )
    return "\n\n".join(parts) + "\n"


def _named(names: set[str], stages: Stages) -> str:
    """In the order of the DAG; the stages of a `foreach` by their common name where all are among them."""
    if names == set(stages):
        return "all stages"
    found = []
    for group, members in groups(stages).items():
        chosen = [name for name in members if name in names]
        found += [group] if len(chosen) == len(members) else chosen
    return code(found)


def groups(stages: Stages) -> dict[str, list[str]]:
    """The names of the stages that dvc.yaml writes down as one."""
    found: dict[str, list[str]] = {}
    for name in stages:
        found.setdefault(name.partition("@")[0], []).append(name)
    return found


# The DAG


def dag_page(stages: Stages) -> str:
    """A drawing, then each stage with what dvc.yaml says of it."""
    together = {
        name: _together(name, [stages[member] for member in members]) for name, members in groups(stages).items()
    }
    descriptions = _descriptions()
    parts = [drawing(together), ""]
    rows = [[f"[`{name}`](#{_anchor(name)})", descriptions[name], code(_outs(one))] for name, one in together.items()]
    parts += [table(["stage", "what it does", "leaves"], rows), ""]
    for name, one in together.items():
        facts = [
            ["command", code([one.cmd] if isinstance(one.cmd, str) else one.cmd)],
            ["deps", code(one.deps)],
            ["params", code(list(one.params.get(PARAMS, {})))],
            ["packages", code([f"{package} {version}" for package, version in one.params.get(VERSIONS, {}).items()])],
            ["outs", code(one.outs)],
            ["resources", resources(one.meta.get("resources", {}))],
        ]
        sentence = descriptions[name][0].upper() + descriptions[name][1:]
        each = next((words for place, words in EACH.items() if place in " ".join(one.outs)), "")
        parts += [
            f"({_anchor(name)})=",
            f"## {name}",
            "",
            f"{sentence}.{each}",
            "",
            table(["", "in `dvc.yaml`"], facts),
            "",
        ]
    return "\n".join(parts)


EACH = {
    "SPLIT": " One stage for each split: `train`, `dev`, `test`.",
    "POINT": " One stage for each point of `sweep` in `params.yaml`.",
    "SLICE": " One stage for each slice of the texts in `annotate.corpora` in `params.yaml`; none without them.",
    "CORPUS": " One stage for each of `select.corpora` in `params.yaml`; none without them.",
    "METHOD": " One stage for each of `audit.methods` in `params.yaml`; none without them.",
    "RECENT": " One stage for each of `monitor.corpora` in `params.yaml`; none without them.",
    "STUDENT": " One stage for each of `distill.students` in `params.yaml`; none without them.",
}
# What stands for the item of a stage; for a point, if it is not here.
PLACES = {
    **dict.fromkeys(("sentencize", "wordpiece"), "SPLIT"),
    "annotate": "SLICE",
    "select": "CORPUS",
    "audit": "METHOD",
    "monitor": "RECENT",
    **dict.fromkeys(("distill", "evaluate_student", "package_student"), "STUDENT"),
}
ANY_PLACE = "SPLIT|POINT|SLICE|CORPUS|METHOD|RECENT|STUDENT"


def _descriptions() -> dict[str, str]:
    written = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
    return {name: content.get("do", content)["desc"] for name, content in written.items()}


def _anchor(name: str) -> str:
    return f"stage-{name.replace('_', '-')}"


def _outs(stage: dag.Stage) -> list[str]:
    return [out for out in stage.outs if not out.startswith("data/receipts/")]


def _together(name: str, members: list[dag.Stage]) -> dag.Stage:
    """One stage for all that dvc.yaml writes down as one; a word in capitals stands for what tells them apart."""
    items = [member.name.partition("@")[2] for member in members]
    if items == [""]:
        return members[0]
    place = PLACES.get(name, "POINT")
    found = [_replaced(member, item, place) for member, item in zip(members, items, strict=True)]
    return found[0]


def _replaced(stage: dag.Stage, item: str, place: str) -> dag.Stage:
    end = re.compile(rf"(?<=[/@.]){re.escape(item)}(?=$|\.json$)")

    def all_of(values: list[str]) -> list[str]:
        return [end.sub(place, value) for value in values]

    params = {file: {end.sub(place, key): value for key, value in keys.items()} for file, keys in stage.params.items()}
    commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
    cmd = " && ".join(re.sub(rf" {re.escape(item)}$", f" {place}", command) for command in commands)
    return dag.Stage(stage.name.partition("@")[0], cmd, all_of(stage.deps), all_of(stage.outs), params, stage.meta)


def resources(asked: dict[str, Any]) -> str:
    """`meta.resources` in words."""
    units = {"cpus": "CPU", "gpu": "GPU", "mem_mb": "MB of memory", "runtime": "minutes at most"}
    words = []
    for name, value in asked.items():
        unit = units.get(name, name)
        plural = "s" if unit.endswith("PU") and value != 1 else ""
        words.append(f"{value:,} {unit}{plural}" if isinstance(value, int) else f"{unit}: {value}")
    return ", ".join(words) or "none named"


BOX, GAP = (196, 44), (36, 34)  # pixels


def drawing(stages: Stages) -> str:
    """SVG, from top to bottom. Without the arrows that a longer way stands for."""
    needs = {name: _needs(stage, stages) for name, stage in stages.items()}

    @cache
    def chain(name: str) -> set[str]:
        return set(needs[name]).union(*map(chain, needs[name]))

    chains = {name: chain(name) for name in stages}
    rows: list[list[str]] = []
    depth: dict[str, int] = {}
    for name in sorted(stages, key=lambda name: len(chains[name])):
        depth[name] = max((depth[other] + 1 for other in needs[name]), default=0)
        rows += [[] for _ in range(depth[name] + 1 - len(rows))]
        rows[depth[name]].append(name)
    ends = {name for name in stages if not any(name in needs[other] for other in stages)}
    columns = {}
    for row in rows:  # to the right what ends early, and what leads to it
        row.sort(key=lambda name: (name in ends, any(name in needs[other] for other in ends)))
        columns.update({name: place for place, name in enumerate(row)})
    width = max(map(len, rows)) * (BOX[0] + GAP[0]) - GAP[0]
    height = len(rows) * (BOX[1] + GAP[1]) - GAP[1]
    x = {name: columns[name] * (BOX[0] + GAP[0]) for name in stages}
    y = {name: depth[name] * (BOX[1] + GAP[1]) for name in stages}
    lines = [
        f'<div class="dag"><svg viewBox="-2 -2 {width + 4} {height + 4}" role="img" aria-label="The DAG">',
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path class="tip" d="M0 0 L8 4 L0 8 z"/></marker>',
    ]
    for name in stages:
        for other in needs[name]:
            if any(other in chains[third] for third in needs[name] if third != other):
                continue
            x1, y1, x2, y2 = x[other] + BOX[0] / 2, y[other] + BOX[1], x[name] + BOX[0] / 2, y[name]
            bend = GAP[1] * 0.6
            lines.append(
                f'<path d="M{x1} {y1} C {x1} {y1 + bend}, {x2} {y2 - bend}, {x2} {y2}" marker-end="url(#tip)"/>'
            )
    for name, stage in stages.items():
        item = re.search(ANY_PLACE, " ".join(stage.outs))
        title = f"{name} × {item[0].lower()}" if item else name
        out = next(iter(_outs(stage)), "")
        lines += [
            f'<a href="#{_anchor(name)}"><rect x="{x[name]}" y="{y[name]}" width="{BOX[0]}" height="{BOX[1]}" rx="6"/>',
            f'<text class="name" x="{x[name] + 10}" y="{y[name] + 18}">{escape(title)}</text>',
            f'<text class="out" x="{x[name] + 10}" y="{y[name] + 34}">{escape(out)}</text></a>',
        ]
    return "\n".join([*lines, "</svg></div>"])


def _needs(stage: dag.Stage, stages: Stages) -> list[str]:
    """As `dag.needs`, for stages that stand for several: data/sentences/SPLIT is part of data/sentences."""
    made = {out: other.name for other in stages.values() for out in other.outs}
    folders = {re.sub(rf"/({ANY_PLACE})$", "", out): name for out, name in made.items()}
    found = {
        name
        for dep in stage.deps
        for folder, name in folders.items()
        if name != stage.name and _overlap(dep, folder, "/")
    }
    return [name for name in stages if name in found]


# The settings


def settings_page(text: str) -> str:
    """A table for each section of params.yaml. text: of that file."""
    values, meanings = yaml.safe_load(text), comments(text)
    schema = Params.model_json_schema()
    general: list[list[str]] = []
    sections: list[str] = []
    for name, spec in schema["properties"].items():
        spec = _resolved(spec, schema)
        if spec.get("type") == "object" and "properties" in spec:
            rows = _rows(name, spec, values[name], meanings, schema)
            meaning = meanings.get(name)
            about = f"{meaning[0].upper()}{meaning[1:]}.\n\n" if meaning else ""
            sections.append(f"## {name}\n\n{about}{table(HEADER, rows, 'settings')}")
        else:
            general.append(_row(name, spec, values.get(name), meanings, schema))
    return "\n\n".join([f"## General\n\n{table(HEADER, general, 'settings')}", *sections]) + "\n"


HEADER = ["key", "default", "allowed", "meaning"]


def _rows(prefix: str, spec: dict, values: Any, meanings: dict[str, str], schema: dict) -> list[list[str]]:
    found = []
    for name, part in spec["properties"].items():
        part, key, value = _resolved(part, schema), f"{prefix}.{name}", (values or {}).get(name)
        if "properties" in part:
            found += _rows(key, part, value, meanings, schema)
        else:
            found.append(_row(key, part, value, meanings, schema))
    return found


def _row(key: str, spec: dict, value: Any, meanings: dict[str, str], schema: dict) -> list[str]:
    return [f"`{key}`", _default(value), allowed(spec, schema, key), meanings.get(key, "")]


def _default(value: Any) -> str:
    if isinstance(value, dict) and value:
        return ", ".join(f"`{name}: {_short(part)}`" for name, part in value.items())
    return f"`{_short(value)}`"


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) < 60 else f"{value[:8]}…"
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _resolved(spec: dict, schema: dict) -> dict:
    return schema["$defs"][spec["$ref"].rsplit("/", 1)[1]] if "$ref" in spec else spec


# What a pattern of the schema lets through.
FORMS = {
    r"^[a-z]{2,3}$": "two or three lowercase letters",
    r"^[A-Z]{3}$": "three capital letters",
    r"^[0-9a-f]{64}$": "a SHA-256 in hexadecimal",
    r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}$": "`MAJOR.MINOR.PATCH`, without leading zeros",
    r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$": "lowercase letters and digits, a letter first, with single `_` between them",
    r"^[^\r\n]+$": "one line of text",
    r"^[a-z0-9][a-z0-9_]*$": "lowercase letters, digits and `_`",
}


def allowed(spec: dict, schema: dict, key: str = "") -> str:
    """What the schema takes, in words."""
    spec = _resolved(spec, schema)
    if "anyOf" in spec:
        return ", or ".join(allowed(part, schema) for part in spec["anyOf"])
    if "enum" in spec or "const" in spec:
        return ", ".join(f"`{_short(value)}`" for value in spec.get("enum", [spec.get("const")]))
    kind = spec.get("type")
    if kind in ("integer", "number"):
        words = [f"{sign}{spec[name]:g}" for name, sign in BOUNDS.items() if name in spec]
        return " ".join([{"integer": "a whole number", "number": "a number"}[kind], " and ".join(words)]).strip()
    if kind == "string":
        pattern = spec.get("pattern")
        if pattern and pattern.startswith("^(pypi:"):
            return "`pypi:NAME==VERSION`, `hf:REPO@REVISION` or `path:DIR`"
        return FORMS.get(pattern, f"text that matches `{pattern}`") if pattern else "text"
    if kind == "object" and key == "sweep":
        [(form, _)] = spec.get("patternProperties", {"": {}}).items()
        return f"one point or more, named by {FORMS.get(form, form)}; each with keys of `finetune`, or `seed`"
    if kind == "object" and key == "search.space":
        return "keys of `finetune`, or `seed`; each with a list of choices, or `low`, `high` and optionally `log`"
    if kind == "object":
        inner = spec.get("additionalProperties", {})
        return f"file names, each with {allowed(inner, schema)}" if inner else "a mapping"
    if kind == "array":
        return f"a list, each {allowed(spec.get('items', {}), schema)}"
    return {"boolean": "`true`, `false`", "null": "`null`"}.get(str(kind), "any value")


BOUNDS = {"minimum": "≥ ", "exclusiveMinimum": "> ", "maximum": "≤ ", "exclusiveMaximum": "< "}
LINE = re.compile(
    r"(?P<indent> *)(?P<key>[\w.]+):(?P<value>(?: (?!#)[^#\n]*(?:#\S[^#\n]*)*)?)(?: *# (?P<comment>.*))?$"
)


def comments(text: str) -> dict[str, str]:
    """For each key of a YAML file, dotted, the comment beside it, or that in the lines above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.lstrip("# ").rstrip())
            continue
        match = LINE.match(line)
        if match:
            indent = len(match["indent"])
            path = [*((depth, key) for depth, key in path if depth < indent), (indent, match["key"])]
            meaning = match["comment"] or " ".join(above)
            if meaning:
                found[".".join(key for _, key in path)] = meaning.strip()
        above = []
    return found


# The API reference


PACKAGES = ("components", "pieces", "encoder", "training", "weights")
LIBRARY = ROOT / "src" / "rootstock"


def api_pages() -> dict[str, str]:
    """A page for each package of the library, and one for the modules beside them."""
    pages = {}
    for package in PACKAGES:
        modules = sorted(path for path in (LIBRARY / package).rglob("*.py") if path.name != "__init__.py")
        modules.sort(key=lambda path: len(path.parts))  # a package within comes last
        pages[f"api/{package}.md"] = _api_page(f"rootstock.{package}", LIBRARY / package / "__init__.py", modules)
    beside = sorted(path for path in LIBRARY.glob("*.py") if path.name != "__init__.py")
    pages["api/rootstock.md"] = _api_page("rootstock", LIBRARY / "__init__.py", beside)
    return pages


def _api_page(title: str, about: Path, modules: list[Path]) -> str:
    parts = [f"# {title}", "", ast.get_docstring(ast.parse(about.read_text("utf-8"))) or "", ""]
    for path in modules:
        name = ".".join(("rootstock", *path.relative_to(LIBRARY).with_suffix("").parts))
        parts += [
            f"## {name.removeprefix('rootstock.')}",
            "",
            "```{eval-rst}",
            f".. automodule:: {name}",
            "   :members:",
            "```",
            "",
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    write(ROOT / "docs" / "generated")
