"""Small synthetic files in exactly the layouts of the published data sets."""

import gzip
import json
import random
from pathlib import Path

START = 1_588_687_728
DAY = 86_400


def write(path, lines, *, ending=b"\n", mark=b"", packed=False):
    """Write lines (bytes, text or JSON records) to a file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = mark + b"".join(as_bytes(line) + ending for line in lines)
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def as_bytes(line):
    if isinstance(line, bytes):
        return line
    return (line if isinstance(line, str) else json.dumps(line)).encode()


def amazon_review(user, item, rating, seconds):
    return {
        "rating": float(rating),
        "title": "Five Stars",
        "text": 'A "quoted" film, with ünïcode',
        "images": [{"small_image_url": "https://example.org/a.jpg"}],
        "asin": f"{item}X",
        "parent_asin": item,
        "user_id": user,
        "timestamp": seconds * 1000 + 17,
        "helpful_vote": 0,
        "verified_purchase": True,
    }


def amazon_item(item, title):
    return {
        "main_category": "Movies & TV",
        "title": title,
        "average_rating": 4.3,
        "rating_number": 20,
        "features": [],
        "description": ["Long"],
        "price": None,
        "images": [],
        "store": None,
        "details": {"Language": "English"},
        "parent_asin": item,
        "bought_together": None,
    }


def yelp_review(user, business, stars, date):
    return {
        "review_id": "x",
        "user_id": user,
        "business_id": business,
        "stars": float(stars),
        "useful": 0,
        "funny": 0,
        "cool": 0,
        "text": "Fine\nfood",
        "date": date,
    }


def yelp_business(business, name, categories="Thai, Restaurants"):
    return {
        "business_id": business,
        "name": name,
        "city": "Tampa",
        "stars": 4.5,
        "review_count": 12,
        "is_open": 1,
        "attributes": {"WiFi": "u'no'"},
        "categories": categories,
        "hours": None,
    }


def ratings(users, items, seed=0):
    """Return (user number, item number, rating, seconds) of every pair, shuffled, times unique."""
    rng = random.Random(seed)
    rows = [
        (user, item, rng.randint(1, 5), START + DAY * user + 60 * item)
        for user in range(users)
        for item in range(items)
    ]
    rng.shuffle(rows)
    return rows


def amazon_records(users=12, items=24):
    reviews = [
        amazon_review(f"AE{user:04}", f"B{item:04}", rating, seconds)
        for user, item, rating, seconds in ratings(users, items)
    ]
    return reviews, [amazon_item(f"B{item:04}", f"Film {item}") for item in range(items)]


def yelp_records(users=6, items=28):
    from datetime import UTC, datetime

    reviews = [
        yelp_review(
            f"u-{user:04}",
            f"b_{item:04}",
            rating,
            datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        )
        for user, item, rating, seconds in ratings(users, items)
    ]
    return reviews, [yelp_business(f"b_{item:04}", f"Café {item}") for item in range(items)]


def movielens_csv(users=6, items=24):
    body = [f"{u + 1},{i + 1},{r}.0,{s}" for u, i, r, s in ratings(users, items)]
    films = [f'{i + 1},"Film, The {i} (1999)",Drama|War' for i in range(items)]
    return ["userId,movieId,rating,timestamp", *body], ["movieId,title,genres", *films]


def movielens_dat(users=6, items=24):
    body = [f"{u + 1}::{i + 1}::{r}::{s}" for u, i, r, s in ratings(users, items)]
    films = [
        f"{i + 1}::Les Misérables: Part {i} (1999)::Drama|War".encode("latin-1")
        for i in range(items)
    ]
    return body, films


def news(item, title):
    return f"{item}\tsports\tsoccer\t{title}\tAbstract\thttps://example.org\t[]\t[]"


def behavior(number, user, time, history, impressions):
    return f"{number}\t{user}\t{time}\t{' '.join(history)}\t{' '.join(impressions)}"


def mind_lines(users=8, titles=120, seed=0):
    """Return lines of behaviors of train and dev, and of news, of users who pass the filters."""
    rng = random.Random(seed)
    names = [f"N{number}" for number in range(titles)]
    parts = {"train": [], "dev": []}
    for user in range(users):
        past = rng.sample(names, 10)
        for part, sessions in (("train", 5), ("dev", 2)):
            for session in range(sessions):
                day = 10 + session if part == "train" else 15
                items = rng.sample(names, 24)
                clicks = [f"{item}-{int(position < 3)}" for position, item in enumerate(items)]
                rng.shuffle(clicks)
                time = f"11/{day}/2019 {1 + session}:05:{user:02} {'AM' if user % 2 else 'PM'}"
                parts[part].append(behavior(len(parts[part]), f"U{user}", time, past, clicks))
    return parts["train"], parts["dev"], [news(item, f'News "{item}"') for item in names]


def write_amazon(folder: Path, name="Movies_and_TV.jsonl", records=None, **options):
    reviews, items = records or amazon_records()
    write(folder / f"meta_{name}", items, **options)
    return write(folder / name, reviews, **options)


def write_yelp(folder: Path, records=None, **options):
    reviews, items = records or yelp_records()
    write(folder / "yelp_academic_dataset_business.json", items, **options)
    write(folder / "yelp_academic_dataset_review.json", reviews, **options)
    return folder


def write_movielens(folder: Path, kind="csv", records=None, **options):
    body, films = records or (movielens_csv() if kind == "csv" else movielens_dat())
    write(folder / f"movies.{kind}", films, **options)
    write(folder / f"ratings.{kind}", body, **options)
    return folder


def write_mind(folder: Path, lines=None, **options):
    train, dev, titles = lines or mind_lines()
    for part, body in (("MINDlarge_train", train), ("MINDlarge_dev", dev)):
        write(folder / part / "behaviors.tsv", body, **options)
        write(folder / part / "news.tsv", titles, **options)
    return folder
