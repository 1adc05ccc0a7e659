"""Texts and labels that a page, a table or a terminal could take for more than text."""

TEXTS = (
    "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "<!--<script>", "'\"><b>", "R&D &amp;",
    "{{7*7}}", "{% raw %}", "| a | b |", "a|b", "a\\|b", "[x](javascript:alert(1))", "![x](y)", "*x*", "__x__", "a_b", "`x`",
    "$\\frac$", "$1k_to_$5k", "~~a~~", "C#", "C+", "a\\", "\x1b[31m", "a\rb", "a\r\n\r\nb", "\u202eabc", "\u2066abc",
    "a\x00b", "x" * 300, "👍", "👩‍👩‍👧", "--> x", "..", "<DVC_METRIC_TITLE>", "{plot_divs}",
)  # fmt: skip
