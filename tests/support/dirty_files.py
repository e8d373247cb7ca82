"""Synthetic files with bad lines, and the expected count of each reason."""

import json

import original_files as of
import pandas as pd


def clean_lines(kind):
    makers = {
        "amazon": of.amazon_records,
        "yelp": of.yelp_records,
        "csv": of.movielens_csv,
        "dat": of.movielens_dat,
    }
    rows, items = makers[kind]()
    return list(rows), list(items)


def dirty_amazon(rows, items):
    """Corrupt rows and items in place; return the expected count of each reason."""
    good = dict(rows[0])
    make_odd(rows)
    bad = {
        "not a JSON object": [
            "nonsense",
            "null",
            "[1]",
            '"text"',
            "{",
            json.dumps(good)[:60],
            "{}{}",
            b"\xff\xfe",
        ],
        "without a usable user id": [
            {},
            good | {"user_id": None},
            good | {"user_id": "  "},
            good | {"user_id": ["AE0000"]},
            good | {"user_id": 1.5},
            good | {"user_id": "AE\u00000000"},
            {key: value for key, value in good.items() if key != "user_id"},
        ],
        "without a usable item id": [good | {"parent_asin": None}, good | {"parent_asin": ""}],
        "with a rating that is not a number from 1 to 5": [
            good | {"rating": rating} for rating in (0, 6, None, "five", True, float("nan"), [5])
        ],
        "without a usable time": [
            good | {"timestamp": time}
            for time in (None, -5, 0, "yesterday", 10**18, 10**30, {"when": 1})
        ],
        "of an unknown item, or one without a title": [
            good | {"parent_asin": item} for item in ("B9999", "untitled", "blank", "hidden")
        ],
        "repeating a user and item (the latest is kept)": [
            good,
            good | {"rating": 1.0, "timestamp": of.START * 1000 - 1},
        ],
    }
    rows[10:10] = [line for lines in bad.values() for line in lines]
    items[3:3] = [
        of.amazon_item("untitled", None),
        of.amazon_item("blank", " "),
        of.amazon_item("hidden", "\u200b\u200e"),
        of.amazon_item("B0000", "Film 0"),
        "not json",
        {"title": "No id"},
    ]
    items.append(of.amazon_item("B0001", "Another title"))
    return {reason: len(lines) for reason, lines in bad.items()}


def make_odd(rows):
    """Write Amazon reviews in ways that can still be read."""
    rows[1]["rating"] = str(rows[1]["rating"])
    rows[2]["timestamp"] //= 1000
    rows[3]["timestamp"] = f"{pd.Timestamp(rows[3]['timestamp'], unit='ms').isoformat()}Z"
    rows[4] = json.dumps(rows[4], ensure_ascii=False).encode("cp1252")
    rows[5]["text"] = "\ud83d half a character"


def dirty_yelp(rows, items):
    good = dict(rows[0])
    rows[1]["date"] += "Z"
    rows[2]["date"] = rows[2]["date"].replace(" ", "T")
    rows[3]["date"] = str(int(pd.Timestamp(rows[3]["date"]).timestamp()) * 1000)
    bad = {
        "not a JSON object": ["{'single': 'quotes'}"],
        "without a usable user id": [good | {"user_id": ""}],
        "without a usable item id": [good | {"business_id": {}}],
        "with a rating that is not a number from 1 to 5": [good | {"stars": 0.5}],
        "without a usable time": [good | {"date": "2020-13-45 00:00:00"}, good | {"date": None}],
        "of an unknown item, or one without a title": [
            good | {"business_id": item} for item in ("closed", "nameless", "unrated", "nowhere")
        ],
        "repeating a user and item (the latest is kept)": [good],
    }
    rows[5:5] = [line for lines in bad.values() for line in lines]
    items[1:1] = [
        of.yelp_business("closed", "Closed", categories=None),
        of.yelp_business("nameless", " "),
        of.yelp_business("unrated", "New") | {"review_count": 0},
    ]
    return {reason: len(lines) for reason, lines in bad.items()}


def dirty_movielens(kind, rows, items):
    mark = "," if kind == "csv" else "::"
    good = rows[1].split(mark)
    rows[2] = mark.join([*rows[2].split(mark)[:3], f"{rows[2].split(mark)[3]}000"])
    if kind == "csv":
        rows[3] = ",".join(f'"{value}"' for value in rows[3].split(","))

    def changed(number, *values):
        return [mark.join([*good[:number], value, *good[number + 1 :]]) for value in values]

    bad = {
        "without 4 fields": ["1", mark.join(good[:3]), mark.join([*good, "more"])],
        "without a usable user id": changed(0, "", " "),
        "without a usable item id": changed(1, ""),
        "with a rating that is not a number from 1 to 5": changed(2, "", "0", "5.5", "x", "nan"),
        "without a usable time": changed(3, "", "soon", "0"),
        "of an unknown item, or one without a title": changed(1, "999", "777", "12é"),
        "repeating a user and item (the latest is kept)": [mark.join(good)],
    }
    rows[5:5] = [line for lines in bad.values() for line in lines]
    items[1:1] = [f"777{mark} {mark}Drama", f"888{mark}no genres"]
    return {reason: len(lines) for reason, lines in bad.items()}


def made_dirty(kind):
    rows, items = clean_lines(kind)
    if kind == "amazon":
        counts = dirty_amazon(rows, items)
    elif kind == "yelp":
        counts = dirty_yelp(rows, items)
    else:
        counts = dirty_movielens(kind, rows, items)
    return (rows, items), counts
