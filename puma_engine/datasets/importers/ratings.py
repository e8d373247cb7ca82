"""From raw ratings to a rating data set: the rules that named sources share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from puma_engine.datasets.dataset import Dataset
from puma_engine.datasets.importers.encoded_interactions import (
    EncodedInteractions,
    encode,
    has_min_rows,
    items_frame,
    latest_of_each_pair,
    sample_users,
    to_frame,
)
from puma_engine.datasets.registry import ImportRequest, Source
from puma_engine.datasets.splits import assign_splits, cap_rows, split_rule
from puma_engine.errors import DataError


@dataclass(frozen=True)
class CleanedInteractions:
    """Usable ratings of every user with enough of them, and what was dropped on the way."""

    rows: EncodedInteractions
    texts: dict[str, str]
    read: dict[str, int]
    dropped: dict[str, int]


def clean_ratings(
    frame: pd.DataFrame, texts: dict[str, str], *, least: int, valid: np.ndarray
) -> CleanedInteractions:
    """Drop unusable rows, repeated pairs and users with fewer than `least` rows.

    frame: user_id, item_id, outcome and perhaps time, in file order. texts: by item id,
    an empty one counts as missing; valid: [n] bool, which rows have allowed values.
    """
    texts = {item: text for item, text in texts.items() if text}
    item, item_ids = encode(frame["item_id"], np.array(sorted(texts), dtype=str))
    user, user_ids = encode(frame["user_id"])
    time = frame["time"].to_numpy(np.int64) if "time" in frame else None
    outcome = frame["outcome"].to_numpy(np.float32)
    rows = EncodedInteractions(user_ids, item_ids, user, item, outcome, time)
    known = (item >= 0) & (user >= 0)
    usable = rows.keep(known & valid)
    single = usable.keep(latest_of_each_pair(usable))
    enough = single.keep(has_min_rows(single, least))
    dropped = {
        "without a known user or item": int((~known).sum()),
        "with an invalid rating or time": int((known & ~valid).sum()),
        "repeated user and item (the last is kept)": len(usable) - len(single),
        f"of users with fewer than {least} rows": len(single) - len(enough),
    }
    read = {"rows": len(frame), "users": len(user_ids), "items": len(texts)}
    return CleanedInteractions(enough, texts, read, dropped)


def rating_dataset(
    source: Source, request: ImportRequest, cleaned: CleanedInteractions, *, most: int | None
) -> Dataset:
    """Choose users, cap each at `most` rows (None: at none), split, and report."""
    chosen = sample_users(
        cleaned.rows, source.family, request.population, request.users, request.seed, source.name
    )
    if not len(chosen):
        raise DataError(
            f"No {request.population} user of {source.name!r} has enough rows; check the folder "
            f"{request.path}."
        )
    capped = chosen
    if most is not None:
        cap_key = chosen.row_keys(request.seed, "cap")
        capped = chosen.keep(cap_rows(chosen.user, most, cap_key, chosen.time))
    split = assign_splits(capped.user, capped.row_keys(request.seed, "split"), capped.time)
    frame = to_frame(capped, split)
    items = items_frame(list(frame["item_id"].unique()), cleaned.texts)
    report = base_report(source, request, cleaned, len(chosen), len(capped), most)
    report["split"] = split_rule(capped.time is not None)
    report["kept"] = {"rows": len(frame), "users": capped.count_users(), "items": len(items)}
    return Dataset(source.name, source.task, frame, items, report)


def base_report(
    source: Source,
    request: ImportRequest,
    cleaned: CleanedInteractions,
    chosen: int,
    capped: int,
    most: int | None,
) -> dict[str, Any]:
    """Start the report that each importer completes with its split rule and what it kept.

    chosen, capped: how many rows were left after choosing users and after the cap.
    """
    beyond = {} if most is None else {f"beyond {most} rows a user": chosen - capped}
    return {
        "source": source.name,
        "about": source.about,
        "population": request.population,
        "users_asked": request.users,
        "seed": request.seed,
        "read": cleaned.read,
        "users_with_enough_rows": cleaned.rows.count_users(),
        "dropped": {
            **cleaned.dropped,
            "of users that were not asked for": len(cleaned.rows) - chosen,
            **beyond,
        },
    }
