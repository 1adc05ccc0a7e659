"""workflow.engine.dag reads dvc.yaml as DVC does."""

import re
import subprocess

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.workflow.project import Project
from workflow.engine import dag, params

TEMPLATES = """
stages:
  splits:
    foreach: [train, dev, 3]
    do:
      desc: a list of ${item}
      cmd: echo ${item} ${flags.quick} ${numbers[1]}
      outs:
        - data/${item}: {cache: false}
  points:
    foreach: ${sweep}
    do:
      cmd:
        - echo ${key}
        - echo ${item.rate}
      deps:
        - data/train
        - script.py
      params:
        - flags
        - sweep.${key}
        - other.yaml: [versions.torch, list]
      outs:
        - out/${key}
      meta: {resources: {cpus: "${threads}", name: "x-${threads}"}}
  grid:
    matrix:
      size: [small, large]
      rate: ${numbers}
      what: [{a: 1}, {a: 2}]
    cmd: echo ${item.size} ${item.rate} ${item.what.a} ${key}
    deps:
      - out
    outs:
      - grid/${key}
"""
VALUES = """
threads: 2
flags: {quick: true}
numbers: [0.5, 1]
sweep:
  base: {rate: 0.1}
  hot: {rate: 1.0}
"""


def stages_of_dvc(folder) -> dict[str, dag.Stage]:
    stages = {}
    for stage in Repo(str(folder)).index.stages:
        deps = [d for d in stage.deps if not hasattr(d, "params")]
        params = {d.def_path: d.read_params() for d in stage.deps if hasattr(d, "params")}
        stages[stage.name] = dag.Stage(
            stage.name,
            stage.cmd,
            [d.def_path for d in deps],
            [o.def_path for o in stage.outs],
            params,
            stage.meta or {},
        )
    return stages


NAMES = """
  dev: {}
  train: {epochs: 1}
  yes: {}
  key: {seed: 1}
  "1e5": {}
  "2024": {}
  "null": {}
  "0o7": {}
"""


@pytest.fixture(params=["this project", "a sweep", "odd names", "all kinds of templates"])
def folder(request, tmp_path):
    if request.param == "all kinds of templates":
        subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
        (tmp_path / "dvc.yaml").write_text(TEMPLATES)
        (tmp_path / "params.yaml").write_text(VALUES)
        (tmp_path / "other.yaml").write_text('versions: {torch: "2.10"}\nlist: [1, {a: 2}]\nunused: 3\n')
        subprocess.run(["dvc", "init", "--quiet"], cwd=tmp_path, check=True)
        return tmp_path
    points = {"base": {}} if request.param == "this project" else {"a": {"epochs": 1}, "b": {"seed": 3}, "c_1": {}}
    project = Project(tmp_path, sweep=points)
    if request.param == "odd names":
        text = (tmp_path / "params.yaml").read_text()
        text = text.replace("folder: data/sample", "folder: 'few (v1) [x] {y} $z'")
        (tmp_path / "params.yaml").write_text(re.sub(r"sweep:\n  .*\n(  .*\n)+", f"sweep:{NAMES}", text))
        assert len(params.load(tmp_path / "params.yaml").sweep) == 8
    return project.folder


def test_stages_equal_those_of_dvc(folder):
    ours, theirs = dag.load(folder), stages_of_dvc(folder)
    assert list(ours) == list(theirs)
    for name, stage in ours.items():
        expected = theirs[name]
        assert stage.cmd == expected.cmd and stage.meta == expected.meta and stage.params == expected.params
        assert sorted(stage.deps) == sorted(expected.deps) and sorted(stage.outs) == sorted(expected.outs)


def test_dvc_uses_the_c_parser_for_yaml():
    from _ruamel_yaml import CParser

    assert YAML(typ="safe").Parser is CParser  # the one that DVC uses
