"""From a corpus to training sequences: first a plan (numbers only), then tokens.

A plan says for each sequence which outcome it asks for, in which template, and which other
outcomes of that user it shows. It is a pure function of corpus, recipe and seed, so
training can stop and resume anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from puma_engine.backbone.templates import Slot
from research.zoo.corpus import Corpus, Source, TemplateSegments, TokenisedCorpus
from research.zoo.recipe import Recipe

SPARE_DRAWS = 6  # drawn beyond the pairs wanted, to make up for repeats
CHUNK = 16_384  # rows a time when lengths are counted
QUIET, TEXT, OUTCOME, ANSWER = range(4)  # what a token counts as in the loss


@dataclass(frozen=True)
class Plan:
    """Sequences as numbers.

    source, template [n]; target [n] is a row of the source; pairs [n, k] are rows of the
    same user, -1 for none, the kept ones first; vector [n] says that the user's vector
    stands in the slot.
    """

    source: np.ndarray
    template: np.ndarray
    target: np.ndarray
    pairs: np.ndarray
    vector: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: np.ndarray) -> Plan:
        return Plan(
            self.source[rows],
            self.template[rows],
            self.target[rows],
            self.pairs[rows],
            self.vector[rows],
        )


@dataclass(frozen=True)
class Batch:
    """Sequences as tokens, padded on the right.

    ids [b, L]; hidden state number where[m] of the b * L predicts label[m] with weight[m];
    answer_at [b] are the ones that predict the answers, answer [b] their numbers;
    vector_at [v] are the ones to replace by the vectors of people[v].
    """

    ids: np.ndarray
    where: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    answer_at: np.ndarray
    answer: np.ndarray
    vector_at: np.ndarray
    people: np.ndarray


def draw_plan(corpus: Corpus, recipe: Recipe, tokenised: TokenisedCorpus, n: int) -> Plan:
    """Draw n sequences by the recipe's weights from its seed."""
    rng = np.random.default_rng([recipe.seed, 0x5EED])
    weights = np.array([recipe.templates.get(t.template.name, 0.0) for t in tokenised.templates])
    template = rng.choice(len(weights), size=n, p=weights / weights.sum()).astype(np.int8)
    tasks = np.array([t.template.task for t in tokenised.templates])[template]
    source = np.zeros(n, dtype=np.int8)
    target = np.zeros(n, dtype=np.int64)
    pairs = np.full((n, recipe.pairs), -1, dtype=np.int32)
    count = rng.integers(1, recipe.pairs + 1, size=n) * (rng.random(n) >= recipe.no_pairs)
    vector = rng.random(n) < recipe.user_vectors_share
    count[vector] = 0
    for task in np.unique(tasks):
        rows = np.flatnonzero(tasks == task)
        of = np.array([s.task == task for s in corpus.sources])
        sizes = np.array([len(s) for s in corpus.sources]) * of
        source[rows] = rng.choice(len(sizes), size=len(rows), p=sizes / sizes.sum())
    for number, one in enumerate(corpus.sources):
        rows = np.flatnonzero(source == number)
        rows = rows[tasks[rows] == one.task]
        target[rows] = rng.integers(0, max(len(one), 1), size=len(rows))
        pairs[rows] = draw_pairs(one, target[rows], count[rows], recipe, tokenised, rng)
    return Plan(source, template, target, pairs, vector)


def fixed_plan(
    corpus: Corpus,
    recipe: Recipe,
    tokenised: TokenisedCorpus,
    *,
    source: int,
    template: str,
    target: np.ndarray,
    pairs: int,
) -> Plan:
    """Plan one sequence for each target row, with so many known pairs where there are."""
    rng = np.random.default_rng([recipe.seed, 0xF1ED, pairs])
    names = [t.template.name for t in tokenised.templates]
    n = len(target)
    count = np.full(n, pairs)
    return Plan(
        np.full(n, source, dtype=np.int8),
        np.full(n, names.index(template), dtype=np.int8),
        target,
        draw_pairs(corpus.sources[source], target, count, recipe, tokenised, rng),
        np.zeros(n, dtype=bool),
    )


