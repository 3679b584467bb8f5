"""The Complete Journey data set on a hand-made world of a few trips; needs only numpy, pyarrow."""

import datetime
import json
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "datasets"))
import complete_journey as cj  # noqa: E402

STORE, OTHER_STORE = 7, 8
MILK, BREAD, TEA = range(100, 120), range(200, 240), range(300, 303)
UNDESCRIBED = (900, 901)


def transactions(rows) -> pa.Table:
    """rows: (user, trip, store, product, week, UTC time as text)."""
    names = ("household_id", "basket_id", "store_id", "product_id", "week", "transaction_timestamp")
    columns = dict(zip(names, zip(*rows)))
    columns["transaction_timestamp"] = pa.array(
        [datetime.datetime.fromisoformat(time) for time in columns["transaction_timestamp"]],
        pa.timestamp("ns"))
    return pa.table({name: columns[name] for name in names})


def promotions(rows) -> pa.Table:
    """rows: (product, store, week, display, mailer)."""
    names = ("product_id", "store_id", "week", "display_location", "mailer_location")
    return pa.table(dict(zip(names, map(list, zip(*rows)))))


def products() -> pa.Table:
    rows = [(item, kind, f"{item} OZ")
            for kind, items in (("MILK", MILK), ("BREAD", BREAD), ("TEA", TEA)) for item in items]
    rows.append((UNDESCRIBED[0], None, None))  # known, without a type; the other is not even known
    return pa.table({
        "product_id": [row[0] for row in rows],
        "department": ["GROCERY"] * len(rows),
        "brand": ["Private"] * len(rows),
        "product_category": [None] * len(rows),
        "product_type": [row[1] for row in rows],
        "package_size": [row[2] for row in rows],
    })


def world():
    """User 1 buys a promoted milk, an unpromoted tea and an undescribed product; then nothing
    that is promoted; user 2 shops where nothing is promoted."""
    bought = transactions([
        (1, 50, STORE, MILK[0], 9, "2017-02-20T05:00:00"),
        (1, 50, STORE, TEA[0], 9, "2017-02-20T05:00:00"),
        (1, 50, STORE, UNDESCRIBED[0], 9, "2017-02-20T05:00:00"),
        (1, 51, STORE, TEA[1], 9, "2017-02-21T12:00:00"),
        (2, 52, OTHER_STORE, MILK[0], 9, "2017-02-22T12:00:00"),
    ])
    promoted = promotions(
        [(item, STORE, 9, "1", "0") for item in MILK] +
        [(item, STORE, 9, "0", "A") for item in BREAD] +
        [(item, STORE, 9, "0", "0") for item in TEA] +  # on neither: not promoted
        [(item, STORE, 9, "2", "D") for item in UNDESCRIBED] +
        [(MILK[0], STORE, 9, "0", "D")] +  # twice in one week: the first location counts
        [(MILK[1], OTHER_STORE, 8, "1", "0")])
    return bought, promoted, products()


def impressions_of(tables, trip) -> list[dict]:
    return [row for row in tables["impressions"].to_pylist() if row["request_id"] == trip]


class Sampling(unittest.TestCase):
    def setUp(self):
        self.tables = cj.make_tables(*world(), seed=1)

    def test_conversion_is_the_very_product_and_click_is_its_type(self):
        for row in impressions_of(self.tables, 50):
            bought = row["item_id"] in (MILK[0], UNDESCRIBED[0])
            self.assertEqual(row["conversion"], int(bought), row)
            self.assertEqual(row["click"], int(bought or row["item_id"] in MILK), row)

    def test_an_unknown_type_is_no_other_products_type(self):
        # UNDESCRIBED[0] was bought; UNDESCRIBED[1] has no type either, and that is no click.
        clicks = {item: click for item, click in self._labels_of_every_promoted_item()}
        self.assertEqual(clicks[UNDESCRIBED[0]], 1)
        self.assertEqual(clicks[UNDESCRIBED[1]], 0)

    def _labels_of_every_promoted_item(self):
        promoted = np.array([0, 1, 2])
        item_type = np.array([0, -1, -1])
        _, click, _, _ = cj.sample_trip(promoted, item_type, np.array([1]), np.random.default_rng())
        return zip((MILK[0], *UNDESCRIBED), click)

    def test_every_bought_promoted_product_and_limited_samples_of_the_others(self):
        rows = impressions_of(self.tables, 50)
        kinds = [(row["conversion"], row["click"]) for row in rows]
        self.assertEqual(kinds.count((1, 1)), 2)
        self.assertEqual(kinds.count((0, 1)), cj.SAME_TYPE_LIMIT)
        self.assertEqual(kinds.count((0, 0)), cj.OTHER_TYPES_LIMIT)

    def test_weights_restore_the_number_of_promoted_products(self):
        for trip in (50, 51):
            weights = sum(row["weight"] for row in impressions_of(self.tables, trip))
            self.assertAlmostEqual(weights, len(MILK) + len(BREAD) + len(UNDESCRIBED), places=3)
        for row in impressions_of(self.tables, 50):
            if row["conversion"]:
                self.assertEqual(row["weight"], 1)
            elif row["click"]:
                self.assertAlmostEqual(row["weight"], (len(MILK) - 1) / cj.SAME_TYPE_LIMIT, 5)

    def test_a_pool_within_its_limit_is_taken_whole_with_weight_one(self):
        promoted = np.arange(4)
        positions, click, conversion, weight = cj.sample_trip(
            promoted, np.array([0, 0, 1, 1]), np.array([0]), np.random.default_rng(0))
        np.testing.assert_array_equal(positions, promoted)
        np.testing.assert_array_equal(click, [1, 1, 0, 0])
        np.testing.assert_array_equal(conversion, [1, 0, 0, 0])
        np.testing.assert_array_equal(weight, [1, 1, 1, 1])

    def test_order_within_a_request_tells_nothing(self):
        for trip in (50, 51):
            items = [row["item_id"] for row in impressions_of(self.tables, trip)]
            self.assertEqual(items, sorted(set(items)))

    def test_a_trip_without_promotions_is_no_request_but_its_purchases_count(self):
        self.assertEqual(impressions_of(self.tables, 52), [])
        self.assertIn(2, self.tables["behaviours"]["user_id"].to_pylist())

    def test_same_seed_same_tables_other_seed_other_sample(self):
        self.assertEqual(cj.make_tables(*world(), seed=1), self.tables)
        other = cj.make_tables(*world(), seed=2)
        self.assertNotEqual(other["impressions"], self.tables["impressions"])
        self.assertEqual(other["behaviours"], self.tables["behaviours"])

    def test_order_of_the_source_rows_does_not_matter(self):
        bought, promoted, known = world()
        tables = cj.make_tables(bought.take(np.arange(len(bought))[::-1]),
                                promoted.take(np.arange(len(promoted))[::-1]), known, seed=1)
        self.assertEqual(tables, self.tables)

    def test_locations_become_context_and_the_first_of_two_counts(self):
        by_item = {row["item_id"]: row for row in impressions_of(self.tables, 50)}
        milk = by_item[MILK[0]]
        self.assertEqual((milk["ctx_display"], milk["ctx_mailer"], milk["ctx_store"]),
                         ("0", "D", str(STORE)))


