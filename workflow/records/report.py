"""One HTML page about the results: cost, scores, errors. `make report` writes data/report.html.

The page is self-contained and needs no network.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine import command, dag, params
from ..engine.attempt import SPENT, read_records
from ..engine.errors import Problem
from . import audits, corpora, costs, ledger, monitors, students
from .tracking import results

PAGE, TEMPLATE = Path("data/report.html"), Path(__file__).with_suffix(".html")
CONFUSED = 10  # pairs of labels that are listed
COLUMN, ROW, BOX = (190, 62, (158, 46))  # sizes in the drawing of the DAG, in pixels


def main() -> None:
    import jinja2

    stages, receipts = dag.load(), costs.receipts()
    missing = ledger.gaps(stages, receipts)
    if missing:
        raise Problem(ledger.explain(missing))
    comparison = _json("data/comparison/best.json")
    best = comparison["point"]
    evaluation, temperature = Path("data/evaluation", best), Path("data/model", best, "temperature.json")
    mine = {path.stem for path in SPENT.glob("*.json")}
    # Each section from the receipt of a stage that reads it.
    read_by = {"weights": "download_weights", "data": "sentencize@train", "evaluate": f"evaluate@{best}"}
    sections = {name: receipts[stage]["params"][name] for name, stage in {**read_by, "package": "package"}.items()}
    settings = params.Params.model_validate({**receipts["compare"]["params"], **sections})
    shown = corpora.merged(receipts)
    spent, avoided = read_records(SPENT), read_records(costs.AVOIDED)
    history = results.history(params.load().tracking.experiment)
    rows = ledger.rows_digest(evaluation, "test", settings.model_dump())
    comparable = [run for run in history if run.get("test.sha256") == rows]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(TEMPLATE.read_text("utf-8")).render(
        settings=settings,
        best=best,
        comparison=comparison,
        recipes=[recipe for recipe in _json("data/comparison/recipes.json") if len(recipe["seeds"]) > 1],
        metrics=_json("data/comparison/metrics.json"),
        receipts=shown,
        mine=mine,
        dag=draw_dag(corpora.one_stage_each(stages), shown, mine),
        total=costs.total(receipts.values()),
        spent=costs.total(spent),
        unfinished=costs.unfinished(spent),
        n_spent=len(spent),
        avoided=costs.total(avoided),
        n_avoided=len(avoided),
        methods=costs.methods(receipts.values()),
        history=history,
        history_plot=plot_history(comparable),
        learning_plot=plot_learning(comparable),
        points_plot=_image(Path("data/comparison/points.png")),
        confusion=_image(evaluation / "confusion.png"),
        calibration=_image(evaluation / "calibration.png"),
        temperature=_json(temperature) if temperature.is_file() else None,
        worst=_json(evaluation / "worst.json"),
        confused=_json(evaluation / "confused.json")[:CONFUSED],
        kinds=side_by_side(_json(evaluation / "kinds.json")),
        corpora=corpora.found(receipts),
        students=students.found(receipts),
        audits=audits.found(receipts),
        monitors=monitors.found(receipts),
        doubtful=_json(evaluation / "doubtful.json"),
        alignments=draw_alignments(settings, evaluation / "test.jsonl"),
    )
    PAGE.write_text(page, encoding="utf-8")
    print(f"report  {PAGE}")


def side_by_side(kinds: dict[str, list[dict[str, Any]]]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """From the counts of errors of each split to those of each kind: by split."""
    keys = dict.fromkeys((row["kind"], row["value"]) for rows in kinds.values() for row in rows)
    counts = {split: {(row["kind"], row["value"]): row for row in rows} for split, rows in kinds.items()}
    first = list(dict.fromkeys(kind for kind, _ in keys))
    ordered = sorted(keys, key=lambda key: (first.index(key[0]), int(key[1].split()[0])))
    return {key: {split: found[key] for split, found in counts.items() if key in found} for key in ordered}


def _json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text("utf-8"))


def _image(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def draw_dag(stages: dict[str, dag.Stage], receipts: costs.Receipts, mine: set[str]) -> dict[str, Any]:
    """Boxes from left to right, and the lines between them; a line that a longer path implies is left out."""
    chains = {name: dag.chain(stage, stages) for name, stage in stages.items()}
    needs = {name: dag.needs(stage, stages) for name, stage in stages.items()}
    depth: dict[str, int] = {}
    boxes: dict[str, dict[str, Any]] = {}
    rows: list[int] = []
    for name in sorted(stages, key=lambda name: len(chains[name])):  # the stages that it needs have shorter chains
        depth[name] = max((depth[other] + 1 for other in needs[name]), default=0)
        rows += [0] * (depth[name] + 1 - len(rows))
        x, y = depth[name] * COLUMN, rows[depth[name]] * ROW
        rows[depth[name]] += 1
        receipt = receipts[name]
        boxes[name] = {"x": x, "y": y, "name": name, "receipt": receipt, "mine": receipt["run_id"] in mine}
    lines = [
        (boxes[other]["x"] + BOX[0], boxes[other]["y"] + BOX[1] / 2, boxes[name]["x"], boxes[name]["y"] + BOX[1] / 2)
        for name in stages
        for other in needs[name]
        if not any(other in chains[third] for third in needs[name] if third != other)
    ]
    return {
        "boxes": list(boxes.values()),
        "lines": lines,
        "size": BOX,
        "width": len(rows) * COLUMN - COLUMN + BOX[0],
        "height": max(rows) * ROW - ROW + BOX[1],
    }


def plot_history(runs: list[dict[str, Any]]) -> str:
    """SVG: test accuracy against energy, with intervals, for results on the same rows."""

    def draw(axes: Any) -> None:
        for run in runs:
            wh, low, high = (run[name] for name in ("energy/wh", "range/energy_wh_low", "range/energy_wh_high"))
            accuracy, below, above = (
                run[name] for name in ("test/accuracy", "range/test_accuracy_low", "range/test_accuracy_high")
            )
            ranges = {"xerr": [[wh - low], [high - wh]], "yerr": [[accuracy - below], [above - accuracy]]}
            axes.errorbar(wh, accuracy, **ranges, fmt="o", color="#1f6f5c", ecolor="#b9cfc8", capsize=2)
            axes.annotate(_label(run["name"]), (wh, accuracy), xytext=(4, 4), textcoords="offset points", fontsize=8)
        axes.set(xlabel="Wh, all stages that led to the result", ylabel="accuracy on test")
        axes.set_xlim(left=0)

    return _svg(draw)


def plot_learning(runs: list[dict[str, Any]]) -> str:
    """SVG: test accuracy against the number of training documents, for results on the same rows; "" of a single size.

    Of results with equally many documents, the best on dev stands for all.
    """
    best: dict[float, dict[str, Any]] = {}
    for run in runs:
        size = run.get("documents/train")
        if size is not None and run["dev/accuracy"] > best.get(size, {"dev/accuracy": -1.0})["dev/accuracy"]:
            best[size] = run
    if len(best) < 2:
        return ""

    def draw(axes: Any) -> None:
        sizes = sorted(best)
        accuracy, low, high = (
            [best[size][name] for size in sizes]
            for name in ("test/accuracy", "range/test_accuracy_low", "range/test_accuracy_high")
        )
        axes.fill_between(sizes, low, high, color="#b9cfc8", alpha=0.5)
        axes.plot(sizes, accuracy, "o-", color="#1f6f5c")
        axes.set(xlabel="training documents", ylabel="accuracy on test")

    return _svg(draw)


def _svg(draw: Callable[[Any], None]) -> str:
    """What a function draws on Matplotlib's axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.hashsalt": "rootstock", "font.size": 9, "text.parse_math": False}):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        draw(axes)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        plt.close(figure)
    return svg.getvalue()[svg.getvalue().index("<svg") :]


