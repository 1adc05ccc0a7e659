"""workflow.engine.dag reads dvc.yaml as DVC does."""

import json
import re
import subprocess

import pytest
from dvc.repo import Repo
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests import soak
from tests.workflow.project import Project
from workflow.engine import dag, params
from workflow.engine.errors import Problem

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


PARAMS = "seed: 0\nthreads: 2\ndata: {folder: data/x}\nsweep: {base: {}}\nnumbers: [1, 2]\n"
INSIDE = st.sampled_from(["threads", "sweep", "data", "folder", "item", "key", "numbers", "seed", "x"])
INSIDE |= st.sampled_from(
    [".", "[0]", "[9]", "[x]", "[-1]", "[", "]", " ", "", "{", "}", "$", "\\", "-", "\x1b", "é", "\n", "'"]
)
REFERENCES = st.lists(INSIDE, max_size=4).map(lambda parts: "${" + "".join(parts) + "}")
REFERENCES |= st.sampled_from(
    ["${", "$", "}", "\\${threads}", "$${threads}", "${${threads}}", "${threads", "${data.folder}/x"]
)
TEXTS = st.lists(REFERENCES | st.sampled_from(["data/", " ", "a"]), max_size=3).map("".join)
ANY = st.recursive(
    TEXTS | st.none() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from(["cmd", "deps", "outs", "params", "foreach", "do", "matrix", "meta", "desc"])


@soak.fuzz("references in dvc.yaml", many=5000)
@given(
    st.dictionaries(st.sampled_from(["one", "two"]), st.dictionaries(KEYS, ANY, max_size=4) | ANY, max_size=2),
    st.none() | TEXTS,
)
def test_references_are_resolved_or_named(tmp_path, stages, text):
    (tmp_path / "params.yaml").write_text(PARAMS)
    if text is not None:
        stages = {**stages, "three": {"cmd": f"echo {text}"}}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}), "utf-8")
    try:
        loaded = dag.load(tmp_path)
    except Problem as problem:
        assert str(problem).startswith("dvc.yaml: ") and str(problem).isprintable() and len(str(problem)) < 1000
    else:
        assert all(name.partition("@")[0] in stages for name in loaded)


@pytest.mark.parametrize("key", ["nothing", "finetune.nothing", "seed.nothing", "numbers[7]", "numbers[x]"])
def test_a_reference_to_nothing_is_named(tmp_path, key):
    (tmp_path / "params.yaml").write_text("seed: 1\nfinetune: {}\nnumbers: [1]\n")
    (tmp_path / "dvc.yaml").write_text(f"stages: {{a: {{cmd: 'echo ${{{key}}}'}}}}")
    with pytest.raises(Problem, match=re.escape(f"dvc.yaml: params.yaml has no {key}")):
        dag.load(tmp_path)
