import json
import pickle
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import spacy
import srsly
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rootstock.classifiers import from_transformers
from rootstock.weights.weights import load_model
from tests import soak
from tests.conftest import pipeline
from tests.damage import damages


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


# Weights from somewhere: no code is run, no pickle is opened, a damaged file is one clear line.

OTHERS = (".py", ".pkl", ".bin", ".pt", ".ckpt")
CODE_MODULE = """
from pathlib import Path
Path({mark!r}).write_text("run")
from transformers import BertConfig, BertModel, BertTokenizer
class MyConfig(BertConfig): pass
class MyModel(BertModel): pass
class MyTokenizer(BertTokenizer): pass
"""


@pytest.fixture
def hostile(tiny, tmp_path):
    """The tiny model, whose configs name a module that writes `mark`, and whose pickles do, too."""
    folder, mark = tmp_path / "hostile", tmp_path / "mark"
    shutil.copytree(tiny, folder)
    (folder / "mine.py").write_text(CODE_MODULE.format(mark=str(mark)))
    changed(folder / "config.json", auto_map={"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"})
    changed(folder / "config.json", trust_remote_code=True, transformers_weights="pytorch_model.bin")
    changed(folder / "config.json", custom_pipelines={"text-classification": {"impl": "mine.Pipe"}})
    changed(folder / "config.json", _attn_implementation_internal="someone/kernels", attn_implementation="some/kernels")
    changed(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.MyTokenizer", None]})
    for name in ("pytorch_model.bin", "model.pt", "model.ckpt", "vocab.pkl", "tokenizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Writes(str(mark))))
    return folder, mark


class Writes:
    """Unpickling it writes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return eval, (f"open({self.path!r}, 'w').close()",)


def changed(path, **settings):
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_the_trap_works(hostile):
    """Transformers runs this module if it is told to, and so does unpickling."""
    from transformers import AutoConfig

    folder, mark = hostile
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert mark.is_file()
    mark.unlink()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert mark.is_file()


@pytest.mark.parametrize("model_type", ["bert", "no_such_type"])
def test_no_code_of_a_weights_folder_is_run(tiny, hostile, model_type, monkeypatch):
    """Also with a model type that only its own code would know, and on a terminal, where Transformers asks."""
    folder, mark = hostile
    changed(folder / "config.json", model_type=model_type)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        if model_type == "bert":
            nlp = pipeline(folder)
        else:
            with pytest.raises(ValueError, match=r"config\.json cannot be read \(ValueError: .*no_such_type"):
                pipeline(folder)
    names = (
        "_attn_implementation_internal, attn_implementation, auto_map, custom_pipelines, transformers_weights, trust_"
    )
    [line] = {str(w.message) for w in caught if "code" in str(w.message)}
    assert line.startswith(f"{folder}: its configs name code ({names}") and "\n" not in line
    assert len([w for w in caught if "code" in str(w.message)]) == 1
    assert not mark.exists()
    if model_type == "bert":
        np.testing.assert_array_equal(nlp("Some text.").tensor, pipeline(tiny)("Some text.").tensor)


def test_a_saved_pipeline_has_no_code_and_cannot_ask_for_any(hostile, tmp_path):
    folder, mark = hostile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nlp = pipeline(folder)
    saved = tmp_path / "saved"
    nlp.to_disk(saved)
    assert not [p for part in ("trf_wordpiecer", "trf_tok2vec") for p in (saved / part).iterdir() if p.suffix in OTHERS]
    texts = [p.read_text() for p in saved.rglob("*.json")] + [(saved / "config.cfg").read_text()]
    assert not [word for word in ("auto_map", "trust_remote_code", "mine.My", 'kernels"') if word in "".join(texts)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spacy.load(saved)
    config = (saved / "config.cfg").read_text()
    (saved / "config.cfg").write_text(config.replace("spans =", "trust_remote_code = true\nspans ="))
    with pytest.raises(ValueError, match=r"unexpected argument: .trust_remote_code"):
        spacy.load(saved)
    for part in ("trf_wordpiecer", "trf_tok2vec"):  # written into the saved files by someone else
        changed(saved / part / "config.json", auto_map={"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"})
        shutil.copyfile(folder / "mine.py", saved / part / "mine.py")
    (saved / "config.cfg").write_text(config)
    with pytest.warns(UserWarning, match="its configs name code"):
        spacy.load(saved)
    assert not mark.exists()


def test_a_classifiers_code_is_not_run(tmp_path, hostile):
    folder, mark = hostile
    changed(folder / "config.json", auto_map={"AutoModelForSequenceClassification": "mine.MyModel"})
    with (
        pytest.warns(UserWarning, match="its configs name code"),
        pytest.raises(ValueError, match="no trained classif"),
    ):
        from_transformers(folder)
    assert not mark.exists()


def test_only_a_pickle_is_no_weights(hostile):
    folder, mark = hostile
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no weights in .*: model\.safetensors not found"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes((folder / "pytorch_model.bin").read_bytes())
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"model\.safetensors cannot be read \(SafetensorErr"),
    ):
        load_model(folder)
    assert not mark.exists()


def test_bytes_of_a_component_write_only_into_its_folder(tiny, tmp_path):
    nlp = pipeline(tiny)
    data = srsly.msgpack_loads(nlp.get_pipe("trf_wordpiecer").to_bytes())
    for name in ("../outside", str(tmp_path / "outside")):
        with pytest.raises(ValueError, match="outside its folder: refused"):
            nlp.get_pipe("trf_wordpiecer").from_bytes(srsly.msgpack_dumps({**data, name: b"x"}))
    assert not (tmp_path / "outside").exists()


@pytest.fixture(scope="session")
def smallest(tmp_path_factory):
    """A BERT of 3 kB, and its files by their names."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("smallest")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c", ".", *(f"t{i}" for i in range(7))]
    BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}).save_pretrained(folder)
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 4}
    BertModel(BertConfig(vocab_size=16, max_position_embeddings=16, **sizes)).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@soak.fuzz("weights files", short=40, many=1000)
@given(st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]), damages())
def test_a_damaged_file_is_one_clear_line(smallest, name, damage):
    """Or nothing, if the file is still one that Transformers can read."""
    with tempfile.TemporaryDirectory() as tmp:
        for file, content in smallest.items():
            (Path(tmp) / file).write_bytes(damage(content) if file == name else content)
        nlp = spacy.blank("xx")  # quicker than English
        try:
            nlp.add_pipe("trf_wordpiecer", config={"weights": tmp})
            nlp.add_pipe("trf_tok2vec", config={"weights": tmp})
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
            assert tmp in str(error) or "model type" in str(error)
