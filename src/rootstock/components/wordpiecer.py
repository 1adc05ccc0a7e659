"""`trf_wordpiecer`: cut each sentence into the model's own pieces and align them with spaCy's tokens."""

import warnings
import weakref
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from spacy.language import Language
from spacy.pipeline import Pipe, Sentencizer
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch

from .. import attributes
from ..pieces.alignment import Tokens, align
from ..pieces.chunks import Chunks
from ..pieces.pieces import KEY, Bounds, Pieces, bounds
from ..pieces.windows import Template, Texts, cut
from ..weights.families import family_of, max_pieces
from ..weights.weights import BytesOfFolder, forget_folders, load_config, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@Language.factory(
    "trf_wordpiecer",
    assigns=["doc._.trf_word_pieces", "doc._.trf_word_pieces_", "doc._.trf_alignment"],
    default_config={"weights": None, "spans": "sentence", "long_sentences": "window"},
)
def make_wordpiecer(
    nlp: Language,
    name: str,
    weights: str | None,
    spans: Literal["sentence", "document"] | int,
    long_sentences: Literal["window", "truncate"],
) -> "WordPiecer":
    """Make the component for `nlp.add_pipe`.

    weights: folder with config.json and the tokenizer's files; None for a component that is about to be loaded.
    spans: what the transformer reads at a time: each sentence, the whole document, or runs of so many tokens.
        What is said of sentences everywhere else then holds for these.
    long_sentences: what becomes of a sentence longer than the model takes: windows that overlap, or a cut.
    Raises ValueError where the folder holds no tokenizer, or spans is a number below 1.
    """
    pipe = WordPiecer(nlp, name, spans, long_sentences)
    if weights is not None:
        pipe.read_weights(Path(weights))
        forget_folders(nlp)
    return pipe


