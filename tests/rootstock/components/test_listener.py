import copy
import subprocess
import sys

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from thinc.api import Adam

from rootstock.pieces.alignment import add_tensor_gradient, alignment_entries
from rootstock.pieces.pieces import Pieces
from tests.conftest import pipeline
from tests.rootstock.test_update import sgd

LISTENER = {"@architectures": "rootstock.TransformerListener.v1"}
TAGGER = {"@architectures": "spacy.Tagger.v2", "tok2vec": LISTENER}
CONFIGS = {
    "tagger": {"model": TAGGER},
    "textcat": {
        "model": {
            "@architectures": "spacy.TextCatReduce.v1",
            "tok2vec": LISTENER,
            "exclusive_classes": True,
            "use_reduce_first": False,
            "use_reduce_last": False,
            "use_reduce_max": False,
            "use_reduce_mean": True,
        }
    },
    **{
        name: {
            "model": {
                "@architectures": "spacy.TransitionBasedParser.v2",
                "state_type": name,
                "extra_state_tokens": False,
                "hidden_width": 32,
                "maxout_pieces": 2,
                "use_upper": True,
                "tok2vec": LISTENER,
            }
        }
        for name in ("parser", "ner")
    },
}
CONFIGS["parser"]["min_action_freq"] = 1


def gold(vocab) -> list[Doc]:
    """Two sentences with annotations for all components."""
    docs = [
        Doc(
            vocab,
            words=["Anna", "likes", "Berlin", "."],
            tags=["NNP", "VBZ", "NNP", "."],
            heads=[1, 1, 1, 1],
            deps=["nsubj", "ROOT", "dobj", "punct"],
            ents=["B-PERSON", "O", "B-GPE", "O"],
        ),
        Doc(
            vocab,
            words=["Old", "Paul", "sleeps"],
            tags=["JJ", "NNP", "VBZ"],
            heads=[1, 2, 2],
            deps=["amod", "nsubj", "ROOT"],
            ents=["O", "B-PERSON", "O"],
        ),
    ]
    for doc, label in zip(docs, ("PLACE", "REST"), strict=True):
        doc.cats = {"PLACE": float(label == "PLACE"), "REST": float(label == "REST")}
    return docs


def build(tiny, names) -> tuple[spacy.Language, list[Doc]]:
    spacy.util.fix_random_seed(0)
    nlp = pipeline(tiny)
    for name in names:
        nlp.add_pipe(name, config=CONFIGS[name])
    docs = gold(nlp.vocab)
    nlp.initialize(lambda: [Example(nlp.make_doc(doc.text), doc) for doc in docs])
    return nlp, docs


def examples(nlp, docs):
    return [
        Example(Doc(nlp.vocab, words=[t.text for t in d], spaces=[bool(t.whitespace_) for t in d]), d) for d in docs
    ]


def test_add_tensor_gradient_multiplies_by_the_transposed_alignment(tiny_nlp):
    doc = tiny_nlp("Unbelievable U.S. cannot. And so on!")
    tokens, columns, weights = alignment_entries(Pieces.of(doc))
    dense = np.zeros((len(doc), len(doc._.trf_word_pieces)))
    dense[tokens, columns] = weights
    gradient = np.random.default_rng(0).normal(size=doc.tensor.shape).astype("f")
    for times in (1, 2):
        add_tensor_gradient(doc, gradient)
        np.testing.assert_allclose(doc._.trf_d_last_hidden_state, times * dense.T @ gradient, atol=1e-5)


