import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.pieces.windows import Template, TokenizedTexts, make_windows
from tests import soak

NO_BOUNDARIES = Template([[], [], []], [[], [], []], [0, 0], -1)  # as for GPT-2
SINGLE, PAIR = (
    Template([[-1], [-2], []], [[0], [0], []], [0, 0], 0),
    Template([[-1], [-2], [-3]], [[0], [0], [1]], [0, 1], 0),
)
unit_lengths = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=2), max_size=6)  # pieces of each unit's texts


def tokenized(units):
    """Texts whose pieces are 0, 1, 2, ...; each covers the character of its own number."""
    n = sum(map(sum, units))
    spans = np.stack([np.arange(n), np.arange(n) + 1], axis=1)
    return TokenizedTexts(np.arange(n), spans, np.array([length for lengths in units for length in lengths], int))


@soak.fuzz("windows", many=3000)
@given(unit_lengths, st.integers(8, 30), st.booleans(), st.booleans())
def test_windows_contain_every_piece_between_boundaries(units, max_length, truncate, without_boundaries):
    templates = [NO_BOUNDARIES, NO_BOUNDARIES] if without_boundaries else [SINGLE, PAIR]
    unit_texts = np.array([len(lengths) for lengths in units], int)
    actual = make_windows(tokenized(units), unit_texts, templates, max_length, truncate)
    all_windows = [
        actual.ids[actual.window_pieces[end - n : end]]
        for end, n in zip(np.cumsum(actual.window_lengths), actual.window_lengths, strict=True)
    ]
    ends = np.cumsum(actual.unit_pieces)
    start = 0
    for i, lengths in enumerate(units):
        own = np.arange(start, start + sum(lengths))
        start += sum(lengths)
        windows = [w.tolist() for w, unit in zip(all_windows, actual.window_unit, strict=True) if unit == i]
        boundaries = templates[len(lengths) - 1].boundary_ids
        capacity = max_length - sum(map(len, boundaries))
        assert all(0 < len(w) <= max_length for w in windows)
        for window in windows:
            first, second = (
                [p for p in window if p in own[part]] for part in (np.s_[: lengths[0]], np.s_[lengths[0] :])
            )
            assert window == [*boundaries[0], *first, *boundaries[1], *second, *boundaries[2]]
            assert all(part == list(range(part[0], part[0] + len(part))) for part in (first, second) if part)
        pairs = {(a, b) for w in windows for a in w if a in own[: lengths[0]] for b in w if b in own[lengths[0] :]}
        assert len(pairs) == np.prod(lengths) or len(lengths) == 1
        stored = actual.ids[ends[i] - actual.unit_pieces[i] : ends[i]]
        assert actual.truncated[i] == (truncate and len(lengths) == 1 and lengths[0] > capacity)
        expected = own[:capacity] if actual.truncated[i] else own
        assert sorted(stored[stored >= 0]) == expected.tolist(), "each piece once"
        assert np.count_nonzero(stored < 0) == len(windows) * sum(map(len, boundaries))
        assert len(windows) == (0 if without_boundaries and not sum(lengths) else 1) or sum(lengths) > capacity
    assert ((actual.spans[:, 0] == actual.ids) == (actual.ids >= 0)).all()
    if not without_boundaries:
        assert (actual.ids[actual.window_class] == -1).all()
        assert actual.types[actual.ids == -3].all()


@pytest.mark.parametrize(("length", "starts"), [(20, [0, 6, 12]), (21, [0, 6, 12, 13]), (9, [0, 1]), (8, [0]), (0, [])])
def test_windows_overlap_by_a_quarter(length, starts):
    actual = make_windows(tokenized([[length]]), np.array([1]), [SINGLE, PAIR], 10, truncate=False)
    window_starts = np.cumsum(actual.window_lengths) - actual.window_lengths
    firsts = actual.window_pieces[window_starts + 1][: len(starts)]
    assert actual.ids[firsts].tolist() == starts and len(actual.window_lengths) == max(1, len(starts))
