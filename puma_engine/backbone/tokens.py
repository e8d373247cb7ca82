"""From texts to token ids: pieces of a template, each on its own, and its answer tokens.

A tokenizer is any Hugging Face fast tokenizer. No text is ever encoded as a special token, so a
title that spells one stays text.
"""

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
    spaced = "".join(
        " " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text
    )
    return " ".join(spaced.split())


def encode_raw(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text unchanged; special tokens in it are encoded as plain text."""
    if not text:
        return []
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def encode_many(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of many cleaned texts, each as `encode_text` returns them."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    return [list(ids) for ids in encoded["input_ids"]]


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of one piece of a template.

    A tokenizer that prepends a space gets the piece without its leading space, so that the
    sequence has one space there, not two.
    """
    if text.startswith(" "):
        first = tokenizer.convert_ids_to_tokens(encode_raw(tokenizer, "a"))[0]
        text = text[1:] if first[:1] in ("\u2581", "\u0120") else text
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
    """Return the ids of a template's answer cue, and one id for each answer, all distinct.

    The cue is encoded together with an answer, so it may end in a space token, and an answer is the
    token that follows the cue in running text, also where the prompt slot stands between them. Raises
    BackboneError if an answer takes more than one token, or two answers share one.
    """
    cue = template.cue
    for gap in (" ", ""):
        encoded = [encode_text(tokenizer, cue + gap + answer) for answer in answers]
        columns = enumerate(zip(*encoded, strict=False))
        shared = next((n for n, column in columns if len(set(column)) > 1), min(map(len, encoded)))
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