def test_gradient_of_the_transformer_through_a_listener(tiny):
    """Loss = sum(doc.tensor * G): the listener's backward pass equals autograd through the alignment."""
    nlp, docs = build(tiny, ["tagger"])
    tok2vec, tagger = nlp.get_pipe("trf_tok2vec"), nlp.get_pipe("tagger")
    [listener] = [node for node in tagger.model.walk() if node.name == "transformer_listener"]
    reference = copy.deepcopy(tok2vec.transformer)
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = examples(nlp, docs)
    nlp.get_pipe("trf_wordpiecer").update(batch)
    tok2vec.update(batch)
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(len(doc), 16)).astype("f") for doc in docs]
    _, backprop = listener.begin_update([eg.predicted for eg in batch])
    backprop(gradients)
    total = 0
    for eg, gradient in zip(batch, gradients, strict=True):
        pieces = Pieces.of(eg.predicted)
        tokens, columns, weights = alignment_entries(pieces)
        alignment = torch.zeros(len(gradient), len(pieces.ids))
        alignment[tokens, columns] = torch.from_numpy(weights)
        hidden = reference(torch.from_numpy(pieces.ids).long()[None]).last_hidden_state[0]
        total = total + ((alignment @ hidden) * torch.from_numpy(gradient)).sum()
    total.backward()
    for (name, one), other in zip(tok2vec.transformer.named_parameters(), reference.parameters(), strict=True):
        if other.grad is not None:
            np.testing.assert_allclose(one.grad.to_dense(), other.grad.to_dense(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", CONFIGS)
def test_spacys_components_train_the_transformer(tiny, name):
    nlp, docs = build(tiny, [name])
    before = copy.deepcopy(nlp.get_pipe("trf_tok2vec").transformer.state_dict())
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 0.005
    history = [nlp.update(examples(nlp, docs), sgd=optimizer, losses={})[name] for _ in range(150)]
    assert history[-1] < 0.3 * history[0]
    after = nlp.get_pipe("trf_tok2vec").transformer.state_dict()
    assert any(not torch.equal(before[key], value) for key, value in after.items())


def test_several_heads_train_one_transformer_and_are_saved(tiny, tmp_path):
    nlp, docs = build(tiny, ["tagger", "ner"])
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 0.005
    for _ in range(150):
        nlp.update(examples(nlp, docs), sgd=optimizer)
    nlp.to_disk(tmp_path / "pipeline")
    for pipe in (nlp, spacy.load(tmp_path / "pipeline")):
        for doc in docs:
            predicted = pipe(doc.text)
            assert [t.tag_ for t in predicted] == [t.tag_ for t in doc]
            assert [(e.text, e.label_) for e in predicted.ents] == [(e.text, e.label_) for e in doc.ents]


def test_backward_pass_does_not_wait_for_a_head_without_gradient(tiny):
    """The ner skips documents without entities; the tagger's gradient must still reach the transformer."""
    changes = []
    for names in (["tagger"], ["tagger", "ner"]):
        nlp, docs = build(tiny, names)
        tagged = [Doc(nlp.vocab, words=[t.text for t in d], tags=[t.tag_ for t in d], heads=None) for d in docs]
        before = copy.deepcopy(nlp.get_pipe("trf_tok2vec").transformer.state_dict())
        for _ in range(2):  # spaCy's softmax layer is initialized with zeros: its first gradient is zero
            nlp.update(examples(nlp, tagged), sgd=sgd())
        after = nlp.get_pipe("trf_tok2vec").transformer.state_dict()
        changes.append(sum((after[key] - before[key]).abs().sum().item() for key in before))
    assert changes[0] > 0 and changes[1] == pytest.approx(changes[0], rel=0.5)


@pytest.mark.slow
def test_spacy_train_from_a_config(tiny, tmp_path):
    """The trained pipeline's config does not contain the path of the weights."""
    nlp = pipeline(tiny)
    nlp.add_pipe("tagger", config=CONFIGS["tagger"])
    nlp.add_pipe("trf_textcat")
    config = nlp.config
    for name in ("trf_wordpiecer", "trf_tok2vec"):
        config["components"][name]["weights"] = str(tiny)
    config["paths"].update(train=str(tmp_path / "train.spacy"), dev=str(tmp_path / "train.spacy"))
    config["training"].update(max_steps=150, eval_frequency=50, patience=0)
    config["training"]["optimizer"]["learn_rate"] = 0.01
    config["training"]["score_weights"] = {"tag_acc": 0.5, "cats_score": 0.5}
    config.to_disk(tmp_path / "config.cfg")
    docs = gold(nlp.vocab)
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "train.spacy")
    command = [sys.executable, "-m", "spacy", "train", tmp_path / "config.cfg", "--output", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = spacy.load(tmp_path / "out" / "model-last")
    assert str(tiny) not in trained.config.to_str()
    for doc in docs:
        predicted = trained(doc.text)
        assert [t.tag_ for t in predicted] == [t.tag_ for t in doc]
        assert max(predicted.cats, key=predicted.cats.get) == max(doc.cats, key=doc.cats.get)


def test_learned_sentences_are_kept_beside_those_that_the_transformer_reads(tiny):
    """With `spans: sentence` the transformer reads three sentences here, by punctuation; the senter learns two."""
    spacy.util.fix_random_seed(0)
    nlp = pipeline(tiny)
    senter = nlp.add_pipe("senter", config={"model": TAGGER})
    words = ["No", ".", "5", "works", ".", "It", "rained", "."]
    reference = Doc(nlp.vocab, words, sent_starts=[i in (0, 5) for i in range(8)])
    senter.initialize(lambda: [Example(Doc(nlp.vocab, words), reference)], nlp=nlp)
    optimizer = Adam(0.01)
    for _ in range(100):
        nlp.update([Example(Doc(nlp.vocab, words), reference)], sgd=optimizer)
    doc = nlp(Doc(nlp.vocab, words))
    assert Pieces.of(doc).n_sentences == 3
    assert [sent.start for sent in doc.sents] == [0, 5]


def test_sentences_that_a_parser_learns_are_kept(minilm):
    """The transformer reads three sentences here, by punctuation; the parser learns two, from heads."""
    spacy.util.fix_random_seed(0)
    nlp = pipeline(minilm, trainable=False)
    model = {
        "@architectures": "spacy.TransitionBasedParser.v2", "state_type": "parser", "extra_state_tokens": False,
        "hidden_width": 64, "maxout_pieces": 2, "use_upper": False, "tok2vec": LISTENER,
    }  # fmt: skip
    parser = nlp.add_pipe("parser", config={"model": model, "min_action_freq": 1})
    words = ["No", ".", "5", "works", ".", "It", "rained", "."]
    deps = ["discourse", "punct", "nsubj", "ROOT", "punct", "nsubj", "ROOT", "punct"]
    reference = Doc(nlp.vocab, words, heads=[3, 0, 3, 3, 3, 6, 6, 6], deps=deps)
    parser.initialize(lambda: [Example(Doc(nlp.vocab, words), reference)], nlp=nlp)
    optimizer = Adam(0.01)
    for _ in range(40):
        nlp.update([Example(Doc(nlp.vocab, words), reference)], sgd=optimizer)
    doc = nlp(Doc(nlp.vocab, words))
    assert Pieces.of(doc).n_sentences == 3
    assert [sent.start for sent in doc.sents] == [0, 5]
