"""Hypothesis strategies: texts that are difficult for tokenizers."""

from hypothesis import strategies as st

ODD = [
    "😀", "👩‍👩‍👧", "🏳️‍🌈", "é", "́", "​", "‍", "﻿", "­", "‮", "שלום", "مرحبا", "汉字", "日本語", "한국어", "ไทย",
    "\x00", "\x07", "\x1b", "\t", "\n", "\r\n", " ", "　", "a" * 40, "...", "!!", "don't", "U.S.", "naïve", "ﬁ", "Ⅷ", "½",
    "Hello", "world", ".", "?", "İ", "ß", "𝔘", "x" * 120, "1,000.50", "https://example.org/a?b=c", "\ud83d".encode("utf-8", "replace").decode(),
]  # fmt: skip
texts = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(ODD), max_size=25).map("".join),
    st.lists(st.sampled_from(ODD), max_size=25).map(" ".join),
)
