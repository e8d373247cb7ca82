"""The data that the zoo is pre-trained on: tokenised outcomes of foundation users.

Every text is stored once, as a run of token ids in one flat array (a segment). A training sequence
is a row of segment numbers. This is numpy alone, so a batch takes a few milliseconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.backbone.tasks import TASKS
from puma_engine.backbone.templates import TEMPLATES, Slot, Template
from puma_engine.backbone.tokens import clean_text, encode_template, start_ids, text_encoder
from puma_engine.datasets import Dataset, load_shipped

FOUNDATION = {"goodbooks": "goodbooks", "movietweetings": "movietweetings"}
FOUNDATION["goodbooks-to-read"] = "goodbooks"  # the same people
ITEM_TOKENS = 48  # as the engine cuts titles
HISTORY_TOKENS = 128


@dataclass(frozen=True)
class Source:
    """Outcomes of one data set, sorted by user.

    user [n]; item [n], history [n] and answer [n] are indices into Corpus.titles,
    Corpus.histories and the task's answers. A user's rows are first[user] up to first[user + 1].
    people[user] is the user's id, with the family of data sets that share ids.
    """

    name: str
    task: str
    user: np.ndarray
    item: np.ndarray
    answer: np.ndarray
    history: np.ndarray
    first: np.ndarray
    people: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.item)

    def subset(self, users: Callable[[tuple[str, str]], bool]) -> "Source":
        """Return the outcomes of the people for whom wanted is true, with users renumbered."""
        chosen = np.array([users(person) for person in self.people], dtype=bool)
        rows = chosen[self.user] if len(self) else np.zeros(0, dtype=bool)
        user = (np.cumsum(chosen) - 1)[self.user[rows]].astype(np.int32)
        people = list(compress(self.people, chosen))
        return replace(
            self,
            user=user,
            item=self.item[rows],
            answer=self.answer[rows],
            history=self.history[rows],
            first=np.searchsorted(user, np.arange(len(people) + 1)),
            people=people,
        )


@dataclass(frozen=True)
class Corpus:
    """Titles, histories (titles joined as the engine joins them), and outcomes by source."""

    titles: list[str]
    histories: list[str]
    sources: list[Source]

    @property
    def people(self) -> list[tuple[str, str]]:
        """Distinct (family, user id) pairs, sorted."""
        return sorted({person for source in self.sources for person in source.people})

    def subset(self, wanted: Callable[[tuple[str, str]], bool]) -> "Corpus":
        """Return the corpus of the people for whom wanted is true, with the same texts."""
        sources = [source.subset(wanted) for source in self.sources]
        return Corpus(self.titles, self.histories, sources)


def load_foundation(users: int | None = None, seed: int = 0) -> tuple[Corpus, list[str], list[str]]:
    """Load all outcomes of the foundation users, and the titles of books and of movies.

    users: the largest number of users of each data set (for tests); None means all.
    """
    options: Any = {"population": "foundation", "users": users, "seed": seed}
    datasets = [load_shipped(name, **options) for name in FOUNDATION]
    corpus = corpus_from(datasets)
    books = sorted({text for data in (datasets[0], datasets[2]) for text in data.items["text"]})
    return corpus, books, sorted(set(datasets[1].items["text"]))


def corpus_from(datasets: Sequence[Dataset]) -> Corpus:
    """Return one corpus of several data sets, with the rows of all splits."""
    number: dict[tuple[str, str], int] = {}
    titles: list[str] = []
    histories: dict[str, int] = {"nothing yet": 0}
    sources = []
    for data in datasets:
        family = FOUNDATION.get(data.name, data.name)
        for item, text in zip(data.items["item_id"], data.items["text"], strict=True):
            if (family, item) not in number:
                number[family, item] = len(titles)
                titles.append(clean_text(text))
        rows = {item: row for (of, item), row in number.items() if of == family}
        shown = data.interactions.get("history")
        joined = [
            ", ".join(titles[rows[item]] for item in row)
            for row in (() if shown is None else shown)
        ]
        history = [histories.setdefault(text or "nothing yet", len(histories)) for text in joined]
        frame = data.interactions.assign(past=history or 0)
        frame = frame.sort_values(["user_id", "item_id"], kind="stable")
        codes, people = pd.factorize(frame["user_id"].to_numpy(), sort=True)
        outcome = frame["outcome"].to_numpy(dtype=np.float64)
        answer = np.rint(outcome) - 1 if data.task == "rating" else 1 - np.rint(outcome)
        source = Source(
            name=data.name,
            task=data.task,
            user=codes.astype(np.int32),
            item=frame["item_id"].map(rows).to_numpy(dtype=np.int32),
            answer=answer.astype(np.int32),
            history=frame["past"].to_numpy(dtype=np.int32),
            first=np.searchsorted(codes, np.arange(len(people) + 1)),
            people=[(family, str(user)) for user in people],
        )
        sources.append(source)
    return Corpus(titles, list(histories), sources)


class Segments:
    """Runs of token ids in one flat array; segment 0 is empty."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = [np.zeros(0, dtype=np.int32)]
        self.tokens = self._runs[0]
        self.start = np.zeros(1, dtype=np.int64)
        self.length = np.zeros(1, dtype=np.int64)

    def add(self, ids: Sequence[int]) -> int:
        """Store one run of ids and return its number."""
        self._runs.append(np.asarray(ids, dtype=np.int32))
        return len(self._runs) - 1

    def pack(self) -> None:
        """Build the arrays; call once, after the last add."""
        self.length = np.array([len(run) for run in self._runs], dtype=np.int64)
        self.start = np.concatenate([[0], np.cumsum(self.length)[:-1]])
        self.tokens = np.concatenate(self._runs)

    def join(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Concatenate the segments of each row of numbers [b, s].

        Returns the tokens of all rows one after another [t], the column of numbers that
        each came from [t], and the length of each row [b].
        """
        flat = numbers.ravel()
        lengths = self.length[flat]
        ends = np.cumsum(lengths)
        shift = np.repeat(self.start[flat] - (ends - lengths), lengths)
        tokens = self.tokens[shift + np.arange(ends[-1])]
        column = np.repeat(np.tile(np.arange(numbers.shape[1]), len(numbers)), lengths)
        return tokens, column, lengths.reshape(numbers.shape).sum(axis=1)


@dataclass(frozen=True)
class TemplateSegments:
    """A template as segment numbers, read as the engine reads it.

    pieces: literal texts, the answer cue included, and slots, in order. filled: the segment of each
    text of a slot, [titles] or [histories]. answers: a segment for each answer; answer_ids: its id.
    """

    template: Template
    pieces: tuple[int | Slot, ...]
    filled: dict[Slot, np.ndarray]
    answers: np.ndarray
    answer_ids: tuple[int, ...]


class TokenisedCorpus:
    """The segments of all titles and templates in one tokenizer's tokens.

    In the prompt slot a title is cut, with a space in front (first known pair) or "; " (further
    pairs). An outcome stands behind ": ".
    """

    def __init__(self, tokenizer: Any, corpus: Corpus, pair_tokens: int) -> None:
        self.segments = Segments()
        add = self.segments.add
        continued = text_encoder(tokenizer).continued
        self.start = add(start_ids(tokenizer))
        first = continued([f" {title}" for title in corpus.titles])
        further = continued([f"; {title}" for title in corpus.titles])
        self.cut = np.array([add(ids[:pair_tokens]) for ids in first])
        self.paired = np.array([add(ids[: pair_tokens + 1]) for ids in further])
        self.vector = add([0])
        texts = {Slot.ITEM: corpus.titles, Slot.HISTORY: corpus.histories}
        most = {Slot.ITEM: ITEM_TOKENS, Slot.HISTORY: HISTORY_TOKENS}
        known: dict[tuple[int, ...], int] = {}  # most templates fill a slot with the same tokens

        def segment(ids: Sequence[int]) -> int:
            key = tuple(ids)
            if key not in known:
                known[key] = add(ids)
            return known[key]

        self.templates = []
        for template in TEMPLATES.values():
            encoded = encode_template(tokenizer, template, TASKS[template.task].answers)
            filled = {
                slot: np.array([segment(ids[: most[slot]]) for ids in encoded.fill(slot, filling)])
                for slot, filling in texts.items()
                if slot in encoded.pieces
            }
            pieces = tuple(
                piece if isinstance(piece, Slot) else add(piece) for piece in encoded.pieces
            )
            answers = np.array([add([token]) for token in encoded.answers])
            self.templates.append(
                TemplateSegments(template, pieces, filled, answers, encoded.answers)
            )
        self.pair_cue: dict[str, int] = {}
        self.pair_answers: dict[str, np.ndarray] = {}
        for name, task in TASKS.items():
            ends = continued([f": {answer}" for answer in task.answers])
            self.pair_cue[name] = add(ends[0][:-1])
            self.pair_answers[name] = np.array([add(end[-1:]) for end in ends])
        self.segments.pack()
