"""What the model reads at a time: a text, or the two of a pair, set off by boundary pieces.

What is longer than the model takes is shown in windows that overlap. All units of a batch are cut at once: most of
what NumPy costs here is in its calls.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..weights.families import Family
from .alignment import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Template(NamedTuple):
    """How a tokenizer sets off one text, or two, as the model was pretrained."""

    edges: list[list[int]]  # the boundary pieces before the first text, after it, and after the second
    edge_types: list[list[int]]  # their token types
    text_types: list[int]  # the token type of each of two texts
    class_position: int  # of the piece that speaks for the window, counted from the end where negative

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, family: Family, n_texts: int) -> Template:
        """As it treats so many texts, 1 or 2."""
        inner = tokenizer("a", add_special_tokens=False)["input_ids"]
        encoded = tokenizer(*["a"] * n_texts)
        whole = encoded["input_ids"]
        typed = family.token_types and "token_type_ids" in tokenizer.model_input_names
        types = encoded["token_type_ids"] if typed else [0] * len(whole)
        starts = [i for i in range(len(whole)) if whole[i : i + len(inner)] == inner]
        ends = [0, *(end for start in starts for end in (start, start + len(inner))), *[len(whole)] * 3]
        edges = [slice(*ends[i : i + 2]) for i in (0, 2, 4)]
        position = -1  # without a class piece the last one has seen them all
        if family.class_position is not None:
            position = family.class_position
        elif tokenizer.cls_token_id in whole[edges[0]]:
            position = whole.index(tokenizer.cls_token_id)
        elif tokenizer.cls_token_id in whole[edges[n_texts]]:
            position = -1 - whole[::-1].index(tokenizer.cls_token_id)
        return cls(
            [whole[edge] for edge in edges],
            [types[edge] for edge in edges],
            [types[start] for start in (starts * 2)[:2]],
            position,
        )


class Texts(NamedTuple):
    """Texts in pieces, without boundary pieces, end to end."""

    ids: np.ndarray  # (n_pieces,)
    spans: np.ndarray  # (n_pieces, 2) characters; empty where a piece has none
    lengths: np.ndarray  # (n_texts,) pieces of each


class Cut(NamedTuple):
    """Units, which are texts or pairs of them, as the model reads them; a piece that two windows show is there once."""

    ids: np.ndarray  # (n_pieces,) boundary pieces included, unit after unit
    types: np.ndarray  # (n_pieces,) token types
    spans: np.ndarray  # (n_pieces, 2) characters; empty for boundary pieces
    unit_pieces: np.ndarray  # (n_units,) pieces of each
    truncated: np.ndarray  # bool (n_units,): whether the model sees no more than its beginning
    unit: np.ndarray  # (n_windows,) that each window shows
    lengths: np.ndarray  # (n_windows,) pieces that it shows
    class_pieces: np.ndarray  # (n_windows,) the piece that speaks for it
    pieces: np.ndarray  # (n_rows,) the piece at each position of each window


def cut(texts: Texts, units: np.ndarray, templates: list[Template], most: int, truncate: bool) -> Cut:
    """Put boundary pieces around units, or around each window of one that is longer than the model takes.

    units (int, Shape (n_units,)): how many of the texts each takes: 1 or 2.
    templates: for one text, and for two.
    most: pieces that the model takes at a time.
    truncate: whether of a single text that is longer only the first window is shown.
    """
    # All pieces that there are to choose from: those at the edges, then those of the texts.
    kind, of, slot = units - 1, np.repeat(np.arange(len(units)), units), counted(units)
    edges = [edge for template in templates for edge in template.edges]
    edge_types = [types for template in templates for types in template.edge_types]
    text_types = np.array([template.text_types for template in templates])[kind[of], slot]
    edge_sizes = np.array([len(edge) for edge in edges])
    n_edges = edge_sizes.sum()
    edge_starts = (np.cumsum(edge_sizes) - edge_sizes).reshape(-1, 3)
    edge_sizes = edge_sizes.reshape(-1, 3)
    ids = np.concatenate([*edges, texts.ids]).astype("int32")
    types = np.concatenate([*edge_types, np.repeat(text_types, texts.lengths)]).astype("int32")
    spans = np.concatenate([np.zeros((n_edges, 2), "int64"), texts.spans])
    sizes, starts = np.zeros((2, len(units), 2), "int64")
    sizes[of, slot], starts[of, slot] = texts.lengths, n_edges + np.cumsum(texts.lengths) - texts.lengths

    # Which part of each text a window shows: all of it, as a rule.
    rooms = (most - edge_sizes.sum(1))[kind]
    truncated, counts = np.zeros(len(units), bool), np.ones(len(units), "int64")
    several = {}
    for i in np.flatnonzero(sizes.sum(1) > rooms):
        several[i] = np.array(list(product(*_parts(sizes[i].tolist(), int(rooms[i])))))
        if truncate and units[i] == 1:
            several[i], truncated[i] = several[i][:1], True
        counts[i] = len(several[i])
    unit = np.repeat(np.arange(len(units)), counts)
    shown = np.stack([np.zeros_like(sizes), sizes], axis=-1)[unit]
    for i, parts in several.items():
        shown[unit == i] = parts

    # An edge, a text, an edge, a second text or nothing, an edge or nothing.
    segments = np.empty((2, len(unit), 5), "int64")  # where they start, how long they are
    segments[0, :, ::2], segments[1, :, ::2] = edge_starts[kind[unit]], edge_sizes[kind[unit]]
    segments[0, :, 1::2], segments[1, :, 1::2] = starts[unit] + shown[..., 0], shown[..., 1] - shown[..., 0]
    some = segments[1].sum(1) > 0
    unit, (start, size) = unit[some], segments[:, some].reshape(2, -1)
    lengths = size.reshape(-1, 5).sum(1)
    rows = np.repeat(start, size) + counted(size)

    # A piece of a text is new where it is shown first, one at an edge always.
    places = np.arange(len(rows))
    first = np.zeros(len(ids), "int64")
    first[rows[::-1]] = places[::-1]
    first = np.where(rows < n_edges, places, first[rows])
    new = first == places
    pieces = (np.cumsum(new) - 1)[first]
    unit_pieces = np.bincount(np.repeat(unit, lengths)[new], minlength=len(units))
    position = np.array([template.class_position for template in templates])[kind[unit]]
    speakers = np.cumsum(lengths) - np.where(position < 0, 0, lengths) + position
    chosen = rows[new]
    return Cut(
        ids[chosen], types[chosen], spans[chosen], unit_pieces, truncated, unit, lengths, pieces[speakers], pieces
    )


def _parts(lengths: list[int], room: int) -> list[list[tuple[int, int]]]:
    """For each of two texts the parts, start and end, that windows show; they overlap by a quarter.

    The windows of a pair show each part of the first text with each part of the second.
    """
    first = min(lengths[0], max(room // 2, room - lengths[1]))  # a text gets half, and what the other leaves
    parts = []
    for n, size in zip(lengths, (first, room - first), strict=True):
        starts = [0]
        if n > size:
            starts = [*range(0, n - size, max(1, size - size // 4)), n - size]
        parts.append([(start, min(start + size, n)) for start in starts])
    return parts
