"""The workflow in odd places: no Git, odd paths, and a caller with settings of their own."""

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT
from tests.workflow.project import Project, small
from workflow.engine import params
from workflow.model import wheels

ODD = "o'brien (v1) [x] $z & co"


def test_without_git_there_is_a_clear_line_and_dvc_can_do_without(tiny, tmp_path):
    project = Project(tmp_path, **small(tiny))
    shutil.rmtree(tmp_path / ".git")
    done = project.module("engine.params", check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: no Git repository here, which DVC expects: run `git init`, or `dvc config")
    project.call("dvc", "config", "--local", "core.no_scm", "true")
    project.module("engine.params")
    project.call("dvc", "repro", "download_weights")
    assert json.loads((tmp_path / "data/receipts/download_weights.json").read_text())["git_commit"] == "none"


def test_git_init_is_enough(project_without_results, monkeypatch):
    monkeypatch.chdir(project_without_results)
    with pytest.raises(SystemExit, match="no Git repository here"):
        params.check(with_git=True)
    params.check()
    subprocess.run(["git", "init", "--quiet"], check=True)
    params.check(with_git=True)


@pytest.fixture
def project_without_results(tmp_path):
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local"))
    for file in ("params.yaml", "dvc.yaml", "workflow/versions.yaml", "workflow/slices.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    shutil.copytree(ROOT / "data/sample", tmp_path / "data/sample")
    return tmp_path


def test_make_works_in_an_odd_path(tmp_path):
    """With a stub of Python, which prints what it is asked to do."""
    odd, refused = ODD.replace(" $z", ""), {"a:b": "a colon", "a$b": "a dollar"}
    for name in (odd, *refused):
        (tmp_path / name / ".venv/bin").mkdir(parents=True)
        for file in ("Makefile", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / file, tmp_path / name)
        python = tmp_path / name / ".venv/bin/python"
        python.write_text('#!/bin/sh\necho "$*" "$PYTHONUTF8"\n')
        python.chmod(0o755)
        (tmp_path / name / ".venv/.ready").touch()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}  # of make test
    done = subprocess.run(["make", "repro"], cwd=tmp_path / odd, env=env, capture_output=True, text=True)
    modules = ("workflow.partition", "workflow.engine.params", "dvc repro", "workflow.records.ledger")
    expected = [f"-m {module} 1" for module in modules]
    assert done.stdout.splitlines() == expected, done.stderr
    for name, character in refused.items():
        done = subprocess.run(["make", "repro"], cwd=tmp_path / name, env=env, capture_output=True, text=True)
        assert done.returncode and done.stderr.count("\n") == 1
        assert f"the path of this folder has {character}, which" in done.stderr


def test_wheels_are_built_in_an_odd_path_whatever_the_caller_has_set(tmp_path, monkeypatch):
    """With settings for pip and setuptools that would fail the build, in variables and in the user's files."""
    home = tmp_path / "home"
    (home / ".config/pip").mkdir(parents=True)
    (home / ".config/pip/pip.conf").write_text(
        "[global]\nno-binary = :all:\nuser = true\n[wheel]\nrequire-hashes = true\n"
    )
    settings = {
        "PIP_USER": "1",
        "PIP_TARGET": str(home / "target"),
        "PIP_REQUIRE_HASHES": "1",
        "PIP_CONSTRAINT": str(home / "none.txt"),
        "PYTHONPATH": str(home),
        "PYTHONHOME": str(home),
    }
    (home / "setuptools.py").write_text("raise ImportError('a module of the caller')")
    for name, value in {"HOME": str(home), **settings}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    tmp = tmp_path / ODD
    tmp.mkdir()
    umask = os.umask(0o077)
    try:
        wheels.build_library(tmp, tmp / "out")
    finally:
        os.umask(umask)
    [wheel] = (tmp / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "rootstock/__init__.py" in archive.namelist()
        permissions = {info.external_attr >> 16 & 0o777 for info in archive.infolist() if "RECORD" not in info.filename}
    assert permissions == {0o644}


def test_a_stage_does_not_depend_on_the_locale(tmp_path):
    """LC_ALL=C without Python's UTF-8 mode: names of folders and files, labels and output are UTF-8 nevertheless."""
    project = Project(tmp_path, **{"data.folder": "Übung"})
    (tmp_path / "Übung").mkdir()
    rows = [{"text": "Schön.", "label": "größer"}, {"text": "Na ja.", "label": "kleiner"}]
    for split in ("train", "test"):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows * 10]
        (tmp_path / f"Übung/{split}.jsonl").write_text("\n".join(lines), "utf-8")
    env = {**project.environment(), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "workflow.stages.sentencize", "dev"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "data/sentences/dev/report.json").read_text("utf-8"))
    assert report["labels"] == ["größer", "kleiner"] and report["file"] == "Übung/train.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "workflow.engine.params"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert (
        done.returncode == 1
        and done.stderr.count("\n") == 1
        and "names are ASCII here: set PYTHONUTF8=1" in done.stderr
    )


SOURCES = [path for folder in ("src", "workflow") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_and_pipe_is_utf_8(path):
    """Without an encoding, it is that of the caller's locale."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        options = {keyword.arg for keyword in node.keywords}
        strings = {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
        written = ast.unparse(node)
        if written.startswith(("os.open(", "archive.open(")):  # binary
            continue
        if name in ("open", "read_text", "write_text", "NamedTemporaryFile"):
            assert "encoding" in options or strings & {"rb", "wb", "utf-8"}, written
        assert not options & {"text", "universal_newlines"}, f"{written}: give an encoding instead"
