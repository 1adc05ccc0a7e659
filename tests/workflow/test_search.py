"""`make search`: points that Optuna chooses, trained by DVC or Snakemake."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.workflow.project import executed
from workflow import search
from workflow.engine import params
from workflow.engine.errors import Problem

TEXT = (ROOT / "params.yaml").read_text()
SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "batch_size": {"low": 4, "high": 16},
    "head": ["mean", "pooler"],
}
SETTINGS = {"trials": 2, "at_once": 2, "budget_g": None, "budget_hours": None, "space": SPACE}


def searched(project, *arguments: str, **changes) -> tuple[str, dict]:
    """The output of a search, and the points of the sweep after it."""
    project.set(search=SETTINGS | changes)
    output = project.module("search", *arguments).stdout
    return output, yaml.safe_load((project.folder / "params.yaml").read_text())["sweep"]


@pytest.mark.slow
def test_a_search_adds_points_continues_and_ends_with_its_budget(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    output, sweep = searched(project)
    assert list(sweep) == ["base", "search_01", "search_02"] and "next: `make repro`" in output
    for point in ("search_01", "search_02"):
        assert set(sweep[point]) == set(SPACE) and 1e-4 <= sweep[point]["learning_rate"] <= 1e-2
        assert json.loads((project.folder / f"data/evaluation/{point}/metrics.json").read_text())["dev"]
    output, same = searched(project)
    assert same == sweep and executed(output) == []
    del sweep["search_01"]
    project.set(sweep=sweep)
    output, more = searched(project, trials=2)
    assert list(more) == ["base", "search_02", "search_03"], "a number is not used again"
    output, same = searched(project, trials=5, budget_g=1e-9)
    assert same == more and "ended after 2 of 5 trials: search.budget_g is spent: " in output
    output, _ = searched(project, trials=5, budget_hours=1e-9)
    assert "search.budget_hours is spent: " in output


@pytest.mark.slow
def test_points_are_trained_in_parallel_by_snakemake(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    output, sweep = searched(project, "--profile", "workflow/profiles/default", trials=3)
    assert list(sweep) == ["base", "search_01", "search_02", "search_03"], "two at a time, then one"
    ranked = re.findall(r"^(search_\d+)  dev accuracy", output, re.MULTILINE)
    assert sorted(ranked) == list(sweep)[1:]
    dev = [
        json.loads((project.folder / f"data/evaluation/{point}/metrics.json").read_text())["dev"] for point in ranked
    ]
    assert [-one["accuracy"] for one in dev] == sorted(-one["accuracy"] for one in dev)


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A function that gives points scores, the better the nearer their learning rate is to 1e-3; returns settings."""
    monkeypatch.chdir(tmp_path)

    def score(sweep: dict[str, dict]) -> params.Params:
        for point, changes in sweep.items():
            accuracy = 1 - abs(changes["learning_rate"] - 1e-3)
            folder = Path("data/evaluation", point)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metrics.json").write_text(json.dumps({"dev": {"accuracy": accuracy, "log_loss": 1.0}}))
        raw = yaml.safe_load(TEXT) | {"search": SETTINGS, "sweep": {"base": {}, **sweep}}
        return params.Params.model_validate(raw)

    return score


def test_what_is_tried_next_depends_on_seed_and_results_only(scored):
    """As after a stop: each call starts anew. A point that is no longer in the space does not matter."""
    sweep: dict[str, dict] = {}
    for n in range(1, 16):
        [sweep[f"search_{n:02}"]] = search.suggest(scored(sweep), list(sweep), 1)
    assert len({json.dumps(changes) for changes in sweep.values()}) == 15, "nothing twice"
    settings, points = scored(sweep), list(sweep)
    found = search.suggest(settings, points, 1)
    assert found == search.suggest(settings, points, 1)
    distances = [abs(changes["learning_rate"] - 1e-3) for changes in sweep.values()]
    assert sum(distances[-5:]) / 5 < sum(distances[:10]) / 10, "it has learned where scores are high"
    outside = settings.model_copy(update={"sweep": settings.sweep | {"search_99": {"learning_rate": 0.5}}})
    scored({"search_99": {"learning_rate": 0.5}})
    assert search.suggest(outside, [*points, "search_99"], 1)


