"""Reports of studies with chosen scores, as `puma study` writes them, for tests of claims."""

from puma_engine.studies.claims import ALL_USERS, FEW_RANDOM_USERS, FEW_USERS
from puma_engine.studies.results import summary

AGAINST = {"method": "retrained"}
AGAIN = 0.84


def method(name, scores, ends=None, *, kind="migrated", real=True, **facts):
    """A method with one score per seed; ends: interval of its difference from the reference, or None.

    seconds, flops and device may be a value for all seeds or a list with one value per seed.
    """
    return {
        "facts": {"method": name, "kind": kind},
        "scores": scores,
        "ends": ends,
        "real": real,
    } | {"more": facts}


MEASURED = ("seconds", "flops", "device")


def report(study, methods, *, against=AGAINST, dataset="goodbooks", users=1000, **more):
    """A report of methods; more: date, quick, metric (rmse or uauc)."""
    metric = more.get("metric", "rmse")
    rows, differences = [], []
    for entry in methods:
        facts = {"dataset": dataset} | entry["facts"]
        facts |= {name: value for name, value in entry["more"].items() if name not in MEASURED}
        for seed, score in enumerate(entry["scores"]):
            row = facts | {"seed": seed, metric: score, "users": users, "rows": 10 * users}
            rows.append(row | _measured(entry["more"], seed))
        if entry["ends"] is not None:
            low, high = entry["ends"]
            line = facts | {"against": against, "metric": metric, "seeds": len(entry["scores"])}
            line |= {"value": (low + high) / 2, "low": low, "high": high, "users": users}
            differences.append(line | {"p": 0.01, "real": entry["real"]})
    study_report = {"study": study, "command": f"puma study {study}", "date": "2026-01-02"}
    study_report |= {"options": {"quick": more.get("quick", False)}, "rows": rows}
    study_report |= {
        "summary": summary(rows),
        "differences": differences,
        "failed": {},
        "missing": [],
    }
    return study_report | ({"date": more["date"]} if "date" in more else {})


def _measured(given, seed):
    values = {"seconds": 1.0, "device": "cpu"} | given
    return {
        name: value[seed] if isinstance(value, list) else value
        for name, value in values.items()
        if name in MEASURED and value is not None
    }


def retrained(seeds=3, **more):
    """Full retraining with nearly equal scores."""
    scores = [AGAIN + 0.0001 * seed for seed in range(seeds)]
    return method("retrained", scores, kind="retrained", **more)


def moved(gap, name=ALL_USERS, *, seeds=3, half=0.001, **more):
    """A migration that differs from full retraining by gap, with an interval of gap ± half."""
    scores = [AGAIN + 0.0001 * seed + gap for seed in range(seeds)]
    return method(name, scores, (gap - half, gap + half), **more)


def main_results(gap=-0.01, few=0.005, *, seeds=3, **more):
    """A report of table2: on all users, on few, and shuffled."""
    methods = [
        retrained(seeds, seconds=100.0),
        moved(gap, seeds=seeds, seconds=30.0),
        moved(few, FEW_USERS, seeds=seeds, seconds=1.5),
        moved(few, FEW_RANDOM_USERS, seeds=seeds),
        moved(0.1, "shuffled control", seeds=seeds, kind="shuffled"),
    ]
    return report("table2", methods, **more)
