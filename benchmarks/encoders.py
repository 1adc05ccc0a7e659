"""Who turns texts into vectors, each as its documentation has it. Imported in every environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from .data import texts, words


class Encoder:
    """Encodes the same documents at each call; vectors of pieces, without boundary pieces, for a comparison."""

    load: Callable[..., None]  # takes the weights folder, and the contender's own settings
    tokenizer: Any
    limit: int | None = None  # pieces of a document that are read; what is cut off counts for nothing

    def __init__(self, weights: str, path: str, documents: int, **settings: Any) -> None:
        drawn = texts(path, documents)
        self.load(weights, **settings)
        self.words = sum(words(self.seen(text)) for text in drawn)
        self.read = self.words / sum(map(words, drawn))
        self.encode(self.prepare(drawn[: documents // 10]))  # warms up
        self.work = self.prepare(drawn)

    def __call__(self, compare: Sequence[str] = ()) -> dict[str, Any]:
        if compare:
            return {"vectors": [vectors.tolist() for vectors in self.vectors(compare)]}
        start = time.perf_counter()
        self.encode(self.work)
        return {"words": self.words / (time.perf_counter() - start), "read": self.read}

    def prepare(self, texts: Sequence[str]) -> Any:
        """What is not timed."""
        return texts

    def encode(self, work: Any) -> None:
        raise NotImplementedError

    def vectors(self, texts: Sequence[str]) -> list[Any]:
        """For each text, which is one sentence, an array (n_pieces, width)."""
        raise NotImplementedError

    def seen(self, text: str) -> str:
        """What is read of a text."""
        if self.limit is None:
            return text
        cut = self.tokenizer(text, truncation=True, max_length=self.limit, return_offsets_mapping=True)
        return text[: max(end for _, end in cut["offset_mapping"])]


class Rootstock(Encoder):
    def load(self, weights: str, precision: str) -> None:
        import spacy

        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("trf_wordpiecer", config={"weights": weights})
        self.nlp.add_pipe("trf_tok2vec", config={"weights": weights, "precision": precision})

    def encode(self, work: Sequence[str]) -> None:
        for doc in self.nlp.pipe(work):
            assert len(doc.tensor) == len(doc)

    def vectors(self, texts: Sequence[str]) -> list[Any]:
        return [doc._.trf_last_hidden_state[1:-1] for doc in self.nlp.pipe(texts)]


class Bare(Encoder):
    """The model alone in a loop: Rootstock's own batches, cut, sorted and padded beforehand."""

    def load(self, weights: str, precision: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        from rootstock.encoder.encoder import has_fast_bf16

        halved = precision == "auto" and has_fast_bf16(torch.device("cpu"))
        self.pieces = Rootstock.__new__(Rootstock)
        self.pieces.load(weights, precision)
        self.tokenizer = AutoTokenizer.from_pretrained(weights)
        self.net = AutoModel.from_pretrained(weights, dtype=torch.bfloat16 if halved else torch.float32).eval()

    def prepare(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        import numpy as np
        import torch
        from spacy.util import minibatch

        from rootstock.pieces.packing import pack
        from rootstock.pieces.pieces import Pieces

        nlp, batches = self.pieces.nlp, []
        cut = [Pieces.of(doc) for doc in nlp.pipe(texts, disable=["trf_tok2vec"])]
        for docs in minibatch(cut, nlp.batch_size):
            windows = [
                w for doc in docs for w in np.split(doc.ids[doc.window_pieces], doc.window_lengths.cumsum()[:-1])
            ]
            lengths = np.array([len(window) for window in windows])
            for chosen in pack(lengths, nlp.get_pipe("trf_tok2vec").words_per_batch):
                rows = [torch.from_numpy(windows[i]).long() for i in chosen]
                ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
                mask = torch.arange(ids.shape[1]) < torch.from_numpy(lengths[chosen])[:, None]
                batches.append({"input_ids": ids, "attention_mask": None if mask.all() else mask.long()})
        return batches

    def encode(self, work: list[dict[str, Any]]) -> None:
        import torch

        with torch.inference_mode():
            for batch in work:
                self.net(**batch)

    def vectors(self, texts: Sequence[str]) -> list[Any]:
        import torch

        with torch.inference_mode():
            batches = [self.tokenizer(text, return_tensors="pt") for text in texts]
            return [self.net(**batch).last_hidden_state[0, 1:-1].float().numpy() for batch in batches]


class Pipeline(Encoder):
    """Hugging Face's `pipeline`."""

    limit = 512

    def load(self, weights: str) -> None:
        from transformers import pipeline

        cut = {"truncation": True, "max_length": self.limit}
        self.pipe = pipeline("feature-extraction", model=weights, tokenize_kwargs=cut, return_tensors=True)
        self.tokenizer = self.pipe.tokenizer

    def encode(self, work: Sequence[str]) -> None:
        self.pipe(list(work))

    def vectors(self, texts: Sequence[str]) -> list[Any]:
        return [vectors[0, 1:-1].numpy() for vectors in self.pipe(list(texts))]


class SpacyTransformers(Encoder):
    def load(self, weights: str) -> None:
        import spacy

        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("sentencizer")
        spans = {"@span_getters": "spacy-transformers.sent_spans.v1"}
        model = {"@architectures": "spacy-transformers.TransformerModel.v3", "name": weights, "get_spans": spans}
        self.nlp.add_pipe("transformer", config={"model": model})
        self.nlp.initialize()

    def encode(self, work: Sequence[str]) -> None:
        for doc in self.nlp.pipe(work):
            assert doc._.trf_data is not None

    def vectors(self, texts: Sequence[str]) -> list[Any]:
        found = []
        for doc in self.nlp.pipe(texts):
            data = doc._.trf_data
            real = data.wordpieces.attention_mask[0].astype(bool)
            found.append(data.model_output.last_hidden_state[0][real][1:-1])
        return found


class CuratedTransformers(Encoder):
    """It has no spans by sentence: its windows are strided over the document, as its defaults have it."""

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

    def encode(self, work: Sequence[str]) -> None:
        for doc in self.nlp.pipe(work):
            assert doc._.trf_data is not None

    def vectors(self, texts: Sequence[str]) -> list[Any]:
        return [doc._.trf_data.last_hidden_layer_state.dataXd for doc in self.nlp.pipe(texts)]


class SentenceTransformers(Encoder):
    def load(self, weights: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(weights, device="cpu")
        self.tokenizer, self.limit = self.model.tokenizer, self.model.max_seq_length

    def encode(self, work: Sequence[str]) -> None:
        self.model.encode(list(work))

    def vectors(self, texts: Sequence[str]) -> list[Any]:
        found = self.model.encode(list(texts), output_value="token_embeddings")
        return [vectors[1:-1].numpy() for vectors in found]
