"""Train the head, and the transformer unless it is frozen; keep the pipeline that is best on dev."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch
from thinc.api import Optimizer
from tqdm import tqdm

from rootstock.training import distributed, state

from ..corpus import features, shards
from ..corpus.predictions import arrays, predict
from ..engine import energy, stop
from ..engine.errors import Problem
from ..engine.params import Finetune, Params
from ..engine.stage import main
from ..files import write_json
from ..model import processes, recipe, scores, temperature
from ..model.checkpoints import Checkpoints
from ..model.determinism import make_deterministic
from ..model.pipeline import build
from ..model.points import at_point
from ..model.regression import fit_head
from ..records.tracking import live


@dataclass
class Progress:
    """How far a training is: what a checkpoint holds besides weights, moments and random states."""

    shuffle: Any  # state of the generator that shuffles documents, at the start of this epoch
    epoch: int = 1
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # batches of all epochs that are done
    loss: float = 0.0  # their sum since the last point of the curve
    unlogged: int = 0  # batches since then
    train_curve: list[dict[str, float]] = field(default_factory=list)
    dev_curve: list[dict[str, float]] = field(default_factory=list)
    best: str | None = None  # the pipeline that is best on dev: its name among the checkpoints
    mlflow_run: str | None = None
    spent_g: float = 0.0  # grams of CO2 until the checkpoint
    end: str = ""  # why the training ends before its last step


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    params = at_point(params, outputs["model"].name)
    if params.finetune.processes == 1:
        return train(params, inputs, outputs, energy.spent_g)
    return processes.launch(train, params.finetune.processes, params, inputs, outputs)


def train(
    params: Params, inputs: dict[str, Path], outputs: dict[str, Path], spent_g: Callable[[], float]
) -> dict[str, Any]:
    """Train in one process. Rank 0 also scores dev, saves pipelines and checkpoints, and logs."""
    is_main = processes.rank() == 0
    make_deterministic(params, processes.rank(), params.finetune.processes)
    report = shards.report(inputs["wordpieces/train"])
    labels, n_train = report["labels"], report["documents"]
    nlp = build(params, inputs["weights"], labels)
    if not is_main:
        spacy.util.fix_random_seed(params.seed + processes.rank())  # each process draws its own dropout

    train_docs, dev_docs = (features.folder(inputs, split, nlp) for split in ("train", "dev"))
    settings, budget, textcat = params.finetune, params.carbon.budget_g, nlp.get_pipe("trf_textcat")
    optimizer, steps = recipe.begin(textcat, settings, report["documents_per_label"], n_train)
    score_every = settings.evaluate_every or (steps if textcat.contrastive else recipe.per_epoch(settings, n_train))
    log_every = max(1, steps // 100)
    checkpoints = Checkpoints(outputs["checkpoint"], params.checkpoints.minutes)
    now = continued(checkpoints, nlp, optimizer) or Progress(random.Random(params.seed).getstate())
    spent_before, rng = now.spent_g, random.Random()

    with (
        live.run(params.model_dump(), outputs["model"], is_main, now.mlflow_run) as mlflow_run,
        tqdm(total=steps, initial=now.step, desc="finetune", unit=" steps", disable=not is_main or None) as bar,
        stop.deferred(ends_with_parent=settings.processes > 1) as is_asked_to_stop,
    ):

        def save_if_due() -> None:
            """Write a checkpoint from time to time, and at the end. Raises Stopped."""
            is_end, is_due = processes.broadcast((is_asked_to_stop(), checkpoints.is_due()))
            if is_end or is_due:
                states = processes.gather(state.random_states())
                now.spent_g = spent_before + spent_g()
                progress = {**asdict(now), "random": states}
                is_written = not is_main or checkpoints.write(now.step, progress, nlp, optimizer)
            if is_end:
                where = "at a checkpoint" if is_written else "without a new checkpoint"
                raise stop.Stopped(f"stopped {where} after {now.step} of {steps} steps")

        def remaining() -> Iterator[list[Doc]]:
            """The batches that are not done yet. Keeps its place in `now`."""
            while True:
                rng.setstate(now.shuffle)
                yield from islice(batches(train_docs, nlp, settings, rng), now.batch, None)
                now.epoch, now.batch, now.shuffle = now.epoch + 1, 0, rng.getstate()

        def is_dev_due() -> bool:
            scored = now.dev_curve[-1]["step"] if now.dev_curve else 0
            return now.step > scored and bool(now.step % score_every == 0 or now.step == steps or now.end)

        now.mlflow_run, left = mlflow_run.run_id, remaining()
        try:
            while True:
                if is_dev_due():
                    if textcat.contrastive and is_main:
                        labelled = shards.read(shards.files(train_docs), nlp.vocab)
                        fit_head(nlp, takewhile(lambda _: not is_asked_to_stop(), labelled), settings.class_weights)
                    dev = dev_arrays(nlp, dev_docs, labels, is_asked_to_stop) if is_main else None
                    save_if_due()
                    found = processes.broadcast(dev and scores.on_dev(*dev, params.data.exclusive))
                    point = {"step": now.step, "epoch": now.epoch, **found}
                    require_finite(point["dev_loss"], "dev")
                    mlflow_run.log(point)
                    bar.set_postfix_str(f"dev accuracy {point['dev_accuracy']:.3f}")
                    now.dev_curve.append(point)
                    n_worse = len(now.dev_curve) - 1 - scores.best_of(now.dev_curve, params.select_by)
                    if is_main and n_worse == 0:
                        now.best = checkpoints.keep_best(nlp, now.step)
                    if settings.patience and n_worse >= settings.patience:
                        now.end = now.end or f"finetune.patience: the last {n_worse} evaluations were not better"
                if now.end or now.step == steps:
                    break
                docs, losses = next(left), {"trf_textcat": 0.0}
                optimizer.step_schedules()
                examples = [Example(doc, doc) for doc in docs]
                shared = not textcat.contrastive  # else pairs of all documents count
                distributed.update(nlp, examples, drop=settings.dropout, sgd=optimizer, losses=losses, shared=shared)
                now.step, now.batch, loss = now.step + 1, now.batch + 1, losses["trf_textcat"]
                require_finite(loss, _rows(docs))
                now.loss, now.unlogged = now.loss + loss, now.unlogged + 1
                bar.update()
                if now.step % log_every == 0 or now.step == steps:
                    rate = float(optimizer.learn_rate)
                    point = {"step": now.step, "loss": now.loss / now.unlogged, "learning_rate": rate}
                    now.train_curve.append(point)
                    mlflow_run.log(point)
                    now.loss, now.unlogged = 0.0, 0
                    if budget is not None and processes.broadcast(spent_before + spent_g() > budget):
                        now.end = f"carbon.budget_g, {budget:g} g of CO2, is spent"
                save_if_due()
        except Diverged as diverged:
            now.end = str(diverged)
            if settings.on_divergence == "fail" or not now.dev_curve:
                raise Problem(f"step {now.step} of {steps}: {now.end}. {_hint(now, checkpoints.folder)}") from None

    if not is_main:
        return {}
    out = outputs["model"]
    assert now.best is not None  # dev is scored before the end
    chooses_thresholds = settings.choose_thresholds and not params.data.exclusive
    if settings.calibrate or chooses_thresholds:
        nlp = spacy.load(checkpoints.folder / now.best)
        if settings.calibrate:
            labelled = shards.read(shards.files(dev_docs), nlp.vocab)
            found = temperature.calibrate(nlp, labelled, params.data.exclusive)
            write_json(out / "temperature.json", found)
            before, after = (found[when]["calibration_error"] for when in ("before", "after"))
            print(f"temperature {found['temperature']:.3f}: calibration error on dev {before:.3f} -> {after:.3f}")
        if chooses_thresholds:
            thresholds = scores.best_thresholds(*arrays(predict(nlp, dev_docs, labels), len(labels)))
            nlp.get_pipe("trf_textcat").thresholds.update(zip(labels, thresholds.tolist(), strict=True))
        nlp.to_disk(out / "pipeline")
    else:
        checkpoints.copy_best(now.best, out / "pipeline")
    write_json(out / "train_curve.json", now.train_curve)
    write_json(out / "dev_curve.json", now.dev_curve)
    best = now.dev_curve[scores.best_of(now.dev_curve, params.select_by)]
    print(f"best after step {best['step']}: dev accuracy {best['dev_accuracy']:.4f}")
    if now.end:
        print(f"stopped after {now.step} of {steps} steps: {now.end}")
    steps_done = {"steps": now.step, "steps_planned": steps, "ended_early": now.end}
    return {"mlflow_run": now.mlflow_run, "documents": n_train, **steps_done}


def continued(checkpoints: Checkpoints, nlp: Language, optimizer: Optimizer) -> Progress | None:
    """The progress of an attempt that was stopped or killed, with weights, moments and random states restored."""
    path = processes.broadcast(checkpoints.find() if processes.rank() == 0 else None)
    if path is None:
        return None
    saved = checkpoints.read(path, nlp, optimizer)
    state.set_random_states(saved.pop("random")[processes.rank()])
    version, words, gauss = saved["shuffle"]
    now = Progress(**{**saved, "shuffle": (version, tuple(words), gauss)})
    for _ in range(now.step):
        optimizer.step_schedules()
    if processes.rank() == 0:
        print(f"continuing after step {now.step}")
    return now


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


def dev_arrays(
    nlp: Language, folder: Path, labels: list[str], is_asked_to_stop: Callable[[], bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of dev; only of a part if the training is asked to stop."""
    return arrays(takewhile(lambda _: not is_asked_to_stop(), predict(nlp, folder, labels)), len(labels))


class Diverged(Exception):
    """The loss of some documents is infinite, or not a number."""


def require_finite(loss: float, documents: str) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the loss of {documents} became {loss}")


def _rows(docs: list[Doc]) -> str:
    """The rows of a batch, for a message."""
    rows = [str(doc.user_data[shards.ROW]) for doc in docs]
    return ", ".join(rows[:3]) + (f" and {len(rows) - 3} more rows" if len(rows) > 3 else "")


def _hint(now: Progress, folder: Path) -> str:
    """What to do after a divergence."""
    if not now.best:
        return "Lower finetune.learning_rate; dev has not been scored yet, so there is no model"
    best = folder / now.best
    return f"Lower finetune.learning_rate, or set finetune.on_divergence: best. The best model so far: {best}"


if __name__ == "__main__":
    main("finetune", run)
