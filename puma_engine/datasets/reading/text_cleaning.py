"""Cleaning of item texts before a model sees them."""

import re
import unicodedata

# Invisible characters that reorder or hide text. Joiners (U+200C, U+200D) stay: several
# scripts need them.
_HIDDEN = "\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u2060\ufeff" + "".join(
    map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xFFF9, 0xFFFC)))
)
_SPACE = re.compile(r"[\s\x85\u2028\u2029]+")
_REMOVED = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff{_HIDDEN}]")


def clean_text(text: str) -> str:
    """Return the text in NFC, whitespace collapsed, control and hidden characters removed.

    The text is not shortened: a template cuts titles to its own token budget. Text that looks
    like a special token stays: the backbone tokenises it as plain text.
    """
    spaced = _SPACE.sub(" ", text)
    return _SPACE.sub(" ", unicodedata.normalize("NFC", _REMOVED.sub("", spaced))).strip()
