"""The structure of the code: deps and versions of each stage, allowed imports, lazy imports."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs import generate
from tests.conftest import ROOT
from tests.imports import closure, files_of, imported, packages

STAGES = {name.partition("@")[0]: stage for name, stage in generate.with_all_stages().items()}  # one for each foreach
NOT_IN_DEPS = (ROOT / "workflow/engine", ROOT / "workflow/records")  # they do not affect results
COMPONENTS = [ROOT / f"src/rootstock/components/{name}.py" for name in ("wordpiecer", "tok2vec", "textcat")]
# Components that a stage loads through entry points, not by imports.
ENTRY_POINTS = {
    "wordpiece": COMPONENTS[:1],
    **dict.fromkeys(
        ("encode", "finetune", "evaluate", "evaluate_student", "annotate", "select", "audit", "monitor", "distill"),
        COMPONENTS,
    ),
}
VERSIONS = yaml.safe_load((ROOT / "workflow/versions.yaml").read_text())

PACKAGES = {"sklearn": "scikit-learn"}  # by the name that is imported, if it is another

# Packages that a stage's code imports, but that cannot affect its results.
UNAFFECTED = {
    "wordpiece": {"thinc", "torch"},  # arrays and `load_model`, which this stage does not call
    "encode": {"spacy-alignments", "tokenizers"},  # the pieces are given
    "finetune": {"spacy-alignments"},  # likewise; tokenizers writes the tokenizer of the saved pipeline
    "evaluate": {"scipy", "spacy-alignments", "tokenizers"},  # scipy compares models, which this stage does not
    "evaluate_student": {"scipy", "spacy-alignments", "tokenizers"},  # likewise
    "distill": {"scipy"},  # likewise
    "audit": {"spacy-alignments"},  # the pieces are given
    "package_student": {"spacy-alignments", "tokenizers", "transformers", "torch"},  # a student needs none of them
    "compare": {"numpy"},  # it only ranks and copies metrics of evaluate
    "package": {"numpy", "spacy-alignments", "thinc", "torch"},  # it only copies weights
    "package_weights": {"numpy", "spacy-alignments", "thinc", "torch"},
}


def has_only_docstring(path: Path) -> bool:
    return len(ast.parse(path.read_text()).body) == 1


def module_of(stage: str) -> Path:
    """The module that a stage's command runs."""
    return ROOT / (str(STAGES[stage].cmd).removeprefix("python -m ").replace(".", "/") + ".py")


def code_of(stage: str) -> set[Path]:
    """The files that determine a stage's results, from its imports, without files that have only a docstring."""
    files = closure(module_of(stage), *ENTRY_POINTS.get(stage, []))
    files |= {ROOT / "workflow/stages/__init__.py"}  # runs first
    if stage.startswith("package"):  # it packages the library
        files |= {*(ROOT / "src/rootstock").rglob("*.py"), ROOT / "workflow/model/check_package.py"}
    return {
        p for p in files if not any(p.is_relative_to(folder) for folder in NOT_IN_DEPS) and not has_only_docstring(p)
    }


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_code_that_determines_results(stage):
    code = code_of(stage) - {ROOT / "src/rootstock/__init__.py"}  # only has the version number
    listed = [ROOT / dep for dep in STAGES[stage].deps if dep.startswith(("src/", "workflow/"))]
    missing = {p for p in code if not any(p.is_relative_to(dep) for dep in listed)}
    assert not missing
    for dep in listed:
        inside = {p for p in ([dep] if dep.is_file() else dep.rglob("*.py")) if not has_only_docstring(p)}
        assert dep == ROOT / "src/rootstock" or inside <= code, f"{dep} has files that {stage} does not run"


