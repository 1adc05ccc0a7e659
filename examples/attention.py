"""Compare the attention of two models on the same text: last layer, averaged over heads.

python examples/attention.py "The waiter was kind, but the soup was cold." data/weights data/model/base/pipeline

A model is a weights folder or a saved pipeline. The models may have different tokenizers, because the plot shows
attention between spaCy tokens. Writes attention.png.
"""

import sys
from pathlib import Path

import matplotlib
import spacy

matplotlib.use("agg")
import matplotlib.pyplot as plt

from rootstock.pieces.alignment import token_attention


def load(folder: str) -> spacy.Language:
    if (Path(folder) / "config.cfg").is_file():
        return spacy.load(folder, config={"components.trf_tok2vec.attentions": True})
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": folder})
    nlp.add_pipe("trf_tok2vec", config={"weights": folder, "attentions": True})
    return nlp


def draw(text: str, model: str, other_model: str, file: str = "attention.png") -> None:
    """Plot the attention in the first sentence for each model, and the difference. Rows (queries) sum to one."""
    pipelines = [load(folder) for folder in (model, other_model)]
    docs = [nlp(text) for nlp in pipelines]
    words = [token.text for token in next(docs[0].sents)]
    first, second = (token_attention(doc)[0][-1].mean(axis=0) for doc in docs)
    largest = max(first.max(), second.max())
    change = abs(second - first).max() or 1.0
    panels = [(first, model, "Greens", 0, largest), (second, other_model, "Greens", 0, largest)]
    panels += [(second - first, "second minus first", "PuOr", -change, change)]
    figure, axes = plt.subplots(1, 3, figsize=(4 + len(words), 2 + len(words) / 3), sharey=True, layout="constrained")
    for axis, (matrix, title, colors, low, high) in zip(axes, panels, strict=True):
        image = axis.imshow(matrix, cmap=colors, vmin=low, vmax=high)
        axis.set_xticks(range(len(words)), words, rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(words)), words)
        axis.set_title(title)
        axis.set_xlabel("key")
        figure.colorbar(image, ax=axis, shrink=0.7)
    axes[0].set_ylabel("query")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    draw(*sys.argv[1:])
