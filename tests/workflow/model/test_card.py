import re
from html import unescape

import pytest
from markdown_it import MarkdownIt

from tests.workflow.texts import TEXTS
from workflow.engine.params import Package
from workflow.model.card import model_card

PACKAGE = Package(name="x", version="0.1.0", description="One sentence.")


def labels_of(card: str) -> str:
    """What a reader sees in the row of the labels."""
    html = MarkdownIt().enable(["table", "strikethrough"]).render(card)
    [cell] = re.findall(r"<td>labels</td>\s*<td>(.*?)</td>", html, re.DOTALL)
    assert "<" not in cell and html.count("<tr>") == 3  # an empty head, and two rows
    return unescape(cell)


SHOWN = {  # other than they are
    "\x1b[31m": "\\x1b[31m", "a\rb": "a b", "a\r\n\r\nb": "a b", "a\x00b": "a\\x00b",
    "\u202eabc": "\\u202eabc", "\u2066abc": "\\u2066abc",
}  # fmt: skip


@pytest.mark.parametrize("label", TEXTS)
def test_a_label_is_read_as_it_is(label):
    facts = {"labels": f"{label}, B (one per document)", "seed": 0}
    card = model_card("en", PACKAGE, "A pipeline.", facts, "nlp")
    assert labels_of(card) == f"{SHOWN.get(label, label)}, B (one per document)"
    assert card.replace("\n", "").replace("\u200d", "").isprintable()


def test_plain_facts_are_written_as_they_are():
    facts = {"labels": "very_good, bad (one per document)", "pretrained weights": "pypi:a==0.1.0, licence: Apache-2.0"}
    card = model_card("en", PACKAGE, "A pipeline.", facts, "nlp")
    assert all(f"\n| {key} | {value} |\n" in card for key, value in facts.items())
