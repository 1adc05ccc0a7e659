"""The page that `make report` writes: complete and self-contained."""

import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.workflow.texts import TEXTS
from workflow.engine import dag
from workflow.records import report

TEMPLATE = report.TEMPLATE.read_text()
KILLED = {
    "stage": "finetune@base", "run_id": "killed", "host": "here", "started": "2026-01-01T00:00:00.000+00:00",
    "seconds": 10.0, "kwh": 0.25, "kwh_low": 0.25, "kwh_high": 0.25, "grid_g_per_kwh": 400.0, "method": "RAPL",
    "metering_seconds": 1.0, "failed": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> str:
    """The page for a result with TEXTS as texts and labels of the worst errors, and for a stage that was killed."""
    project = finished.copy(tmp_path_factory.mktemp("report") / "project")
    scores = {"predicted": ["B"], "scores": {"B": 0.9, "A": 0.1}}
    rows = [
        {"row": f"{text}:1", "text": text, "gold": [text, "b"], "predicted": [text], "scores": {text: 0.9, "A": 0.1}}
        for text in TEXTS
    ]
    rows.append({"row": "x:1", "text": "<p>", "gold": ["$5, <b>", "a|b"], **scores})
    _replace(project.folder / "data/evaluation/base/worst.json", rows)
    doubts = [
        {"row": f"d{text}:1", "text": text, "gold": ["b"], "label": text, "probability": 0.9875} for text in TEXTS
    ]
    _replace(project.folder / "data/evaluation/base/doubtful.json", doubts)
    pairs = [{"actual": text, "predicted": "b", "count": 3} for text in TEXTS]
    _replace(project.folder / "data/evaluation/base/confused.json", pairs)
    project.set(**{"package.description": TEXTS[1], "data.folder": "data/<few>"})
    (project.folder / "data/few").rename(project.folder / "data/<few>")
    for receipt in (project.folder / "data/receipts").glob("*.json"):  # as if computed with these settings
        content = json.loads(receipt.read_text())
        content["params"]["package"]["description"], content["params"]["data"]["folder"] = TEXTS[1], "data/<few>"
        content["host"] = "<b>host"
        if "data/few" in content["deps"]:
            content["deps"]["data/<few>"] = content["deps"].pop("data/few")
        receipt.unlink()
        receipt.write_text(json.dumps(content))
    figures = {"log_loss": 0.625, "calibration_error": 0.25}, {"log_loss": 0.5, "calibration_error": 0.125}
    temperature = {"temperature": 2.0, **dict(zip(("before", "after"), figures, strict=True))}
    (project.folder / "data/model/base/temperature.json").write_text(json.dumps(temperature))
    (project.folder / "data/ledger/spent/killed.json").write_text(json.dumps(KILLED))
    project.module("records.ledger")
    assert "report  data/report.html" in project.module("records.report").stdout
    return (project.folder / "data/report.html").read_text()


def _replace(path: Path, content: list[dict]) -> None:
    path.unlink()  # it may be a link into the cache
    path.write_text(json.dumps(content))


class Parser(HTMLParser):
    """What a browser makes of the page: its elements, links, attributes, and the texts of table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.in_cell = False

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        self.attributes |= {name for name, _ in attrs}
        self.tags.append(tag)
        if tag == "td":
            self.in_cell = True
            self.cells.append("")

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag != "td"

    def handle_data(self, data):
        if self.in_cell:
            self.cells[-1] += data


def test_calibration_before_and_after(page):
    assert (
        "a temperature of 2.000" in page
        and "0.250 before and is 0.125 now; the log loss was 0.625 and is 0.500" in page
    )


def test_nothing_from_data_becomes_html(page):
    parser = Parser()
    parser.feed(page)
    assert not {"script", "iframe", "link"} & set(parser.tags) and parser.tags.count("b") == TEMPLATE.count("<b>")
    assert not [name for name in parser.attributes if name.startswith("on")]
    assert parser.tags.count("img") == 2, "the plots"
    for text in (text.replace("\r\n", "\n").replace("\r", "\n") for text in TEXTS):
        assert {text if len(text) < 280 else f"{text[:277]}...", f"{text}b", text, f"{text}:1"} <= set(parser.cells)
        assert f"d{text}:1" in parser.cells
    assert "this clone, <b>host" in parser.cells
    assert f"{escape(TEXTS[1])} Weights: " in page and "Data: data/&lt;few&gt;." in page


def test_errors_by_kind(page, finished):
    parser = Parser()
    parser.feed(page)
    kinds = json.loads((finished.folder / "data/evaluation/base/kinds.json").read_text())
    for split, documents in (("dev", 16), ("test", 24)):
        for kind in ("tokens", "sentences", "unknown pieces"):
            rows = [row for row in kinds[split] if row["kind"] == kind]
            assert sum(row["documents"] for row in rows) == documents
    [dev, test] = [
        row for split in ("dev", "test") for row in kinds[split] if (row["kind"], row["value"]) == ("sentences", "1")
    ]
    at = next(i for i, cell in enumerate(parser.cells) if cell == "sentences" and parser.cells[i + 1] == "1")
    counts = [f"{dev['documents']}", f"{dev['errors']}", f"{100 * dev['errors'] / dev['documents']:.0f} %"]
    assert parser.cells[at + 2 : at + 5] == counts and parser.cells[at + 5] == f"{test['documents']}"


def test_kinds_that_only_one_split_has():
    [one, two] = [{"kind": "tokens", "value": value, "documents": 1, "errors": 0} for value in ("8 to 15", "16 to 31")]
    found = report.side_by_side({"dev": [two], "test": [one]})
    assert list(found.items()) == [(("tokens", "8 to 15"), {"test": one}), (("tokens", "16 to 31"), {"dev": two})]


def test_the_page_counts_what_did_not_finish(page):
    assert "attempts that did not finish: 1, 250.000 Wh" in page
    [spent] = re.findall(r"spent in this clone<b>([\d.]+) Wh", page)
    assert 250 < float(spent) < 260


def test_the_page_loads_nothing_external(page):
    parser = Parser()
    parser.feed(page)
    assert parser.links and all(link.startswith(("data:", "#")) for link in parser.links)
    assert not {"script", "link", "iframe"} & set(parser.tags) and "@import" not in page and "url(http" not in page


def test_the_page_has_time_and_energy_of_every_stage(page):
    drawing = re.search(r'aria-label="The DAG.*?</svg>', page, re.DOTALL)[0]
    for stage in dag.load(ROOT):
        assert f">{stage}</text>" in drawing
    assert len(re.findall(r"[\d.]+ s · [\d.]+ Wh", drawing)) == len(dag.load(ROOT))
    for part in (
        "spent in this clone",
        "avoided, at most",
        "estimated from load and TDP",
        "How accurate these numbers are",
    ):
        assert part in page


def test_the_page_has_scores_errors_and_alignments(page):
    for part in ("Quality against energy", "accuracy on test", "Confusion on test", "Calibration on test"):
        assert part in page
    assert "<td>$5, &lt;b&gt;<br>a|b</td>" in page
    assert page.count('aria-label="Alignment of a sentence"') == 3
    assert "[CLS]</text>" in page and "##" in page


@pytest.mark.filterwarnings("error")
def test_a_run_may_have_any_name():
    """People rename runs in MLflow."""
    energy = {"energy/wh": 1.0, "range/energy_wh_low": 0.5, "range/energy_wh_high": 2.0}
    accuracy = {"test/accuracy": 0.5, "range/test_accuracy_low": 0.4, "range/test_accuracy_high": 0.6}
    svg = report.plot_history([{"name": name, **energy, **accuracy} for name in (*TEXTS, "a -- b")])
    parser = Parser()
    parser.feed(svg)
    assert svg.startswith("<svg") and not {"img", "script", "b"} & set(parser.tags)