def _label(name: str) -> str:
    """A run's name for the plot, whose font has no emoji: people may have changed it, to anything."""
    text = name.removeprefix("🔥").replace("❄️", "frozen").strip()
    return "".join(char if char.isprintable() and char < "\u2100" else "·" for char in text[:40])


def draw_alignments(settings: params.Params, predictions: Path, n_sentences: int = 3) -> list[dict[str, Any]]:
    """Short test sentences with the most pieces per token: tokens above, pieces below, a line for each aligned pair."""
    import spacy

    from rootstock.pieces.pieces import Pieces

    nlp = spacy.blank(settings.language)
    nlp.add_pipe("trf_wordpiecer", config={"weights": "data/weights"})
    with predictions.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(500), strict=False)]
    candidates = [sent.as_doc() for doc in nlp.pipe(texts) for sent in doc.sents if 5 <= len(sent) <= 12]
    docs = sorted(nlp.pipe([doc.text for doc in candidates]), key=lambda doc: -len(Pieces.of(doc).ids) / len(doc))
    return [_alignment(doc) for doc in docs[:n_sentences]]


def _alignment(doc: Any) -> dict[str, Any]:
    def row(texts: list[str]) -> tuple[list[dict[str, Any]], int]:
        boxes, x = [], 0
        for text in texts:
            width = 9 * max(len(text), 1) + 10
            boxes.append({"text": text, "x": x, "width": width, "middle": x + width / 2})
            x += width + 6
        return boxes, x

    (tokens, token_width), (pieces, piece_width) = row([t.text for t in doc]), row(list(doc._.trf_word_pieces_))
    pairs = [(tokens[i], pieces[j]) for i, aligned in enumerate(doc._.trf_alignment) for j in aligned]
    for box in tokens:  # centred above the pieces
        box["x"], box["middle"] = (box[key] + max(0, piece_width - token_width) / 2 for key in ("x", "middle"))
    for piece in pieces:
        piece["boundary"] = not any(piece is other for _, other in pairs)
    return {"tokens": tokens, "pieces": pieces, "pairs": pairs, "width": max(token_width, piece_width)}


if __name__ == "__main__":
    command.main("report", main)
