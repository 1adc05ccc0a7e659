"""What `dvc plots` makes of the results."""

import json
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest
import yaml

from tests.conftest import ROOT
from tests.workflow.texts import TEXTS
from workflow.engine import params
from workflow.files import write_json
from workflow.model import scores
from workflow.stages import compare


@pytest.fixture
def page(tmp_path, monkeypatch) -> str:
    """The page that `dvc plots show` writes about a result whose labels are all TEXTS."""
    inputs, outputs = {name: tmp_path / "data" / name for name in ("model", "evaluation")}, tmp_path / "data/comparison"
    for folder in (inputs["model"] / "base", inputs["evaluation"] / "base", outputs):
        folder.mkdir(parents=True)
    split = {**dict.fromkeys(scores.SHOWN, 0.5), "f1": dict.fromkeys(TEXTS, 0.5)}
    write_json(inputs["evaluation"] / "base/metrics.json", {"dev": split, "test": split})
    write_json(inputs["evaluation"] / "base/confusion.json", [{"actual": a, "predicted": a} for a in TEXTS])
    (inputs["evaluation"] / "base/test.jsonl").write_text('{"right": true}')
    for curve in compare.CURVES:
        write_json(inputs["model"] / "base" / curve, [{"step": 1, "loss": 1.0, "dev_loss": 1.0, "dev_accuracy": 0.5}])
    compare.run(params.load(ROOT / "params.yaml"), inputs, {"comparison": outputs, "best": tmp_path / "data/best"})
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"plots": plots}))
    monkeypatch.chdir(tmp_path)
    for command in (["init", "--no-scm"], ["plots", "show"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], check=True, capture_output=True)
    return (tmp_path / "dvc_plots/index.html").read_text("utf-8")


def test_no_label_runs_in_the_page_of_dvc_plots(page):
    tags, scripts = Counter(), []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags[tag] += 1

        def handle_data(self, data):
            if "var spec =" in data:
                scripts.append(data)

    Parser().feed(page)
    assert tags["img"] == 0 and tags["script"] == 6, "three of Vega, and one for each plot"
    confusion = next(script for script in scripts if "Confusion on test" in script)
    spec, _ = json.JSONDecoder().raw_decode(confusion, confusion.index("{"))
    labels = [row["actual"] for row in spec["data"]["values"]]
    assert labels == [text.replace("<", "＜") for text in TEXTS], "and every label is shown"


@pytest.mark.parametrize(("other", "p", "unclear"), [("0001111111", 0.25, ["other"]), ("00000000", 1 / 128, [])])
def test_the_best_point_is_compared_with_others_on_the_same_documents(tmp_path, other, p, unclear, capsys):
    """All predictions of the best are right; of the other those that have a 1."""
    inputs, out = {name: tmp_path / name for name in ("model", "evaluation")}, tmp_path / "comparison"
    out.mkdir()
    for point, right in {"best": "1" * len(other), "other": other}.items():
        for folder in inputs.values():
            (folder / point).mkdir(parents=True)
        split = {**dict.fromkeys(scores.SHOWN, 0.5), "log_loss": 0.4 if point == "best" else 0.5}
        write_json(inputs["evaluation"] / point / "metrics.json", {"dev": split, "test": split})
        write_json(inputs["evaluation"] / point / "confusion.json", [])
        rows = "\n".join(json.dumps({"right": char == "1"}) for char in right)
        (inputs["evaluation"] / point / "test.jsonl").write_text(rows)
        for curve in compare.CURVES:
            write_json(inputs["model"] / point / curve, [])
    settings = params.load(ROOT / "params.yaml").model_copy(update={"sweep": {"best": {}, "other": {}}})
    compare.run(settings, inputs, {"comparison": out, "best": tmp_path / "best"})
    facts = json.loads((out / "best.json").read_text())
    assert (facts["point"], facts["test_p"], facts["unclear"]) == ("best", {"other": pytest.approx(p)}, unclear)
    noise = "on test, the difference between best and other is within noise" in capsys.readouterr().out
    assert noise == bool(unclear)


def test_points_that_differ_in_the_seed_are_one_recipe():
    sweep = {
        "base": {},
        "again": {"seed": 7},
        "hot": {"learning_rate": 0.1, "seed": 7},
        "hotter": {"learning_rate": 0.1},
    }
    settings = params.load(ROOT / "params.yaml").model_copy(update={"sweep": sweep, "seed": 1})
    accuracies = dict(zip(sweep, (0.5, 0.7, 0.25, 0.75), strict=True))
    metrics = {point: {"dev": {"accuracy": 1.0}, "test": {"accuracy": value}} for point, value in accuracies.items()}
    plain, hot = compare.by_recipe(settings, metrics)
    assert (plain["recipe"], plain["seeds"], plain["points"]) == ("as in params.yaml", (1, 7), ("base", "again"))
    assert plain["test"] == {"mean": pytest.approx(0.6), "deviation": pytest.approx(0.02**0.5)}
    assert (hot["recipe"], hot["points"]) == ("learning_rate 0.1", ("hotter", "hot"))
    assert hot["dev"] == {"mean": 1.0, "deviation": 0.0} and hot["test"]["mean"] == 0.5
    [alone] = compare.by_recipe(settings.model_copy(update={"sweep": {"base": {}}}), metrics)
    assert alone["test"] == {"mean": 0.5, "deviation": None}
