"""Prompt templates: literal texts around a soft prompt slot, an item slot and a history slot.

A parsed template holds slots as values, never as text, so no title can imitate or move one.
"""

import re
from dataclasses import dataclass
from enum import Enum

from puma_engine.errors import TemplateError


class Slot(Enum):
    """What is filled into a template for each example."""

    PROMPT = "prompt"
    ITEM = "item"
    HISTORY = "history"


Piece = str | Slot


@dataclass(frozen=True)
class Template:
    """A sequence of literal texts and slots that ends in an answer cue.

    Raises TemplateError unless there are one prompt slot, one item slot, no or one history slot,
    and a text (the answer cue) at the end.
    """

    name: str
    task: str
    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        for slot in Slot:
            count, optional = self.pieces.count(slot), slot is Slot.HISTORY
            if count > 1 or (not count and not optional):
                allowed = "no or one" if optional else "exactly one"
                raise TemplateError(
                    f"Template {self.name!r} has {count} {slot.value} slots; it needs {allowed}."
                )
        if not self.pieces or not isinstance(self.pieces[-1], str) or not self.pieces[-1].strip():
            raise TemplateError(
                f"Template {self.name!r} does not end in a text; end it in an answer cue such as "
                "'Rating:'."
            )

    @property
    def before(self) -> tuple[Piece, ...]:
        """The pieces in front of the prompt slot."""
        return self.pieces[: self.pieces.index(Slot.PROMPT)]

    @property
    def after(self) -> tuple[Piece, ...]:
        """The pieces behind the prompt slot, the answer cue last."""
        return self.pieces[self.pieces.index(Slot.PROMPT) + 1 :]

    @property
    def uses_history(self) -> bool:
        return Slot.HISTORY in self.pieces

    @property
    def item_first(self) -> bool:
        return Slot.ITEM in self.before


_TEXTS = {
    "rating": "The user's preferences are encoded in the feature {prompt}. Predict the user's "
    "rating, an integer from 1 to 5, for the item {item}. Rating:",
    "rating-item-first": "Predict a user's rating, an integer from 1 to 5, for the item {item}. The "
    "user's preferences are encoded in the feature {prompt}. Rating:",
    "click": "The user's preferences are encoded in the feature {prompt}. Would the user enjoy "
    "the item {item}, Yes or No? Answer:",
    "click-item-first": "Would a user enjoy the item {item}, Yes or No? The user's preferences are "
    "encoded in the feature {prompt}. Answer:",
    "click-history": "The user read {history}. The user's preferences are encoded in the feature "
    "{prompt}. Would the user enjoy the item {item}, Yes or No? Answer:",
    "click-history-item-first": "Would a user enjoy the item {item}, Yes or No? The user read "
    "{history}. The user's preferences are encoded in the feature {prompt}. Answer:",
}


def _parse(name: str, text: str) -> Template:
    """Build a template from text with {prompt}, {item} and {history} for the slots."""
    parts = re.split(r"\{(prompt|item|history)\}", text)
    pieces = [Slot(part) if number % 2 else part for number, part in enumerate(parts)]
    return Template(name, name.partition("-")[0], tuple(piece for piece in pieces if piece))


TEMPLATES = {name: _parse(name, text) for name, text in _TEXTS.items()}


def get_template(name: str) -> Template:
    """Return a shipped template by name. Raises TemplateError that lists the names."""
    if name not in TEMPLATES:
        raise TemplateError(
            f"There is no template {name!r}; the templates are {', '.join(TEMPLATES)}."
        )
    return TEMPLATES[name]
