"""Prompt templates: literal texts around a soft prompt slot, an item slot and a history slot.

Some ship with PUMA, others are files. A parsed template holds its slots as values, not as text, so
that a title cannot imitate a slot.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from puma_engine.config import stable_hash
from puma_engine.errors import TemplateError
from puma_engine.files import parse_json, parse_toml


class Slot(Enum):
    """The slots of a template, filled for each example."""

    PROMPT = "prompt"
    ITEM = "item"
    HISTORY = "history"


Piece = str | Slot

# How the text around the slots is encoded: as running text, or each piece on its own (prompts that
# were fitted up to version 0.1.0).
RUNNING, PIECEWISE = "running", "piecewise"
# How an answer is written behind the cue or the soft prompt: with a space, without, or as the first of
# both that gives one distinct token for each answer.
ANSWERS = ("auto", "space", "bare")
_TASKS = ("rating", "click")
FILE_SUFFIXES = (".toml", ".json")
# What a run stores of its template, see `Template.to_config`.
CONFIG_KEYS = ("template", "template_text", "answers", "reading", "chat_template")
_SLOT = re.compile(r"\{(prompt|item|history)\}")


@dataclass(frozen=True)
class Template:
    """A sequence of literal texts and slots that ends in an answer cue, or in cue and prompt slot.

    Where the prompt slot is the last piece, the answer is read at the prompt's own last position.
    reading: "running" or "piecewise", see `tokens.encode_template`. answers: one of ANSWERS.
    chat_template: whether the model's own chat template is put around the text, which then is the
    user's turn; the answer is read where the assistant's turn begins, or behind a soft prompt there.
    chat_template_given: whether the specification said so, see `replaced_by`. Raises TemplateError unless there are one prompt slot, one item slot, no or one history slot,
    and a text (the answer cue) as the last piece or just before a prompt slot at the end.
    """

    name: str
    task: str
    pieces: tuple[Piece, ...]
    reading: str = RUNNING
    answers: str = "auto"
    chat_template: bool = False
    chat_template_given: bool = field(default=False, compare=False)

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
        if self.answers not in ANSWERS:
            raise TemplateError(
                f"The answers of a template are {', '.join(ANSWERS)}, not {self.answers!r}."
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

    @cached_property
    def text(self) -> str:
        """The text with {prompt}, {item} and {history} for the slots."""
        return "".join(
            f"{{{piece.value}}}" if isinstance(piece, Slot) else piece for piece in self.pieces
        )

    @property
    def spec(self) -> str:
        """The argument of `get_template` for this template: its name, or its content as JSON."""
        content: dict[str, Any] = {"template": self.name}
        settings = self._settings()
        if self.chat_template_given:
            settings["chat_template"] = self.chat_template
        if self.name not in TEMPLATES:
            content = {"task": self.task, "text": self.text}
        elif not settings:
            return self.name
        return json.dumps(content | settings, ensure_ascii=False)

    def replaced_by(self, spec: "str | Template") -> "Template":
        """Return another template for prompts that were fitted in this one.

        The prompts know how their text was encoded, so `reading` stays. The chat template stays
        unless the specification has chat_template. Raises TemplateError.
        """
        other = get_template(spec)
        chat = other.chat_template if other.chat_template_given else self.chat_template
        return replace(other, reading=self.reading, chat_template=chat)

    def _settings(self) -> dict[str, Any]:
        """Return the settings of the text that differ from the default."""
        settings: dict[str, Any] = {} if self.answers == "auto" else {"answers": self.answers}
        return settings | ({"chat_template": True} if self.chat_template else {})

    def to_config(self) -> dict[str, Any]:
        """Return the settings that a run stores: those that differ from the shipped templates of version 0.1.0."""
        config = {"template": self.name}
        if self.name not in TEMPLATES:
            config["template_text"] = self.text
        config |= self._settings()
        if self.reading != PIECEWISE:
            config["reading"] = self.reading
        return config

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> "Template":
        """Return the template of a run's settings. Raises TemplateError for an unknown name."""
        name = str(config["template"])
        if "template_text" in config:
            template = _parse(name, config["template_text"])
        else:
            template = get_template(name)
        settings = {"reading": PIECEWISE, "answers": "auto", "chat_template": False}
        return replace(template, **{key: config.get(key, v) for key, v in settings.items()})


