"""`trf_wordpiecer`: cut each sentence into the model's own pieces and align them with spaCy's tokens."""

import warnings
import weakref
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from spacy.attrs import IDX, LENGTH
from spacy.language import Language
from spacy.pipeline import Pipe, Sentencizer
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import minibatch

from . import attributes
from .alignment import align
from .families import Family, family_of, max_pieces
from .pieces import KEY, Pieces, bounds
from .weights import BytesOfFolder, forget_folders, load_config, load_tokenizer

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
        new = [(doc, self._texts(doc)) for doc in docs if KEY not in doc.user_data]
        if new:
            cut = self._cut([text for _, units in new for texts in units for text in texts])
            cuts = [[self._window([next(cut) for _ in texts]) for texts in units] for _, units in new]
            lengths = [[sum(len(text) for text in texts) for texts in units] for _, units in new]
            for (doc, _), pieces in zip(new, _pieces([doc for doc, _ in new], lengths, cuts), strict=True):
                pieces.store(doc)
        for doc in docs:
            doc.user_hooks["trf_word_pieces_"] = self.strings

    def _texts(self, doc: Doc) -> list[list[Span]]:
        """What the transformer reads at a time: one text, or the two of a pair."""
        second = doc._.trf_second_text
        if second is not None:
            return [[doc[:second], doc[second:]]]
        if self.spans == "document":
            return [[doc[:]]] if len(doc) else []
        if isinstance(self.spans, int):
            return [[doc[start : start + self.spans]] for start in range(0, len(doc), self.spans)]
        if _bare(doc):
            self.sentencizer(doc)
        return [[sent] for sent in doc.sents]

    def strings(self, doc: Doc) -> list[str]:
        """The pieces of a document as the tokenizer writes them."""
        assert self.tokenizer is not None
        return self.tokenizer.convert_ids_to_tokens(Pieces.of(doc).ids.tolist())

    def _cut(self, texts: list[Span]) -> "Iterator[Text]":
        if not texts:
            return
        assert self.tokenizer is not None
        strings = [text.text for text in texts]
        if self.tokenizer.is_fast:
            # Straight to the Rust tokenizer: the layer above it changes settings at each call, which threads trip over.
            encoded = self.tokenizer.backend_tokenizer.encode_batch(strings, add_special_tokens=False)
            found = [one.ids for one in encoded]
            places = (one.offsets for one in encoded)
        else:
            found = self.tokenizer(strings, add_special_tokens=False, verbose=False)["input_ids"]
            places = (self._find(*one) for one in zip(strings, found, strict=True))
        counts = [len(one) for one in found]
        ids = np.fromiter(chain.from_iterable(found), "int32")
        spans: np.ndarray = np.fromiter(chain.from_iterable(places), np.dtype(("int32", 2)))
        starts = np.repeat([text.start_char if len(text) else 0 for text in texts], counts)
        spans += ((spans[:, 1] > spans[:, 0]) * starts)[:, None].astype("int32")
        for start, end in pairwise(bounds(counts)):
            yield Text(ids[start:end], spans[start:end])

    def _find(self, text: str, ids: list[int]) -> list[tuple[int, int]]:
        """Where in the text the pieces stand, by their letters, for a tokenizer that does not say."""
        from spacy_alignments import get_alignments

        assert self.tokenizer is not None
        strings = [
            self.tokenizer.convert_tokens_to_string([p]).strip() for p in self.tokenizer.convert_ids_to_tokens(ids)
        ]
        characters = get_alignments(list(text), strings)[1]
        return [(min(found), max(found) + 1) if found else (0, 0) for found in characters]

    def _window(self, texts: "list[Text]") -> "Cut":
        """Put boundary pieces around a text or two, or around each window of what is longer than the model takes.

        The windows of a pair show each part of the first text with each part of the second.
        """
        template = self.templates[len(texts) - 1]
        room = self.max_pieces - sum(map(len, template.edges))
        if len(texts) == 1 and len(texts[0].ids) <= room:
            return template.around(texts[0])
        parts = _parts([len(text.ids) for text in texts], room)
        truncated = len(texts) == 1 and len(parts[0]) > 1 and self.long_sentences == "truncate"
        places = [np.full(len(text.ids), -1) for text in texts]  # of each piece among those of the sentence
        ids: list[np.ndarray] = []
        types: list[np.ndarray] = []
        spans: list[np.ndarray] = []
        windows: list[np.ndarray] = []
        size = 0
        for chosen in [tuple(part[0] for part in parts)] if truncated else product(*parts):
            window: list[np.ndarray] = []
            for i, edge in enumerate(template.edges):
                ids.append(edge)
                types.append(template.edge_types[i])
                spans.append(np.zeros((len(edge), 2), "int32"))
                window.append(size + np.arange(len(edge)))
                size += len(edge)
                if i < len(texts):
                    start, end = chosen[i]
                    new = start + np.flatnonzero(places[i][start:end] < 0)
                    places[i][new] = size + np.arange(len(new))
                    ids.append(texts[i].ids[new])
                    types.append(np.full(len(new), template.text_types[i]))
                    spans.append(texts[i].spans[new])
                    window.append(places[i][start:end])
                    size += len(new)
            windows.append(np.concatenate(window))
        return Cut(_join(ids), _join(types), np.concatenate(spans), windows, template.class_position, truncated)

    # Serialization: the folder is a weights folder without model.safetensors.

    def read_weights(self, folder: Path) -> None:
        """Take the tokenizer in a folder. Raises ValueError where there is none."""
        self.tokenizer = load_tokenizer(folder)
        if self.tokenizer.is_fast:
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
        self.config = load_config(folder)
        self.templates = [_template(self.tokenizer, family_of(self.config), n) for n in (1, 2)]
        self.max_pieces = max_pieces(self.config, self.tokenizer)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        if self.tokenizer is None:
            raise ValueError(f"component '{self.name}' has no tokenizer to save")
        self.tokenizer.save_pretrained(str(path))
        self.config.save_pretrained(str(path))

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "WordPiecer":
        self.read_weights(Path(path))
        return self


