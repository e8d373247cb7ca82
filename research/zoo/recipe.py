"""Every setting of the zoo's pre-training, checked when built."""

from dataclasses import dataclass, field

from puma_engine.backbone.templates import TEMPLATES
from puma_engine.config import TrainingConfig, _Config, _positive

# Share of the sequences by task, and of each task's by the order of the template. Half are of the
# order that products use by default.
TASK_WEIGHTS = {"rating": 0.6, "click": 0.4}
ORDER_WEIGHTS = {"": 0.25, "-item-first": 0.25, "-prompt-last": 0.5}


def template_weights() -> dict[str, float]:
    """Return the share of the sequences of each shipped template; the shares add up to 1."""
    weights = {}
    for task, of_task in TASK_WEIGHTS.items():
        forms = [task] + [name for name in (f"{task}-history",) if name in TEMPLATES]
        for form in forms:
            for order, of_order in ORDER_WEIGHTS.items():
                weights[form + order] = round(of_task * of_order / len(forms), 6)
    return weights


@dataclass(frozen=True)
class Recipe(_Config):
    """How one zoo model is pre-trained.

    steps of batch_size sequences, each drawn anew. A sequence is a template (drawn by
    `templates`' weights) whose prompt slot holds up to `pairs` known title-outcome pairs of
    the item's user (none in a share `no_pairs` of them), each title cut to `pair_tokens`
    and all of them to `slot_tokens`. The losses of the outcomes inside the slot and of all
    other text count `outcome_weight` and `text_weight` beside 1 for the answer. In a share
    `user_vectors_share` the slot holds one learned vector of the user instead of text; the
    vectors are thrown away afterwards. A share `validation_share` of the foundation users
    is held out.
    """

    steps: int = 2400
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.03
    pairs: int = 12
    no_pairs: float = 0.1
    pair_tokens: int = 14
    slot_tokens: int = 200
    outcome_weight: float = 0.3
    text_weight: float = 0.05
    user_vectors_share: float = 0.0
    validation_share: float = 0.05
    validation_rows: int = 4000
    templates: dict[str, float] = field(default_factory=template_weights)
    seed: int = 0

    def problems(self) -> list[str]:
        problems = _positive(
            self, "steps", "batch_size", "learning_rate", "pairs", "pair_tokens", "slot_tokens"
        )
        for name in ("no_pairs", "user_vectors_share", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name} must be in [0, 1), not {getattr(self, name)!r}")
        for name in ("outcome_weight", "text_weight"):
            if getattr(self, name) < 0:
                problems.append(f"{name} must be 0 or more, not {getattr(self, name)!r}")
        unknown = sorted(set(self.templates) - set(TEMPLATES))
        if unknown:
            known = ", ".join(TEMPLATES)
            problems.append(f"templates names {', '.join(unknown)}; known are {known}")
        if not self.templates or any(weight < 0 for weight in self.templates.values()):
            problems.append("templates needs weights of 0 or more")
        elif not sum(self.templates.values()) > 0:
            problems.append("templates needs at least one weight above 0")
        return problems

    def training(self) -> TrainingConfig:
        """The settings of the training loop: one epoch, for no sequence comes twice."""
        return TrainingConfig(
            epochs=1,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            optimizer="adamw",
            patience=0,
            seed=self.seed,
        )
