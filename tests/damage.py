"""Damaged JSON and safetensors files."""

import json
import struct

from hypothesis import strategies as st


@st.composite
def damages(draw):
    """A function from the bytes of a file to damaged ones."""
    kind = draw(st.sampled_from(["cut", "flip", "deep", "header", "value", "value", "value"]))
    if kind == "deep":
        return lambda data: b'{"a":' * 100_000
    if kind == "cut":
        place = draw(st.floats(0, 1))
        return lambda data: data[: int(place * len(data))]
    if kind == "flip":
        flips = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=8))
        return lambda data: flipped(data, flips)
    if kind == "header":
        length = draw(st.sampled_from([0, 1, 7, 2**31, 2**63, 2**64 - 1]) | st.integers(0, 5000))
        return lambda data: struct.pack("<Q", length) + data[8:]
    rng = draw(st.randoms(use_true_random=False))
    return lambda data: with_other_value(data, rng)


def flipped(data, flips):
    data = bytearray(data)
    for place, bits in flips:
        data[int(place * (len(data) - 1))] ^= bits
    return bytes(data)


VALUES = [
    None,
    -1,
    0,
    3,
    2**18,
    10**30,
    1.5,
    float("nan"),
    "",
    "x",
    "../x",
    "F64",
    [],
    {},
    [[]],
    {"a": 1},
    True,
    "\ud800",
]


def with_other_value(data, rng):
    """A JSON file, or the header of a safetensors file, with one value replaced or removed."""
    head, text, rest = b"", data, b""
    if not data.startswith(b"{"):
        length = struct.unpack("<Q", data[:8])[0]
        head, text, rest = data[:8], data[8 : 8 + length], data[8 + length :]
    root = place = json.loads(text)
    while True:
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    place[key] = rng.choice(VALUES)
    if rng.random() < 0.2:
        del place[key]
    text = json.dumps(root).encode()
    return (head and struct.pack("<Q", len(text))) + text + rest
