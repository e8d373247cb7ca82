"""Training sequences from a corpus: first a plan (numbers only), then tokens.

A plan says for each sequence which outcome is to be predicted, in which template, and which other
outcomes of that user the prompt slot shows. It is a function of corpus, recipe and seed alone, so
training can stop and resume anywhere.
"""

from dataclasses import dataclass, fields

import numpy as np

from puma_engine.backbone.templates import Slot
from research.zoo.corpus import Corpus, Source, TokenisedCorpus
from research.zoo.recipe import Recipe

SPARE_DRAWS = 6  # drawn beyond the pairs wanted, to make up for repeats
CHUNK = 16_384  # rows a time when lengths are counted
IGNORED, TEXT, OUTCOME, ANSWER = range(4)  # the role of a token in the loss


@dataclass(frozen=True)
class Plan:
    """Sequences as numbers.

    source, template [n]; target [n] is a row of the source; pairs [n, k] are rows of the same user
    that stand in the prompt slot, padded with -1; vector [n] says whether the user's vector stands
    there instead.
    """

    source: np.ndarray
    template: np.ndarray
    target: np.ndarray
    pairs: np.ndarray
    vector: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: np.ndarray) -> "Plan":
        """Return the sequences of some rows."""
        return Plan(*(getattr(self, part.name)[rows] for part in fields(self)))


@dataclass(frozen=True)
class Batch:
    """Sequences as tokens, padded on the right.

    ids [b, L]. Positions count the b * L of the flattened batch: the hidden state at where[m]
    predicts label[m], with weight[m] in the loss; those at answer_at [b] predict the answers; the
    embeddings at vector_at [v] are replaced by the vectors of the users people[v].
    """

    ids: np.ndarray
    where: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    answer_at: np.ndarray
    vector_at: np.ndarray
    people: np.ndarray


