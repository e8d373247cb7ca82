"""Pre-training of one zoo model: its loss on planned sequences, and its validation."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.zoo.corpus import Corpus, Source, TokenisedCorpus
from research.zoo.recipe import ORDER_WEIGHTS, Recipe
from research.zoo.sequences import Batch, Sequences, draw_plan, fixed_plan

VALIDATION_PAIRS = (0, 4, 12)
VALIDATION_BATCH = 128
VECTOR_BOUND = 0.1  # uniform start of the user vectors, as of soft prompts
VECTOR_GAIN = 4.0  # larger steps for user vectors, each of which is in few batches
MEAN_SHRINKAGE = 5.0  # pseudo-outcomes at the overall mean in each item's mean
LOSS_ROWS = 2048  # training sequences on which the final answer loss is measured


def held_out(person: tuple[str, str], share: float) -> bool:
    """Return whether a foundation user (family, id) is held out for validation, by a hash of both."""
    digest = hashlib.sha256(f"zoo-validation:{person[0]}:{person[1]}".encode()).hexdigest()
    return int(digest[:8], 16) < share * 2**32


def split_corpus(corpus: Corpus, share: float) -> tuple[Corpus, Corpus]:
    """Return the corpus to train on and the one of the held-out users."""
    train = corpus.subset(lambda person: not held_out(person, share))
    return train, corpus.subset(lambda person: held_out(person, share))


class Pretraining(nn.Module):
    """The loss of planned sequences, as a module for the training loop."""

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
        """Return the sum of the weighted cross entropies of the sequences rows [B], in fp32."""
        batch = self.sequences.batch(rows.cpu().numpy())
        hidden = last_hidden(self.model, batch, self.user_vectors)
        device = hidden.device
        where = _to(batch.where, device)
        logits = self.model.get_output_embeddings()(hidden[where])  # [m, vocabulary]
        loss = F.cross_entropy(logits.float(), _to(batch.label, device), reduction="none")
        return (loss * _to(batch.weight, device)).sum()


def last_hidden(model: Any, batch: Batch, user_vectors: nn.Embedding | None = None) -> Tensor:
    """Return the last hidden states of a batch, flattened to [b * L, width]."""
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
    def build(cls, recipe: Recipe, tokenizer: Any, corpus: Corpus) -> "Material":
        """Tokenise a corpus and plan all training sequences (CPU, seconds)."""
        tokenised = TokenisedCorpus(tokenizer, corpus, recipe.pair_tokens)
        train, valid = split_corpus(corpus, recipe.validation_share)
        plan = draw_plan(train, recipe, tokenised, recipe.steps * recipe.batch_size)
        return cls(recipe, tokenised, train, valid, Sequences(train, recipe, tokenised, plan))


@torch.no_grad()
def training_answer_loss(model: Any, material: Material) -> float:
    """Return the mean cross entropy of the answers (whole vocabulary) of some training sequences."""
    model.eval()
    sequences, total = material.sequences, 0.0
    rows = np.arange(min(LOSS_ROWS, len(sequences)))
    for some in np.array_split(rows, max(1, len(rows) // VALIDATION_BATCH)):
        batch = sequences.batch(some)
        label = _to(batch.ids.ravel()[batch.answer_at + 1], model.device)
        logits = _answer_logits(model, batch)
        total += float(F.cross_entropy(logits.float(), label, reduction="sum"))
    return total / len(rows)


@torch.no_grad()
def validate(model: Any, material: Material) -> dict[str, Any]:
    """Measure a model on held-out users, with 0, 4 and 12 known pairs in the prompt.

    Returns for each source and the three orders of its template the cross entropy among the answers,
    with RMSE for ratings, and the same scores of the training users' shrunken item means.
    Sources without held-out rows are left out.
    """
    model.eval()
    report: dict[str, Any] = {}
    for number, source in enumerate(material.held_out.sources):
        if not len(source):
            continue
        rng = np.random.default_rng([material.recipe.seed, 0x7A96])
        rows = min(len(source), material.recipe.validation_rows)
        target = np.sort(rng.choice(len(source), size=rows, replace=False))
        scores: dict[str, Any] = {"rows": len(target), "users": len(source.people)}
        train = material.train.sources[number]
        scores["item_mean"] = _item_mean_scores(train, source, target)
        for template in (source.task + order for order in ORDER_WEIGHTS):
            scores[template] = {
                str(pairs): _scores(model, material, number, template, target, pairs)
                for pairs in VALIDATION_PAIRS
            }
        report[source.name] = scores
    return report


def _scores(
    model: Any, material: Material, number: int, template: str, target: np.ndarray, pairs: int
) -> dict[str, float]:
    """Return the scores of a model on held-out rows with `pairs` known pairs."""
    corpus, recipe, tokenised = material.held_out, material.recipe, material.tokenised
    plan = fixed_plan(
        corpus, recipe, tokenised, source=number, template=template, target=target, pairs=pairs
    )
    sequences = Sequences(corpus, recipe, tokenised, plan)
    form = next(form for form in tokenised.templates if form.template.name == template)
    ids = torch.tensor(form.answer_ids, device=model.device)
    parts = []
    for start in range(0, len(plan), VALIDATION_BATCH):
        rows = np.arange(start, min(start + VALIDATION_BATCH, len(plan)))
        logits = _answer_logits(model, sequences.batch(rows))[:, ids]
        parts.append(F.log_softmax(logits.float(), dim=-1).double().cpu().numpy())
    log_p, answer = np.concatenate(parts), corpus.sources[number].answer[target]
    scores = {"answer_loss": _round(-log_p[np.arange(len(answer)), answer].mean())}
    if corpus.sources[number].task == "rating":
        predicted = np.exp(log_p) @ np.arange(1, log_p.shape[1] + 1)
        scores["rmse"] = _rmse(predicted, answer)
    return scores


def _answer_logits(model: Any, batch: Batch) -> Tensor:
    """Return the logits [b, vocabulary] of the tokens in the place of the answers."""
    hidden = last_hidden(model, batch)[_to(batch.answer_at, model.device)]
    return model.get_output_embeddings()(hidden)


def _item_mean_scores(train: Source, source: Source, target: np.ndarray) -> dict[str, float]:
    """Return the scores of the training users' item means on held-out rows."""
    outcome = train.answer + 1.0 if train.task == "rating" else 1.0 - train.answer
    overall = float(outcome.mean())
    size = int(max(train.item.max(), source.item.max())) + 1
    total = np.bincount(train.item, outcome, minlength=size) + MEAN_SHRINKAGE * overall
    mean = total / (np.bincount(train.item, minlength=size) + MEAN_SHRINKAGE)
    predicted, answer = mean[source.item[target]], source.answer[target]
    if train.task == "rating":
        return {"rmse": _rmse(predicted, answer)}
    p = np.clip(predicted, 1e-3, 1 - 1e-3)
    return {"answer_loss": _round(-np.mean(np.where(answer == 0, np.log(p), np.log1p(-p))))}


def _rmse(predicted: np.ndarray, answer: np.ndarray) -> float:
    return _round(np.sqrt(np.mean((predicted - answer - 1) ** 2)))


def _round(value: np.floating | float) -> float:
    return round(float(value), 5)
