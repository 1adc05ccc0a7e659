"""Which transformer a head belongs to, however the pipeline was put together; and what it reads without one."""

import copy

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import concatenate

from rootstock.components.listener import listeners_of, make_listener
from rootstock.components.tok2vec import TransformerTok2Vec
from tests.conftest import pipeline
from tests.rootstock.components.test_listener import CONFIGS, LISTENER, gold
from tests.rootstock.components.test_listener import build as build_listening
from tests.rootstock.components.test_listener import examples as token_examples
from tests.rootstock.test_update import BATCHES, build, examples, net_of, sgd

SENTENCE = "Anna likes Berlin."


def trains(nlp, batch, name="trf_tok2vec", **settings) -> bool:
    """Whether two updates move a transformer: spaCy's softmax begins with zeros, so its first gradient is zero."""
    net = nlp.get_pipe(name).transformer
    before = copy.deepcopy(net.state_dict())
    for _ in range(2):
        nlp.update(batch(nlp), sgd=sgd(), **settings)
    return any(not torch.equal(before[key], value) for key, value in net.state_dict().items())


def texts(nlp):
    return examples(nlp, BATCHES[0])


def tokens(nlp):
    return token_examples(nlp, gold(nlp.vocab))


# Training that does not train.


def test_a_head_that_was_disabled_when_loaded(tiny, tmp_path):
    for name, (nlp, batch) in {
        "textcat": (build(tiny), texts),
        "tagger": (build_listening(tiny, ["tagger"])[0], tokens),
    }.items():
        nlp.to_disk(tmp_path / name)
        loaded = spacy.load(tmp_path / name, disable=[name])
        loaded.enable_pipe(name)
        loaded.resume_training()
        assert trains(loaded, batch)


def test_a_head_that_is_added_while_the_transformer_is_disabled(tiny):
    nlp = pipeline(tiny)
    with nlp.select_pipes(disable="trf_tok2vec"):
        head = nlp.add_pipe("trf_textcat")
        head.add_label("GOOD"), head.add_label("BAD")
    assert trains(nlp, texts) and nlp("Text.").cats


def test_a_head_after_a_disabled_component(tiny):
    """Names and positions are those of enabled components."""
    nlp = build(tiny)
    nlp.add_pipe("sentencizer", first=True)
    nlp.disable_pipe("sentencizer")
    assert trains(nlp, texts)


def test_a_head_that_two_pipelines_share_under_different_names(tiny):
    one, _ = build_listening(tiny, ["tagger"])
    other = pipeline(tiny)
    other.add_pipe("tagger", name="pos", source=one)
    assert all(trains(nlp, tokens) for nlp in (one, other, one))


def test_a_renamed_head(tiny):
    nlp, _ = build_listening(tiny, ["tagger"])
    nlp.disable_pipe("tagger")
    nlp.rename_pipe("tagger", "pos")
    nlp.enable_pipe("pos")
    assert trains(nlp, tokens)


def test_a_copied_pipeline_trains_its_own_transformer(tiny):
    for nlp, batch in ((build(tiny), texts), (build_listening(tiny, ["tagger"])[0], tokens)):
        before = copy.deepcopy(net_of(nlp).state_dict())
        assert trains(copy.deepcopy(nlp), batch)
        assert all(torch.equal(before[key], value) for key, value in net_of(nlp).state_dict().items())


@spacy.registry.architectures("rootstock_tests.Listeners.v1")
def make_listeners(n: int):
    return concatenate(*(make_listener() for _ in range(n)))


def test_a_component_with_two_listeners_adds_both_gradients(tiny):
    gradients = []
    for n in (1, 2):
        nlp = pipeline(tiny)
        config = {"tok2vec": {"@architectures": "rootstock_tests.Listeners.v1", "n": n}}
        tagger = nlp.add_pipe("tagger", config={"model": {**CONFIGS["tagger"]["model"], **config}})
        batch = tokens(nlp)
        for name in ("trf_wordpiecer", "trf_tok2vec"):
            nlp.get_pipe(name).update(batch)
        docs = [eg.predicted for eg in batch]
        for listener in listeners_of(tagger):
            listener.begin_update(docs)[1]([np.full((len(doc), 16), 1 / n, "f") for doc in docs])
        gradients.append(net_of(nlp).embeddings.LayerNorm.weight.grad.clone())
    assert gradients[0].any()
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_listener_in_a_pipeline_that_lost_its_transformer_does_not_learn(tiny):
    source, _ = build_listening(tiny, ["tagger"])
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", source=source)
    nlp.add_pipe("tagger", source=source)
    with pytest.raises(ValueError, match="add 'trf_tok2vec'"):
        nlp.update(tokens(nlp), sgd=sgd())


