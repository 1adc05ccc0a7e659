import re
from html import unescape

import pytest
from markdown_it import MarkdownIt

from workflow.engine.params import Package
from workflow.model.card import model_card

PACKAGE = Package(name="x", version="0.1.0", description="One sentence.")
LABELS = (
    "a|b", "a\\|b", "<script>", "*x*", "__x__", "a_b", "`x`", "[a](b)", "R&D &amp;", "$1k_to_$5k", "~~a~~", "C#", "a\\", "👍",
)  # fmt: skip


def labels_of(card: str) -> str:
    """What a reader sees in the row of the labels."""
    html = MarkdownIt().enable(["table", "strikethrough"]).render(card)
    [cell] = re.findall(r"<td>labels</td>\s*<td>(.*?)</td>", html, re.DOTALL)
    assert "<" not in cell and html.count("<tr>") == 3  # an empty head, and two rows
    return unescape(cell)


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_read_as_it_is(label):
    facts = {"labels": f"{label}, B (one per document)", "seed": 0}
    assert labels_of(model_card("en", PACKAGE, "A pipeline.", facts, "nlp")) == facts["labels"]


def test_a_label_with_a_newline_stays_in_its_row():
    facts = {"labels": "a\n\n| b", "seed": 0}
    assert labels_of(model_card("en", PACKAGE, "A pipeline.", facts, "nlp")) == "a | b"


def test_plain_facts_are_written_as_they_are():
    facts = {"labels": "very_good, bad (one per document)", "pretrained weights": "pypi:a==0.1.0, licence: Apache-2.0"}
    card = model_card("en", PACKAGE, "A pipeline.", facts, "nlp")
    assert all(f"\n| {key} | {value} |\n" in card for key, value in facts.items())
