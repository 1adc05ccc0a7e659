"""Convert sequence classifiers of Transformers into spaCy pipelines, and back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language

from .components.hidden import set_hidden
from .components.textcat import TrfTextCat
from .components.tok2vec import TransformerTok2Vec
from .components.wordpiecer import WordPiecer
from .weights.families import Classifier, classifier_of
from .weights.weights import load_config, quiet, reading


def from_transformers(
    folder: str | Path,
    language: str = "en",
    wordpiecer: dict[str, Any] | None = None,
    tok2vec: dict[str, Any] | None = None,
) -> Language:
    """A pipeline whose `doc.cats` are the probabilities of a fine-tuned `...ForSequenceClassification`.

    folder: with config.json, model.safetensors and the tokenizer's files, as `save_pretrained` writes them.
    language: code for `spacy.blank`.
    wordpiecer, tok2vec: additional config of these components. By default the model reads whole documents, as such
        classifiers are trained; probabilities of a document longer than the maximum length are averaged over windows.
    RETURNS: a pipeline of `trf_wordpiecer`, `trf_tok2vec` and `trf_textcat`.
    Raises ValueError if the folder has no classifier, or an unsupported one.
    """
    from transformers import AutoModelForSequenceClassification

    config, folder = load_config(folder), str(folder)
    spec = classifier_of(config)
    if config.problem_type == "regression" or config.num_labels < 2:
        raise ValueError(
            f"{folder}: problem_type={config.problem_type!r} with {config.num_labels} label(s): "
            "expected a classifier with two or more labels"
        )
    labels = [config.id2label.get(i) for i in range(config.num_labels)]
    if None in labels or len(set(labels)) < len(labels):
        raise ValueError(
            f"{folder}: config.json has id2label={config.id2label}: give each class from 0 to {len(labels) - 1} a "
            "name of its own"
        )
    with quiet(), reading(folder, "model.safetensors"):
        net, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    if info["missing_keys"]:
        raise ValueError(
            f"{folder}: model.safetensors has no trained classifier: {sorted(info['missing_keys'])[0]} is missing. "
            "Use a folder that a ...ForSequenceClassification was saved to"
        )
    nlp = spacy.blank(language)
    nlp.add_pipe("trf_wordpiecer", config={"weights": folder, "spans": "document", **(wordpiecer or {})})
    nlp.add_pipe("trf_tok2vec", config={"weights": folder, **(tok2vec or {})})
    exclusive = config.problem_type != "multi_label_classification"
    head: TrfTextCat = nlp.add_pipe("trf_textcat", config={"head": "native", "exclusive_classes": exclusive})
    for label in labels:
        head.add_label(label)
    arrays = {name: value.float().numpy() for name, value in net.state_dict().items()}
    weight = arrays[f"{spec.output}.weight"]
    bias = arrays.get(f"{spec.output}.bias", weight[:, 0] * 0)
    if head.hidden is not None:
        set_hidden(head.hidden, _hidden_weights(arrays, spec))
    head.set_weights(weight, bias)
    return nlp


def to_transformers(nlp: Language, folder: str | Path) -> None:
    """Save `trf_textcat` and its transformer as the `...ForSequenceClassification` of the model's family.

    Logits are equal for each text that the pipeline reads as one unit (a sentence, or a document with
    `spans: document`).

    folder: for config.json, model.safetensors and the tokenizer's files, as `from_pretrained` reads them.
    Raises ValueError if a component is missing or mixes layers, or the family's classifier has no such head (use
    `head: native`).
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    wordpiecer, tok2vec, head = (_find(nlp, kind) for kind in (WordPiecer, TransformerTok2Vec, TrfTextCat))
    config = copy.deepcopy(tok2vec.transformer.config)
    spec = classifier_of(config)
    if head.head != "native" and (head.head != spec.pooling or spec.dense is not None or not spec.bias):
        raise ValueError(
            f"component '{head.name}' has head='{head.head}', which {config.model_type}'s classifier in Transformers "
            "does not support: configure it with head='native' before training"
        )
    if tok2vec.mix is not None:
        raise ValueError(
            f"component '{tok2vec.name}' mixes layers, which no classifier in Transformers supports: "
            "configure it with mix_layers=False before training"
        )
    config.num_labels = len(head.labels)
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: i for i, label in config.id2label.items()}
    config.problem_type = "single_label_classification" if head.exclusive_classes else "multi_label_classification"
    config.pad_token_id = config.pad_token_id if config.pad_token_id is not None else config.eos_token_id
    net = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    missing, _ = net.base_model.load_state_dict(tok2vec.transformer.state_dict(), strict=False)
    if missing:
        raise ValueError(f"component '{tok2vec.name}' has no weights {missing[0]}, which the classifier needs")
    state = net.state_dict()
    names = {"weight": f"{spec.output}.weight", "bias": f"{spec.output}.bias"}
    to_torch = lambda array: torch.from_numpy(head.model.ops.to_numpy(array).copy())  # noqa: E731
    state[names["weight"]] = to_torch(head.linear.get_param("W"))
    if names["bias"] in state:
        state[names["bias"]] = to_torch(head.linear.get_param("b"))
    if head.hidden is not None:
        for name, value in head.hidden.shims[0]._model.state_dict().items():
            state[_name_in_transformers(name, spec)] = value.cpu()
    net.load_state_dict(state)
    with quiet():
        net.save_pretrained(folder)
    wordpiecer.tokenizer.save_pretrained(str(folder))


def _hidden_weights(arrays: dict[str, Any], spec: Classifier) -> dict[str, Any]:
    names = [f"{part}.{kind}" for part in ("dense", "norm") for kind in ("weight", "bias")]
    found = {name: arrays.get(_name_in_transformers(name, spec)) for name in names}
    return {name: array for name, array in found.items() if array is not None}


def _name_in_transformers(name: str, spec: Classifier) -> str:
    """The name in Transformers of a parameter of the hidden layer."""
    part, kind = name.split(".")
    return f"{getattr(spec, part)}.{kind}"


def _find(nlp: Language, kind: type) -> Any:
    found = next((component for _, component in nlp.pipeline if isinstance(component, kind)), None)
    if found is None:
        raise ValueError(f"the pipeline has no {kind.__name__}: its components are {', '.join(nlp.pipe_names)}")
    return found
