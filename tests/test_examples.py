import importlib.util

from .conftest import ROOT


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_tagger_in_under_sixty_lines_trains(minilm, capsys):
    code = (ROOT / "examples/tagger.py").read_text().splitlines()
    assert sum(1 for line in code if line.strip()) < 60
    nlp = load("tagger").train(str(minilm))
    losses = [float(line) for line in capsys.readouterr().out.split()]
    assert losses[-1] < 0.1 * losses[0]
    assert [token.tag_ for token in nlp("Flies time .")] == ["NOUN", "VERB", "PUNCT"]
    assert [token.tag_ for token in nlp("Time flies .")] == ["NOUN", "VERB", "PUNCT"]
