"""`trf_wordpiecer`: tokenize each sentence with the model's own tokenizer and align its pieces with spaCy's tokens."""

import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
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
from ..pieces.chunks import CachedTokenizer
from ..pieces.pieces import PIECES, Bounds, Pieces, bounds, model_name
from ..pieces.windows import Template, TokenizedTexts, make_windows
from ..weights.families import family_of, max_pieces
from ..weights.weights import (
    ToBytesMixin,
    WeightsError,
    digest_tokenizer,
    load_config,
    load_tokenizer,
    omit_weights_paths,
    tokenizer_state,
    without_weights,
)

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

    weights: folder with config.json and the tokenizer's files; None if the component will be loaded from disk or bytes.
    spans: the unit that the transformer reads: each sentence, the whole document, or a fixed number of tokens. What
        the documentation says about sentences holds for these units.
    long_sentences: for sentences longer than the model's maximum length: window (overlapping windows) or truncate.
    Raises ValueError if config.json is not found, or spans is a number below 1.
    """
    pipe = WordPiecer(nlp, name, spans, long_sentences)
    if weights is not None:
        pipe.read_weights(Path(weights))
        omit_weights_paths(nlp)
    return pipe


class PipelineReference(weakref.ref):
    """A weak reference that is pickled and copied together with the pipeline."""

    def __reduce__(self) -> Any:
        return _refer_to, (self(),)


def _refer_to(nlp: Language | None) -> Any:
    return type(None) if nlp is None else PipelineReference(nlp)  # both return the pipeline, or None


class WordPiecer(ToBytesMixin, Pipe):
    """Sets `doc._.trf_word_pieces`, `trf_word_pieces_` and `trf_alignment`.

    A Doc keeps the pieces that it has if this component would make the same.
    """

    def __init__(
        self,
        nlp: Language,
        name: str,
        spans: Literal["sentence", "document"] | int,
        long_sentences: Literal["window", "truncate"],
    ) -> None:
        if not isinstance(spans, str) and spans < 1:
            raise ValueError(
                f"component '{name}': spans is {spans}: expected 'sentence', 'document' or a number of tokens above 0"
            )
        attributes.register()
        self.nlp = PipelineReference(nlp)
        self.name = name
        self.spans = spans
        self.truncate = long_sentences == "truncate"
        self.sentencizer = Sentencizer()
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.cached_tokenizer: CachedTokenizer | None = None

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        handle_error = self.get_error_handler()
        for docs in minibatch(stream, size=min(batch_size, MAX_BATCH_DOCS)):
            try:
                self.annotate(docs)
            except Exception as error:
                handle_error(self.name, self, docs, error)
            else:
                yield from docs

    def update(self, examples: Iterable[Example], *, losses: dict[str, float] | None = None, **_: Any) -> dict:
        """Annotate the predicted docs, so that `nlp.update` needs no `annotates=` for this component.

        Warns if a component before this one sets sentence boundaries at prediction that training does not see.
        """
        docs = [eg.predicted for eg in examples]
        if self.spans == "sentence" and any(_needs_sentences(doc) for doc in docs):
            self._warn_of_other_sentences()
        self.annotate(docs)
        return losses if losses is not None else {}

    def _warn_of_other_sentences(self) -> None:
        nlp = self.nlp()
        names = nlp.pipe_names if nlp is not None else []
        earlier = names[: names.index(self.name)] if self.name in names else []
        for name in earlier:
            assert nlp is not None
            sets_sentences = SENTENCE_ATTRIBUTES & set(nlp.get_pipe_meta(name).assigns)
            if sets_sentences and not isinstance(nlp.get_pipe(name), Sentencizer):
                warnings.warn(
                    f"'{self.name}' trains on sentences split by punctuation, but '{name}' before it sets its own at "
                    f"prediction: pass annotates=['{name}'] to nlp.update, or set annotating_components in the config",
                    stacklevel=2,
                )

    def annotate(self, docs: list[Doc]) -> None:
        """Set the pieces of each Doc, unless it has them.

        A Doc without sentences is split by spaCy's rules. `doc.sents` is set to these if no other component sets it.
        """
        if self.tokenizer is None:
            raise ValueError(f"component '{self.name}' has no tokenizer: add it with config={{'weights': FOLDER}}")
        docs = [doc for doc in docs if not attributes.has_only_features(doc)]
        if self._settings() != self.settings:
            self._read_tokenizer()
        seconds = [doc._.trf_second_text if doc.user_data else None for doc in docs]
        new = [(doc, second) for doc, second in zip(docs, seconds, strict=True) if not self._has_pieces(doc, second)]
        if new:
            new_docs, new_seconds = zip(*new, strict=True)
            tokens, model = Tokens.of(new_docs), model_name(self.config)
            made = self._make_pieces(new_docs, new_seconds, tokens)
            for doc, second, pieces, digest in zip(new_docs, new_seconds, made, tokens.digests, strict=True):
                pieces.store(doc, self._cut(second), model, digest)
                doc.user_data.pop(attributes.OUTPUTS, None)  # they are of other pieces
                doc.user_data.pop(attributes.GRADIENTS, None)
        strings = attributes.PieceStrings(self.tokenizer)  # one for all documents
        for doc in docs:
            doc.user_hooks["trf_word_pieces_"] = strings

    def _ends(self, doc: Doc, second: int | None) -> list[int]:
        """The token at which each text of the document ends: its units, or the two texts of a pair."""
        if second is not None:
            start = doc.user_data.get(attributes.SECOND_START)
            found = doc[second].idx if second < len(doc) else len(doc.text)
            if second > len(doc) or start not in (None, found):
                raise ValueError(
                    f"a pair's second text no longer begins at token {second}, because tokens were merged, split or "
                    f"cut off: set doc._.trf_second_text anew, and remove doc.user_data['{attributes.SECOND_START}']"
                )
            return [second, len(doc)]
        if self.spans == "document":
            return [len(doc)] if len(doc) else []
        if isinstance(self.spans, int):
            return [min(start + self.spans, len(doc)) for start in range(0, len(doc), self.spans)]
        if doc.has_annotation("SENT_START"):
            return [sent.end for sent in doc.sents]
        starts = self.sentencizer.predict([doc])
        if not self._other_sets_sentences():
            self.sentencizer.set_annotations([doc], starts)
        return [*np.flatnonzero(starts[0])[1:].tolist(), len(doc)]

    def _other_sets_sentences(self) -> bool:
        """Whether another component of the pipeline sets sentence boundaries, before or after this one."""
        nlp = self.nlp()
        if nlp is None:
            return False
        metas = [nlp.get_pipe_meta(name) for name in nlp.pipe_names if name != self.name]
        return any(SENTENCE_ATTRIBUTES & set(meta.assigns) for meta in metas)

    def _cut(self, second: int | None) -> str:
        """What determines a document's pieces besides its tokens. second: the token at which a second text begins."""
        return self.digest if second is None else f"{self.digest}+{second}"

    def _has_pieces(self, doc: Doc, second: int | None) -> bool:
        """Whether a document has the pieces that this component would make."""
        if not Pieces.have(doc, self._cut(second)):
            return False
        if self.spans != "sentence" or second is not None or not doc.has_annotation("SENT_START"):
            return True
        return [len(sent) for sent in doc.sents] == doc.user_data[PIECES]["sentence_tokens"].tolist()

    def _make_pieces(self, docs: Sequence[Doc], seconds: Sequence[int | None], tokens: Tokens) -> Iterator[Pieces]:
        """The pieces of each document; computed for the concatenation of all."""
        text_ends = list(map(self._ends, docs, seconds))
        texts_per_doc = np.array([len(ends) for ends in text_ends])
        texts_per_unit = np.array([1 if second is None else 2 for second in seconds])
        sentences = bounds(texts_per_doc // texts_per_unit)
        unit_texts = np.repeat(texts_per_unit, np.diff(sentences))
        ends = np.fromiter(chain.from_iterable(text_ends), "int64") + np.repeat(tokens.doc_bounds[:-1], texts_per_doc)
        texts = self._encode(docs, tokens, ends)
        units = make_windows(texts, unit_texts, self.templates, self.max_pieces, self.truncate)
        aligned_tokens, aligned_pieces = align(tokens.spans, units.spans)

        unit_ends = ends[np.cumsum(unit_texts) - 1]
        n_tokens = np.diff(unit_ends, prepend=0)
        unit_bounds = bounds(units.unit_pieces)
        kept_tokens = n_tokens.copy()
        for i in np.flatnonzero(units.truncated):
            last = units.spans[unit_bounds[i] : unit_bounds[i + 1]].max()
            kept_tokens[i] = max(1, np.searchsorted(tokens.spans[:, 0], last) - unit_ends[i] + n_tokens[i])

        windows = np.searchsorted(units.window_unit, sentences)
        return Pieces(
            ids=units.ids,
            types=units.types,
            sentence_pieces=units.unit_pieces,
            sentence_tokens=n_tokens,
            kept_tokens=kept_tokens,
            aligned_tokens=aligned_tokens,
            aligned_pieces=aligned_pieces,
            window_sentence=units.window_unit,
            window_lengths=units.window_lengths,
            window_class=units.window_class,
            window_pieces=units.window_pieces,
        ).split(
            Bounds(
                pieces=unit_bounds[sentences],
                tokens=tokens.doc_bounds,
                sentences=sentences,
                pairs=np.searchsorted(aligned_tokens, tokens.doc_bounds),
                windows=windows,
                rows=bounds(units.window_lengths)[windows],
            )
        )

    def _encode(self, docs: Sequence[Doc], tokens: Tokens, ends: np.ndarray) -> TokenizedTexts:
        """Tokenize the texts that end at these tokens; spans are characters in the concatenated documents."""
        assert self.tokenizer is not None
        if self.cached_tokenizer is not None:
            return self.cached_tokenizer.encode(docs, tokens, ends)
        starts = np.concatenate([[0], ends])[:-1]
        text_spans = np.zeros((len(ends), 2), "int64")
        nonempty = ends > starts
        text_spans[nonempty, 0] = tokens.spans[starts[nonempty], 0]
        text_spans[nonempty, 1] = tokens.spans[ends[nonempty] - 1, 1]
        whole = "".join(doc.text for doc in docs)
        strings = [whole[start:end] for start, end in text_spans.tolist()]
        if self.tokenizer.is_fast:
            # The Rust tokenizer directly: Transformers' wrapper changes its settings at each call, which is not
            # thread-safe.
            encoded = self.tokenizer.backend_tokenizer.encode_batch(strings, add_special_tokens=False)
            ids = [encoding.ids for encoding in encoded]
            offsets = [encoding.offsets for encoding in encoded]
        else:
            ids = self.tokenizer(strings, add_special_tokens=False, verbose=False)["input_ids"] if strings else []
            offsets = [self._find_offsets(*args) for args in zip(strings, ids, strict=True)]
        lengths = np.array([len(text_ids) for text_ids in ids], "int64")
        spans = np.fromiter(chain.from_iterable(chain.from_iterable(offsets)), "int64").reshape(-1, 2)
        spans += np.repeat(text_spans[:, 0], lengths)[:, None]
        return TokenizedTexts(np.fromiter(chain.from_iterable(ids), "int32"), spans, lengths)

    def _find_offsets(self, text: str, ids: list[int]) -> list[tuple[int, int]]:
        """The start and end character of each piece, by string alignment: for tokenizers without offsets."""
        from spacy_alignments import get_alignments

        assert self.tokenizer is not None
        strings = [
            self.tokenizer.convert_tokens_to_string([p]).strip() for p in self.tokenizer.convert_ids_to_tokens(ids)
        ]
        characters = get_alignments(list(text), strings)[1]
        return [(min(aligned), max(aligned) + 1) if aligned else (0, 0) for aligned in characters]

    # Serialization: the folder is a weights folder without model.safetensors.

    def read_weights(self, folder: Path) -> None:
        """Load the tokenizer in a folder.

        Raises ValueError if config.json is not found.
        """
        self.tokenizer, self.config = load_tokenizer(folder), load_config(folder)
        net = without_weights(self.config)
        n_pieces, n_embedded = 1 + max(self.tokenizer.get_vocab().values()), len(net.get_input_embeddings().weight)
        if n_pieces > n_embedded:
            raise WeightsError(
                f"{folder}: the tokenizer has {n_pieces} pieces, but the transformer's embedding only {n_embedded}: "
                "use the tokenizer of these weights, or call resize_token_embeddings and save both"
            )
        self.max_pieces = max_pieces(net, self.tokenizer)
        self._read_tokenizer()

    def _read_tokenizer(self) -> None:
        """Set what depends on the tokenizer and the settings: called again whenever they have changed."""
        assert self.tokenizer is not None
        self.cached_tokenizer = None
        if self.tokenizer.is_fast:
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
            if CachedTokenizer.is_exact(self.tokenizer.backend_tokenizer):
                self.cached_tokenizer = CachedTokenizer(self.tokenizer.backend_tokenizer)
        self.templates = [Template.of(self.tokenizer, family_of(self.config), n) for n in (1, 2)]
        self.settings = self._settings()
        self.digest = digest_tokenizer(self.tokenizer, model_name(self.config), self.templates, self.settings[1:])

    def _settings(self) -> tuple:
        """What pieces depend on, and may be changed after loading."""
        assert self.tokenizer is not None
        return tokenizer_state(self.tokenizer), self.spans, self.truncate, self.max_pieces

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        if self.tokenizer is None:
            raise ValueError(
                f"component '{self.name}' has no tokenizer to save: add it with config={{'weights': FOLDER}}"
            )
        self.tokenizer.save_pretrained(str(path))
        self.config.save_pretrained(str(path))

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "WordPiecer":
        self.read_weights(Path(path))
        return self


# Many live objects trigger full garbage collections: with the thousand documents of a batch of `nlp.pipe` these took a
# fifth of the time.
MAX_BATCH_DOCS = 256

SENTENCE_ATTRIBUTES = {"doc.sents", "token.is_sent_start", "token.sent_start"}


def _needs_sentences(doc: Doc) -> bool:
    """Whether a document has neither sentences nor pieces."""
    unannotated = PIECES not in doc.user_data and not doc.has_annotation("SENT_START")
    return unannotated and not attributes.has_only_features(doc)
