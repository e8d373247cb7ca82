"""Other people's text in reports: characters that hide or reorder text become spaces."""

from __future__ import annotations

import re

# Control characters, marks of text direction, byte order mark, unpaired surrogates.
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Return a text in which every control character and direction mark is a space."""
    return _HIDDEN.sub(" ", text)
