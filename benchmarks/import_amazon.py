"""Measure the speed and the memory of importing a large file of reviews.

    python benchmarks/import_amazon.py --gigabytes 1

Makes a file of reviews in the layout of Amazon Reviews 2023 with its file of items (stored in
--folder for later runs), imports it with the paper's filters in a separate process and prints
rows a second and the peak memory of that process. Users and items follow power laws
fitted by eye to Movies and TV: about 2.6 reviews a user, 23 an item.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from provenance import measured

CHUNK = 20_000
WORDS = 400


def make(folder: Path, gigabytes: float, packed: bool, seed: int) -> Path:
    """Write reviews of a size in GB (before packing) and their items; return the reviews' path."""
    name = f"Synthetic_{gigabytes:g}.jsonl" + (".gz" if packed else "")
    reviews, items = folder / name, folder / f"meta_{name}"
    if reviews.is_file() and items.is_file():
        return reviews
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = int(gigabytes * 1e9 / 475)
    count = max(500, rows // 23)
    record = {
        "main_category": "Movies & TV",
        "average_rating": 4.3,
        "rating_number": 128,
        "features": ["Digitally remastered"],
        "description": ["A long description of the film. " * 6],
        "price": 12.99,
        "images": [],
        "store": "Somebody (Actor), Format: Blu-ray",
        "details": {"Language": "English", "Run time": "102 minutes"},
    }
    with _opened(items, packed) as file:
        for number in range(count):
            title = f"A Film of Some Renown, Part {number} [Blu-ray]"
            item = record | {"title": title, "parent_asin": f"B{number:09d}"}
            file.write(json.dumps(item).encode() + b"\n")
    words = [f"word{number}" for number in range(WORDS)]
    temporary = reviews.with_suffix(".part")
    with _opened(temporary, packed) as file:
        written = 0
        while written < gigabytes * 1e9:
            chunk = _reviews(rng, count, rows, words)
            file.write(chunk)
            written += len(chunk)
    temporary.replace(reviews)
    return reviews


def _opened(path: Path, packed: bool) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "wb", 1) if packed else open(path, "wb"))


def _reviews(rng: np.random.Generator, items: int, rows: int, words: list[str]) -> bytes:
    # The square of a uniform number makes some users and items far busier than others.
    user = (rng.random(CHUNK) ** 2.2 * rows / 1.6).astype(np.int64)
    item = (rng.random(CHUNK) ** 2 * items).astype(np.int64)
    rating = rng.choice([1, 2, 3, 4, 5], CHUNK, p=[0.09, 0.05, 0.08, 0.15, 0.63])
    timestamp = rng.integers(1_100_000_000_000, 1_690_000_000_000, CHUNK)
    length = rng.integers(4, 40, CHUNK)
    lines = []
    for row in range(CHUNK):
        start = int(rng.integers(0, WORDS - 40))
        record: dict[str, Any] = {
            "rating": float(rating[row]),
            "title": "Five Stars",
            "text": " ".join(words[start : start + int(length[row])]),
            "images": [],
            "asin": f"B{item[row]:09d}",
            "parent_asin": f"B{item[row]:09d}",
            "user_id": f"AE{user[row]:026d}",
            "timestamp": int(timestamp[row]),
            "helpful_vote": 0,
            "verified_purchase": True,
        }
        lines.append(json.dumps(record))
    return ("\n".join(lines) + "\n").encode()


def read(reviews: str) -> dict[str, Any]:
    """Import a file of reviews; return the counts of the import."""
    from puma_engine.datasets import import_folder

    report = import_folder("amazon", reviews).report
    return {"rows": report["read"]["rows"], "kept": report["kept"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--packed", action="store_true", help="gzip the files")
    parser.add_argument("--folder", type=Path, default=Path("build/import-amazon"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    reviews = make(options.folder, options.gigabytes, options.packed, options.seed)
    imported, cost = measured(read, str(reviews), loaded=["puma_engine.datasets"])
    results = {"file": reviews.name, "bytes": reviews.stat().st_size} | imported
    results |= {
        "seconds": round(cost["seconds"], 1),
        "rows_per_second": round(imported["rows"] / cost["seconds"]),
        "peak_MiB": cost["peak_kib"] // 1024,
        "of_which_before_MiB": cost["before_kib"] // 1024,
    }
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
