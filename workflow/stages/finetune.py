"""Train the head, and the transformer unless it is frozen; keep the pipeline that is best on dev."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import spacy
import srsly
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch
from thinc.api import Adam, Optimizer, warmup_linear
from tqdm import tqdm

from rootstock.training import distributed

from ..corpus import features, shards
from ..corpus.predictions import arrays, predict
from ..engine import energy
from ..engine.params import Finetune, Params
from ..engine.stage import main
from ..files import write_json
from ..model import processes, scores
from ..model.determinism import make_deterministic
from ..model.pipeline import build
from ..model.points import at_point
from ..records.tracking import live


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    params = at_point(params, outputs["model"].name)
    if params.finetune.processes == 1:
        return train(params, inputs, outputs, energy.spent_g)
    return processes.launch(train, params.finetune.processes, params, inputs, outputs)


def train(
    params: Params, inputs: dict[str, Path], outputs: dict[str, Path], spent_g: Callable[[], float]
) -> dict[str, Any]:
    """Train in one process. Rank 0 also scores dev, saves the pipeline and logs."""
    out = outputs["model"]
    is_main = processes.rank() == 0
    make_deterministic(params, processes.rank(), params.finetune.processes)
    report = srsly.read_json(inputs["wordpieces/train"] / "report.json")
    labels, n_train = report["labels"], report["documents"]
    nlp = build(params, inputs["weights"], labels)
    if not is_main:
        spacy.util.fix_random_seed(params.seed + processes.rank())  # each process draws its own dropout

    train_docs, dev_docs = (features.folder(inputs, split, nlp) for split in ("train", "dev"))
    settings, budget = params.finetune, params.carbon.budget_g
    steps_per_epoch = math.ceil(n_train / settings.batch_size)
    steps = steps_per_epoch * settings.epochs
    log_every = max(1, steps // 100)
    optimizer = make_optimizer(settings, steps)
    rng = random.Random(params.seed)
    train_curve: list[dict[str, float]] = []
    dev_curve: list[dict[str, float]] = []

    with (
        live.run(params.model_dump(), is_main) as mlflow_run,
        tqdm(total=steps, desc="finetune", unit=" steps", disable=not is_main or None) as bar,
    ):
        step, steps_since_log, loss, over_budget = 0, 0, 0.0, False
        for epoch in range(1, settings.epochs + 1):
            for docs in batches(train_docs, nlp, settings, rng):
                losses: dict[str, float] = {}
                optimizer.step_schedules()
                examples = [Example(doc, doc) for doc in docs]
                distributed.update(nlp, examples, drop=settings.dropout, sgd=optimizer, losses=losses)
                step, steps_since_log, loss = step + 1, steps_since_log + 1, loss + losses["trf_textcat"]
                bar.update()
                if step % log_every == 0 or step == steps:
                    point = {"step": step, "loss": loss / steps_since_log, "learning_rate": float(optimizer.learn_rate)}
                    train_curve.append(point)
                    mlflow_run.log(point)
                    steps_since_log, loss = 0, 0.0
                    over_budget = budget is not None and processes.broadcast(spent_g() > budget)
                    if over_budget:
                        break
            if is_main:
                point = {"step": step, "epoch": epoch, **dev_scores(nlp, dev_docs, labels, params.data.exclusive)}
                mlflow_run.log(point)
                bar.set_postfix_str(f"dev accuracy {point['dev_accuracy']:.3f}")
                if all(_quality(point) > _quality(earlier) for earlier in dev_curve):
                    nlp.to_disk(out / "pipeline")
                dev_curve.append(point)
            if over_budget:
                break

    if not is_main:
        return {}
    write_json(out / "train_curve.json", train_curve)
    write_json(out / "dev_curve.json", dev_curve)
    best = max(dev_curve, key=_quality)
    print(f"best after step {best['step']}: dev accuracy {best['dev_accuracy']:.4f}")
    if over_budget:
        print(f"stopped after {step} of {steps} steps: carbon.budget_g, {budget:g} g of CO2, is spent")
    return {"mlflow_run": mlflow_run.run_id, "steps": step, "steps_planned": steps}


def make_optimizer(settings: Finetune, steps: int) -> Optimizer:
    """Adam with weight decay. The learning rate rises to its maximum, then falls; it is above zero at every step.

    Call `step_schedules` before each step.
    """
    return Adam(
        warmup_linear(settings.learning_rate, round(settings.warmup * steps), steps + 1),
        L2=settings.weight_decay,
        L2_is_weight_decay=True,
        grad_clip=settings.grad_clip,
        use_averages=False,
    )


def batches(folder: Path, nlp: Language, settings: Finetune, rng: random.Random) -> Iterator[list[Doc]]:
    """The batches of one epoch: shards in random order, documents shuffled within a buffer."""
    paths = shards.files(folder)
    rng.shuffle(paths)

    def shuffled() -> Iterator[Doc]:
        stream = shards.read(paths, nlp.vocab)
        while buffer := list(islice(stream, settings.shuffle_buffer)):
            rng.shuffle(buffer)
            while buffer:  # frees each document once it has been used, before the next ones are read
                yield buffer.pop()

    yield from minibatch(shuffled(), settings.batch_size)


def dev_scores(nlp: Language, folder: Path, labels: list[str], exclusive: bool) -> dict[str, float]:
    """Accuracy and mean log loss on dev, for its curve."""
    gold, predicted = arrays(predict(nlp, folder, labels), len(labels))
    return {
        "dev_accuracy": float(scores.correct(gold, predicted, exclusive).mean()),
        "dev_loss": float(scores.log_loss(gold, predicted, exclusive).mean()),
    }


def _quality(point: dict[str, float]) -> tuple[float, float]:
    """Sort key of a point of the dev curve, best last."""
    return point["dev_accuracy"], -point["dev_loss"]


if __name__ == "__main__":
    main("finetune", run)
