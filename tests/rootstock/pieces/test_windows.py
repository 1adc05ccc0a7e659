import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootstock.pieces.windows import Template, Texts, cut

PLAIN = Template([[], [], []], [[], [], []], [0, 0], -1)  # as of GPT-2
SINGLE, PAIR = (
    Template([[-1], [-2], []], [[0], [0], []], [0, 0], 0),
    Template([[-1], [-2], [-3]], [[0], [0], [1]], [0, 1], 0),
)
units = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=2), max_size=6)  # pieces of the texts of each


def pieces(some):
    """Texts whose pieces are 0, 1, 2, ...; each stands for the character of its own number."""
    n = sum(map(sum, some))
    spans = np.stack([np.arange(n), np.arange(n) + 1], axis=1)
    return Texts(np.arange(n), spans, np.array([length for lengths in some for length in lengths], int))


@given(units, st.integers(8, 30), st.booleans(), st.booleans())
def test_windows_show_every_piece_between_its_edges(some, most, truncate, bare):
    templates = [PLAIN, PLAIN] if bare else [SINGLE, PAIR]
    found = cut(pieces(some), np.array([len(lengths) for lengths in some], int), templates, most, truncate)
    shown = [
        found.ids[found.pieces[end - n : end]] for end, n in zip(np.cumsum(found.lengths), found.lengths, strict=True)
    ]
    ends = np.cumsum(found.unit_pieces)
    text = 0
    for i, lengths in enumerate(some):
        own = np.arange(text, text + sum(lengths))
        text += sum(lengths)
        windows = [w.tolist() for w, unit in zip(shown, found.unit, strict=True) if unit == i]
        edges = templates[len(lengths) - 1].edges
        room = most - sum(map(len, edges))
        assert all(0 < len(w) <= most for w in windows)
        for window in windows:
            first, second = (
                [p for p in window if p in own[part]] for part in (np.s_[: lengths[0]], np.s_[lengths[0] :])
            )
            assert window == [*edges[0], *first, *edges[1], *second, *edges[2]]
            assert all(part == list(range(part[0], part[0] + len(part))) for part in (first, second) if part)
        pairs = {(a, b) for w in windows for a in w if a in own[: lengths[0]] for b in w if b in own[lengths[0] :]}
        assert len(pairs) == np.prod(lengths) or len(lengths) == 1
        stored = found.ids[ends[i] - found.unit_pieces[i] : ends[i]]
        assert found.truncated[i] == (truncate and len(lengths) == 1 and lengths[0] > room)
        seen = own[:room] if found.truncated[i] else own
        assert sorted(stored[stored >= 0]) == seen.tolist(), "each piece once"
        assert np.count_nonzero(stored < 0) == len(windows) * sum(map(len, edges))
        assert len(windows) == (0 if bare and not sum(lengths) else 1) or sum(lengths) > room
    assert ((found.spans[:, 0] == found.ids) == (found.ids >= 0)).all()
    if not bare:
        assert (found.ids[found.class_pieces] == -1).all()
        assert found.types[found.ids == -3].all()


@pytest.mark.parametrize(("length", "starts"), [(20, [0, 6, 12]), (21, [0, 6, 12, 13]), (9, [0, 1]), (8, [0]), (0, [])])
def test_windows_overlap_by_a_quarter(length, starts):
    found = cut(pieces([[length]]), np.array([1]), [SINGLE, PAIR], 10, truncate=False)
    firsts = found.pieces[np.cumsum(found.lengths) - found.lengths + 1][: len(starts)]
    assert found.ids[firsts].tolist() == starts and len(found.lengths) == max(1, len(starts))
