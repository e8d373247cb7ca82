"""Pre-training of one zoo model: its loss on planned sequences, and what it then knows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.zoo.corpus import Corpus, Source, TokenisedCorpus
from research.zoo.recipe import Recipe
from research.zoo.sequences import Batch, Plan, Sequences, draw_plan, fixed_plan

VALIDATION_PAIRS = (0, 4, 12)
VALIDATION_BATCH = 128
VECTOR_BOUND = 0.1  # uniform start of the user vectors, as of soft prompts
VECTOR_GAIN = 4.0  # a user's vector comes up rarely, so it learns this much faster
MEAN_SHRINKAGE = 5.0  # outcomes at the overall mean added to each item's own


def held_out(person: tuple[str, str], share: float) -> bool:
    """Whether a foundation user (family, id) is kept for validation; a pure function of both."""
    digest = hashlib.sha256(f"zoo-validation:{person[0]}:{person[1]}".encode()).hexdigest()
    return int(digest[:8], 16) < share * 2**32


def split_corpus(corpus: Corpus, share: float) -> tuple[Corpus, Corpus]:
    """Return the corpus to learn from and the one of the held-out users."""
    train = corpus.keep(lambda person: not held_out(person, share))
    return train, corpus.keep(lambda person: held_out(person, share))


class Pretraining(nn.Module):
    """Maps row numbers of a plan to the sum of these sequences' losses."""

    def __init__(self, model: Any, sequences: Sequences, people: int, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.sequences = sequences
        self.user_vectors: nn.Embedding | None = None
        if recipe.user_vectors_share > 0:
            width = model.config.hidden_size
            self.user_vectors = nn.Embedding(people, width)
            generator = torch.Generator().manual_seed(recipe.seed)
            with torch.no_grad():
                bound = VECTOR_BOUND / VECTOR_GAIN
                self.user_vectors.weight.uniform_(-bound, bound, generator=generator)

    def forward(self, rows: Tensor) -> Tensor:
        """Sum over the sequences rows [B] of their weighted cross entropies, fp32."""
        batch = self.sequences.batch(rows.cpu().numpy())
        hidden = last_hidden(self.model, batch, self.user_vectors)
        device = hidden.device
        where = _to(batch.where, device)
        logits = self.model.get_output_embeddings()(hidden[where])  # [m, vocabulary]
        loss = F.cross_entropy(logits.float(), _to(batch.label, device), reduction="none")
        return (loss * _to(batch.weight, device)).sum()


def last_hidden(model: Any, batch: Batch, user_vectors: nn.Embedding | None = None) -> Tensor:
    """Return the last hidden states of a batch, flat: [b * L, width]."""
    embed = model.get_input_embeddings()
    device = embed.weight.device
    inputs = embed(_to(batch.ids, device))  # [b, L, width]
    if user_vectors is not None and len(batch.vector_at):
        vectors = VECTOR_GAIN * user_vectors(_to(batch.people, device)).to(inputs.dtype)
        flat = inputs.flatten(0, 1).index_copy(0, _to(batch.vector_at, device), vectors)
        inputs = flat.view_as(inputs)
    hidden = model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)


