import itertools

import pytest

from tests.conftest import ROOT
from workflow.engine import params
from workflow.model import recipe


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_learning_rate_rises_then_falls_and_is_never_zero(schedule):
    for warmup in (0, 0.1, 0.5):
        settings = params.load(ROOT / "params.yaml").finetune.model_copy(
            update={"learning_rate": 1.0, "warmup": warmup, "schedule": schedule}
        )
        optimizer = recipe.make_optimizer(settings, 100)
        rates = []
        for _ in range(100):
            optimizer.step_schedules()
            rates.append(float(optimizer.learn_rate))
        peak = rates.index(max(rates))
        assert min(rates) > 0 and max(rates) == pytest.approx(1.0, abs=0.011) and abs(peak - 100 * warmup) <= 1
        assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_other_learning_rates():
    """Half of the way down, a cosine is where a line is; it begins and ends flat. The head may have a rate of its own."""
    defaults = params.load(ROOT / "params.yaml").finetune

    def rates(**changes) -> list[float]:
        settings = defaults.model_copy(update={"learning_rate": 0.5, "warmup": 0.0, **changes})
        return list(itertools.islice(recipe.learning_rates(settings, 99), 1, 100))

    linear, cosine = rates(), rates(schedule="cosine")
    assert cosine[49] == pytest.approx(linear[49]) and cosine[5] > linear[5] and cosine[94] < linear[94]
    assert rates(schedule="constant") == [0.5] * 99
    assert rates(schedule="constant", head_learning_rate=2.0) == [2.0] * 99


def test_balanced_weights_make_labels_count_alike():
    """scikit-learn's `balanced`; for labels that do not exclude each other, PyTorch's `pos_weight`."""
    counts = {"A": 60, "B": 30, "C": 10, "none": 0}
    found = recipe.balanced(counts, 100, exclusive=True)
    assert found == {"A": 100 / 4 / 60, "B": 100 / 4 / 30, "C": 2.5}
    assert recipe.balanced(counts, 100, exclusive=False) == {"A": 40 / 60, "B": 70 / 30, "C": 9.0}


@pytest.mark.parametrize(
    ("settings", "head", "counts", "expected"),
    [
        ({"contrastive": "auto"}, "mean", [64, 64], True),
        ({"contrastive": "auto"}, "mean", [129, 0], False),
        ({"contrastive": "auto"}, "native", [8, 8], False),
        ({"contrastive": "auto", "trainable": False}, "mean", [8, 8], False),
        ({"contrastive": True}, "class_vector", [500, 500], True),
        ({"contrastive": False}, "mean", [8, 8], False),
    ],
)
def test_few_examples_are_learned_by_contrast(settings, head, counts, expected):
    settings = params.load(ROOT / "params.yaml").finetune.model_copy(update=settings)
    assert recipe.is_contrastive(settings, head, dict(zip("AB", counts, strict=True)), sum(counts)) is expected
    if expected and settings.contrastive == "auto":
        many = {str(label): 64 for label in range(100)}
        assert not recipe.is_contrastive(settings, head, many, 6400), "most would never be seen"