def draw_pairs(
    source: Source,
    target: np.ndarray,
    count: np.ndarray,
    recipe: Recipe,
    tokenised: TokenisedCorpus,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw up to count[n] other rows of each target's user, each once, as [n, pairs].

    Fewer come where a user has fewer or where the titles do not fit in the slot.
    """
    user = source.user[target]
    first, size = source.first[user], source.first[user + 1] - source.first[user]
    width = recipe.pairs + SPARE_DRAWS
    drawn = first[:, None] + (rng.random((len(target), width)) * size[:, None]).astype(np.int64)
    kept = drawn != target[:, None]
    for column in range(1, width):
        kept[:, column] &= ~(drawn[:, :column] == drawn[:, column : column + 1]).any(axis=1)
    kept &= np.cumsum(kept, axis=1) <= count[:, None]
    ends = tokenised.segments.length[tokenised.pair_cue[source.task]] + 1
    tokens = tokenised.segments.length[tokenised.paired[source.item[drawn]]] + ends
    kept &= np.cumsum(tokens * kept, axis=1) <= recipe.slot_tokens
    order = np.argsort(~kept, axis=1, kind="stable")
    pairs = np.take_along_axis(np.where(kept, drawn, -1), order, axis=1)
    return pairs[:, : recipe.pairs].astype(np.int32)


class Sequences:
    """A plan, and the tokens of any of its rows."""

    def __init__(
        self, corpus: Corpus, recipe: Recipe, tokenised: TokenisedCorpus, plan: Plan
    ) -> None:
        self._corpus = corpus
        self._tokenised = tokenised
        self.plan = plan
        self._weights = np.array([0.0, recipe.text_weight, recipe.outcome_weight, 1.0], np.float32)
        number = {person: row for row, person in enumerate(corpus.people)}
        self._person = [np.array([number[p] for p in s.people]) for s in corpus.sources]

    def __len__(self) -> int:
        return len(self.plan)

    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, [n]."""
        found = np.empty(len(self), dtype=np.int64)
        for start in range(0, len(self), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(self)))
            numbers, _ = self._numbers(self.plan.take(rows))
            found[rows] = self._tokenised.segments.length[numbers].sum(axis=1)
        return found

    def batch(self, rows: np.ndarray) -> Batch:
        """Return some sequences as tokens."""
        plan = self.plan.take(rows)
        numbers, roles = self._numbers(plan)
        tokens, column, lengths = self._tokenised.segments.join(numbers)
        row = np.repeat(np.arange(len(rows)), lengths)
        position = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        width = int(lengths.max())
        place = row * width + position
        ids = np.zeros(len(rows) * width, dtype=np.int64)
        ids[place] = tokens
        weight = self._weights[roles[row, column]]
        counted = (weight > 0) & (position > 0)
        at_vector = numbers[row, column] == self._tokenised.vector
        return Batch(
            ids=ids.reshape(len(rows), width),
            where=place[counted] - 1,
            label=tokens[counted].astype(np.int64),
            weight=weight[counted],
            answer_at=np.arange(len(rows)) * width + lengths - 2,
            answer=self._answers(plan),
            vector_at=place[at_vector],
            people=self._people(plan)[row[at_vector]],
        )

    def _answers(self, plan: Plan) -> np.ndarray:
        return self._pick(plan, [source.answer for source in self._corpus.sources])

    def _people(self, plan: Plan) -> np.ndarray:
        by_row = [
            person[source.user] if len(source) else np.zeros(0, dtype=np.int64)
            for person, source in zip(self._person, self._corpus.sources, strict=True)
        ]
        return self._pick(plan, by_row)

    def _pick(self, plan: Plan, arrays: list[np.ndarray]) -> np.ndarray:
        found = np.zeros(len(plan), dtype=np.int64)
        for number, array in enumerate(arrays):
            rows = plan.source == number
            found[rows] = array[plan.target[rows]]
        return found

    def _numbers(self, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
        """Segment numbers and roles of every column, [b, s]."""
        groups = []
        for source in range(len(self._corpus.sources)):
            for template in range(len(self._tokenised.templates)):
                rows = np.flatnonzero((plan.source == source) & (plan.template == template))
                if len(rows):
                    groups.append((rows, *self._group(plan.take(rows), source, template)))
        width = max(numbers.shape[1] for _, numbers, _ in groups)
        numbers = np.zeros((len(plan), width), dtype=np.int64)
        roles = np.zeros((len(plan), width), dtype=np.int8)
        for rows, some, kind in groups:
            numbers[rows, : some.shape[1]] = some
            roles[rows, : some.shape[1]] = kind
        return numbers, roles

    def _group(self, plan: Plan, source: int, template: int) -> tuple[np.ndarray, np.ndarray]:
        known, form = self._corpus.sources[source], self._tokenised.templates[template]
        columns = [(np.full((len(plan), 1), self._tokenised.start), [QUIET])]
        for piece in form.pieces:
            columns.append(self._piece(piece, plan, known))
        columns.append((np.full((len(plan), 1), form.cue), [TEXT]))
        columns.append((_answer(form, known, plan), [ANSWER]))
        numbers = np.concatenate([block for block, _ in columns], axis=1)
        return numbers, np.array([role for _, kinds in columns for role in kinds], dtype=np.int8)

    def _piece(self, piece: int | Slot, plan: Plan, source: Source) -> tuple[np.ndarray, list[int]]:
        tokenised = self._tokenised
        if piece is Slot.ITEM:
            return tokenised.whole[source.item[plan.target]][:, None], [TEXT]
        if piece is Slot.HISTORY:
            return tokenised.history[source.history[plan.target]][:, None], [TEXT]
        if piece is Slot.PROMPT:
            return self._slot(plan, source)
        return np.full((len(plan), 1), piece), [TEXT]

    def _slot(self, plan: Plan, source: Source) -> tuple[np.ndarray, list[int]]:
        """The vector, or the known pairs, each a title, a colon and an outcome."""
        tokenised, pairs = self._tokenised, plan.pairs
        real = pairs >= 0
        item, answer = source.item[pairs], source.answer[pairs]
        title = tokenised.paired[item]
        title[:, 0] = tokenised.cut[item[:, 0]]
        cue = np.full(pairs.shape, tokenised.pair_cue[source.task])
        outcome = tokenised.pair_answers[source.task][answer]
        block = np.stack([title, cue, outcome], axis=2) * real[:, :, None]
        vector = np.where(plan.vector, tokenised.vector, 0)[:, None]
        numbers = np.concatenate([vector, block.reshape(len(plan), -1)], axis=1)
        return numbers, [QUIET] + [TEXT, TEXT, OUTCOME] * pairs.shape[1]


def _answer(form: TemplateSegments, source: Source, plan: Plan) -> np.ndarray:
    return form.answers[source.answer[plan.target]][:, None]
