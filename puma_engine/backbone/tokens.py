"""From texts to token ids: pieces tokenised one by one, and the tokens that answer a template.

A tokenizer here is any Hugging Face fast tokenizer. Nothing in a text is ever read as a
special token, so a title that spells one stays a title.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from puma_engine.backbone.templates import Template
from puma_engine.errors import BackboneError

Tokenizer = Any


def clean_text(text: str) -> str:
    """Return the text without control characters and with single spaces."""
    if text.isprintable():
        return " ".join(text.split())
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    return " ".join(kept.split())


def encode_raw(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text as it stands, special-token text in it taken as plain text."""
    if not text:
        return []
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def encode_many(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of many cleaned texts, as `encode_text` gives them one by one."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    return [list(ids) for ids in encoded["input_ids"]]


def adds_leading_space(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer puts a space of its own in front of every text."""
    first = tokenizer.convert_ids_to_tokens(encode_raw(tokenizer, "a"))[0]
    return first[:1] in ("\u2581", "\u0120")


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of one piece of a template.

    A tokenizer that prepends a space gets the piece without its own leading space, so
    that the sequence has one there, not two.
    """
    if text.startswith(" ") and adds_leading_space(tokenizer):
        text = text[1:]
    return encode_raw(tokenizer, text)


def start_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that the tokenizer puts in front of every text (BOS, or nothing)."""
    whole = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []


def answer_tokens(
    tokenizer: Tokenizer, template: Template, answers: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Find what really follows a template's end.

    Returns the ids of the answer cue, as it reads in front of an answer (it may end in
    a lone space token), and one id for each answer, all distinct. Raises BackboneError if
    some answer takes more than one token of its own, or two share one.
    """
    cue = str(template.pieces[-1])
    for gap in (" ", ""):
        encoded = [encode_text(tokenizer, cue + gap + answer) for answer in answers]
        shared = _shared_length(encoded)
        ids = [ids[shared:] for ids in encoded]
        single = all(len(rest) == 1 for rest in ids)
        if single and len({rest[0] for rest in ids}) == len(answers):
            unknown = getattr(tokenizer, "unk_token_id", None)
            if unknown is None or all(rest[0] != unknown for rest in ids):
                return encoded[0][:shared], [rest[0] for rest in ids]
    shown = ", ".join(
        f"{answer!r} as {tokenizer.convert_ids_to_tokens(encode_text(tokenizer, cue + ' ' + answer))[-3:]}"
        for answer in answers
    )
    raise BackboneError(
        f"The tokenizer cannot answer the template {template.name!r} with one distinct token for each "
        f"of {', '.join(answers)} (it ends in {shown}); choose a model whose tokenizer has them."
    )


def _shared_length(sequences: Sequence[Sequence[int]]) -> int:
    shared = 0
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return shared
