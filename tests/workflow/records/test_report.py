"""The page that `make report` writes: whole, and it fetches nothing."""

import json
import re
from html.parser import HTMLParser

import pytest

from tests.conftest import ROOT
from workflow.engine import dag


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> str:
    """With a text of the worst errors that would be markup if it were not escaped."""
    project = finished.copy(tmp_path_factory.mktemp("report") / "project")
    worst = project.folder / "data/evaluation/base/worst.json"
    rows = json.loads(worst.read_text())
    rows.insert(
        0, {"row": "x:1", "text": "<script>alert(1)</script> & co", "gold": ["A"], "scores": {"B": 0.9, "A": 0.1}}
    )
    worst.unlink()  # it may be a link into the cache
    worst.write_text(json.dumps(rows))
    project.module("records.ledger")
    assert "report  data/report.html" in project.module("records.report").stdout
    return (project.folder / "data/report.html").read_text()


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        self.open.append(tag)


def test_nothing_is_fetched(page):
    links = Links()
    links.feed(page)
    assert links.found and all(link.startswith(("data:", "#")) for link in links.found)
    assert not {"script", "link", "iframe"} & set(links.open) and "@import" not in page and "url(http" not in page


def test_every_stage_has_its_time_and_energy(page):
    drawn = re.search(r'aria-label="The DAG.*?</svg>', page, re.DOTALL)[0]
    for stage in dag.load(ROOT):
        assert f">{stage}</text>" in drawn
    assert len(re.findall(r"[\d.]+ s · [\d.]+ Wh", drawn)) == len(dag.load(ROOT))
    for part in (
        "spent in this clone",
        "avoided, at most",
        "estimated from load and TDP",
        "How accurate these numbers are",
    ):
        assert part in page


def test_scores_errors_and_alignments(page):
    for part in ("Quality against energy", "accuracy on test", "Confusion on test", "Calibration on test"):
        assert part in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in page
    assert page.count('aria-label="Alignment of a sentence"') == 3
    assert "[CLS]</text>" in page and "##" in page
