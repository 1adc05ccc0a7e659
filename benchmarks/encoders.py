"""Contenders that turn texts into vectors, each library used as its documentation shows.

Every contender's environment imports this module, so it imports libraries only where they are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from .data import count_words, read_texts


class Encoder:
    """Encodes the same documents in each round."""

    load: Callable[..., None]  # arguments: the folder of the weights, and settings of the contender
    tokenizer: Any
    max_length: int | None = None  # wordpieces after which a document is truncated; only words before that are counted

    def __init__(self, weights: str, path: str, n_documents: int, **settings: Any) -> None:
        texts = read_texts(path, n_documents)
        self.load(weights, **settings)
        self.words = sum(count_words(self.truncate(text)) for text in texts)
        self.share_read = self.words / sum(map(count_words, texts))
        self.encode(self.prepare(texts[: n_documents // 10]))  # warm-up
        self.inputs = self.prepare(texts)

    def __call__(self, compare: Sequence[str] = ()) -> dict[str, Any]:
        """Measure the throughput. compare: sentences whose vectors are returned instead."""
        if compare:
            return {"vectors": [vectors.tolist() for vectors in self.vectors(compare)]}
        start = time.perf_counter()
        self.encode(self.inputs)
        return {"words_per_second": self.words / (time.perf_counter() - start), "share_read": self.share_read}

    def prepare(self, texts: Sequence[str]) -> Any:
        """Make the inputs of `encode`. Not timed."""
        return texts

    def encode(self, inputs: Any) -> None:
        raise NotImplementedError

    def vectors(self, sentences: Sequence[str]) -> list[Any]:
        """For each sentence an array (n_pieces, width), without special tokens."""
        raise NotImplementedError

    def truncate(self, text: str) -> str:
        """The part of a text that the model reads."""
        if self.max_length is None:
            return text
        encoding = self.tokenizer(text, truncation=True, max_length=self.max_length, return_offsets_mapping=True)
        return text[: max(end for _, end in encoding["offset_mapping"])]


class Rootstock(Encoder):
    def load(self, weights: str, precision: str) -> None:
        import spacy

        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("trf_wordpiecer", config={"weights": weights})
        self.nlp.add_pipe("trf_tok2vec", config={"weights": weights, "precision": precision})

    def encode(self, inputs: Sequence[str]) -> None:
        for doc in self.nlp.pipe(inputs):
            assert len(doc.tensor) == len(doc)

    def vectors(self, sentences: Sequence[str]) -> list[Any]:
        return [doc._.trf_last_hidden_state[1:-1] for doc in self.nlp.pipe(sentences)]


class BareModel(Encoder):
    """The model of Transformers in a loop, over Rootstock's own batches, tokenized, sorted and padded in advance."""

    def load(self, weights: str, precision: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from rootstock.encoder.encoder import has_fast_bf16

        use_bf16 = precision == "auto" and has_fast_bf16(torch.device("cpu"))
        self.rootstock = Rootstock.__new__(Rootstock)
        self.rootstock.load(weights, precision)
        self.tokenizer = AutoTokenizer.from_pretrained(weights)
        self.model = AutoModel.from_pretrained(weights, dtype=torch.bfloat16 if use_bf16 else torch.float32).eval()

    def prepare(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        import numpy as np
        import torch
        from spacy.util import minibatch

        from rootstock.pieces.packing import pack
        from rootstock.pieces.pieces import Pieces

        nlp, batches = self.rootstock.nlp, []
        tokenized = [Pieces.of(doc) for doc in nlp.pipe(texts, disable=["trf_tok2vec"])]
        for docs in minibatch(tokenized, nlp.batch_size):
            windows = [
                w for doc in docs for w in np.split(doc.ids[doc.window_pieces], doc.window_lengths.cumsum()[:-1])
            ]
            lengths = np.array([len(window) for window in windows])
            for indices in pack(lengths, nlp.get_pipe("trf_tok2vec").words_per_batch):
                rows = [torch.from_numpy(windows[i]).long() for i in indices]
                ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
                mask = torch.arange(ids.shape[1]) < torch.from_numpy(lengths[indices])[:, None]
                batches.append({"input_ids": ids, "attention_mask": None if mask.all() else mask.long()})
        return batches

    def encode(self, inputs: list[dict[str, Any]]) -> None:
        import torch

        with torch.inference_mode():
            for batch in inputs:
                self.model(**batch)

    def vectors(self, sentences: Sequence[str]) -> list[Any]:
        import torch

        with torch.inference_mode():
            batches = [self.tokenizer(sentence, return_tensors="pt") for sentence in sentences]
            return [self.model(**batch).last_hidden_state[0, 1:-1].float().numpy() for batch in batches]


class HuggingFacePipeline(Encoder):
    """The `pipeline` function of Transformers."""

    max_length = 512

    def load(self, weights: str) -> None:
        from transformers import pipeline

        truncation = {"truncation": True, "max_length": self.max_length}
        self.pipe = pipeline("feature-extraction", model=weights, tokenize_kwargs=truncation, return_tensors=True)
        self.tokenizer = self.pipe.tokenizer

    def encode(self, inputs: Sequence[str]) -> None:
        self.pipe(list(inputs))

    def vectors(self, sentences: Sequence[str]) -> list[Any]:
        return [vectors[0, 1:-1].numpy() for vectors in self.pipe(list(sentences))]


class SpacyTransformers(Encoder):
    def load(self, weights: str) -> None:
        import spacy

        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("sentencizer")
        spans = {"@span_getters": "spacy-transformers.sent_spans.v1"}
        model = {"@architectures": "spacy-transformers.TransformerModel.v3", "name": weights, "get_spans": spans}
        self.nlp.add_pipe("transformer", config={"model": model})
        self.nlp.initialize()

    def encode(self, inputs: Sequence[str]) -> None:
        for doc in self.nlp.pipe(inputs):
            assert doc._.trf_data is not None

    def vectors(self, sentences: Sequence[str]) -> list[Any]:
        vectors = []
        for doc in self.nlp.pipe(sentences):
            data = doc._.trf_data
            mask = data.wordpieces.attention_mask[0].astype(bool)
            vectors.append(data.model_output.last_hidden_state[0][mask][1:-1])
        return vectors


class CuratedTransformers(Encoder):
    """It cannot encode sentence by sentence, so it uses its default: strided windows over the document."""

    def load(self, weights: str) -> None:
        import spacy
        import thinc
        from spacy.training import Example
        from spacy_curated_transformers import util  # noqa: F401, registers the loaders
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(weights)
        model = {
            "@architectures": "spacy-curated-transformers.BertTransformer.v1",
            "piece_encoder": {"@architectures": "spacy-curated-transformers.BertWordpieceEncoder.v1"},
            "with_spans": {"@architectures": "spacy-curated-transformers.WithStridedSpans.v1"},
            "vocab_size": config.vocab_size,
            "hidden_width": config.hidden_size,
            "intermediate_width": config.intermediate_size,
            "num_attention_heads": config.num_attention_heads,
            "num_hidden_layers": config.num_hidden_layers,
            "padding_idx": config.pad_token_id,
        }
        self.nlp = spacy.blank("en")
        pipe = self.nlp.add_pipe("curated_transformer", config={"model": model})
        doc = self.nlp.make_doc("A text.")
        loaders = {
            part: thinc.registry.get("model_loaders", f"spacy-curated-transformers.HF{name}Loader.v1")(name=weights)
            for part, name in (("encoder_loader", "TransformerEncoder"), ("piecer_loader", "PieceEncoder"))
        }
        pipe.initialize(lambda: [Example(doc, doc)], nlp=self.nlp, **loaders)

    def encode(self, inputs: Sequence[str]) -> None:
        for doc in self.nlp.pipe(inputs):
            assert doc._.trf_data is not None

    def vectors(self, sentences: Sequence[str]) -> list[Any]:
        return [doc._.trf_data.last_hidden_layer_state.dataXd for doc in self.nlp.pipe(sentences)]


class SentenceTransformers(Encoder):
    def load(self, weights: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(weights, device="cpu")
        self.tokenizer, self.max_length = self.model.tokenizer, self.model.max_seq_length

    def encode(self, inputs: Sequence[str]) -> None:
        self.model.encode(list(inputs))

    def vectors(self, sentences: Sequence[str]) -> list[Any]:
        embeddings = self.model.encode(list(sentences), output_value="token_embeddings")
        return [vectors[1:-1].numpy() for vectors in embeddings]
