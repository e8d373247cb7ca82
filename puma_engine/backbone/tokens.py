"""Encode texts and templates with a tokenizer, and find the answer tokens.

A tokenizer is any Hugging Face fast tokenizer. No text is ever encoded as a special or added token,
so a title that spells one stays text.
"""

import json
import re
import unicodedata
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from puma_engine.backbone.chat import chat_frame
from puma_engine.backbone.templates import PIECEWISE, Piece, Slot, Template
from puma_engine.errors import BackboneError, TemplateError

Tokenizer = Any
Ids = tuple[int, ...]

# A text is encoded behind one of these to get its tokens inside a sentence. A digit merges with nothing
# in most tokenizers; the others are for texts that begin with a digit.
_ANCHORS = ("1", "a", ")")
# A score that no piece of a unigram model has, so that a better segmentation is always found.
_UNREACHABLE = -1e9
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def clean_text(text: str) -> str:
    """Return the text without control characters and with single spaces."""
    if text.isprintable():
        return " ".join(text.split())
    spaced = "".join(
        " " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text
    )
    return " ".join(spaced.split())


class TextEncoder:
    """A tokenizer that has neither special nor added tokens: every text is plain text.

    Added tokens of white space alone (GPT-NeoX has some) stay, since they are text. Raises
    BackboneError if the tokenizer still turns the text of such a token into the token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._plain: tokenizers.Tokenizer | None = None
        self._hidden = {
            token.content: id_
            for id_, token in tokenizer.added_tokens_decoder.items()
            if token.content.strip()
        }
        if self._readable():
            # Unknown characters become the unknown token or bytes, whatever the text spells.
            backend = tokenizer.backend_tokenizer
            vocabulary_tokens = {
                getattr(tokenizer, "unk_token", None),
                getattr(backend.model, "unk_token", None),
            }
            vocabulary_tokens |= {name for name in self._hidden if _BYTE.fullmatch(name)}
            self._plain = _without_added_tokens(backend, set(self._hidden), vocabulary_tokens)
            if imitable := [name for name in self._readable() if name not in vocabulary_tokens]:
                raise BackboneError(
                    f"The tokenizer reads the text {imitable[0]!r} as a special token, so a title could "
                    "imitate one; choose a model with another tokenizer."
                )

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text at the start of a sequence, without BOS."""
        if not texts:
            return []
        if self._plain is not None:
            encoded = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in encoded]
        return encode_many(self._tokenizer, texts)

    def continued(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text behind other text in the same sentence.

        A tokenizer that puts a space in front of every text puts none in front of these.
        """
        ids: list[list[int]] = [[] for _ in texts]
        missing = [row for row, text in enumerate(texts) if text]
        for anchor in _ANCHORS:
            if not missing:
                return ids
            start, *encoded = self([anchor, *(anchor + texts[row] for row in missing)])
            rows, missing = missing, []
            for row, of_text in zip(rows, encoded, strict=True):
                if of_text[: len(start)] == start:
                    ids[row] = of_text[len(start) :]
                else:
                    missing.append(row)
        for row, of_text in zip(missing, self([texts[row] for row in missing]), strict=True):
            ids[row] = of_text
        return ids

    def _readable(self) -> list[str]:
        """Return the hidden tokens whose text is encoded as the token."""
        names = list(self._hidden)
        return [
            name for name, ids in zip(names, self(names), strict=True) if self._hidden[name] in ids
        ]


_ENCODERS: weakref.WeakKeyDictionary[Any, tuple[int, TextEncoder]] = weakref.WeakKeyDictionary()


def text_encoder(tokenizer: Tokenizer) -> TextEncoder:
    """Return the encoder of a tokenizer; it is built once and cached."""
    cached = _ENCODERS.get(tokenizer)
    if cached is None or cached[0] != len(tokenizer):
        cached = (len(tokenizer), TextEncoder(tokenizer))
        _ENCODERS[tokenizer] = cached
    return cached[1]


def _without_added_tokens(
    tokenizer: tokenizers.Tokenizer, hidden: set[str], vocabulary_tokens: set[str | None]
) -> tokenizers.Tokenizer:
    """Return a copy that does not find the tokens `hidden` in a text; `vocabulary_tokens` stay in its vocabulary."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in hidden]
    state["post_processor"] = state["truncation"] = state["padding"] = None
    model, removed = state["model"], hidden - vocabulary_tokens
    if isinstance(model["vocab"], list):
        model["vocab"] = [
            [piece, _UNREACHABLE if piece in removed else score] for piece, score in model["vocab"]
        ]
    else:
        model["vocab"] = {
            piece: id_ for piece, id_ in model["vocab"].items() if piece not in removed
        }
    if "merges" in model:
        pairs = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
        model["merges"] = [p for p in pairs if not hidden.intersection((*p, "".join(p)))]
    return tokenizers.Tokenizer.from_str(json.dumps(state))


@dataclass(frozen=True)
class EncodedTemplate:
    """A template in the tokens of one tokenizer.

    pieces: ids of each literal text, the answer cue included, and the slots, in order; with a chat
    template its frame, too, which holds what starts a sequence. answers: one id for each answer,
    all distinct. `fill` encodes what stands in the item and history slots.
    """

    template: Template
    pieces: tuple[Ids | Slot, ...]
    answers: Ids
    _encode: Callable[[Slot, Sequence[str]], list[list[int]]]

    @property
    def before(self) -> tuple[Ids | Slot, ...]:
        """The pieces in front of the prompt slot."""
        return self.pieces[: self.pieces.index(Slot.PROMPT)]

    @property
    def after(self) -> tuple[Ids | Slot, ...]:
        """The pieces behind the prompt slot."""
        return self.pieces[self.pieces.index(Slot.PROMPT) + 1 :]

    def fill(self, slot: Slot, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of cleaned texts in the item or history slot, not cut to any length."""
        return self._encode(slot, texts)


def encode_template(
    tokenizer: Tokenizer, template: Template, answers: Sequence[str]
) -> EncodedTemplate:
    """Return a template in the tokens of a tokenizer, encoded as `template.reading` says.

    The text reads as written: the space in front of a title belongs to the title's first token, and
    text behind a title or a soft prompt has no space in front unless one is written there. The
    prompt slot separates: a space in front of it is left out. Two things differ from the tokens of
    the running text. A title is encoded on its own, so that a tokenizer which merges a title's last
    characters with the full stop behind it ("Oh!" and "." to "!.") does not do so here. And the
    answer cue ends in a space token where the answer is a token without a space.
    With a chat template, the text is the user's turn, and answers are read where the assistant's
    begins: as the model writes them there, without a space.
    Raises BackboneError if an answer takes more than one token, if two answers share one, or if a
    chat template is wanted and cannot be used.
    """
    if template.reading == PIECEWISE:
        if template.chat_template:
            raise TemplateError(
                "Prompts that version 0.1.0 fitted were read without a chat template; fit them again."
            )
        return _encode_piecewise(tokenizer, template, answers)
    if template.chat_template:
        return _encode_chat(tokenizer, template, answers)
    encoder = text_encoder(tokenizer)
    # The text of each literal piece, and what stands in front of each slot's text.
    literals, leading_spaces = _literals(template.pieces)
    first = template.pieces[0]

    def read(number: int, text: str) -> list[int]:
        (ids,) = encoder([text]) if number == 0 else encoder.continued([text])
        return ids

    def fill(slot: Slot, texts: Sequence[str]) -> list[list[int]]:
        texts = [leading_spaces.get(slot, "") + text for text in texts]
        return encoder(texts) if slot is first else encoder.continued(texts)

    cue_number = len(literals) - (2 if template.prompt_last else 1)
    cue, shared = str(literals[cue_number]).rstrip(" "), None
    gaps = {"auto": (" ", ""), "space": (" ",), "bare": ("",)}[template.answers]
    if template.prompt_last:
        # The soft prompt stands between the cue and the answer, so they cannot share a token.
        cue_ids = read(cue_number, cue)
        shared = len(cue_ids)
        written = [encoder.continued([gap + answer for answer in answers]) for gap in gaps]
        candidates = [[cue_ids + ids for ids in encoded] for encoded in written]
    else:
        candidates = [[read(cue_number, cue + gap + a) for a in answers] for gap in gaps]
    cue_ids, answer_ids = _choose_answers(tokenizer, template, answers, candidates, shared)
    pieces = [
        piece if isinstance(piece, Slot) else tuple(read(number, piece))
        for number, piece in enumerate(literals)
    ]
    pieces[cue_number] = tuple(cue_ids)
    return EncodedTemplate(template, tuple(pieces), tuple(answer_ids), fill)


def _literals(pieces: Sequence[Piece]) -> tuple[list[Piece], dict[Slot, str]]:
    """Return the pieces without a space in front of a slot, and the spaces by slot."""
    literals, leading_spaces = list(pieces), {}
    for number, piece in enumerate(pieces[1:], start=1):
        previous = literals[number - 1]
        if isinstance(piece, Slot) and isinstance(previous, str) and previous.endswith(" "):
            literals[number - 1], leading_spaces[piece] = previous[:-1], " "
    return literals, leading_spaces


def _encode_chat(
    tokenizer: Tokenizer, template: Template, answers: Sequence[str]
) -> EncodedTemplate:
    """Encode a template as the user's turn of the tokenizer's chat template.

    Only the frame may hold special tokens. Where the prompt slot is the last piece, it follows the
    frame.
    """
    encoder, (before, behind) = text_encoder(tokenizer), chat_frame(tokenizer)
    turn = [
        piece for piece in template.pieces if not (template.prompt_last and piece is Slot.PROMPT)
    ]
    if before.endswith(" "):
        before, first = before[:-1], turn[0]
        turn = [" ", *turn] if isinstance(first, Slot) else [f" {first}", *turn[1:]]
    if isinstance(turn[-1], str):
        turn[-1] = turn[-1].rstrip(" ")
    literals, leading_spaces = _literals(turn)
    frame = _with_special(tokenizer, behind)
    gaps = {"auto": ("", " "), "space": (" ",), "bare": ("",)}[template.answers]
    written = [encoder.continued([gap + answer for answer in answers]) for gap in gaps]
    candidates = [[frame + ids for ids in encoded] for encoded in written]
    _, answer_ids = _choose_answers(tokenizer, template, answers, candidates, len(frame))
    pieces: list[Ids | Slot] = [tuple(tokenizer(before, add_special_tokens=False)["input_ids"])]
    for piece in literals:
        pieces.append(piece if isinstance(piece, Slot) else tuple(encoder.continued([piece])[0]))
    pieces.append(tuple(frame))
    if template.prompt_last:
        pieces.append(Slot.PROMPT)
    return EncodedTemplate(
        template,
        tuple(pieces),
        tuple(answer_ids),
        lambda slot, texts: encoder.continued(
            [leading_spaces.get(slot, "") + text for text in texts]
        ),
    )


def _with_special(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text behind other text; special tokens in it are encoded as such."""
    for anchor in _ANCHORS:
        start, joined = tokenizer([anchor, anchor + text], add_special_tokens=False)["input_ids"]
        if joined[: len(start)] == start:
            return list(joined[len(start) :])
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _choose_answers(
    tokenizer: Tokenizer,
    template: Template,
    answers: Sequence[str],
    candidates: Sequence[Sequence[list[int]]],
    shared: int | None = None,
) -> tuple[list[int], list[int]]:
    """Return the ids of the cue and one distinct id for each answer, from the first spelling that has them.

    candidates: the ids of the cue with each answer, for each spelling. shared: length of the cue;
    None: the ids that all answers begin with are the cue.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    for encoded in candidates:
        start = shared
        if start is None:
            columns = enumerate(zip(*encoded, strict=False))
            start = next(
                (n for n, column in columns if len(set(column)) > 1), min(map(len, encoded))
            )
        ids = [ids[start:] for ids in encoded]
        single = [
            answer_ids[0] for answer_ids in ids if len(answer_ids) == 1 and answer_ids[0] != unknown
        ]
        if len(set(single)) == len(answers):
            return encoded[0][:start], single
    shown = ", ".join(
        f"{answer!r} as {tokenizer.convert_ids_to_tokens(ids)[-3:]}"
        for answer, ids in zip(answers, candidates[0], strict=True)
    )
    raise BackboneError(
        f"The tokenizer cannot answer the template {template.name!r} with one distinct token for each "
        f"of {', '.join(answers)} (it ends in {shown}); choose a model whose tokenizer has them"
        + (", or answers: auto." if template.answers != "auto" else ".")
    )


def start_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that the tokenizer puts in front of every text (BOS, or nothing)."""
    with_special = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    without_special = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    for start in range(len(with_special) - len(without_special) + 1):
        if with_special[start : start + len(without_special)] == without_special:
            return with_special[:start]
    return []


# The reading of prompts that were fitted up to version 0.1.0: each piece is encoded on its own.


def encode_many(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of many texts; special tokens in them are encoded as plain text."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    return [list(ids) for ids in encoded["input_ids"]]


def _encode_piecewise(
    tokenizer: Tokenizer, template: Template, answers: Sequence[str]
) -> EncodedTemplate:
    """Encode each piece of a template on its own, as up to version 0.1.0.

    A tokenizer that prepends a space gets a piece without its leading space. Titles get a second
    space from such a tokenizer, and a lone space token in front from the others.
    """
    (probe,) = encode_many(tokenizer, ["a"])
    prepends = tokenizer.convert_ids_to_tokens(probe)[0][:1] in ("\u2581", "\u0120")

    def encode(text: str) -> list[int]:
        (ids,) = encode_many(tokenizer, [text[1:] if prepends and text[:1] == " " else text])
        return ids

    candidates = [[encode(template.cue + gap + a) for a in answers] for gap in (" ", "")]
    cue, answer_ids = _choose_answers(tokenizer, template, answers, candidates)
    cue_number = len(template.pieces) - (2 if template.prompt_last else 1)
    pieces = [
        piece if isinstance(piece, Slot) else tuple(encode(piece)) for piece in template.pieces
    ]
    pieces[cue_number] = tuple(cue)
    return EncodedTemplate(
        template,
        tuple(pieces),
        tuple(answer_ids),
        lambda _slot, texts: encode_many(tokenizer, texts),
    )