def _to(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Material:
    """One tokenizer's view of the corpus: training sequences and held-out users."""

    recipe: Recipe
    tokenised: TokenisedCorpus
    train: Corpus
    held_out: Corpus
    sequences: Sequences

    @classmethod
    def build(cls, recipe: Recipe, tokenizer: Any, corpus: Corpus) -> Material:
        """Tokenise a corpus and plan all training sequences (CPU, seconds)."""
        tokenised = TokenisedCorpus(tokenizer, corpus, recipe.pair_tokens)
        train, valid = split_corpus(corpus, recipe.validation_share)
        plan = draw_plan(train, recipe, tokenised, recipe.steps * recipe.batch_size)
        return cls(recipe, tokenised, train, valid, Sequences(train, recipe, tokenised, plan))


@torch.no_grad()
def validate(model: Any, material: Material) -> dict[str, Any]:
    """Measure a model on held-out users: answers with 0, 4 and 12 known pairs.

    Returns for the rating and click templates (both orders) the cross entropy among the
    answers, and RMSE for ratings, beside a shrunken item mean of the training users on the
    same rows. NaN-free; a source without held-out rows is left out.
    """
    model.eval()
    found: dict[str, Any] = {}
    for number, source in enumerate(material.held_out.sources):
        target = _targets(source, material.recipe)
        if not len(target):
            continue
        report: dict[str, Any] = {
            "rows": len(target),
            "users": len(source.people),
            "item_mean": _item_mean(material.train.sources[number], source, target),
        }
        for template in (source.task, f"{source.task}-item-first"):
            report[template] = {
                str(pairs): _measure(model, material, number, template, target, pairs)
                for pairs in VALIDATION_PAIRS
            }
        found[source.name] = report
    return found


def _targets(source: Source, recipe: Recipe) -> np.ndarray:
    rng = np.random.default_rng([recipe.seed, 0x7A96])
    wanted = min(len(source), recipe.validation_rows)
    return np.sort(rng.choice(len(source), size=wanted, replace=False))


def _measure(
    model: Any, material: Material, number: int, template: str, target: np.ndarray, pairs: int
) -> dict[str, float]:
    corpus = material.held_out
    plan = fixed_plan(
        corpus,
        material.recipe,
        material.tokenised,
        source=number,
        template=template,
        target=target,
        pairs=pairs,
    )
    log_p = answer_log_probabilities(model, material, plan, template)
    return _scores(corpus.sources[number].task, log_p, corpus.sources[number].answer[target])


def answer_log_probabilities(
    model: Any, material: Material, plan: Plan, template: str
) -> np.ndarray:
    """Return log-probabilities among a template's answers for held-out rows, [n, answers]."""
    sequences = Sequences(material.held_out, material.recipe, material.tokenised, plan)
    form = next(t for t in material.tokenised.templates if t.template.name == template)
    ids = torch.tensor(form.answer_ids, device=model.device)
    found = []
    for start in range(0, len(plan), VALIDATION_BATCH):
        rows = np.arange(start, min(start + VALIDATION_BATCH, len(plan)))
        batch = sequences.batch(rows)
        hidden = last_hidden(model, batch)[_to(batch.answer_at, model.device)]
        logits = model.get_output_embeddings()(hidden)[:, ids]
        found.append(F.log_softmax(logits.float(), dim=-1).double().cpu().numpy())
    return np.concatenate(found)


def _scores(task: str, log_p: np.ndarray, answer: np.ndarray) -> dict[str, float]:
    scores = {"answer_loss": _round(-log_p[np.arange(len(answer)), answer].mean())}
    if task == "rating":
        expected = np.exp(log_p) @ np.arange(1, log_p.shape[1] + 1)
        scores["rmse"] = _round(np.sqrt(np.mean((expected - answer - 1) ** 2)))
    return scores


def _item_mean(train: Source, source: Source, target: np.ndarray) -> dict[str, float]:
    """Scores of the training users' item means on the same rows."""
    outcome = train.answer + 1.0 if train.task == "rating" else 1.0 - train.answer
    overall = float(outcome.mean())
    size = int(max(train.item.max(), source.item.max())) + 1
    total = np.bincount(train.item, outcome, minlength=size) + MEAN_SHRINKAGE * overall
    mean = total / (np.bincount(train.item, minlength=size) + MEAN_SHRINKAGE)
    predicted, answer = mean[source.item[target]], source.answer[target]
    if train.task == "rating":
        return {"rmse": _round(np.sqrt(np.mean((predicted - answer - 1) ** 2)))}
    p = np.clip(predicted, 1e-3, 1 - 1e-3)
    return {"answer_loss": _round(-np.mean(np.where(answer == 0, np.log(p), np.log1p(-p))))}


def _round(value: np.floating | float) -> float:
    return round(float(value), 5)
