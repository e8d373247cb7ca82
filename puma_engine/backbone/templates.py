"""Prompt templates: literal texts around a soft prompt slot, an item slot and a history slot.

Slots are values of their own, never text, so no title can imitate or move one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from puma_engine.errors import TemplateError


class Slot(Enum):
    """A place in a template that is filled for each example."""

    PROMPT = "prompt"
    ITEM = "item"
    HISTORY = "history"


Piece = str | Slot


@dataclass(frozen=True)
class Template:
    """An ordered run of literal texts and slots that ends in an answer cue.

    Raises TemplateError unless there is exactly one prompt slot and one item slot, at
    most one history slot, and a text (the answer cue) at the end.
    """

    name: str
    task: str
    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        for slot, most, least in ((Slot.PROMPT, 1, 1), (Slot.ITEM, 1, 1), (Slot.HISTORY, 1, 0)):
            count = self.pieces.count(slot)
            if not least <= count <= most:
                allowed = "exactly one" if least else "at most one"
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


_P, _I, _H = Slot.PROMPT, Slot.ITEM, Slot.HISTORY

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template(
            "rating",
            "rating",
            (
                "The user's preferences are encoded in the feature ",
                _P,
                ". Predict the user's rating, an integer from 1 to 5, for the item ",
                _I,
                ". Rating:",
            ),
        ),
        Template(
            "rating-item-first",
            "rating",
            (
                "Predict a user's rating, an integer from 1 to 5, for the item ",
                _I,
                ". The user's preferences are encoded in the feature ",
                _P,
                ". Rating:",
            ),
        ),
        Template(
            "click",
            "click",
            (
                "The user's preferences are encoded in the feature ",
                _P,
                ". Would the user enjoy the item ",
                _I,
                ", Yes or No? Answer:",
            ),
        ),
        Template(
            "click-item-first",
            "click",
            (
                "Would a user enjoy the item ",
                _I,
                ", Yes or No? The user's preferences are encoded in the feature ",
                _P,
                ". Answer:",
            ),
        ),
        Template(
            "click-history",
            "click",
            (
                "The user read ",
                _H,
                ". The user's preferences are encoded in the feature ",
                _P,
                ". Would the user enjoy the item ",
                _I,
                ", Yes or No? Answer:",
            ),
        ),
        Template(
            "click-history-item-first",
            "click",
            (
                "Would a user enjoy the item ",
                _I,
                ", Yes or No? The user read ",
                _H,
                ". The user's preferences are encoded in the feature ",
                _P,
                ". Answer:",
            ),
        ),
    )
}


def get_template(name: str) -> Template:
    """Return a shipped template by name, or raise TemplateError that lists the names."""
    try:
        return TEMPLATES[name]
    except KeyError:
        raise TemplateError(
            f"There is no template {name!r}; the templates are {', '.join(TEMPLATES)}."
        ) from None
