"""Build wheels reproducibly, and test them in an environment that cannot see this checkout."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

from spacy.cli.package import package
from spacy.language import Language

from ..engine.errors import Problem
from . import sbom

CHECKED = 4  # batches of test documents to compare
EPOCH = "946684800"  # 2000-01-01: the time of every file in a wheel


def build_library(tmp: Path, out: Path) -> None:
    """Build the wheel of rootstock, from a copy because the build writes files next to the sources."""
    source = tmp / "library"
    shutil.copytree("src/rootstock", source / "src/rootstock", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "LICENSE"):
        shutil.copy(file, source)
    _build(source, out)


def build_pipeline(nlp: Language, meta: dict[str, str], card: str, tmp: Path, out: Path) -> None:
    """Build the wheel of a pipeline. meta: name, version and description; card: its README."""
    nlp.meta.update(meta)
    nlp.to_disk(tmp / "pipeline")
    (tmp / "pipeline" / "README.md").write_text(card, encoding="utf-8")
    (tmp / "source").mkdir()
    package(tmp / "pipeline", tmp / "source", create_sdist=False, create_wheel=False)
    [source] = (tmp / "source").iterdir()
    _build(source, out)


def _build(source: Path, out: Path) -> None:
    for path in source.rglob("*"):  # a wheel holds the permissions of its files, which depend on the caller's umask
        path.chmod(0o755 if path.is_dir() else 0o644)
    # What pip would call (PEP 517), in one process instead of four, and for any path: pip takes brackets for extras.
    hook = "import sys; from setuptools.build_meta import __legacy__; __legacy__.build_wheel(sys.argv[1])"
    _call([sys.executable, "-c", hook, out.resolve()], cwd=source)


def check_predictions(
    name: str, wheels: Path, predictions: Path, batch_size: int, threads: int, tmp: Path, needs: str | None = None
) -> int:
    """Install the wheels in a clean environment and compare the predictions there with those that `evaluate` saved.

    batch_size: that of `evaluate`, so that scores must be equal. needs: as for `ask_installed`.
    RETURNS: how many are compared. Raises Problem if they differ.
    """
    with predictions.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(CHECKED * batch_size), strict=False)]
    texts = [row["text"] for row in rows]
    question = {"texts": texts, "attribute": "cats", "batch_size": batch_size, "threads": threads}
    installed = ask_installed(wheels, name, question, tmp, needs)
    differing = [row for row, predicted in zip(rows, installed, strict=True) if not _close(row["scores"], predicted)]
    if differing:
        raise Problem(f"predictions of the installed {name} differ from evaluate's, first for {differing[0]['row']}")
    return len(rows)


def _close(evaluated: dict[str, float], installed: dict[str, float]) -> bool:
    """Whether the scores are equal: evaluate lists those of the most probable labels."""
    return all(abs(score - installed.get(label, math.inf)) < 1e-6 for label, score in evaluated.items())


def ask_installed(wheels: Path, name: str, question: dict[str, Any], tmp: Path, needs: str | None = None) -> list[Any]:
    """Install the wheels in a clean environment, and apply the installed pipeline to some texts there.

    question: for `check_package.py`: texts, the Doc attribute to return for each, batch_size, threads.
    needs: a package; only that, and what it requires, can be imported there, and not the library.
    Raises Problem if the pipeline or the library was loaded from outside that environment.
    """
    environment = tmp / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    [site_packages] = environment.glob("lib/python*/site-packages")
    if needs:
        _borrow(needs, site_packages)
    else:  # the current environment's, without its .pth files, such as that of the editable install
        (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps", "--no-index"]
    _call([*pip, *sorted(wheels.glob("*.whl"))])

    (tmp / "question.json").write_text(json.dumps({"name": name, **question}), "utf-8")
    script = Path(__file__).with_name("check_package.py").resolve()
    _call([python, "-I", "-X", "utf8", script, tmp / "question.json", tmp / "answer.json"], cwd=tmp)
    answer = json.loads((tmp / "answer.json").read_text("utf-8"))
    outside = [path for path in answer["seen"] if not Path(path).is_relative_to(environment.resolve())]
    if outside:
        raise Problem(f"the check of {name} loaded {outside[0]}, which is outside its own environment")
    return answer["values"]


def _borrow(package: str, site_packages: Path) -> None:
    """Link to a package of the current environment, and to all that it requires."""
    for name in sbom.needs(package):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            link = site_packages / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))).resolve())


def _call(command: list[Any], cwd: Path | None = None) -> None:
    """Run a command without the caller's umask, and settings for pip, setuptools and Python in files or variables."""
    settings = ("PIP_", "PYTHON", "SETUPTOOLS_", "DISTUTILS_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "SOURCE_DATE_EPOCH": EPOCH}
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        cwd=cwd,
        env=env,
        umask=0o022,
    )
    if result.returncode:
        raise Problem(f"{command[0]} {command[1]} ... failed:\n{result.stdout}{result.stderr}".rstrip())
