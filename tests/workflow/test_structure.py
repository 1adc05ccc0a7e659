"""Where code belongs: what each stage depends on, which way imports run, and what is imported late."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.imports import closure, files_of, imported, packages
from workflow.engine import dag

STAGES = {name.partition("@")[0]: stage for name, stage in dag.load(ROOT).items()}  # one of each foreach
PLUMBING = (ROOT / "workflow/engine", ROOT / "workflow/records")
COMPONENTS = [ROOT / f"src/rootstock/components/{name}.py" for name in ("wordpiecer", "tok2vec", "textcat")]
ENTRY_POINTS = {"wordpiece": COMPONENTS[:1], "encode": COMPONENTS, "finetune": COMPONENTS, "evaluate": COMPONENTS}
VERSIONS = yaml.safe_load((ROOT / "workflow/versions.yaml").read_text())

# Packages that a stage's code imports, though they cannot change its results.
UNAFFECTED = {
    "wordpiece": {"thinc", "torch"},  # arrays and `load_model`, which this stage does not call
    "encode": {"spacy-alignments", "tokenizers"},  # the pieces are cut already
    "finetune": {"spacy-alignments"},  # likewise; tokenizers writes the tokenizer of the saved pipeline
    "evaluate": {"spacy-alignments", "tokenizers"},
    "compare": {"numpy"},  # it ranks and copies figures of evaluate
    "package": {"numpy", "spacy-alignments", "thinc", "torch"},  # it saves weights as they are
    "package_weights": {"numpy", "spacy-alignments", "thinc", "torch"},
}


def is_docstring(path: Path) -> bool:
    return len(ast.parse(path.read_text()).body) == 1


def code_of(stage: str) -> set[Path]:
    """The files that determine a stage's results, by imports; those with nothing but a docstring are left out."""
    found = closure(ROOT / f"workflow/stages/{stage}.py", *ENTRY_POINTS.get(stage, []))
    found |= {ROOT / "workflow/stages/__init__.py"}  # runs first
    if stage.startswith("package"):  # the library is what it packs
        found |= {*(ROOT / "src/rootstock").rglob("*.py"), ROOT / "workflow/model/check_package.py"}
    return {p for p in found if not any(p.is_relative_to(room) for room in PLUMBING) and not is_docstring(p)}


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_code_that_the_stage_runs(stage):
    code = code_of(stage) - {ROOT / "src/rootstock/__init__.py"}  # the version number alone
    named = [ROOT / dep for dep in STAGES[stage].deps if dep.startswith(("src/", "workflow/"))]
    missing = {p for p in code if not any(p.is_relative_to(dep) for dep in named)}
    assert not missing
    for dep in named:
        inside = {p for p in ([dep] if dep.is_file() else dep.rglob("*.py")) if not is_docstring(p)}
        assert dep == ROOT / "src/rootstock" or inside <= code, f"{dep} holds more than {stage} runs"


@pytest.mark.parametrize("stage", STAGES)
def test_versions_are_those_of_the_packages_that_the_stage_uses(stage):
    files = (
        code_of(stage)
        if not stage.startswith("package")
        else closure(ROOT / f"workflow/stages/{stage}.py", *COMPONENTS)
    )
    used = {name.replace("_", "-") for name in packages(files)} & set(VERSIONS)
    if "transformers" in used:
        used.add("tokenizers")  # which it calls
    listed = set(STAGES[stage].params.get("workflow/versions.yaml", {}))
    assert listed == used - UNAFFECTED.get(stage, set())


def test_versions_are_those_of_the_lock():
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    assert {name: lock[name] for name in VERSIONS} == VERSIONS


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage):
    others = {ROOT / f"workflow/stages/{name}.py" for name in STAGES if name != stage}
    assert not closure(ROOT / f"workflow/stages/{stage}.py", typing=True) & others


# Each room, and the rooms that its modules may import.
LIBRARY = {
    "weights": set(),
    "pieces": {"weights"},
    "training": set(),
    "encoder": {"pieces", "training", "weights"},
    "attributes": {"pieces"},
    "components": {"attributes", "encoder", "pieces", "training", "weights"},
    "pairs": {"attributes"},
    "classifiers": {"components", "weights"},
}
WORKFLOW = {
    "files": set(),
    "engine": {"files"},
    "corpus": {"engine", "files"},
    "model": {"engine", "files"},
    "records": {"engine", "files", "model"},
    "stages": {"corpus", "engine", "files", "model", "records"},
}


@pytest.mark.parametrize(("root", "rooms"), [("src/rootstock", LIBRARY), ("workflow", WORKFLOW)])
def test_imports_run_one_way(root, rooms):
    def room(path: Path) -> str:
        return path.relative_to(ROOT / root).with_suffix("").parts[0]

    for path in (ROOT / root).rglob("*.py"):
        if path.parent == ROOT / root and path.name == "__init__.py":
            continue
        files = {file for name in imported(path, typing=True) for file in files_of(name)}
        found = {
            room(f) for f in files if (f.is_relative_to(ROOT / root) and f.parent != ROOT / root) or f.stem in rooms
        }
        assert found - {room(path), "__init__"} <= rooms[room(path)], path


@pytest.mark.parametrize("root", ["src/rootstock", "workflow"])
def test_no_module_imports_itself_through_others(root):
    for path in (ROOT / root).rglob("*.py"):
        direct = {file for name in imported(path, typing=True) for file in files_of(name)} - {path}
        assert is_docstring(path) or path not in closure(*direct, typing=True), path


def test_the_library_knows_nothing_of_the_workflow():
    for module in (ROOT / "src/rootstock").rglob("*.py"):
        assert all(p.is_relative_to(ROOT / "src") for p in closure(module, typing=True))


@pytest.mark.parametrize(("package", "home"), [("mlflow", "records/tracking"), ("codecarbon", "engine/energy.py")])
def test_mlflow_and_codecarbon_have_one_place_each(package, home):
    users = [p for folder in ("workflow", "src") for p in (ROOT / folder).rglob("*.py") if package in packages({p})]
    assert users and all(p.is_relative_to(ROOT / "workflow" / home) for p in users)


@pytest.mark.parametrize(
    "module", ["rootstock", "workflow.engine.params", "workflow.engine.stage", "workflow.records.ledger"]
)
def test_nothing_heavy_is_imported_before_it_is_needed(module):
    heavy = "{'torch', 'transformers', 'mlflow', 'codecarbon', 'dvc', 'matplotlib'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_stage_starts_python_again_and_an_import_does_not(tmp_path):
    """With a fixed PYTHONHASHSEED: the process that imports keeps its own."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    code = "import os, workflow.stages; print(os.environ.get('PYTHONHASHSEED'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
    (tmp_path / "workflow/stages").mkdir(parents=True)
    (tmp_path / "workflow/stages/__init__.py").write_text((ROOT / "workflow/stages/__init__.py").read_text())
    (tmp_path / "workflow/stages/probe.py").write_text("import os; print(os.environ.get('PYTHONHASHSEED'))")
    command = [sys.executable, "-m", "workflow.stages.probe"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
