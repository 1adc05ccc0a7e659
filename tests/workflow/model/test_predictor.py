"""A stream of texts through a saved pipeline: in order, in bounded memory, in several processes."""

import itertools
import subprocess
import sys

import psutil
import pytest

from tests.conftest import ROOT, pipeline
from workflow.engine import params
from workflow.engine.errors import Problem
from workflow.model import predictor


@pytest.fixture(scope="module")
def settings():
    return params.load(ROOT / "params.yaml").model_copy(update={"threads": 1})


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    nlp = pipeline(tiny)
    for label in ("A", "B"):
        (nlp.get_pipe("trf_textcat") if "trf_textcat" in nlp.pipe_names else nlp.add_pipe("trf_textcat")).add_label(
            label
        )
    nlp.to_disk(folder := tmp_path_factory.mktemp("predictor") / "model")
    return folder


TEXTS = [" ".join(["word", str(i), "more"][: 1 + i % 3] * (1 + i % 7)) for i in range(3000)]


def outcomes(model, texts, settings, processes=1):
    return list(predictor.predict(model, texts, str, settings, processes))


@pytest.mark.slow
def test_every_row_comes_back_once_and_in_order(model, settings):
    one = outcomes(model, TEXTS, settings)
    assert [text for text, _ in one] == TEXTS
    assert outcomes(model, TEXTS, settings, processes=2) == one  # the same bytes, whichever process had them
    predict = predictor.Predictor(model)
    for i in (0, 1023, 1024, 2999):
        assert predict([TEXTS[i]])[0]["scores"] == pytest.approx(one[i][1]["scores"], abs=1e-5)


def test_only_what_is_needed_is_read(model, settings):
    """Of a stream without end. A chunk ends after many documents, or after many characters."""
    taken = itertools.count()
    stream = (f"text {next(taken)}" for _ in itertools.count())
    next(predictor.predict(model, stream, str, settings, 1))
    assert next(taken) == predictor.CHUNK
    taken = itertools.count()
    stream = ("word " * 1000 + str(next(taken)) for _ in itertools.count())
    next(predictor.predict(model, stream, str, settings, 1))
    assert next(taken) == predictor.CHARACTERS // 5001 + 1


def test_memory_does_not_grow_with_new_words(model):
    predict = predictor.Predictor(model)
    predict(["a text"])
    before = len(predict.nlp.vocab.strings), len(list(predict.nlp.vocab))
    predict([f"never{i} seen{i} before{i}" for i in range(500)])
    assert (len(predict.nlp.vocab.strings), len(list(predict.nlp.vocab))) == before


MEMORY = """
import json, random, sys
import psutil
from workflow.model.predictor import Predictor

predict, rng = Predictor(sys.argv[1]), random.Random(0)
texts = [json.loads(line)["text"] for line in open("data/sample/train.jsonl", encoding="utf-8")]

def resident(n):
    for _ in range(n):
        predict(rng.choices(texts, k=rng.randint(64, 256)))
    return psutil.Process().memory_info().rss

warm = resident(8)
print(resident(40) - warm)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_new_shapes(model):
    """What is kept for each shape of a matrix product would take 40 MB here, and 200 MB in the end."""
    command = [sys.executable, "-c", MEMORY, str(model)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 25e6


@pytest.mark.slow
def test_a_killed_process_is_one_line(model, settings):
    stream = predictor.predict(model, TEXTS * 10, str, settings, 2)
    next(stream)
    workers = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    workers[0].kill()
    with pytest.raises(Problem, match=r"a process was killed, .* use fewer --processes"):
        list(stream)


def test_a_pipeline_that_sets_nothing_is_refused(tiny_nlp, tmp_path):
    tiny_nlp.to_disk(tmp_path / "model")
    with pytest.raises(Problem, match=r"sets none of doc.cats"):
        predictor.Predictor(tmp_path / "model")