def draw_plan(corpus: Corpus, recipe: Recipe, tokenised: TokenisedCorpus, n: int) -> Plan:
    """Return n sequences drawn from the recipe's seed, templates by its weights."""
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
        sizes = np.array([len(s) * (s.task == task) for s in corpus.sources])
        source[rows] = rng.choice(len(sizes), size=len(rows), p=sizes / sizes.sum())
    for number, outcomes in enumerate(corpus.sources):
        rows = np.flatnonzero(source == number)
        target[rows] = rng.integers(0, max(len(outcomes), 1), size=len(rows))
        pairs[rows] = draw_pairs(outcomes, target[rows], count[rows], recipe, tokenised, rng)
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
    """Return one sequence for each target row, with at most `pairs` known pairs."""
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
    """Return up to count[n] other rows of each target's user, without repeats, [n, pairs].

    There are fewer where the user has fewer, or where the titles do not fit into the slot.
    """
    user = source.user[target]
    first, size = source.first[user], source.first[user + 1] - source.first[user]
    width = recipe.pairs + SPARE_DRAWS
    candidates = first[:, None] + (rng.random((len(target), width)) * size[:, None]).astype(
        np.int64
    )
    is_taken = candidates != target[:, None]
    for column in range(1, width):
        is_taken[:, column] &= ~(candidates[:, :column] == candidates[:, column : column + 1]).any(
            axis=1
        )
    is_taken &= np.cumsum(is_taken, axis=1) <= count[:, None]
    ends = tokenised.segments.length[tokenised.pair_cue[source.task]] + 1
    tokens = tokenised.segments.length[tokenised.paired[source.item[candidates]]] + ends
    is_taken &= np.cumsum(tokens * is_taken, axis=1) <= recipe.slot_tokens
    order = np.argsort(~is_taken, axis=1, kind="stable")
    pairs = np.take_along_axis(np.where(is_taken, candidates, -1), order, axis=1)
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
        self._person = [
            np.array([number[person] for person in source.people]) for source in corpus.sources
        ]

    def __len__(self) -> int:
        return len(self.plan)

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each sequence, [n]."""
        lengths = np.empty(len(self), dtype=np.int64)
        for start in range(0, len(self), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(self)))
            segments, _ = self._segments(self.plan.take(rows))
            lengths[rows] = self._tokenised.segments.length[segments].sum(axis=1)
        return lengths

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the sequences of some rows [b] of the plan as tokens."""
        plan = self.plan.take(rows)
        segments, roles = self._segments(plan)
        tokens, column, lengths = self._tokenised.segments.join(segments)
        row = np.repeat(np.arange(len(rows)), lengths)
        position = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        width = int(lengths.max())
        index = row * width + position
        ids = np.zeros(len(rows) * width, dtype=np.int64)
        ids[index] = tokens
        weight = self._weights[roles[row, column]]
        predicted = (weight > 0) & (position > 0)
        is_vector = segments[row, column] == self._tokenised.vector
        people = np.zeros(len(rows), dtype=np.int64)
        for number, source in enumerate(self._corpus.sources):
            of_source = plan.source == number
            if of_source.any():
                people[of_source] = self._person[number][source.user[plan.target[of_source]]]
        return Batch(
            ids=ids.reshape(len(rows), width),
            where=index[predicted] - 1,
            label=tokens[predicted].astype(np.int64),
            weight=weight[predicted],
            answer_at=np.arange(len(rows)) * width + lengths - 2,
            vector_at=index[is_vector],
            people=people[row[is_vector]],
        )

    def _segments(self, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
        """Return segment numbers and roles of every column of the sequences, both [b, s]."""
        groups = []
        for source in range(len(self._corpus.sources)):
            for template in range(len(self._tokenised.templates)):
                rows = np.flatnonzero((plan.source == source) & (plan.template == template))
                if len(rows):
                    groups.append((rows, *self._group(plan.take(rows), source, template)))
        width = max(segments.shape[1] for _, segments, _ in groups)
        segments = np.zeros((len(plan), width), dtype=np.int64)
        roles = np.zeros((len(plan), width), dtype=np.int8)
        for rows, of_group, roles_of_group in groups:
            segments[rows, : of_group.shape[1]] = of_group
            roles[rows, : of_group.shape[1]] = roles_of_group
        return segments, roles

    def _group(self, plan: Plan, source: int, template: int) -> tuple[np.ndarray, np.ndarray]:
        """Return segments [b, s] and roles [s] of sequences of one source and template."""
        outcomes, form = self._corpus.sources[source], self._tokenised.templates[template]
        tokenised, n = self._tokenised, len(plan)
        columns: list[np.ndarray] = [np.full((n, 1), tokenised.start)]
        roles = [IGNORED]
        for piece in form.pieces:
            if piece is Slot.PROMPT:
                # The user's vector, or the known pairs: each a title, a colon and an outcome.
                pairs, task = plan.pairs, outcomes.task
                item = outcomes.item[pairs]
                title = tokenised.paired[item]
                title[:, 0] = tokenised.cut[item[:, 0]]
                cue = np.full(pairs.shape, tokenised.pair_cue[task])
                answer = tokenised.pair_answers[task][outcomes.answer[pairs]]
                block = np.stack([title, cue, answer], axis=2) * (pairs >= 0)[:, :, None]
                columns.append(np.where(plan.vector, tokenised.vector, 0)[:, None])
                columns.append(block.reshape(n, -1))
                roles += [IGNORED] + [TEXT, TEXT, OUTCOME] * pairs.shape[1]
                continue
            if piece is Slot.ITEM:
                columns.append(form.filled[piece][outcomes.item[plan.target]][:, None])
            elif piece is Slot.HISTORY:
                columns.append(form.filled[piece][outcomes.history[plan.target]][:, None])
            else:
                columns.append(np.full((n, 1), piece))
            roles.append(TEXT)
        columns.append(form.answers[outcomes.answer[plan.target]][:, None])
        roles.append(ANSWER)
        return np.concatenate(columns, axis=1), np.array(roles, dtype=np.int8)
