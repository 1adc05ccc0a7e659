"""`trf_wordpiecer`: cut each sentence into the model's own pieces and align them with spaCy's tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from spacy.attrs import IDX, LENGTH
from spacy.language import Language
from spacy.pipeline import Pipe, Sentencizer
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch

from . import attributes
from .alignment import align
from .families import Family, family_of, max_pieces
from .pieces import KEY, Pieces
from .weights import BytesOfFolder, forget_folders, load_config, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@Language.factory(
    "trf_wordpiecer",
    assigns=["doc._.trf_word_pieces", "doc._.trf_word_pieces_", "doc._.trf_alignment"],
    default_config={"weights": None, "long_sentences": "window"},
)
def make_wordpiecer(
    nlp: Language, name: str, weights: str | None, long_sentences: Literal["window", "truncate"]
) -> WordPiecer:
    """Make the component for `nlp.add_pipe`.

    weights: folder with config.json and the tokenizer's files; None for a component that is about to be loaded.
    long_sentences: what becomes of a sentence longer than the model takes: windows that overlap, or a cut.
    """
    pipe = WordPiecer(name, long_sentences)
    if weights is not None:
        pipe.read_weights(Path(weights))
        forget_folders(nlp)
    return pipe


class WordPiecer(BytesOfFolder, Pipe):
    """Sets `doc._.trf_word_pieces`, `trf_word_pieces_` and `trf_alignment`. A Doc that has its pieces keeps them."""

    def __init__(self, name: str, long_sentences: Literal["window", "truncate"]) -> None:
        attributes.register()
        self.name = name
        self.long_sentences = long_sentences
        self.sentencizer = Sentencizer()
        self.tokenizer: PreTrainedTokenizerBase | None = None

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        handle_error = self.get_error_handler()
        for docs in minibatch(stream, size=batch_size):
            try:
                self.annotate(docs)
            except Exception as error:
                handle_error(self.name, self, docs, error)
            else:
                yield from docs

    def update(self, examples: Iterable[Example], *, losses: dict[str, float] | None = None, **_: Any) -> dict:
        """Annotates the predicted docs, so that `nlp.update` needs no `annotates=` for the components after this."""
        self.annotate([eg.predicted for eg in examples])
        return losses if losses is not None else {}

    def annotate(self, docs: list[Doc]) -> None:
        """Give each doc its pieces, where it has none yet; sentences by spaCy's rules where nobody has set any."""
        if self.tokenizer is None:
            raise ValueError(f"component '{self.name}' has no tokenizer: add it with config={{'weights': FOLDER}}")
        new = [doc for doc in docs if KEY not in doc.user_data]
        for doc in new:
            if not doc.has_annotation("SENT_START"):
                self.sentencizer(doc)
        sentences = [sent for doc in new for sent in doc.sents]
        cut = self._cut([sent.text for sent in sentences])
        for doc in new:
            _pieces(doc, [next(cut) for _ in doc.sents]).store(doc)
        for doc in docs:
            doc.user_hooks["trf_word_pieces_"] = self.strings

    def strings(self, doc: Doc) -> list[str]:
        assert self.tokenizer is not None
        return self.tokenizer.convert_ids_to_tokens(Pieces.of(doc).ids.tolist())

    def _cut(self, texts: list[str]) -> Iterator[Cut]:
        if not texts:
            return
        assert self.tokenizer is not None
        if self.tokenizer.is_fast:
            # Straight to the Rust tokenizer: the layer above it changes settings at each call, which threads trip over.
            encoded = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
            pairs = [(one.ids, one.offsets) for one in encoded]
        else:
            batch = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            pairs = [(ids, self._find(text, ids)) for text, ids in zip(texts, batch, strict=True)]
        for ids, places in pairs:
            yield self._window(np.asarray(ids, "int32"), np.asarray(places, "int32").reshape(-1, 2))

    def _find(self, text: str, ids: list[int]) -> list[tuple[int, int]]:
        """Where in the text the pieces stand, by their letters, for a tokenizer that does not say."""
        from spacy_alignments import get_alignments

        assert self.tokenizer is not None
        strings = [
            self.tokenizer.convert_tokens_to_string([p]).strip() for p in self.tokenizer.convert_ids_to_tokens(ids)
        ]
        characters = get_alignments(list(text), strings)[1]
        return [(min(found), max(found) + 1) if found else (0, 0) for found in characters]

    def _window(self, ids: np.ndarray, spans: np.ndarray) -> Cut:
        """Put boundary pieces around a sentence, or around each window of one that is longer than the model takes."""
        edges = self.edges
        room = self.max_pieces - len(edges.before) - len(edges.after)
        starts = [0]
        truncated = len(ids) > room and self.long_sentences == "truncate"
        if truncated:
            ids, spans = ids[:room], spans[:room]
        elif len(ids) > room:
            step = max(1, room - room // 4)
            starts = [*range(0, len(ids) - room, step), len(ids) - room]

        out: list[np.ndarray] = []
        windows: list[np.ndarray] = []
        place = np.zeros(len(ids), "int32")  # where each inner piece stands among the sentence's pieces
        done = size = 0
        for start in starts:
            end = min(start + room, len(ids))
            n_new = end - done
            place[done:end] = size + len(edges.before) + np.arange(n_new)
            first = np.arange(size, size + len(edges.before))
            last = size + len(edges.before) + n_new + np.arange(len(edges.after))
            windows.append(np.concatenate([first, place[start:end], last]))
            out += [edges.before, ids[done:end], edges.after]
            size += len(edges.before) + n_new + len(edges.after)
            done = end
        all_spans = np.zeros((size, 2), "int32")
        all_spans[place] = spans
        return Cut(np.concatenate(out), all_spans, windows, edges.class_position, truncated)

    # Serialization: the folder is a weights folder without model.safetensors.

    def read_weights(self, folder: Path) -> None:
        self.tokenizer = load_tokenizer(folder)
        if self.tokenizer.is_fast:
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
        self.config = load_config(folder)
        self.edges = _edges(self.tokenizer, family_of(self.config))
        self.max_pieces = max_pieces(self.config, self.tokenizer)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        if self.tokenizer is None:
            raise ValueError(f"component '{self.name}' has no tokenizer to save")
        self.tokenizer.save_pretrained(str(path))
        self.config.save_pretrained(str(path))

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> WordPiecer:
        self.read_weights(Path(path))
        return self


class Edges(NamedTuple):
    """The boundary pieces that a tokenizer puts around a sentence, as the model was pretrained."""

    before: np.ndarray
    after: np.ndarray
    class_position: int  # of the piece that speaks for the sentence, counted from the end where negative


def _edges(tokenizer: PreTrainedTokenizerBase, family: Family) -> Edges:
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    before, after = whole[:start], whole[start + len(inner) :]
    position = -1  # without a class piece the last one has seen them all
    if family.class_position is not None:
        position = family.class_position
    elif tokenizer.cls_token_id in before:
        position = before.index(tokenizer.cls_token_id)
    elif tokenizer.cls_token_id in after:
        position = after.index(tokenizer.cls_token_id) - len(after)
    return Edges(np.asarray(before, "int32"), np.asarray(after, "int32"), position)


class Cut(NamedTuple):
    """One sentence in pieces."""

    ids: np.ndarray  # (n_pieces,)
    spans: np.ndarray  # (n_pieces, 2) characters in the sentence's text; empty for boundary pieces
    windows: list[np.ndarray]  # for each window the pieces it shows
    class_position: int  # in each window
    truncated: bool


def _pieces(doc: Doc, cuts: list[Cut]) -> Pieces:
    """Join the sentences of a document and align them."""
    attrs = doc.to_array([IDX, LENGTH]).astype("int64").reshape(-1, 2)
    token_spans = np.stack([attrs[:, 0], attrs[:, 0] + attrs[:, 1]], axis=1)
    sents = list(doc.sents)
    n_pieces = np.array([len(cut.ids) for cut in cuts], "int32")
    n_tokens = np.array([len(sent) for sent in sents], "int32")
    kept = n_tokens.copy()
    offsets = np.cumsum(n_pieces) - n_pieces
    spans, windows, speakers = [], [], []
    for i, (sent, cut) in enumerate(zip(sents, cuts, strict=True)):
        shift = np.where(cut.spans[:, 1:] > cut.spans[:, :1], sent.start_char, 0)
        spans.append(cut.spans + shift)
        if cut.truncated:
            end = sent.start_char + cut.spans.max()
            kept[i] = max(1, np.searchsorted(token_spans[sent.start : sent.end, 0], end))
        windows += [offsets[i] + w for w in cut.windows if len(w)]
        speakers += [offsets[i] + w[cut.class_position] for w in cut.windows if len(w)]
    tokens, pieces = align(token_spans, _join(spans).reshape(-1, 2))
    return Pieces(
        ids=_join([cut.ids for cut in cuts]),
        sentence_pieces=n_pieces,
        sentence_tokens=n_tokens,
        kept_tokens=kept,
        aligned_tokens=tokens,
        aligned_pieces=pieces,
        window_sentence=np.repeat(np.arange(len(cuts)), [sum(len(w) > 0 for w in cut.windows) for cut in cuts]).astype(
            "int32"
        ),
        window_lengths=np.array([len(w) for w in windows], "int32"),
        window_class=np.array(speakers, "int32"),
        window_pieces=_join(windows),
    )


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays).astype("int32") if arrays else np.zeros(0, "int32")
