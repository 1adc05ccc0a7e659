"""The parts of the recipe that do not depend on how often it is run: optimizer, learning rates, weights of labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from thinc.api import Adam, Optimizer

from ..engine.errors import Problem
from ..engine.params import Finetune


def begin(textcat: Any, settings: Finetune, counts: dict[str, int], n_docs: int) -> tuple[Optimizer, int]:
    """Prepare the head. RETURNS: the optimizer, and how many steps it will take.

    counts: documents of each label; n_docs: in all. Raises Problem if contrastive training is set but impossible.
    """
    if settings.class_weights == "balanced":
        textcat.label_weights = balanced(counts, n_docs, textcat.exclusive_classes)
    textcat.contrastive = is_contrastive(settings, textcat.head, counts, n_docs)
    steps = per_epoch(settings, n_docs) * settings.epochs
    if textcat.contrastive:
        steps = min(settings.contrastive_steps, per_epoch(settings, n_docs) * PASSES)
    steps = min(steps, settings.max_steps or steps)
    return make_optimizer(settings, steps), steps


def per_epoch(settings: Finetune, n_docs: int) -> int:
    """Steps in one pass over the training data."""
    return math.ceil(n_docs / settings.batch_size)


def make_optimizer(settings: Finetune, steps: int) -> Optimizer:
    """Adam with weight decay. Call `step_schedules` before each step.

    Its learning rate is that of the head; the transformer's is relative to it.
    """
    return Adam(
        learning_rates(settings, steps),
        L2=settings.weight_decay,
        L2_is_weight_decay=True,
        grad_clip=settings.grad_clip,
        use_averages=False,
    )


def learning_rates(settings: Finetune, steps: int) -> Iterator[float]:
    """The learning rate before the first step, and at each step. It rises to its maximum; how it falls is a setting.

    At the steps it is above zero.
    """
    highest, n_rising = settings.head_learning_rate or settings.learning_rate, round(settings.warmup * steps)
    for step in count():
        left = max(0.0, (steps + 1 - step) / (steps + 1 - n_rising))  # from 1 to 0
        yield highest * (step / n_rising if step < n_rising else FALLING[settings.schedule](left))


FALLING: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
    "constant": lambda left: 1.0,
}


def is_contrastive(settings: Finetune, head: str, counts: dict[str, int], n_docs: int) -> bool:
    """Whether documents with the same label are pulled together, and the head is a logistic regression.

    counts: documents of each label; n_docs: in all.
    Raises Problem if that cannot be done, although the setting says so.
    """
    possible = settings.trainable and head != "native"
    if settings.contrastive != "auto":
        if settings.contrastive and not possible:
            raise Problem("finetune.contrastive: true requires trainable: true, and another head than native")
        return settings.contrastive
    sees_all = n_docs <= settings.contrastive_steps * settings.batch_size
    return possible and sees_all and sum(counts.values()) <= FEW * len(counts)


FEW = 64  # documents of each label, on average, up to which contrastive: auto is true
PASSES = 20  # over the training data, at most, if contrastive: of a handful of documents more would overfit


def balanced(counts: dict[str, int], n_docs: int, exclusive: bool) -> dict[str, float]:
    """Weights with which all labels count alike; of classes that are not exclusive, each label and its absence."""
    per_label = n_docs / len(counts)
    return {label: per_label / n if exclusive else (n_docs - n) / n for label, n in counts.items() if 0 < n < n_docs}
