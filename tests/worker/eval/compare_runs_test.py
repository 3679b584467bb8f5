"""Tests of scripts/compare_runs.py on cases small enough to know the answer."""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import unittest

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "scripts"))
import compare_runs as cr  # noqa: E402


def naive_auc(scores, labels):
    pairs = [(p, n) for p, a in zip(scores, labels) for n, b in zip(scores, labels) if a and not b]
    return np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs])


class Statistics(unittest.TestCase):
    def test_incomplete_beta_of_known_values(self):
        self.assertEqual(cr.incomplete_beta(2, 3, 0.0), 0.0)
        self.assertEqual(cr.incomplete_beta(2, 3, 1.0), 1.0)
        self.assertAlmostEqual(cr.incomplete_beta(1, 1, 0.3), 0.3, places=14)
        self.assertAlmostEqual(cr.incomplete_beta(2, 3, 0.4), 0.5248, places=14)  # by polynomial
        self.assertAlmostEqual(cr.incomplete_beta(2, 3, 0.9), 0.9963, places=14)

    def test_t_test_against_closed_forms(self):
        # Two pairs: t with one degree of freedom is Cauchy; t = 2 / 1 = 2.
        mean, error, p = cr.t_test([1.0, 3.0])
        self.assertEqual((mean, error), (2.0, 1.0))
        self.assertAlmostEqual(p, 1 - 2 * np.arctan(2.0) / np.pi, places=12)
        # Three pairs, two degrees of freedom: p = 1 - t / sqrt(2 + t^2).
        mean, error, p = cr.t_test([1.0, 2.0, 3.0])
        t = 2.0 / (1.0 / np.sqrt(3))
        self.assertAlmostEqual(error, 1 / np.sqrt(3), places=14)
        self.assertAlmostEqual(p, 1 - t / np.sqrt(2 + t * t), places=12)

    def test_t_test_of_a_table_value(self):
        # 2.571 is the two-sided 5% point for 5 degrees of freedom.
        x = np.array([-1.0, 1, -1, 1, -1, 1])
        x = x / (np.std(x, ddof=1) / np.sqrt(6)) + 2.5706
        self.assertAlmostEqual(cr.t_test(list(x))[2], 0.05, places=5)

    def test_t_test_degenerates(self):
        self.assertEqual(cr.t_test([1.5]), (1.5, None, None))
        self.assertEqual(cr.t_test([0.0, 0.0]), (0.0, 0.0, 1.0))

    def test_holm(self):
        np.testing.assert_allclose(cr.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
        self.assertEqual(cr.holm([0.9, 0.8]), [1.0, 1.0])
        self.assertEqual(cr.holm([]), [])

    def test_interval_leaves_out_undefined_draws(self):
        draws = np.concatenate([np.arange(1.0, 102.0), [np.nan]])
        low, high, p = cr.interval(draws)
        self.assertEqual((low, high), (3.5, 98.5))
        self.assertAlmostEqual(p, 2 / 102)
        self.assertIsNone(cr.interval(np.array([np.nan])))

    def test_user_weights_draw_as_many_users_as_there_are(self):
        weights = cr.draw_user_weights(7, 50, seed=3)
        self.assertTrue(np.all(weights.sum(axis=0) == 7))
        np.testing.assert_array_equal(weights, cr.draw_user_weights(7, 50, seed=3))


class WeightedAuc(unittest.TestCase):
    def test_equals_auc_of_the_repeated_rows(self):
        for seed in range(10):
            with self.subTest(seed=seed):
                rng = np.random.default_rng(seed)
                n, levels = 60, int(rng.integers(1, 20))
                scores = rng.integers(levels, size=n).astype(np.float32) / levels
                labels = rng.integers(2, size=n).astype(np.int8)
                labels[:2] = [0, 1]
                users = rng.integers(5, size=n)
                weights = rng.integers(1, 4, size=(5, 8)).astype(np.float32)
                aucs = cr.Ranking(scores, labels, users).aucs(weights)
                for draw in range(8):
                    times = weights[users, draw].astype(int)
                    expected = naive_auc(np.repeat(scores, times), np.repeat(labels, times))
                    self.assertAlmostEqual(aucs[draw], expected, places=12)

    def test_chunks_do_not_change_it(self):
        rng = np.random.default_rng(0)
        ranking = cr.Ranking(rng.random(100), rng.integers(2, size=100), rng.integers(9, size=100))
        weights = cr.draw_user_weights(9, 33, seed=1)
        whole = ranking.aucs(weights)
        chunk_values, cr.CHUNK_VALUES = cr.CHUNK_VALUES, 200
        try:
            np.testing.assert_array_equal(ranking.aucs(weights), whole)
        finally:
            cr.CHUNK_VALUES = chunk_values

    def test_is_nan_without_both_classes(self):
        once = np.ones((1, 2))
        for labels in ([], [0, 0], [1]):
            n = len(labels)
            ranking = cr.Ranking(np.zeros(n), np.array(labels, dtype=int), np.zeros(n, dtype=int))
            self.assertTrue(np.all(np.isnan(ranking.aucs(once))))

    def test_large_sums_ask_for_float64(self):
        users = np.array([0, 0, 1])
        self.assertIs(cr.exact_dtype(np.ones((2, 1)), users), np.float32)
        self.assertIs(cr.exact_dtype(np.full((2, 1), 2.0**23), users), np.float64)


class Runs(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        rng = np.random.default_rng(5)
        n = 400
        self.signal = rng.normal(size=n)
        self.rows = {
            "user_id": rng.integers(40, size=n) * 10,
            "request_id": np.arange(n) // 4,
            "item_id": rng.integers(90, size=n),
            "click": (self.signal + rng.normal(size=n) > 0).astype(np.int8),
            "in_all": np.ones(n, dtype=bool),
            "in_new": rng.random(n) < 0.3,
            "in_none": np.zeros(n, dtype=bool),
        }

    def write(self, arm, seed, skill, **changes):
        noise = np.random.default_rng(seed).normal(size=len(self.signal))
        p_ctr = (1 / (1 + np.exp(-(skill * self.signal + noise)))).astype(np.float32)
        folder = pathlib.Path(self.folder.name) / f"{arm}-{seed}"
        folder.mkdir()
        auc = changes.pop("auc", float(naive_auc(p_ctr, self.rows["click"])))
        result = {"arm": arm, "seed": seed, "eval": {"ctr": {"all": {"auc": auc}}}}
        (folder / "result.json").write_text(json.dumps(result))
        columns = {**self.rows, "p_ctr": p_ctr, **changes}
        pq.write_table(pa.table(columns), folder / "predictions.parquet")
        return str(folder)

    def main(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cr.main([str(a) for a in arguments])
        return code, out.getvalue(), err.getvalue()

    def test_a_better_arm_is_found_and_an_equal_one_is_not(self):
        runs = [self.write(*a) for a in
                (("base", 1, .3), ("base", 2, .3), ("base", 3, .3),
                 ("good", 1, 2.), ("good", 2, 2.), ("good", 3, 2.),
                 ("same", 1, .3), ("same", 3, .3))]
        code, out, err = self.main(*runs, "--baseline", "base", "--contrast", "good:same",
                                   "--bootstrap", 200)
        self.assertEqual((code, err), (0, ""))
        lines = [line.split(" | ") for line in out.splitlines()]
        contrast = {(line[0], line[1]): line for line in lines if " - " in line[0]}
        self.assertEqual(len(contrast), 9)
        good = contrast["| good - base", "**CTR all**"]
        self.assertEqual(good[2], "3")
        self.assertGreater(float(good[3]), 10)
        self.assertTrue(good[8].startswith("[+"))
        self.assertEqual(good[9], f"{2 / 201:.3f}")
        same = contrast["| same - base", "**CTR all**"]
        self.assertEqual(same[2:4], ["2", "+0.00"])
        self.assertEqual(same[9], "1.000")
        self.assertEqual(contrast["| good - base", "CTR none"][3], "-")
        self.assertEqual(self.main(*runs, "--baseline", "base", "--contrast", "good:same",
                                   "--bootstrap", 200)[1], out)

    def test_one_seed_has_no_t_test(self):
        runs = [self.write("base", 1, .3), self.write("good", 1, 2.)]
        code, out, _ = self.main(*runs, "--baseline", "base", "--bootstrap", 20)
        self.assertEqual(code, 0)
        self.assertIn("± -)", out)

    def test_different_rows_are_refused(self):
        runs = [self.write("base", 1, .3),
                self.write("good", 1, 2., item_id=self.rows["item_id"][::-1].copy())]
        code, _, err = self.main(*runs, "--baseline", "base")
        self.assertEqual(code, 1)
        self.assertIn("good-1: column item_id differs", err)

    def test_predictions_of_another_result_are_refused(self):
        code, _, err = self.main(self.write("base", 1, .3, auc=0.9), "--baseline", "base")
        self.assertEqual(code, 1)
        self.assertIn("0.900000 in result.json", err)

    def test_bad_arguments_are_named(self):
        base, good = self.write("base", 1, .3), self.write("good", 2, 2.)
        for arguments, expected in (
                ((base, "--baseline", "bsae"), "no run of arm bsae"),
                ((base, base, "--baseline", "base"), "both are arm base, seed 1"),
                ((base, good, "--baseline", "base"), "no seed in common"),
                ((base, "--baseline", "base", "--contrast", "x"), "must be ARM:ARM"),
                ((base, "--baseline", "base", "--primary", "ctr:old"), "cells: ctr:all ctr:new"),
                ((self.folder.name + "/none", "--baseline", "base"), "eval.save_predictions")):
            with self.subTest(expected=expected):
                code, _, err = self.main(*arguments)
                self.assertEqual(code, 1)
                self.assertIn(expected, err)


if __name__ == "__main__":
    unittest.main()
