"""The report's fixed words: metrics with units, definitions, and its style sheet."""

from __future__ import annotations

METRICS = {
    "rmse": "RMSE (stars, lower is better)",
    "mae": "MAE (stars, lower is better)",
    "accuracy": "Accuracy (share right)",
    "ndcg": "NDCG (mean over users)",
    "auc": "AUC",
    "uauc": "uAUC (mean over users)",
    "log_loss": "Log loss (lower is better)",
}
TERMS = {
    "Soft prompt": "A few learnt numbers that stand for one user and are put among the words that a "
    "language model reads. The model itself is never changed.",
    "Migration": "Moving every user's soft prompt to a new language model with one small network (the "
    "adapter), instead of learning all prompts again.",
    "Full retraining": "Learning every user's prompt from scratch on the new model, from all records. "
    "It is what a migration is meant to save.",
    "Random prompts": "Prompts that say nothing about anybody. What is no better has learnt nothing "
    "personal.",
    "Shuffled control": "A migration in which every user is given somebody else's old prompt. What the "
    "real migration gains over it is what the old prompts carry.",
    "No language model": "Simple predictions from averages of users and items: cheap, and not always "
    "worse.",
    "Margin": "How much worse than full retraining is still as good. It is chosen by people; the verdict "
    "depends on it.",
    "95 % interval": "Where the figure would lie in 95 of 100 repetitions with other users of the same "
    "kind, from resampling users. Differences are paired: both methods are compared on the same people.",
    "Regress": "A user regresses when the true loss under the migration is higher than under full "
    "retraining by more than 5 % of the mean loss. The probability takes into account how few rows a "
    "user has and how all users differ.",
    "Refine": "Learning the prompts of some users again on the new model, starting after the migration.",
    "rmse": "Root mean squared error of predicted ratings, in stars; large misses weigh more.",
    "mae": "Mean absolute error of predicted ratings, in stars.",
    "accuracy": "Share of held-out records whose rating is predicted exactly, after rounding.",
    "ndcg": "How well each user's held-out items are put in order, best first; 1 is perfect.",
    "auc": "Chance that a clicked item gets a higher score than one that was not; 0.5 is guessing.",
    "uauc": "The AUC within each user, averaged over users; 0.5 is guessing.",
    "log_loss": "How surprised the prediction is by what happened; confident mistakes cost most.",
}
STYLE = """
:root { color-scheme: light dark; --ink: #1b2530; --paper: #fff; --quiet: #56636f;
  --line: #d5dbe1; --soft: #f4f6f8; --good: #00704f; --some: #00609a; --bad: #a84300; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --paper: #10161d; --quiet: #9fadb9;
  --line: #323e4a; --soft: #1a232c; --good: #2fbf8f; --some: #7cc0ee; --bad: #f0894a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1, h2, h3, p, li, td, th, dd, dt, figcaption { overflow-wrap: anywhere; unicode-bidi: isolate; }
h1 { font-size: 1.9rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 .75rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
.quiet, .tick, dt { color: var(--quiet); }
.lead { font-size: 1.1rem; margin: .25rem 0 0; }
.verdict { margin-top: 1.5rem; padding: 1.1rem 1.4rem; border: 1px solid var(--line);
  border-left: 6px solid var(--quiet); border-radius: 8px; background: var(--soft); }
.verdict h2 { border: 0; margin: 0; padding: 0; font-size: 1.5rem; }
.verdict.migrate { border-left-color: var(--good); } .verdict.migrate h2 { color: var(--good); }
.verdict.refine { border-left-color: var(--some); } .verdict.refine h2 { color: var(--some); }
.verdict.retrain { border-left-color: var(--bad); } .verdict.retrain h2 { color: var(--bad); }
ul { padding-left: 1.2rem; margin: .4rem 0; } li { margin: .25rem 0; }
dl { display: grid; grid-template-columns: minmax(9rem, 15rem) 1fr; gap: .35rem 1.2rem; margin: 0; }
dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; }
th, td { text-align: left; padding: .4rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top;
  min-width: 2.5rem; font-variant-numeric: tabular-nums; }
th { background: var(--soft); overflow-wrap: normal; }
.interval { display: block; white-space: nowrap; color: var(--quiet); font-size: .92em; } td.number, th.number { text-align: right; overflow-wrap: normal; }
td code, td.number { white-space: nowrap; } td:first-child { min-width: 9rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1.5rem; margin: 1.2rem 0; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .4rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: currentColor; font-size: 12.5px; } svg .tick { fill: var(--quiet); font-size: 11.5px; }
svg .grid { opacity: .14; } .dots { stroke-width: 5; stroke-linecap: round; opacity: .45; }
.legend { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; color: var(--quiet); font-size: .9rem; }
.legend span { display: inline-flex; align-items: center; gap: .4rem; }
.mark { width: 16px; height: 16px; }
.ids { font-size: .9rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .78rem; max-width: 34rem; margin: .3rem 0; }
details summary { cursor: pointer; color: var(--some); }
@media (max-width: 560px) { .figures { grid-template-columns: 1fr; } dl { grid-template-columns: 1fr; } }
@media print { main { max-width: none; padding: 0; } figure, tr, .verdict { break-inside: avoid; } }
"""
