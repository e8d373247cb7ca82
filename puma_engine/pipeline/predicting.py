"""Predict the outcome of one user for one title, with any prompts of the workspace."""

from __future__ import annotations

import time
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

from puma_engine.errors import DataError, TemplateError
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.pipeline.stored_prompts import (
    PromptTableReader,
    load_items,
    model_of,
    template_of,
)
from puma_engine.store import Workspace

MAX_TITLE_LENGTH = 1000
MAX_USER_LENGTH = 1000


@dataclass(frozen=True)
class Prediction:
    """The predicted outcome of a user for a title.

    title: the text that the model read; cut: whether it was longer than the template's token
    budget. value: the rating (1 to 5) or the probability of a click. answers: the probability of
    each answer among the allowed ones. seconds: of the prediction, loading excluded.
    """

    run_id: str
    user: str
    title: str
    task: str
    template: str
    value: float
    answers: dict[str, float]
    cut: bool
    seconds: float


def checked_title(title: str) -> str:
    """Return a title with single spaces; raise DataError if it is invalid."""
    text = " ".join(title.split())
    if not text:
        raise DataError("The title is empty; give the title of an item, such as a book's.")
    if len(text) > MAX_TITLE_LENGTH:
        raise DataError(
            f"The title has {len(text):,} characters; give one of at most {MAX_TITLE_LENGTH:,}."
        )
    for position, character in enumerate(text, start=1):
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise DataError(
                f"The title has the control character U+{ord(character):04X} at position {position}; "
                "remove it."
            )
    return text


def checked_user(user: str) -> str:
    """Return a user id; raise DataError if it is invalid."""
    if not user.strip():
        raise DataError("The user id is empty; give the id of a user as in the data set.")
    if len(user) > MAX_USER_LENGTH:
        raise DataError(
            f"The user id has {len(user):,} characters; give one of at most {MAX_USER_LENGTH:,}."
        )
    return user


class Predictor:
    """The prompts of one run with their backbone and head, loaded for many predictions.

    template: a name, or a file or JSON with a template (default: that of the prompts). Raises
    NotFoundError, StoreError, BackboneError, TemplateError; DataError for prompts without a head.
    """

    def __init__(
        self,
        ws: Workspace,
        prompts: stage.Reference,
        *,
        template: str | None = None,
        device: str | None = None,
    ) -> None:
        import torch

        from puma_engine.backbone.tasks import get_task

        self.prompts = PromptTableReader(ws, prompts)
        self.run = self.prompts.run
        model = model_of(self.run)
        self.template, fitted = template_of(self.run, template), template_of(self.run)
        if self.template.task != fitted.task:
            raise TemplateError(
                f"The template {self.template.name!r} is for {self.template.task}s, and the prompts of "
                f"{self.run.name!r} for {fitted.task}s; give one for {fitted.task}s."
            )
        self.task = get_task(self.template.task)
        self._ws = ws
        self._backbone = load_backbone(ws, model, device=device)
        self._items = load_items(ws, self.run)
        self._item_ids: dict[
            str, str
        ] = {}  # by text, since only items of the data set have prompts
        if self._items is not None:
            rows = ws.get_table(self.run.inputs["dataset"], "items")
            texts = (" ".join(str(text).split()) for text in rows["text"])
            self._item_ids = dict(zip(texts, rows["item_id"].astype(str), strict=True))
        tensors = self.prompts.head()
        if tensors is None:
            raise DataError(
                f"The prompts of the run {self.run.name!r} have no head, which turns answers "
                "into a prediction; import them with it, or fit them here."
            )
        head = self.task.head(0.0, torch.Generator().manual_seed(0))
        head.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
        self._head = head.requires_grad_(False).to(self._backbone.device).eval()

    def predict(self, user: str, title: str) -> Prediction:
        """Predict a user's outcome for a title. Raises DataError for an invalid title or user."""
        text = checked_title(title)
        vector = self.prompts.vector(checked_user(user))
        if self._items is not None:
            from puma_engine.prompts.item_prompts import in_slot_order

            item = self._items.take([self._item_ids.get(text, "")])[0]
            first = self._items.first
            vector = np.concatenate(in_slot_order(vector, item, item_first=first))
        history = self._history(user) if self.template.uses_history else ()
        started = time.perf_counter()
        logits, cut = self._read(vector, text, history)
        value = float(self.task.predict(logits, self._head)[0])
        shares = logits[0].double().softmax(0).tolist()
        return Prediction(
            run_id=self.run.id,
            user=user,
            title=text,
            task=self.task.name,
            template=self.template.name,
            value=value,
            answers=dict(zip(self.task.answers, shares, strict=True)),
            cut=cut,
            seconds=time.perf_counter() - started,
        )

    def _read(self, vector: Any, title: str, history: tuple[str, ...]) -> tuple[Any, bool]:
        """Return answer logits [1, answers] of one prompt [tokens, width], and whether the title was cut."""
        import torch

        from puma_engine.backbone import Context, Reader
        from puma_engine.backbone.templates import Slot

        context = Context(title, history)
        with torch.no_grad():
            reader = Reader(self._backbone, self.template, (context,))
            logits = reader.logits(torch.from_numpy(vector)[None], torch.zeros(1, dtype=torch.long))
        return logits.detach(), reader.is_cut(Slot.ITEM, context)

    def _history(self, user: str) -> tuple[str, ...]:
        """Return the titles that the user's latest interaction has as its history."""
        data = self.run.inputs["dataset"]
        rows = self._ws.get_table(data, "interactions", where={"user_id": [user]})
        if "history" not in rows or rows.empty:
            return ()
        latest = rows.iloc[-1] if "time" not in rows else rows.loc[rows["time"].idxmax()]
        ids = list(latest["history"] if latest["history"] is not None else ())
        items = self._ws.get_table(data, "items", where={"item_id": ids}) if ids else None
        texts = {} if items is None else dict(zip(items["item_id"], items["text"], strict=True))
        return tuple(texts[item] for item in ids if item in texts)


def predict_title(
    ws: Workspace,
    prompts: stage.Reference,
    user: str,
    title: str,
    *,
    template: str | None = None,
    device: str | None = None,
) -> Prediction:
    """Predict a user's outcome for a title with the prompts of a prompts or migration run.

    template: a name, or a file or JSON with your own (default: that of the prompts). Raises DataError
    for an invalid title or user, TemplateError, NotFoundError and StoreError for the run.
    """
    checked_title(title)
    checked_user(user)
    return Predictor(ws, prompts, template=template, device=device).predict(user, title)
