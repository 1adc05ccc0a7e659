"""Two processes of torch.distributed compared with one.

Values are compared with SGD, because Adam amplifies rounding errors in tiny gradients; with Adam, which rows move.
"""

from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from spacy.training import Example
from thinc.api import SGD, Adam

from rootstock.training import distributed
from rootstock.weights.weights import load_model

TEXTS = [
    "A fine soup.",
    "Cold soup. Rude waiter, and so slow.",
    "Lovely.",
    "Never again!",
    "The view is worth the way up.",
]
BATCHES = [TEXTS, TEXTS[1:4], TEXTS[:1], TEXTS]  # odd sizes; one leaves a process without documents


def train(weights: Path, out: Path, exclusive: bool, adam: bool) -> None:
    """Train a few steps; save the weights and losses to the file `out`."""
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(weights)})
    tok2vec = nlp.add_pipe("trf_tok2vec", config={"weights": str(weights), "precision": "fp32"})
    textcat = nlp.add_pipe("trf_textcat", config={"exclusive_classes": exclusive})
    textcat.add_label("GOOD"), textcat.add_label("BAD")
    optimizer = Adam(0.01, L2=0.1, L2_is_weight_decay=True, use_averages=False) if adam else SGD(0.05, grad_clip=1.0)
    losses = []
    for texts in BATCHES:
        cats = [{"GOOD": float(len(t) % 2), "BAD": float(1 - len(t) % 2)} for t in texts]
        examples = [Example.from_dict(nlp.make_doc(t), {"cats": c}) for t, c in zip(texts, cats, strict=True)]
        losses.append(distributed.update(nlp, examples, sgd=optimizer)["trf_textcat"])
    state = {name: value.numpy() for name, value in tok2vec.transformer.state_dict().items()}
    np.savez(out, losses=losses, head=textcat.linear.get_param("W"), **state)


def run_process(rank: int, port: int, weights: Path, folder: Path, exclusive: bool, adam: bool) -> None:
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    train(weights, folder / f"{rank}.npz", exclusive, adam)
    torch.distributed.destroy_process_group()


def in_one_and_in_two(tiny, tmp_path, exclusive: bool, adam: bool) -> list[dict[str, np.ndarray]]:
    """The weights after training in one process, and in the first and second of two."""
    from tests.workflow.daemons import free_port

    torch.multiprocessing.spawn(run_process, (free_port(), tiny, tmp_path, exclusive, adam), nprocs=2)
    train(tiny, tmp_path / "single.npz", exclusive, adam)
    return [dict(np.load(tmp_path / f"{name}.npz")) for name in ("single", "0", "1")]


@pytest.mark.slow
def test_the_same_rows_move_with_adam(tiny, tmp_path):
    """Those of the pieces in the texts: rows without a gradient neither decay nor follow their moments."""
    single, first, second = in_one_and_in_two(tiny, tmp_path, True, adam=True)
    table = "embeddings.word_embeddings.weight"
    before = load_model(tiny).state_dict()[table].numpy()
    moved = [(weights[table] != before).any(axis=1) for weights in (single, first, second)]
    assert 5 < moved[0].sum() < 60
    np.testing.assert_array_equal(moved[0], moved[1])
    np.testing.assert_array_equal(first[table], second[table])


@pytest.mark.parametrize("exclusive", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_processes_give_the_result_of_one(tiny, tmp_path, exclusive):
    single, first, second = in_one_and_in_two(tiny, tmp_path, exclusive, adam=False)
    before = {name: value.numpy() for name, value in load_model(tiny).state_dict().items()}
    n_changed = 0
    for name, value in single.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        if name in before:
            n_changed += int(not np.array_equal(value, before[name]))
            np.testing.assert_allclose(first[name], value, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(first["losses"], single["losses"], atol=1e-5)
    assert n_changed > 20 and "pooler.dense.weight" in single
    np.testing.assert_array_equal(first["pooler.dense.weight"], before["pooler.dense.weight"])  # no gradient anywhere
