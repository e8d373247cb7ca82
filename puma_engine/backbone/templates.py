"""Prompt templates: literal texts around a soft prompt slot, an item slot and a history slot.

A parsed template holds slots as values, never as text, so no title can imitate or move one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from puma_engine.errors import TemplateError


class Slot(Enum):
    """What is filled into a template for each example."""

    PROMPT = "prompt"
    ITEM = "item"
    HISTORY = "history"


Piece = str | Slot

# How the text around the slots is encoded: as running text, or (prompts that were fitted up to
# version 0.1.0) each piece on its own.
RUNNING, PIECEWISE = "running", "piecewise"


@dataclass(frozen=True)
class Template:
    """A sequence of literal texts and slots that ends in an answer cue, or in cue and prompt slot.

    Where the prompt slot is the last piece, the answer is read at the prompt's own last position.
    reading: "running" or "piecewise", see `tokens.encode_template`.
    Raises TemplateError unless there are one prompt slot, one item slot, no or one history slot,
    and a text (the answer cue) as the last piece or just before a prompt slot at the end.
    """

    name: str
    task: str
    pieces: tuple[Piece, ...]
    reading: str = RUNNING

    def __post_init__(self) -> None:
        for slot in Slot:
            count, optional = self.pieces.count(slot), slot is Slot.HISTORY
            if count > 1 or (not count and not optional):
                allowed = "no or one" if optional else "exactly one"
                raise TemplateError(
                    f"Template {self.name!r} has {count} {slot.value} slots; it needs {allowed}."
                )
        if not self.cue.strip():
            raise TemplateError(
                f"Template {self.name!r} has no answer cue at its end; end it in a text such as "
                "'Rating:', or in such a text and the prompt slot."
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
    def prompt_last(self) -> bool:
        """Whether the prompt slot is the last piece."""
        return self.pieces[-1] is Slot.PROMPT

    @property
    def cue(self) -> str:
        """The text that asks for the answer; empty where a slot stands in its place."""
        cue = self.pieces[-2 if self.prompt_last else -1]
        return cue if isinstance(cue, str) else ""

    @property
    def uses_history(self) -> bool:
        return Slot.HISTORY in self.pieces

    @property
    def item_first(self) -> bool:
        return Slot.ITEM in self.before

    def to_config(self) -> dict[str, Any]:
        """Return what a run stores of its template; without a reading it is the piecewise one."""
        return {"template": self.name} | (
            {} if self.reading == PIECEWISE else {"reading": self.reading}
        )

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> "Template":
        """Return the template of a run's settings. Raises TemplateError for an unknown name."""
        template = get_template(str(config["template"]))
        return replace(template, reading=config.get("reading", PIECEWISE))


_TEXTS = {
    "rating": "The user's preferences are encoded in the feature {prompt}. Predict the user's "
    "rating, an integer from 1 to 5, for the item {item}. Rating:",
    "rating-item-first": "Predict a user's rating, an integer from 1 to 5, for the item {item}. The "
    "user's preferences are encoded in the feature {prompt}. Rating:",
    "rating-prompt-last": "Predict a user's rating, an integer from 1 to 5, for the item {item}. "
    "Rating:{prompt}",
    "click": "The user's preferences are encoded in the feature {prompt}. Would the user enjoy "
    "the item {item}, Yes or No? Answer:",
    "click-item-first": "Would a user enjoy the item {item}, Yes or No? The user's preferences are "
    "encoded in the feature {prompt}. Answer:",
    "click-prompt-last": "Would a user enjoy the item {item}, Yes or No? Answer:{prompt}",
    "click-history": "The user read {history}. The user's preferences are encoded in the feature "
    "{prompt}. Would the user enjoy the item {item}, Yes or No? Answer:",
    "click-history-item-first": "Would a user enjoy the item {item}, Yes or No? The user read "
    "{history}. The user's preferences are encoded in the feature {prompt}. Answer:",
    "click-history-prompt-last": "The user read {history}. Would the user enjoy the item {item}, "
    "Yes or No? Answer:{prompt}",
}


def _parse(name: str, text: str) -> Template:
    """Build a template from text with {prompt}, {item} and {history} for the slots."""
    parts = re.split(r"\{(prompt|item|history)\}", text)
    pieces = [Slot(part) if number % 2 else part for number, part in enumerate(parts)]
    return Template(name, name.partition("-")[0], tuple(piece for piece in pieces if piece))


TEMPLATES = {name: _parse(name, text) for name, text in _TEXTS.items()}


def get_template(name: str | Template) -> Template:
    """Return a shipped template by name, or a template unchanged.

    Raises TemplateError that lists the names.
    """
    if isinstance(name, Template):
        return name
    if name not in TEMPLATES:
        raise TemplateError(
            f"There is no template {name!r}; the templates are {', '.join(TEMPLATES)}."
        )
    return TEMPLATES[name]
