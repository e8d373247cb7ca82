"""PUMA's terms in plain words, for help texts and for the glossary."""

from __future__ import annotations

import streamlit as st

TERMS = {
    "soft prompt": "A few learnt vectors that stand for one user. They are put among the words that "
    "a language model reads, in the place of a description of the user.",
    "backbone": "A language model that is used as it is: its weights are never changed. All that "
    "is personal is in the soft prompts.",
    "adapter": "A small network that turns the soft prompts of one backbone into soft prompts of "
    "another. It is trained on some users and then applied to all.",
    "migration": "Moving every user's soft prompt from an old backbone to a new one with an adapter, "
    "instead of learning all prompts again.",
    "chain": "Several migrations in a row: each starts from the prompts that the one before made.",
    "aggregation": "One migration from several old backbones at once: a user's prompts are put side "
    "by side and go through one adapter.",
    "source prompts": "The soft prompts that exist already, fitted on the old (source) backbone.",
    "migrated": "Soft prompts that an adapter made for the new (target) backbone out of the "
    "source prompts.",
    "retrained": "Soft prompts learnt from scratch on the new backbone, from all records of all "
    "users. It is what a migration is meant to save.",
    "random prompts": "Prompts that say nothing about anybody; only the prediction head is trained. "
    "A method that is no better has learnt nothing personal.",
    "shuffled control": "A migration in which every user is given somebody else's source prompt. What "
    "the real migration gains over it is what the prompts themselves carry.",
    "baseline": "A prediction without any language model, such as the mean rating of an item, or "
    "user and item averages combined. Cheap, and not always worse.",
    "target": "The new backbone, to which the prompts are moved.",
    "template": "The sentence around the soft prompt: it names the item, leaves a place for the user's "
    "prompt, and asks for the answer.",
    "answer tokens": "The tokens that count as answers: the digits 1 to 5 for ratings, Yes and No for "
    "clicks. The prediction is read from their scores alone.",
    "strategy": "The rule that picks the users on whom the adapter is trained.",
    "budget": "How many users train the adapter. Everybody is migrated in the end.",
    "variance": "How much a user's own ratings differ from each other. Users who give everything the "
    "same mark teach an adapter little.",
    "cluster": "A group of users with similar source prompts, found by k-means.",
    "held-out": "Records that nothing was trained on, kept for measuring. All quality figures are "
    "measured on the test split unless another is named.",
    "rmse": "Root mean squared error: how far predicted ratings are from the true ones, in stars; "
    "large misses weigh more. Lower is better.",
    "mae": "Mean absolute error: how far predicted ratings are from the true ones on average, in "
    "stars. Lower is better.",
    "accuracy": "Share of held-out records whose rating (or click) is predicted exactly.",
    "ndcg": "How well each user's held-out items are put in order, best first; 1 is perfect. Mean "
    "over users.",
    "auc": "Chance that a clicked item gets a higher score than one that was not; 0.5 is guessing.",
    "uauc": "The AUC within each user, averaged over users: it counts only whether a user's own "
    "items are put in the right order. 0.5 is guessing.",
    "log_loss": "How surprised the prediction is by what happened; confident mistakes cost most. "
    "Lower is better.",
    "interval": "A 95 % interval: where the figure would lie in 95 of 100 repetitions with other "
    "users of the same kind, from resampling the users.",
    "difference": "The difference to the reference, paired over users: both methods are compared on the "
    "same people. If its interval holds 0, no difference was measured.",
    "gain": "How much better migrated prompts are than retrained ones; above 1 (or above 0 as a "
    "difference) the migration wins.",
    "break-even": "The number of users from which on a migration is cheaper than retraining all "
    "prompts.",
    "run": "One finished piece of work in the workspace, with its settings, seed, cost and results. "
    "The same question has the same run, so nothing is computed twice.",
    "job": "Work in the queue. It goes on when the browser is closed.",
    "lineage": "Everything that a run came from, back to the data and the models.",
}


def term(name: str) -> str:
    """Return the explanation of a term, for `help=`."""
    return TERMS[name]


def glossary(*names: str) -> None:
    """A folded list of the terms that a page uses."""
    with st.expander("What do these words mean?", icon=":material/menu_book:"):
        for name in names:
            st.markdown(f"**{name}**: {TERMS[name]}")