def template_label(config: Mapping[str, Any]) -> str:
    """Return a label for the template of a run, equal for runs with the same text.

    A template that does not ship has a name made from its content. The encoding of the text
    (`Template.reading`) is not part of the label.
    """
    parts = [str(config.get("template"))]
    if config.get("answers", "auto") != "auto":
        parts.append(f"answers {config['answers']}")
    if config.get("chat_template"):
        parts.append("in the chat template")
    return ", ".join(parts)


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
    parts = _SLOT.split(text)
    pieces = [Slot(part) if number % 2 else part for number, part in enumerate(parts)]
    return Template(name, name.partition("-")[0], tuple(piece for piece in pieces if piece))


TEMPLATES = {name: _parse(name, text) for name, text in _TEXTS.items()}


def get_template(spec: str | Template) -> Template:
    """Return a template: a shipped one by name, or one with your own text.

    spec: a name, a file (.toml or .json), the content of such a file as JSON, or a template, which
    is returned unchanged. A file has the keys task (rating or click), text, answers (one of
    ANSWERS) if it is not auto, and chat_template = true for the model's chat template around the
    text, or false to read prompts without it that were fitted in one; in place of task and text it
    may name a template that ships. Its name is made from its content. Raises TemplateError.
    """
    if isinstance(spec, Template):
        return spec
    if spec in TEMPLATES:
        return TEMPLATES[spec]
    path = Path(spec)
    if spec.lstrip().startswith("{"):
        content, source = spec, "A template given as JSON"
    elif path.suffix in FILE_SUFFIXES:
        source = f"The template file {path}"
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise TemplateError(f"{source} cannot be read ({reason}).") from None
    else:
        raise TemplateError(
            f"There is no template {spec!r}; the templates are {', '.join(TEMPLATES)}, or give a file "
            "(.toml or .json)."
        )
    try:
        values = parse_toml(content) if path.suffix == ".toml" else parse_json(content)
    except ValueError as error:
        raise TemplateError(f"{source} is not valid ({error}).") from None
    try:
        return _from_values(values)
    except TemplateError as error:
        raise TemplateError(f"{source} cannot be used: {error}") from None


def _from_values(values: Any) -> Template:
    """Build a template from the content of a file. Raises TemplateError."""
    keys = set(values) if isinstance(values, dict) else set()
    if keys - {"answers", "chat_template"} not in ({"task", "text"}, {"template"}):
        raise TemplateError(
            f"it has the keys {', '.join(sorted(keys)) or '(none)'}; it needs task and text, and may "
            "have answers and chat_template."
        )
    chat_template = values.get("chat_template", False)
    if not isinstance(chat_template, bool):
        raise TemplateError(f"chat_template must be true or false, not {chat_template!r}.")
    if not all(isinstance(value, str) for key, value in values.items() if key != "chat_template"):
        raise TemplateError("every value but chat_template must be a text.")
    settings: dict[str, Any] = {"answers": values.get("answers", "auto")}
    settings |= {
        "chat_template": chat_template,
        "chat_template_given": "chat_template" in keys,
    }
    if "template" in values:
        if values["template"] not in TEMPLATES:
            raise TemplateError(f"there is no template {values['template']!r}.")
        return replace(TEMPLATES[values["template"]], **settings)
    task, text = values["task"], values["text"].strip()
    if task not in _TASKS:
        raise TemplateError(f"the task is {task!r}; it must be {' or '.join(_TASKS)}.")
    if unknown := re.search(r"\{\w*\}", _SLOT.sub("", text)):
        raise TemplateError(
            f"there is no slot {unknown[0]}; the slots are {{prompt}}, {{item}} and {{history}}."
        )
    known = next((t for t in TEMPLATES.values() if t.text == text and t.task == task), None)
    name = f"{task}-custom-{stable_hash([task, text])[:8]}"
    return replace(known or _parse(name, text), **settings)
