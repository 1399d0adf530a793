"""Inputs from sound ones: bytes flipped, cut out, doubled and set to numbers that are easily mistaken; odd texts."""

import struct

from hypothesis import strategies as st

NUMBERS = [
    *(struct.pack("<i", number) for number in (0, 1, -1, 2**31 - 1, -(2**31), 255, 65535)),
    *(struct.pack(">q", number) for number in (0, 1, -1, 2**63 - 1, -(2**63), 2**32)),
    *(struct.pack("<d", number) for number in (0.5, 1e308, float("nan"), float("inf"))), b"\0", b"\xff", b"\x80",
]  # fmt: skip
odd_texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", " ", "0", "-1", "1e999", "nan", "None", "\n", "\0", "..", "/", "~", "%s", "{}", "'", "\\",
                     "a" * 300, "-00", "0x10", "١", "1_000", "\ud800", "\u2028", "[[", "((((", "9" * 5_000, "&a [*a]",
                     "true"]),
    st.integers().map(str), st.floats().map(repr),
)  # fmt: skip
# What a pickle may hold in the place of something else.
odd_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=8), st.integers()), inner, max_size=3),
    ),
    max_leaves=6,
)


def altered_bytes(content: bytes, most: int = 6) -> st.SearchStrategy[bytes]:
    """`content` after some alterations of its bytes."""

    @st.composite
    def strategy(draw) -> bytes:
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, most))):
            at = draw(st.integers(0, max(0, len(changed) - 1)))
            length = draw(st.integers(1, 64))
            kind = draw(st.sampled_from(["flip", "set", "number", "cut", "double", "insert", "end", "move"]))
            if kind == "flip" and changed:
                changed[at] ^= 1 << draw(st.integers(0, 7))
            elif kind == "set" and changed:
                changed[at] = draw(st.integers(0, 255))
            elif kind == "number":
                number = draw(st.sampled_from(NUMBERS))
                changed[at : at + len(number)] = number
            elif kind == "cut":
                del changed[at : at + length]
            elif kind == "double":
                changed[at:at] = changed[at : at + length]
            elif kind == "insert":
                changed[at:at] = draw(st.binary(max_size=16))
            elif kind == "end":
                del changed[at:]
            elif kind == "move":
                to = draw(st.integers(0, len(changed)))
                part = changed[at : at + length]
                del changed[at : at + length]
                changed[to:to] = part
        return bytes(changed)

    return strategy()


def altered_lines(text: str, separators: str = " ,\t") -> st.SearchStrategy[bytes]:
    """`text` after some alterations of its lines and of the words in them."""

    @st.composite
    def strategy(draw) -> bytes:
        lines = text.split("\n")
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(lines) - 1))
            kind = draw(st.sampled_from(["drop", "double", "swap", "replace", "word", "word", "word", "empty"]))
            if kind == "drop" and len(lines) > 1:
                del lines[at]
            elif kind == "double":
                lines.insert(at, lines[at])
            elif kind == "swap":
                to = draw(st.integers(0, len(lines) - 1))
                lines[at], lines[to] = lines[to], lines[at]
            elif kind == "replace":
                lines[at] = draw(odd_texts)
            elif kind == "empty":
                lines.insert(at, "")
            elif kind == "word":
                mark = next((mark for mark in separators if mark in lines[at]), separators[0])
                words = lines[at].split(mark)
                words[draw(st.integers(0, len(words) - 1))] = draw(odd_texts)
                lines[at] = mark.join(words)
        return draw(st.sampled_from(["\n", "\n", "\r\n"])).join(lines).encode("utf-8", "surrogatepass")

    return strategy()


def altered(content: bytes, text: bool = False) -> st.SearchStrategy[bytes]:
    """A file after alterations of its bytes or, where it is one of `text`, of its lines."""
    return st.one_of(altered_lines(content.decode()), altered_bytes(content)) if text else altered_bytes(content)
