"""The units that the transformer reads, a text or a pair of texts, with boundary pieces added.

A unit longer than the model's maximum length is split into overlapping windows. All units of a batch are processed at
once, because NumPy's cost here is mostly per call.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..weights.families import Family
from .alignment import concat_ranges

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Template(NamedTuple):
    """How a tokenizer adds boundary pieces to one text or a pair, as in the model's pretraining."""

    boundary_ids: list[list[int]]  # boundary pieces before the first text, after it, and after the second
    boundary_types: list[list[int]]  # their token types
    text_types: list[int]  # the token type of the first and of the second text
    class_position: int  # position of the class piece in a window, from the end if negative

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, family: Family, n_texts: int) -> Template:
        """The template that this tokenizer uses for n_texts (1 or 2) texts."""
        inner = tokenizer("a", add_special_tokens=False)["input_ids"]
        encoded = tokenizer(*["a"] * n_texts)
        whole = encoded["input_ids"]
        has_types = family.token_types and "token_type_ids" in tokenizer.model_input_names
        types = encoded["token_type_ids"] if has_types else [0] * len(whole)
        starts = [i for i in range(len(whole)) if whole[i : i + len(inner)] == inner]
        ends = [0, *(end for start in starts for end in (start, start + len(inner))), *[len(whole)] * 3]
        boundaries = [slice(*ends[i : i + 2]) for i in (0, 2, 4)]
        position = -1  # without a class piece, the last piece: in a causal model it attends to all others
        if family.class_position is not None:
            position = family.class_position
        elif tokenizer.cls_token_id in whole[boundaries[0]]:
            position = whole.index(tokenizer.cls_token_id)
        elif tokenizer.cls_token_id in whole[boundaries[n_texts]]:
            position = -1 - whole[::-1].index(tokenizer.cls_token_id)
        return cls(
            [whole[boundary] for boundary in boundaries],
            [types[boundary] for boundary in boundaries],
            [types[start] for start in (starts * 2)[:2]],
            position,
        )


class TokenizedTexts(NamedTuple):
    """The pieces of texts without boundary pieces, concatenated."""

    ids: np.ndarray  # (n_pieces,)
    spans: np.ndarray  # (n_pieces, 2) start and end character; empty if a piece has no characters
    lengths: np.ndarray  # (n_texts,) pieces of each text


class WindowedUnits(NamedTuple):
    """Units with boundary pieces, and their windows. A piece that occurs in two windows is stored once."""

    ids: np.ndarray  # (n_pieces,) boundary pieces included, unit after unit
    types: np.ndarray  # (n_pieces,) token types
    spans: np.ndarray  # (n_pieces, 2) start and end character; empty for boundary pieces
    unit_pieces: np.ndarray  # (n_units,) pieces of each unit
    truncated: np.ndarray  # bool (n_units,) whether the unit was truncated
    window_unit: np.ndarray  # (n_windows,) the unit that each window belongs to
    window_lengths: np.ndarray  # (n_windows,) pieces in each window
    window_class: np.ndarray  # (n_windows,) the window's class piece
    window_pieces: np.ndarray  # (n_rows,) piece at each position of each window