def test_nothing_is_tried_twice(scored, monkeypatch):
    """Until there is nothing else. A number is not used again, even if its point was removed."""
    monkeypatch.setitem(SETTINGS, "space", {"head": ["mean", "pooler"], "epochs": {"low": 2, "high": 3}})

    def scored_any(sweep):
        return scored({name: {**changes, "learning_rate": 1e-3} for name, changes in sweep.items()}).model_copy(
            update={"sweep": sweep}
        )

    found = search.suggest(scored_any({}), [], 10)
    assert len({json.dumps(changes) for changes in found}) == len(found) == 4
    sweep = {f"search_{n:02}": changes for n, changes in enumerate(found[:3], 1)}
    assert search.suggest(scored_any(sweep), list(sweep), 2) == [found[3]]
    sweep["search_04"] = found[3]
    assert search.suggest(scored_any(sweep), list(sweep), 2) == []


def test_points_that_are_trained_together_differ(scored):
    found = search.suggest(scored({}), [], 4)
    assert len({json.dumps(changes) for changes in found}) == 4
    for changes in found:
        assert (
            f"{changes['learning_rate']:.2e}"
            == f"{changes['learning_rate']:.10e}"[:4] + f"{changes['learning_rate']:e}"[-4:]
        )


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([1e-4, 0.5, 2.5e-5, 1 / 3]),
    st.sampled_from(["mean", "no", "1e5"]),
)
CHANGES = st.dictionaries(st.sampled_from(["learning_rate", "head", "epochs"]), VALUES)
SWEEPS = [
    "sweep: {base: {}} # a comment\nlast: 1\n",
    "sweep: # a comment\n  base: {} # another\n\nlast: 1\n",
    "sweep:\n  base: {epochs: 2}\n  hot:\n    seed: 1\n    learning_rate: 1.0e-3 # high\n\n# below\nlast: 1",
    "last: 1\nsweep:\n  base: {}",
    "sweep: {base: {}, hot: {seed: 1},}\nlast: 1",
]


@given(st.sampled_from(SWEEPS), st.booleans(), st.lists(CHANGES, min_size=1, max_size=3))
def test_only_the_sweep_changes(text, windows, changes):
    """Comments stay, and YAML reads the values as they were."""
    text = text.replace("\n", "\r\n") if windows else text
    points = {f"search_{n:02}": values for n, values in enumerate(changes, 1)}
    new = search.with_points(text, points)
    before = yaml.safe_load(text)
    assert yaml.safe_load(new) == before | {"sweep": before["sweep"] | points}
    for line in text.splitlines():
        assert line.partition("#")[2] in new
    assert new.count("\r\n") == new.count("\n") or not windows


def test_a_setting_that_is_not_allowed_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    """A guard: the schema refuses such a space before."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(TEXT)
    with pytest.raises(Problem, match=r"search_01\.head is 'median'"):
        search.add_points({"search_01": {"head": "median"}})
    assert Path("params.yaml").read_text() == TEXT and not Path("params.yaml.new").exists()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lerning_rate": [1]}, "search.space.lerning_rate"),
        ({"epochs": {"low": 3, "high": 3}}, "low must be below high"),
        ({"epochs": {"low": 0, "high": 3, "log": True}}, "with log, low must be above 0"),
        ({"epochs": []}, "at least 1 item"),
        ({"head": ["mean", "median"]}, "head cannot be 'median': input should be 'auto', 'class_vector'"),
        ({"epochs": {"low": 2, "high": 2.5}}, r"epochs cannot be 2\.5: input should be a valid integer"),
        (
            {"epochs": {"low": 1, "high": 3, "step": 1}},
            r"unknown key search\.space\.epochs\.range\.step \(allowed: low, high, log\)",
        ),
        ({"epochs": 3}, "search.space.epochs.choices is 3: input should be a valid list"),
        ({}, "at least 1 item"),
    ],
)
def test_messages(tmp_path, space, message):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(TEXT) | {"search": SETTINGS | {"space": space}}))
    with pytest.raises(Problem, match=message):
        params.load(path)