SENTENCES = {"doc.sents", "token.is_sent_start", "token.sent_start"}


def _bare(doc: Doc) -> bool:
    """Whether nobody has set sentences, nor cut the document into pieces."""
    bare = KEY not in doc.user_data and not doc.has_annotation("SENT_START")
    return bare and not attributes.is_reduced(doc)


class Text(NamedTuple):
    """A sentence, or one text of a pair, in pieces."""

    ids: np.ndarray  # (n_pieces,) without boundary pieces
    spans: np.ndarray  # (n_pieces, 2) characters in the document's text; empty where a piece has none


class Template(NamedTuple):
    """How a tokenizer sets off one text, or two, as the model was pretrained."""

    edges: list[np.ndarray]  # the boundary pieces before the first text, after it, and after the second
    edge_types: list[np.ndarray]  # their token types
    text_types: list[int]  # the token type of each text
    class_position: int  # of the piece that speaks for the sentence, counted from the end where negative

    def around(self, text: Text) -> "Cut":
        """One text in one window, as nearly all are: what `_window` does, in fewer steps."""
        before, after = self.edges
        inside = slice(len(before), len(before) + len(text.ids))
        ids = np.concatenate((before, text.ids, after))
        types = np.full(len(ids), self.text_types[0], "int32")
        types[: inside.start], types[inside.stop :] = self.edge_types
        spans = np.zeros((len(ids), 2), "int32")
        spans[inside] = text.spans
        return Cut(ids, types, spans, [np.arange(len(ids))], self.class_position, False)


def _template(tokenizer: "PreTrainedTokenizerBase", family: Family, n_texts: int) -> Template:
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    encoded = tokenizer(*["a"] * n_texts)
    whole = encoded["input_ids"]
    typed = family.token_types and "token_type_ids" in tokenizer.model_input_names
    types = encoded["token_type_ids"] if typed else [0] * len(whole)
    starts = [i for i in range(len(whole)) if whole[i : i + len(inner)] == inner]
    ends = [0, *(end for start in starts for end in (start, start + len(inner))), len(whole)]
    edges = [slice(*ends[i : i + 2]) for i in range(0, len(ends), 2)]
    position = -1  # without a class piece the last one has seen them all
    if family.class_position is not None:
        position = family.class_position
    elif tokenizer.cls_token_id in whole[edges[0]]:
        position = whole.index(tokenizer.cls_token_id)
    elif tokenizer.cls_token_id in whole[edges[-1]]:
        position = len(whole) - 1 - whole[::-1].index(tokenizer.cls_token_id) - len(whole)
    return Template(
        [np.asarray(whole[edge], "int32") for edge in edges],
        [np.asarray(types[edge], "int32") for edge in edges],
        [types[start] for start in starts],
        position,
    )