def make_windows(
    texts: TokenizedTexts, unit_texts: np.ndarray, templates: list[Template], max_length: int, truncate: bool
) -> WindowedUnits:
    """Add boundary pieces to units, or to each window of a unit that is longer than the model's maximum length.

    unit_texts (int, Shape (n_units,)): number of texts in each unit, 1 or 2.
    templates: for one text, and for a pair.
    max_length: the model's maximum length in pieces, boundary pieces included.
    truncate: whether to keep only the first window of a unit that is a single text.
    """
    # The source pieces: all boundary pieces of both templates, then those of the texts.
    template_of, slot = unit_texts - 1, concat_ranges(unit_texts)
    unit_of_text = np.repeat(np.arange(len(unit_texts)), unit_texts)
    boundary_ids = [ids for template in templates for ids in template.boundary_ids]
    boundary_types = [types for template in templates for types in template.boundary_types]
    text_types = np.array([template.text_types for template in templates])[template_of[unit_of_text], slot]
    boundary_sizes = np.array([len(ids) for ids in boundary_ids])
    n_boundary = boundary_sizes.sum()
    boundary_starts = (np.cumsum(boundary_sizes) - boundary_sizes).reshape(-1, 3)
    boundary_sizes = boundary_sizes.reshape(-1, 3)
    ids = np.concatenate([*boundary_ids, texts.ids]).astype("int32")
    types = np.concatenate([*boundary_types, np.repeat(text_types, texts.lengths)]).astype("int32")
    spans = np.concatenate([np.zeros((n_boundary, 2), "int64"), texts.spans])
    sizes, starts = np.zeros((2, len(unit_texts), 2), "int64")
    sizes[unit_of_text, slot] = texts.lengths
    starts[unit_of_text, slot] = n_boundary + np.cumsum(texts.lengths) - texts.lengths

    # The part (start and end) of each text in each window: usually all of it.
    capacities = (max_length - boundary_sizes.sum(1))[template_of]
    truncated, n_windows = np.zeros(len(unit_texts), bool), np.ones(len(unit_texts), "int64")
    split = {}
    for i in np.flatnonzero(sizes.sum(1) > capacities):
        split[i] = np.array(list(product(*_window_parts(sizes[i].tolist(), int(capacities[i])))))
        if truncate and unit_texts[i] == 1:
            split[i], truncated[i] = split[i][:1], True
        n_windows[i] = len(split[i])
    unit = np.repeat(np.arange(len(unit_texts)), n_windows)
    parts = np.stack([np.zeros_like(sizes), sizes], axis=-1)[unit]
    for i, unit_parts in split.items():
        parts[unit == i] = unit_parts

    # A window has five segments: boundary, text, boundary, second text, boundary; the last two may be empty.
    segments = np.empty((2, len(unit), 5), "int64")  # start in the source pieces, and size
    segments[0, :, ::2], segments[1, :, ::2] = boundary_starts[template_of[unit]], boundary_sizes[template_of[unit]]
    segments[0, :, 1::2], segments[1, :, 1::2] = starts[unit] + parts[..., 0], parts[..., 1] - parts[..., 0]
    nonempty = segments[1].sum(1) > 0
    unit, (start, size) = unit[nonempty], segments[:, nonempty].reshape(2, -1)
    lengths = size.reshape(-1, 5).sum(1)
    source = np.repeat(start, size) + concat_ranges(size)

    # Deduplicate: a text's piece is stored at its first occurrence, a boundary piece at each occurrence.
    rows = np.arange(len(source))
    first_row = np.zeros(len(ids), "int64")
    first_row[source[::-1]] = rows[::-1]
    first_row = np.where(source < n_boundary, rows, first_row[source])
    is_first = first_row == rows
    window_pieces = (np.cumsum(is_first) - 1)[first_row]
    unit_pieces = np.bincount(np.repeat(unit, lengths)[is_first], minlength=len(unit_texts))
    position = np.array([template.class_position for template in templates])[template_of[unit]]
    class_rows = np.cumsum(lengths) - np.where(position < 0, 0, lengths) + position
    stored = source[is_first]
    return WindowedUnits(
        ids=ids[stored],
        types=types[stored],
        spans=spans[stored],
        unit_pieces=unit_pieces,
        truncated=truncated,
        window_unit=unit,
        window_lengths=lengths,
        window_class=window_pieces[class_rows],
        window_pieces=window_pieces,
    )


def _window_parts(lengths: list[int], capacity: int) -> list[list[tuple[int, int]]]:
    """For each of two texts the parts (start and end) that its windows contain; they overlap by a quarter.

    The windows of a pair combine each part of the first text with each part of the second.
    """
    first = min(lengths[0], max(capacity // 2, capacity - lengths[1]))  # half, plus what the second leaves free
    parts = []
    for n, size in zip(lengths, (first, capacity - first), strict=True):
        starts = [0]
        if n > size:
            starts = [*range(0, n - size, max(1, size - size // 4)), n - size]
        parts.append([(start, min(start + size, n)) for start in starts])
    return parts
