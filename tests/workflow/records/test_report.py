"""The page that `make report` writes: complete and self-contained."""

import json
import re
from html.parser import HTMLParser

import pytest

from tests.conftest import ROOT
from workflow.engine import dag
from workflow.records import report


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> str:
    """The page for a result with a text and labels among the worst errors that must be escaped."""
    project = finished.copy(tmp_path_factory.mktemp("report") / "project")
    worst = project.folder / "data/evaluation/base/worst.json"
    rows = json.loads(worst.read_text())
    rows.insert(
        0,
        {
            "row": "x:1",
            "text": "<script>alert(1)</script> & co",
            "gold": ["$5, <b>", "a|b"],
            "scores": {"B": 0.9, "A": 0.1},
        },
    )
    worst.unlink()  # it may be a link into the cache
    worst.write_text(json.dumps(rows))
    project.module("records.ledger")
    assert "report  data/report.html" in project.module("records.report").stdout
    return (project.folder / "data/report.html").read_text()


class Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        self.tags.append(tag)


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
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page
    assert "<td>$5, &lt;b&gt;<br>a|b</td>" in page
    assert page.count('aria-label="Alignment of a sentence"') == 3
    assert "[CLS]</text>" in page and "##" in page


def test_a_run_may_have_any_name():
    """People rename runs in MLflow."""
    energy = {"energy/wh": 1.0, "range/energy_wh_low": 0.5, "range/energy_wh_high": 2.0}
    accuracy = {"test/accuracy": 0.5, "range/test_accuracy_low": 0.4, "range/test_accuracy_high": 0.6}
    for name in ("$1k_to_$5k", "\\frac{", "a -- b"):
        assert report.plot_history([{"name": name, **energy, **accuracy}]).startswith("<svg")
