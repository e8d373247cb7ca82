"""The colours and order of the kinds of prompts, the same everywhere (Okabe-Ito palette)."""

KINDS = {
    "source": ("Source prompts", "#0072B2"),
    "migrated": ("Migrated", "#009E73"),
    "retrained": ("Retrained", "#D55E00"),
    "random": ("Random prompts", "#CC79A7"),
    "shuffled": ("Shuffled control", "#8A8A8A"),
    "baseline": ("No language model", "#B0A070"),
}
METRICS = {
    "rmse": "RMSE (stars, lower is better)",
    "mae": "MAE (stars, lower is better)",
    "accuracy": "Accuracy (share right)",
    "ndcg": "NDCG (mean over users)",
    "auc": "AUC",
    "uauc": "uAUC (mean over users)",
    "log_loss": "Log loss (lower is better)",
}
LOWER_IS_BETTER = ("rmse", "mae", "log_loss")


def rank(kind: str) -> int:
    """Place of a kind in every table and legend."""
    return list(KINDS).index(kind) if kind in KINDS else len(KINDS)
