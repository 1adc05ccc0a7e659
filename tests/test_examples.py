import importlib.util

from tests.conftest import ROOT, pipeline


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tagger_example_has_under_sixty_lines_and_trains(minilm, capsys):
    code = (ROOT / "examples/tagger.py").read_text().splitlines()
    assert sum(1 for line in code if line.strip()) < 60
    nlp = load("tagger").train(str(minilm))
    losses = [float(line) for line in capsys.readouterr().out.split()]
    assert losses[-1] < 0.1 * losses[0]
    assert [token.tag_ for token in nlp("Flies time .")] == ["NOUN", "VERB", "PUNCT"]
    assert [token.tag_ for token in nlp("Time flies .")] == ["NOUN", "VERB", "PUNCT"]


def test_attention_example_plots_two_models(minilm, tiny, tmp_path):
    """A weights folder and a saved pipeline of another model."""
    import matplotlib.image

    pipeline(tiny).to_disk(tmp_path / "pipeline")
    file = tmp_path / "attention.png"
    load("attention").draw("The soup was unbelievably cold.", str(minilm), str(tmp_path / "pipeline"), str(file))
    pixels = matplotlib.image.imread(file)
    assert pixels.shape[1] > 900 and len({tuple(p) for p in pixels.reshape(-1, 4)[::7]}) > 50
