import numpy as np
import pytest
import spacy
from safetensors.torch import load_file, save_file

from rootstock.weights.weights import load_model
from tests.conftest import pipeline


@pytest.mark.parametrize(("precision", "cosine"), [("bf16", 0.9999), ("fp16", 0.999999)])
def test_half_precision_weights_take_half_the_space(minilm, nlp, tmp_path, precision, cosine):
    """Saved in half precision, loaded as float32: saving the loaded pipeline again changes nothing."""
    half = pipeline(minilm, saved_precision=precision)
    half.to_disk(tmp_path / "half")
    nlp.to_disk(tmp_path / "full")
    sizes = [(tmp_path / name / "trf_tok2vec/model.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.51 * sizes[1]
    loaded = spacy.load(tmp_path / "half")
    one, other = loaded("Apple pie is delicious."), nlp("Apple pie is delicious.")
    norms = np.linalg.norm(one.tensor, axis=1) * np.linalg.norm(other.tensor, axis=1)
    assert ((one.tensor * other.tensor).sum(1) / norms).min() > cosine
    assert one.tensor.dtype == "float32" and not np.array_equal(one.tensor, other.tensor)
    loaded.to_disk(tmp_path / "again")
    np.testing.assert_array_equal(spacy.load(tmp_path / "again")("Apple pie is delicious.").tensor, one.tensor)


def test_missing_weights_raise_except_for_the_pooler(tiny, tmp_path):
    """Transformers would initialize missing weights at random."""
    load_model(tiny).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in [name for name in weights if name.startswith("pooler.")]:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(tiny)})
    nlp.add_pipe("trf_tok2vec", config={"weights": str(tmp_path), "precision": "fp32"})
    doc = nlp("Some text.")
    assert doc._.trf_pooler_output is None
    np.testing.assert_allclose(doc.tensor, pipeline(tiny)("Some text.").tensor, atol=1e-6)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of the model's weights, first encoder.layer.1.output.dense.weight"):
        load_model(tmp_path)
