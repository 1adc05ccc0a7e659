"""Train the head, and the transformer with it or under it; keep the pipeline that is best on dev."""

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
from ..engine.stage import main, set_torch, write_json
from ..model import processes, scores
from ..model.pipeline import build
from ..records import tracking


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    params = params.at(outputs["model"].name)
    if params.finetune.processes == 1:
        return train(params, inputs, outputs, energy.spent_g)
    return processes.launch(train, params.finetune.processes, params, inputs, outputs)


def train(
    params: Params, inputs: dict[str, Path], outputs: dict[str, Path], spent_g: Callable[[], float]
) -> dict[str, Any]:
    """In each process; the first scores dev, saves the pipeline and logs."""
    out = outputs["model"]
    first = processes.rank() == 0
    set_torch(params, processes.rank(), params.finetune.processes)
    report = srsly.read_json(inputs["wordpieces/train"] / "report.json")
    labels, n_train = report["labels"], report["documents"]
    nlp = build(params, inputs["weights"], labels)
    if not first:
        spacy.util.fix_random_seed(params.seed + processes.rank())  # dropout of its own

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
        tracking.live(params.model_dump(), first) as run_,
        tqdm(total=steps, desc="finetune", unit=" steps", disable=not first or None) as bar,
    ):
        step, since, loss, overrun = 0, 0, 0.0, False
        for epoch in range(1, settings.epochs + 1):
            for docs in batches(train_docs, nlp, settings, rng):
                losses: dict[str, float] = {}
                optimizer.step_schedules()
                examples = [Example(doc, doc) for doc in docs]
                distributed.update(nlp, examples, drop=settings.dropout, sgd=optimizer, losses=losses)
                step, since, loss = step + 1, since + 1, loss + losses["trf_textcat"]
                bar.update()
                if step % log_every == 0 or step == steps:
                    point = {"step": step, "loss": loss / since, "learning_rate": float(optimizer.learn_rate)}
                    train_curve.append(point)
                    run_.log(point)
                    since, loss = 0, 0.0
                    overrun = budget is not None and processes.from_first(spent_g() > budget)
                    if overrun:
                        break
            if first:
                point = {"step": step, "epoch": epoch, **dev_scores(nlp, dev_docs, labels, params.data.exclusive)}
                run_.log(point)
                bar.set_postfix_str(f"dev accuracy {point['dev_accuracy']:.3f}")
                if all(_quality(point) > _quality(earlier) for earlier in dev_curve):
                    nlp.to_disk(out / "pipeline")
                dev_curve.append(point)
            if overrun:
                break

    if not first:
        return {}
    write_json(out / "train_curve.json", train_curve)
    write_json(out / "dev_curve.json", dev_curve)
    best = max(dev_curve, key=_quality)
    print(f"best after step {best['step']}: dev accuracy {best['dev_accuracy']:.4f}")
    if overrun:
        print(f"stopped after {step} of {steps} steps: carbon.budget_g, {budget:g} g of CO2, is spent")
    return {"mlflow_run": run_.run_id, "steps": step, "steps_planned": steps}


def make_optimizer(settings: Finetune, steps: int) -> Optimizer:
    """Adam with weight decay, its rate rising to the highest and falling to zero: never zero at a step that is taken.

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
    """One epoch: shards in random order, and the documents of a buffer of them shuffled together."""
    paths = shards.files(folder)
    rng.shuffle(paths)

    def shuffled() -> Iterator[Doc]:
        stream = shards.read(paths, nlp.vocab)
        while buffer := list(islice(stream, settings.shuffle_buffer)):
            rng.shuffle(buffer)
            while buffer:  # what has been given is not held while the next are read
                yield buffer.pop()

    yield from minibatch(shuffled(), settings.batch_size)


def dev_scores(nlp: Language, folder: Path, labels: list[str], exclusive: bool) -> dict[str, float]:
    gold, predicted = arrays(predict(nlp, folder, labels), len(labels))
    return {
        "dev_accuracy": float(scores.correct(gold, predicted, exclusive).mean()),
        "dev_loss": float(scores.log_loss(gold, predicted, exclusive).mean()),
    }


def _quality(point: dict[str, float]) -> tuple[float, float]:
    return point["dev_accuracy"], -point["dev_loss"]


if __name__ == "__main__":
    main("finetune", run)
