"""The model card of a wheel.

It contains no measured time or energy, so that the wheel is reproducible. The ledger adds those to a copy of the card
next to the wheel.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..engine.params import Package

LISTED = 20  # labels in the model card


def model_card(
    language: str, package: Package, kind: str, facts: dict[str, Any], example: str, scores: str = ""
) -> str:
    """kind: one sentence on what the pipeline is; facts: rows of a table; example: Python that uses `nlp`.

    scores: a Markdown table.
    """
    name = f"{language}_{package.name}"
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in facts.items())])
    code = f'```python\nimport spacy\n\nnlp = spacy.load("{name}")\n{example}\n```\n'
    parts = [f"# {name} {package.version}", package.description, kind, table, scores, code]
    return "\n\n".join(part for part in parts if part)


def _cell(value: Any) -> str:
    """A text in a cell of a Markdown table, where it is read as it is: labels may have any characters.

    Those that steer a terminal or the direction of writing are shown as codes.
    """
    text = re.sub(r"\s+", " ", str(value))
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", lambda found: ascii(found[0])[1:-1], text)
    return re.sub(r"[\\`*\[\]<>&|~$]|(?<![^\W_])_|_(?![^\W_])", lambda found: f"&#{ord(found[0])};", text)


def origin(weights: Path) -> dict[str, str]:
    """Facts about the pretrained weights in a folder."""
    recorded = json.loads((weights / "weights.json").read_text("utf-8"))
    return {
        "pretrained weights": f"{recorded['source']}, licence: {recorded['licence']}",
        "sha256 of model.safetensors": recorded["sha256"]["model.safetensors"],
    }


def score_table(metrics: dict[str, Any], confidence: float) -> str:
    """A Markdown table with a row for each split."""
    rows = [
        f"| {split} | {m['documents']} | {m['accuracy']:.4f} | {m['accuracy_low']:.4f} to {m['accuracy_high']:.4f} "
        f"| {m['macro_f1']:.4f} | {m['calibration_error']:.4f} |"
        for split, m in metrics.items()
    ]
    header = f"| split | documents | accuracy | {confidence:.0%} interval | macro F1 | calibration error |"
    return "\n".join([header, "|---|---|---|---|---|---|", *rows])


def listed(labels: list[str], per_document: str) -> str:
    """How many labels there are, and the first of them."""
    some = f", the first {LISTED}" if len(labels) > LISTED else ""
    return f"{len(labels)}, {per_document} per document{some}: {', '.join(map(shown, labels[:LISTED]))}"


def shown(label: str) -> str:
    """A label that nobody takes for another, or for two: in quotes as in JSON, if it is not plain."""
    plain = label.isprintable() and label.strip() == label and "  " not in label and not set(',"\\') & set(label)
    if plain:
        return label
    quoted = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in json.dumps(label, ensure_ascii=False))
    return re.sub(" (?= )", r"\\u0020", quoted)
