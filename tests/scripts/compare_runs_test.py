"""scripts/compare_runs.py: which runs may be compared, and what comes of it."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import compare_runs  # noqa: E402


class CompareRuns(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="savior-compare-runs-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)

    def write(self, arm, seed, skill, rows=600, of=None, bucket="all"):
        """A run that scored `rows` impressions drawn by `of` (by its seed without), better the more skill."""
        rng = np.random.default_rng(100 + (seed if of is None else of))
        click = rng.integers(0, 2, rows)
        columns = {"user_id": rng.integers(0, 30, rows) + seed, "request_id": np.arange(rows),
                   "item_id": rng.integers(0, 9, rows), "click": click,
                   "conversion": click * rng.integers(0, 2, rows),
                   "in_" + bucket: np.ones(rows, dtype=bool),
                   "p_ctr": skill * click + rng.normal(size=rows)}
        run = self.path / f"{arm}-{seed}"
        run.mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(columns), run / "predictions.parquet")
        order = np.argsort(columns["p_ctr"])
        ranks = np.empty(rows)
        ranks[order] = np.arange(rows)
        positives = click.sum()
        auc = (ranks[click > 0].sum() - positives * (positives - 1) / 2) / (positives * (rows - positives))
        (run / "result.json").write_text(json.dumps(
            {"arm": arm, "seed": seed, "eval": {"ctr": {bucket: {"auc": auc}}}}))
        return auc

    def compare(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        runs = [str(run) for run in sorted(self.path.iterdir())]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = compare_runs.main([*runs, "--baseline", "base", "--primary", "ctr:all",
                                      "--bootstrap", "200", *arguments])
        return code, out.getvalue(), err.getvalue()

    def contrast(self, text):
        """The cells of the line of the first contrast."""
        line = next(line for line in text.splitlines() if line.startswith("| better - base"))
        return [cell.strip() for cell in line.strip("|").split("|")]

    def test_seeds_may_have_scored_other_impressions(self):
        deltas = [100 * (self.write("better", seed, 1.0, rows) - self.write("base", seed, 0.5, rows))
                  for seed, rows in ((1, 600), (2, 500), (3, 700))]
        code, text, err = self.compare()
        self.assertEqual(code, 0, err)
        self.assertIn("500 to 700 impressions per run, of 32 users", text)
        cells = self.contrast(text)
        self.assertEqual(cells[2], "3")
        self.assertEqual(cells[3], f"{np.mean(deltas):+.2f}")
        self.assertEqual(cells[4], f"{np.std(deltas, ddof=1) / np.sqrt(3):.2f}")
        self.assertNotEqual(cells[8], "-", "users are drawn over all seeds")

    def test_runs_of_a_seed_may_not(self):
        self.write("base", 1, 0.5)
        self.write("better", 1, 1.0, of=7)
        code, _, err = self.compare()
        self.assertEqual(code, 1)
        self.assertRegex(err, "better-1: column .* differs from that of .*base-1: "
                              "the runs did not score the same impressions")

    def test_a_bucket_that_only_some_seeds_have_is_named(self):
        for arm in ("base", "better"):
            self.write(arm, 1, 0.5)
            self.write(arm, 2, 0.5, bucket="new")
        code, _, err = self.compare()
        self.assertEqual(code, 1)
        self.assertRegex(err, "only one of .*base-1 and .*base-2 has column in_all")

    def test_predictions_of_another_run_are_named(self):
        self.write("base", 1, 0.5)
        self.write("better", 1, 1.0)
        (self.path / "better-1" / "result.json").write_text(json.dumps(
            {"arm": "better", "seed": 1, "eval": {"ctr": {"all": {"auc": 0.5}}}}))
        code, _, err = self.compare()
        self.assertEqual(code, 1)
        self.assertIn("but 0.500000 in result.json", err)

    def test_arms_without_a_common_seed(self):
        self.write("base", 1, 0.5)
        self.write("better", 2, 1.0)
        code, _, err = self.compare()
        self.assertEqual(code, 1)
        self.assertIn("no seed in common", err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