def _parts(lengths: list[int], room: int) -> list[list[tuple[int, int]]]:
    """For each text the parts, start and end, that windows show; they overlap by a quarter."""
    rooms = [room]
    if len(lengths) == 2:  # a text gets half, and what the other leaves
        first = min(lengths[0], max(room // 2, room - lengths[1]))
        rooms = [first, room - first]
    parts = []
    for n, size in zip(lengths, rooms, strict=True):
        starts = [0]
        if n > size:
            starts = [*range(0, n - size, max(1, size - size // 4)), n - size]
        parts.append([(start, min(start + size, n)) for start in starts])
    return parts


class Cut(NamedTuple):
    """One sentence, or one pair of texts, in pieces."""

    ids: np.ndarray  # (n_pieces,)
    types: np.ndarray  # (n_pieces,) token types
    spans: np.ndarray  # (n_pieces, 2) characters in the document's text; empty for boundary pieces
    windows: list[np.ndarray]  # for each window the pieces it shows
    class_position: int  # in each window
    truncated: bool


def _pieces(docs: list[Doc], lengths: list[list[int]], cuts: list[list[Cut]]) -> Iterator[Pieces]:
    """Join the sentences of each document, of so many tokens each, and align them.

    All documents at once, as if each were the next part of one text: most of what NumPy costs here is in its calls.
    """
    flat = list(chain.from_iterable(cuts))
    shown = [[w for w in cut.windows if len(w)] for cut in flat]
    windows = list(chain.from_iterable(shown))
    n_tokens = np.fromiter(chain.from_iterable(lengths), "int32")
    n_pieces = np.array([len(cut.ids) for cut in flat], "int32")
    window_lengths = np.array([len(w) for w in windows], "int32")
    window_sentence = np.repeat(np.arange(len(flat)), [len(some) for some in shown])

    # Where the sentences, tokens, pieces, windows, and rows of each document begin and end.
    sentences = bounds([len(some) for some in cuts])
    tokens, pieces = (bounds(counts)[sentences] for counts in (n_tokens, n_pieces))
    at_window = bounds([len(some) for some in shown])[sentences]
    at_row = bounds(window_lengths)[at_window]

    attrs = _join([doc.to_array([IDX, LENGTH]).ravel() for doc in docs], "int64").reshape(-1, 2)
    characters = bounds([doc[-1].idx + len(doc[-1]) if len(doc) else 0 for doc in docs])[:-1]
    token_starts = attrs[:, 0] + np.repeat(characters, np.diff(tokens))
    token_spans = np.stack([token_starts, token_starts + attrs[:, 1]], axis=1)
    spans = _join([cut.spans.ravel() for cut in flat], "int64").reshape(-1, 2)
    aligned_tokens, aligned_pieces = align(token_spans, spans + np.repeat(characters, np.diff(pieces))[:, None])
    at_pair = np.searchsorted(aligned_tokens, tokens)

    kept = n_tokens.copy()
    for i, cut in enumerate(flat):
        if cut.truncated:
            start = n_tokens[:i].sum()
            end = cut.spans.max() + characters[np.searchsorted(sentences, i, side="right") - 1]
            kept[i] = max(1, np.searchsorted(token_starts[start : start + n_tokens[i]], end))

    # Each document counts its sentences, tokens and pieces from zero.
    offsets = (bounds(n_pieces)[:-1] - np.repeat(pieces[:-1], np.diff(sentences)))[window_sentence]
    speakers = [w[cut.class_position] for cut, some in zip(flat, shown, strict=True) for w in some]
    columns: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "ids": (_join([cut.ids for cut in flat]), pieces),
        "types": (_join([cut.types for cut in flat]), pieces),
        "sentence_pieces": (n_pieces, sentences),
        "sentence_tokens": (n_tokens, sentences),
        "kept_tokens": (kept, sentences),
        "aligned_tokens": (aligned_tokens - np.repeat(tokens[:-1], np.diff(at_pair)), at_pair),
        "aligned_pieces": (aligned_pieces - np.repeat(pieces[:-1], np.diff(at_pair)), at_pair),
        "window_sentence": (window_sentence - np.repeat(sentences[:-1], np.diff(at_window)), at_window),
        "window_lengths": (window_lengths, at_window),
        "window_class": (np.array(speakers, "int64") + offsets, at_window),
        "window_pieces": (_join(windows, "int64") + np.repeat(offsets, window_lengths), at_row),
    }
    parts = [(name, values.astype("int32"), at.tolist()) for name, (values, at) in columns.items()]
    for i in range(len(docs)):
        yield Pieces(**{name: values[at[i] : at[i + 1]] for name, values, at in parts})


def _join(arrays: list[np.ndarray], dtype: str = "int32") -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)