def two_pairs(tiny, names=("tagger", "ner")) -> spacy.Language:
    """Two transformers, each with heads of its own."""
    nlp = pipeline(tiny)
    for name in names:
        nlp.add_pipe(name, config=CONFIGS[name])
    nlp.add_pipe("trf_wordpiecer", name="wordpiecer2", config={"weights": str(tiny), "spans": 2})
    nlp.add_pipe("trf_tok2vec", name="tok2vec2", config={"weights": str(tiny), "precision": "fp32"})
    nlp.add_pipe("tagger", name="tagger2", config=CONFIGS["tagger"])
    spacy.util.fix_random_seed(0)
    nlp.initialize(lambda: tokens(nlp))
    return nlp


@pytest.mark.parametrize("accumulated", [False, True])
def test_each_of_two_transformers_trains_with_its_own_heads(tiny, accumulated):
    """The first does what it does alone, also if a head has nothing to learn from the batch (the ner)."""
    states = []
    for alone in (True, False):
        nlp = two_pairs(tiny)
        if alone:
            for name in ("wordpiecer2", "tok2vec2", "tagger2"):
                nlp.remove_pipe(name)
        optimizer, docs = sgd(), gold(nlp.vocab)
        for _ in range(3):
            tagged = [Doc(nlp.vocab, words=[t.text for t in d], tags=[t.tag_ for t in d]) for d in docs]
            nlp.update(token_examples(nlp, tagged), sgd=False if accumulated else optimizer)
            for _, component in nlp.pipeline if accumulated else ():
                if hasattr(component, "finish_update"):
                    component.finish_update(optimizer)
        states.append(net_of(nlp).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert trains(nlp, tokens, "tok2vec2")


def test_a_head_does_not_read_another_transformer_if_its_own_is_excluded(tiny):
    nlp = two_pairs(tiny)
    torch.manual_seed(1)
    for parameter in nlp.get_pipe("tok2vec2").transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    read, listener = [], nlp.get_pipe("tagger2").model.layers[0]
    forward = listener._func
    listener._func = lambda *args, **kwargs: (read.append(forward(*args, **kwargs)[0]), forward(*args, **kwargs))[1]
    nlp.update(tokens(nlp), sgd=sgd(), exclude=["tok2vec2"])
    nlp.update(tokens(nlp), sgd=sgd())
    for one, other in zip(*read, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


# Predicting without the transformer.


def test_a_listener_needs_a_transformer(tiny):
    source, _ = build_listening(tiny, ["tagger"])
    nlp = spacy.blank("en")
    nlp.add_pipe("tagger", source=source)
    with pytest.raises(ValueError, match="this Doc has no transformer output yet"):
        nlp(SENTENCE)
    nlp.add_pipe("trf_wordpiecer", first=True, source=source)
    with pytest.raises(ValueError, match="this Doc has no transformer output yet"):
        nlp(SENTENCE)


def test_documents_that_did_not_pass_the_transformer(tiny):
    """The documents of `initialize` are no exception afterwards."""
    nlp = pipeline(tiny)
    nlp.add_pipe("tagger", config=CONFIGS["tagger"])
    batch = tokens(nlp)
    nlp.initialize(lambda: batch)
    for doc in (nlp.make_doc(SENTENCE), batch[0].predicted, batch[0].reference):
        with pytest.raises(ValueError, match="this Doc has no transformer output yet"):
            nlp.get_pipe("tagger")(doc)
    with nlp.select_pipes(disable="trf_tok2vec"), pytest.raises(ValueError, match="no transformer output yet"):
        nlp(SENTENCE)
    assert nlp.get_pipe("tagger")(nlp.make_doc("")).text == ""


@pytest.mark.parametrize("name", ["senter", "morphologizer", "span_finder", "textcat_multilabel"])
def test_initialize_infers_the_shapes_of_every_kind_of_component(tiny, name):
    models = {
        "span_finder": {
            "@architectures": "spacy.SpanFinder.v1",
            "scorer": {"@layers": "spacy.LinearLogistic.v1", "nO": 2},
            "tok2vec": LISTENER,
        },
        "textcat_multilabel": {
            "@architectures": "spacy.TextCatEnsemble.v2",
            "tok2vec": LISTENER,
            "linear_model": {"@architectures": "spacy.TextCatBOW.v3", "exclusive_classes": False, "length": 1024},
        },
    }
    nlp = pipeline(tiny)
    nlp.add_pipe(name, config={"model": models.get(name, CONFIGS["tagger"]["model"])})
    docs = gold(nlp.vocab)
    for doc in docs:
        doc.spans["sc"] = [doc[0:1]]
        for token in doc:
            token.set_morph(f"Case={token.i}")
    nlp.initialize(lambda: token_examples(nlp, docs))
    assert nlp.update(token_examples(nlp, docs))[name] > 0 and nlp(SENTENCE)


# Other components that write doc.tensor.


def with_spacys_tok2vec(tiny, order, width) -> spacy.Language:
    nlp = spacy.blank("en")
    configs = {
        "trf_wordpiecer": {"weights": str(tiny)},
        "trf_tok2vec": {"weights": str(tiny), "precision": "fp32"},
        "tok2vec": {
            "model": {
                "@architectures": "spacy.HashEmbedCNN.v2",
                "pretrained_vectors": None,
                "width": width,
                "depth": 1,
                "embed_size": 100,
                "window_size": 1,
                "maxout_pieces": 2,
                "subword_features": False,
            }
        },
        "ours": CONFIGS["tagger"],
        "spacys": {
            "model": {
                "@architectures": "spacy.Tagger.v2",
                "tok2vec": {"@architectures": "spacy.Tok2VecListener.v1", "width": width},
            }
        },
    }
    for name in ["trf_wordpiecer", *order]:
        nlp.add_pipe("tagger" if name in ("ours", "spacys") else name, name=name, config=configs[name])
    spacy.util.fix_random_seed(0)
    nlp.initialize(lambda: tokens(nlp))
    return nlp


ORDERS = [
    ["trf_tok2vec", "tok2vec", "ours", "spacys"],
    ["trf_tok2vec", "tok2vec", "spacys", "ours"],
    ["tok2vec", "trf_tok2vec", "ours", "spacys"],
    ["tok2vec", "trf_tok2vec", "spacys", "ours"],
    ["tok2vec", "spacys", "trf_tok2vec", "ours"],
]


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
@pytest.mark.parametrize("width", [16, 24])
def test_each_listener_reads_its_own_transformer(tiny, order, width):
    """Each tagger predicts after training what it was trained to, also if the Doc passes the pipeline twice."""
    nlp = with_spacys_tok2vec(tiny, order, width)
    expected = [[token.tag_ for token in doc] for doc in gold(nlp.vocab)]
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 0.01
    for _ in range(60):
        nlp.update(tokens(nlp), sgd=optimizer)
    for name, other in (("ours", "spacys"), ("spacys", "ours")):
        with nlp.select_pipes(disable=other):
            docs = [nlp(doc.text) for doc in gold(nlp.vocab)]
            assert [[token.tag_ for token in doc] for doc in docs] == expected, name
            assert [[token.tag_ for token in nlp(doc)] for doc in docs] == expected, name


def test_vectors_are_the_transformers_whatever_else_writes_the_tensor(tiny, tiny_nlp):
    nlp = with_spacys_tok2vec(tiny, ORDERS[0], 24)
    doc, expected = nlp(SENTENCE), tiny_nlp(SENTENCE)
    assert doc.tensor.shape[1] == 24
    np.testing.assert_allclose(doc[1].vector, expected[1].vector, atol=1e-5)


# replace_listeners.


def test_replacing_listeners_is_refused_with_the_reason(tiny, tmp_path):
    nlp, _ = build_listening(tiny, ["tagger"])
    with pytest.raises(ValueError, match="replace_listeners does not work with trf_tok2vec"):
        nlp.replace_listeners("trf_tok2vec", "tagger", ["model.tok2vec"])
    assert nlp(SENTENCE)[0].tag_, "the pipeline is as it was"
    nlp.to_disk(tmp_path / "source")
    config = spacy.blank("en").config
    config["nlp"]["pipeline"] = ["tagger"]
    config["components"] = {"tagger": {"source": str(tmp_path / "source"), "replace_listeners": ["model.tok2vec"]}}
    with pytest.raises(ValueError, match="Source its 'trf_wordpiecer' and 'trf_tok2vec' with it, under other names"):
        spacy.util.load_model_from_config(config)


def test_the_way_that_the_refusal_names_works(tiny):
    source, _ = build_listening(tiny, ["tagger"])
    nlp = pipeline(tiny)
    nlp.add_pipe("trf_wordpiecer", name="wordpiecer2", source=source)
    nlp.add_pipe("trf_tok2vec", name="tok2vec2", source=source)
    nlp.add_pipe("tagger", source=source)
    assert isinstance(nlp.get_pipe("tok2vec2"), TransformerTok2Vec)
    assert trains(nlp, tokens, "tok2vec2") and not trains(nlp, tokens, "trf_tok2vec")
    assert [Example(doc, doc) for doc in nlp.pipe([SENTENCE])]
