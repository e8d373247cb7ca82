"""The claims of the paper, each with the study that answers it and the rule it is judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from puma_engine.defaults import MARGIN, PAPER_STRATEGY
from puma_engine.studies import claim_verdicts
from puma_engine.studies.builder import SMALL_SHARE
from puma_engine.studies.claim_verdicts import CHEAP, LOWEST_GAIN, SUFFICES, Judged, Report

INTERVALS = (
    "An interval is the 95 % one over resampled users; from three seeds on, the 95 % one over "
    "trainings (Student's t) must agree, or nothing is decided. Fewer seeds tell nothing of how "
    "another training would have gone."
)
APART = (
    "The report holds no interval of this difference: from three seeds on, that over trainings "
    "decides; with fewer, the intervals of the two must not overlap."
)
FEW = f"{100 * SMALL_SHARE:g} % of the users"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, the study that answers it, and its rule in words and as code.

    judge returns None where the report has no rows that could tell.
    """

    name: str
    text: str
    study: str
    rule: str
    judge: Callable[[Report, str], Judged | None]


CLAIMS = (
    Claim(
        "all-users",
        "A migration trained on all users is at least as good as full retraining.",
        "table2",
        "Reproduced if the interval of the difference from full retraining lies at zero or on the "
        "better side; not reproduced if it lies on the worse side.",
        claim_verdicts.all_users,
    ),
    Claim(
        "few-users",
        "A few well-chosen users suffice.",
        "table2",
        f"Training on {FEW}, by clusters and variance. Reproduced if the "
        f"interval of the loss lies within {100 * SUFFICES:g} % of full retraining's figure; not "
        "reproduced if it lies beyond.",
        claim_verdicts.few_users,
    ),
    Claim(
        "cost",
        "A migration costs up to 98 % less.",
        "table2",
        f"Seconds of training on {FEW}, choosing them included, over "
        "those of full retraining on the same device, neither with the search for settings. "
        f"Reproduced if at most {100 * CHEAP:g} % with every seed; not reproduced if more with every seed.",
        claim_verdicts.cost,
    ),
    Claim(
        "selection",
        "Clusters and variance choose better users than chance.",
        "table4",
        f"The strategy {PAPER_STRATEGY} against random users at the budget nearest {FEW}. "
        "Reproduced if the interval of the difference lies on the better side; not reproduced if "
        "it lies on the worse side; undecided with fewer than three seeds, since trainings on few "
        "users lie as far apart as strategies do.",
        claim_verdicts.selection,
    ),
    Claim(
        "taste",
        "Source prompts carry each user's taste into the new model.",
        "table2",
        "A migration against the same one with the source prompts shuffled between users. "
        f"Reproduced if it is better. {APART}",
        claim_verdicts.taste,
    ),
    Claim(
        "pairs",
        f"Migrating gains between models of all families (Figure 4: {LOWEST_GAIN} to 1.0299).",
        "figure4",
        "The mean difference from full retraining over all ordered pairs. Reproduced if its "
        f"interval lies at zero or on the better side and no pair's gain is below {LOWEST_GAIN}, "
        "the paper's lowest; not reproduced if it lies on the worse side. The ends are the means "
        "of the pairs' own, which is at least as wide.",
        claim_verdicts.pairs,
    ),
    Claim(
        "sources",
        "Several sources beat a single one (Figure 6).",
        "figure6",
        "The mean of all fusions of two or three sources against the mean of all single sources. "
        f"Reproduced if it is better; not reproduced if it is worse. {APART}",
        claim_verdicts.sources,
    ),
    Claim(
        "chains",
        "Chains lose little a hop (Figure 5).",
        "figure5",
        "Every chain against a direct migration to its last model. Reproduced if the intervals of "
        f"all lie within {100 * MARGIN:g} % of its figure for each hop after the first; not reproduced "
        "if that of any chain lies beyond.",
        claim_verdicts.chains,
    ),
    Claim(
        "equal-cost",
        "At equal cost a migration is better than retraining (Table 3).",
        "table3",
        f"PUMA at the budget nearest {FEW} against the retraining, stopped early or "
        "not, that takes the fewest seconds of those that take at least as many. Reproduced if "
        f"the migration is better; not reproduced if it is worse. {APART}",
        claim_verdicts.equal_cost,
    ),
)