class WordPiecer(BytesOfFolder, Pipe):
    """Sets `doc._.trf_word_pieces`, `trf_word_pieces_` and `trf_alignment`. A Doc that has its pieces keeps them."""

    def __init__(
        self,
        nlp: Language,
        name: str,
        spans: Literal["sentence", "document"] | int,
        long_sentences: Literal["window", "truncate"],
    ) -> None:
        if not isinstance(spans, str) and spans < 1:
            raise ValueError(f"component '{name}': spans is {spans}: 'sentence', 'document' or a number of tokens")
        attributes.register()
        self.nlp = weakref.ref(nlp)
        self.name = name
        self.spans = spans
        self.truncate = long_sentences == "truncate"
        self.sentencizer = Sentencizer()
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.chunks: Chunks | None = None

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        handle_error = self.get_error_handler()
        for docs in minibatch(stream, size=min(batch_size, MOST_DOCS)):
            try:
                self.annotate(docs)
            except Exception as error:
                handle_error(self.name, self, docs, error)
            else:
                yield from docs

    def update(self, examples: Iterable[Example], *, losses: dict[str, float] | None = None, **_: Any) -> dict:
        """Annotates the predicted docs, so that `nlp.update` needs no `annotates=` for the components after this.

        Warns where a component before this one would set other sentences at prediction.
        """
        docs = [eg.predicted for eg in examples]
        if self.spans == "sentence" and any(_bare(doc) for doc in docs):
            self._warn_of_other_sentences()
        self.annotate(docs)
        return losses if losses is not None else {}

    def _warn_of_other_sentences(self) -> None:
        nlp = self.nlp()
        names = nlp.pipe_names if nlp is not None else []
        earlier = names[: names.index(self.name)] if self.name in names else []
        for name in earlier:
            assert nlp is not None
            own = SENTENCES & set(nlp.get_pipe_meta(name).assigns)
            if own and not isinstance(nlp.get_pipe(name), Sentencizer):
                warnings.warn(
                    f"'{self.name}' trains on sentences by punctuation, but '{name}' before it sets its own at "
                    f"prediction: pass annotates=['{name}'] to nlp.update, or annotating_components in the config",
                    stacklevel=2,
                )

    def annotate(self, docs: list[Doc]) -> None:
        """Give each doc its pieces, where it has none yet; sentences by spaCy's rules where nobody has set any."""
        if self.tokenizer is None:
            raise ValueError(f"component '{self.name}' has no tokenizer: add it with config={{'weights': FOLDER}}")
        docs = [doc for doc in docs if not attributes.is_reduced(doc)]
        new = [doc for doc in docs if KEY not in doc.user_data]
        if new:
            for doc, pieces in zip(new, self._cut(new), strict=True):
                pieces.store(doc)
        strings = self.strings  # one bound method for all: each of its own would be one more object to collect
        for doc in docs:
            doc.user_hooks["trf_word_pieces_"] = strings

    def _ends(self, doc: Doc, second: int | None) -> list[int]:
        """The tokens at which the texts end that the transformer reads at a time, or the two of a pair."""
        if second is not None:
            return [second, len(doc)]
        if self.spans == "document":
            return [len(doc)] if len(doc) else []
        if isinstance(self.spans, int):
            return [min(start + self.spans, len(doc)) for start in range(0, len(doc), self.spans)]
        if _bare(doc):
            self.sentencizer(doc)
        return [sent.end for sent in doc.sents]

    def strings(self, doc: Doc) -> list[str]:
        """The pieces of a document as the tokenizer writes them."""
        assert self.tokenizer is not None
        return self.tokenizer.convert_ids_to_tokens(Pieces.of(doc).ids.tolist())

    def _cut(self, docs: list[Doc]) -> Iterator[Pieces]:
        """All documents at once, as if each were the next part of one."""
        # Tokens, and the texts that are read, by their characters in all documents.
        seconds = [doc._.trf_second_text if doc.user_data else None for doc in docs]
        text_ends, tokens = list(map(self._ends, docs, seconds)), Tokens.of(docs)
        in_doc = np.array([len(ends) for ends in text_ends])
        in_unit = np.array([1 if second is None else 2 for second in seconds])
        sentences = bounds(in_doc // in_unit)
        n_texts = np.repeat(in_unit, np.diff(sentences))
        ends = np.fromiter(chain.from_iterable(text_ends), "int64") + np.repeat(tokens.docs[:-1], in_doc)
        texts = self._encode(docs, tokens, ends)
        shown = cut(texts, n_texts, self.templates, self.max_pieces, self.truncate)
        aligned_tokens, aligned_pieces = align(tokens.spans, shown.spans)

        unit_ends = ends[np.cumsum(n_texts) - 1]
        n_tokens = np.diff(unit_ends, prepend=0)
        at_unit = bounds(shown.unit_pieces)
        kept = n_tokens.copy()
        for i in np.flatnonzero(shown.truncated):
            last = shown.spans[at_unit[i] : at_unit[i + 1]].max()
            kept[i] = max(1, np.searchsorted(tokens.spans[:, 0], last) - unit_ends[i] + n_tokens[i])

        windows = np.searchsorted(shown.unit, sentences)
        return Pieces(
            ids=shown.ids,
            types=shown.types,
            sentence_pieces=shown.unit_pieces,
            sentence_tokens=n_tokens,
            kept_tokens=kept,
            aligned_tokens=aligned_tokens,
            aligned_pieces=aligned_pieces,
            window_sentence=shown.unit,
            window_lengths=shown.lengths,
            window_class=shown.class_pieces,
            window_pieces=shown.pieces,
        ).split(
            Bounds(
                pieces=at_unit[sentences],
                tokens=tokens.docs,
                sentences=sentences,
                pairs=np.searchsorted(aligned_tokens, tokens.docs),
                windows=windows,
                rows=bounds(shown.lengths)[windows],
            )
        )

    def _encode(self, docs: list[Doc], tokens: Tokens, ends: np.ndarray) -> Texts:
        """Pieces of the texts that end at these tokens, and where each stands among the characters of all documents."""
        assert self.tokenizer is not None
        if self.chunks is not None:
            return self.chunks.encode(docs, tokens, ends)
        starts = np.concatenate([[0], ends])[:-1]
        places = np.zeros((len(ends), 2), "int64")
        some = ends > starts
        places[some, 0], places[some, 1] = tokens.spans[starts[some], 0], tokens.spans[ends[some] - 1, 1]
        whole = "".join(doc.text for doc in docs)
        strings = [whole[start:end] for start, end in places.tolist()]
        if self.tokenizer.is_fast:
            # Straight to the Rust tokenizer: the layer above it changes settings at each call, which threads trip over.
            encoded = self.tokenizer.backend_tokenizer.encode_batch(strings, add_special_tokens=False)
            ids = [one.ids for one in encoded]
            spans = [one.offsets for one in encoded]
        else:
            ids = self.tokenizer(strings, add_special_tokens=False, verbose=False)["input_ids"] if strings else []
            spans = [self._find(*one) for one in zip(strings, ids, strict=True)]
        lengths = np.array([len(one) for one in ids], "int64")
        found = np.fromiter(chain.from_iterable(chain.from_iterable(spans)), "int64").reshape(-1, 2)
        found += np.repeat(places[:, 0], lengths)[:, None]
        return Texts(np.fromiter(chain.from_iterable(ids), "int32"), found, lengths)

    def _find(self, text: str, ids: list[int]) -> list[tuple[int, int]]:
        """Where in the text the pieces stand, by their letters, for a tokenizer that does not say."""
        from spacy_alignments import get_alignments

        assert self.tokenizer is not None
        strings = [
            self.tokenizer.convert_tokens_to_string([p]).strip() for p in self.tokenizer.convert_ids_to_tokens(ids)
        ]
        characters = get_alignments(list(text), strings)[1]
        return [(min(found), max(found) + 1) if found else (0, 0) for found in characters]

    # Serialization: the folder is a weights folder without model.safetensors.

    def read_weights(self, folder: Path) -> None:
        """Take the tokenizer in a folder. Raises ValueError where there is none."""
        self.tokenizer, self.chunks = load_tokenizer(folder), None
        if self.tokenizer.is_fast:
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
            if Chunks.are_exact(self.tokenizer.backend_tokenizer):
                self.chunks = Chunks(self.tokenizer.backend_tokenizer)
        self.config = load_config(folder)
        self.templates = [Template.of(self.tokenizer, family_of(self.config), n) for n in (1, 2)]
        self.max_pieces = max_pieces(self.config, self.tokenizer)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        if self.tokenizer is None:
            raise ValueError(f"component '{self.name}' has no tokenizer to save")
        self.tokenizer.save_pretrained(str(path))
        self.config.save_pretrained(str(path))

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "WordPiecer":
        self.read_weights(Path(path))
        return self


# What is alive when Python collects garbage makes it go through all objects of the process, now and then: with the
# thousand documents that `nlp.pipe` gives at a time, that took a fifth of the time.
MOST_DOCS = 256

SENTENCES = {"doc.sents", "token.is_sent_start", "token.sent_start"}


def _bare(doc: Doc) -> bool:
    """Whether nobody has set sentences, nor cut the document into pieces."""
    bare = KEY not in doc.user_data and not doc.has_annotation("SENT_START")
    return bare and not attributes.is_reduced(doc)