class TimeAndItems(unittest.TestCase):
    def setUp(self):
        self.tables = cj.make_tables(*world(), seed=1)

    def test_purchases_of_the_trip_itself_are_not_strictly_before_it(self):
        requests = {row["request_id"]: row["timestamp"]
                    for row in self.tables["impressions"].to_pylist()}
        behaviours = [row for row in self.tables["behaviours"].to_pylist() if row["user_id"] == 1]
        before = {trip: {row["item_id"] for row in behaviours if row["timestamp"] < time}
                  for trip, time in requests.items()}
        self.assertEqual(before, {50: set(), 51: {MILK[0], TEA[0], UNDESCRIBED[0]}})

    def test_weeks_begin_on_monday_midnight_of_the_stores_clock(self):
        for utc, week in (("2017-02-20T05:00:00", 9), ("2017-10-30T04:00:00", 45),
                          ("2017-11-27T05:00:00", 49), ("2018-01-01T05:00:00", 54)):
            moment = datetime.datetime.fromisoformat(utc + "+00:00")
            local = int(cj.store_time(np.array([int(moment.timestamp())]))[0])
            self.assertEqual(local, cj.week_start(week), utc)
            self.assertEqual(local, int(moment.replace(hour=0).timestamp()), utc)

    def test_listed_at_is_the_earlier_of_promotion_and_purchase(self):
        listed = dict(zip(self.tables["items"]["item_id"].to_pylist(),
                          self.tables["items"]["listed_at"].to_pylist()))
        self.assertEqual(listed[MILK[0]], cj.week_start(9))
        self.assertEqual(listed[MILK[1]], cj.week_start(8))
        self.assertEqual(listed[TEA[1]], cj.week_start(9) + cj.DAY + 7 * 3600)
        # Being on neither display nor mailer is no listing: never seen but as such.
        self.assertNotIn(TEA[2], {row["item_id"] for row in
                                  self.tables["impressions"].to_pylist()})

    def test_titles_and_features(self):
        items = {row["item_id"]: row for row in self.tables["items"].to_pylist()}
        self.assertEqual(items[MILK[0]]["title"], "milk, grocery, 100 oz, private brand")
        self.assertEqual(items[MILK[0]]["feat_category"], cj.UNKNOWN)
        self.assertEqual(items[UNDESCRIBED[1]]["title"], "")


class Files(unittest.TestCase):
    def setUp(self):
        self._folder = tempfile.TemporaryDirectory()
        self.addCleanup(self._folder.cleanup)
        self.out = Path(self._folder.name) / "set"

    def test_written_whole_and_replaced_whole(self):
        for value in (1, 2):
            (self.out.with_name("set.part")).mkdir(exist_ok=True)  # left by an interrupted run
            cj.write({"items": pa.table({"item_id": [value]})}, {"seed": value}, self.out)
            self.assertEqual(pq.read_table(self.out / "items.parquet")["item_id"][0].as_py(), value)
            self.assertEqual(json.loads((self.out / "dataset.json").read_text()), {"seed": value})
        self.assertEqual([path.name for path in self.out.parent.iterdir()], ["set"])

    def test_a_foreign_folder_is_not_replaced(self):
        self.out.mkdir()
        (self.out / "precious").write_text("")
        with self.assertRaises(SystemExit):
            cj.write({}, {}, self.out)
        self.assertTrue((self.out / "precious").exists())


if __name__ == "__main__":
    unittest.main()