@pytest.mark.parametrize("stage", STAGES)
def test_versions_in_params_are_those_of_packages_that_the_stage_uses(stage):
    files = code_of(stage) if not stage.startswith("package") else closure(module_of(stage), *COMPONENTS)
    used = {PACKAGES.get(name, name.replace("_", "-")) for name in packages(files)} & set(VERSIONS)
    if "transformers" in used:
        used.add("tokenizers")  # which transformers calls
    listed = set(STAGES[stage].params.get("workflow/versions.yaml", {}))
    assert listed == used - UNAFFECTED.get(stage, set())


def test_versions_equal_those_in_requirements_lock():
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    assert {name: lock[name] for name in VERSIONS} == VERSIONS


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage):
    others = {*map(module_of, STAGES)} - {module_of(stage)}
    assert not closure(module_of(stage), typing=True) & others


# Each top-level folder or module, and those that it may import.
LIBRARY = {
    "weights": set(),
    "pieces": {"weights"},
    "checked": set(),
    "training": {"checked"},
    "encoder": {"checked", "pieces", "training", "weights"},
    "attributes": {"pieces"},
    "components": {"attributes", "encoder", "pieces", "training", "weights"},
    "pairs": {"attributes"},
    "outcomes": set(),
    "classifiers": {"components", "weights"},
}
WORKFLOW = {
    "files": set(),
    "engine": {"files"},
    "corpus": {"engine", "files"},
    "model": {"engine", "files"},
    "records": {"engine", "files", "model"},
    "stages": {"corpus", "engine", "files", "model", "records"},
    "search": {"engine", "model", "records"},
    "partition": {"corpus", "engine", "files"},
    "first_labels": {"corpus", "engine", "model"},
    "monitor": {"engine", "files", "records"},
    "predict": {"corpus", "engine", "files", "model", "records"},
}


@pytest.mark.parametrize(("root", "allowed"), [("src/rootstock", LIBRARY), ("workflow", WORKFLOW)])
def test_imports_between_folders_are_allowed(root, allowed):
    def top_level(path: Path) -> str:
        return path.relative_to(ROOT / root).with_suffix("").parts[0]

    for path in (ROOT / root).rglob("*.py"):
        if path.parent == ROOT / root and path.name == "__init__.py":
            continue
        files = {file for name in imported(path, typing=True) for file in files_of(name)}
        imports = {
            top_level(f)
            for f in files
            if (f.is_relative_to(ROOT / root) and f.parent != ROOT / root) or f.stem in allowed
        }
        assert imports - {top_level(path), "__init__"} <= allowed[top_level(path)], path


@pytest.mark.parametrize("root", ["src/rootstock", "workflow"])
def test_there_are_no_circular_imports(root):
    for path in (ROOT / root).rglob("*.py"):
        direct = {file for name in imported(path, typing=True) for file in files_of(name)} - {path}
        assert has_only_docstring(path) or path not in closure(*direct, typing=True), path


def test_the_library_does_not_import_the_workflow():
    for module in (ROOT / "src/rootstock").rglob("*.py"):
        assert all(p.is_relative_to(ROOT / "src") for p in closure(module, typing=True))


@pytest.mark.parametrize(("package", "place"), [("mlflow", "records/tracking"), ("codecarbon", "engine/energy.py")])
def test_mlflow_and_codecarbon_are_imported_in_one_place_each(package, place):
    importers = [p for folder in ("workflow", "src") for p in (ROOT / folder).rglob("*.py") if package in packages({p})]
    assert importers and all(p.is_relative_to(ROOT / "workflow" / place) for p in importers)


@pytest.mark.parametrize(
    "module", ["rootstock", "workflow.engine.params", "workflow.engine.stage", "workflow.records.ledger"]
)
def test_heavy_packages_are_imported_lazily(module):
    heavy = "{'torch', 'transformers', 'mlflow', 'codecarbon', 'dvc', 'matplotlib'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_stage_restarts_python_with_a_fixed_hash_seed_but_an_import_does_not(tmp_path):
    """A process that imports workflow.stages keeps its PYTHONHASHSEED."""
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
