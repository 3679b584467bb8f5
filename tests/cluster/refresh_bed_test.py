"""Codebook refreshes of a run on three machines, of real data, while it trains: one by drift, one asked
for by hand on another machine, and back. Row refresh_bed of docs/reliability.md.

Trains on The Complete Journey where scripts/setup.sh --data has put it; without it nothing is tested.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import unittest
from pathlib import Path

import runs
from bed import Bed
from figures import figure
from runs import Launch

BED = Bed("svrefresh", "10.81.5")
# Three servers and two workers.
HOSTS = "node1:2,node2:2,node3:1"
# Long enough for a person to ask for a rollback where steps take 30 ms, and to end where they take 300.
PROBATION = 200
CLUSTER = ("cluster.workers=2", "cluster.interface=eth0", "cluster.lease_s=30",
           "cluster.restart_after_s=0.2")
CONFIG = """
[data]
raw = "{raw}"
train_from = "2017-02-20"
train_until = "2017-10-30"
eval_from = "2017-10-30"
eval_until = "2017-10-31"
[encoder]
steps = 0
[codebook]
finetune_steps = 0
# Items are listed from the ninth week of the data on: after two days of training there are new ones.
learn_until = "2017-02-22"
[train]
# In the order of time, and days in a few steps: drift is looked at where a day ends.
shuffle_window = 0
requests_per_batch = 32
metrics_every_s = 1e-6
[commit]
every_steps = 20
keep = 100
[eval]
progressive = true
[eval.buckets]
new = "age_days <= 56 and listed_day >= 50"
[refresh]
on_drift = true
# Any drift at all is enough: that the bound is a bound, unit tests say.
max_rq_mse_ratio = 0.01
probation_steps = {probation}
# Two days of items make a poor codebook, and a refresh of it changes more than the gates let pass. What
# gates refuse is tested elsewhere.
min_preserved_r2 = -100
max_churn = 1
max_error_ratio = 100
max_dead_share = 1
max_auc_loss = 100
cpu_share = 1
"""


def raw_data() -> Path:
    cache = os.environ.get("SAVIOR_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "savior"
    return Path(cache) / "data/complete_journey"


def launch(config: Path, run: Path, *arguments) -> Launch:
    return Launch(config, run, *CLUSTER, *arguments, "--hosts", HOSTS, on=BED.on(1), env=BED.environment)


def savior(*arguments, node: int = 0) -> subprocess.CompletedProcess:
    """On that node of the bed, or on this machine."""
    return subprocess.run([*(BED.on(node) if node else []), runs.PROGRAM, *map(str, arguments)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
                          env={**os.environ, **BED.environment})


def events(run: Path) -> list[dict]:
    try:
        text = (run / "refresh.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]


def states(run: Path) -> list[tuple[str, int]]:
    """Without PREPARED, which a refresh skips where its switch is due at once."""
    return [(event["state"], event["version"]) for event in events(run) if event["state"] != "PREPARED"]


def commit_at(run: Path, step: int) -> Path:
    return run / "commits" / f"commit-{step:012}"


def of_any_version(digest: dict) -> dict:
    """Without the codes and the rows that are of the version in use: of another one they are others."""
    tables = {name: table for name, table in digest["tables"].items() if name not in ("align", "content")}
    return {**digest, "codebook_version": None, "tables": tables}


class RefreshBedTest(unittest.TestCase):
    def start(self, run: Path, *arguments) -> Launch:
        started = launch(self.config, run, *arguments)
        self.addCleanup(started.end)
        return started

    def wait_for(self, what: str, started: Launch, condition):
        runs.wait_until(what, lambda: condition() or started.process.poll() is not None, 240)
        self.assertIsNone(started.process.poll(), started.text())

    def refresh(self, started: Launch, *arguments, node: int):
        asked = savior("refresh", started.run, *arguments, "--wait", node=node)
        self.assertEqual(asked.returncode, 0, asked.stdout + started.text())

    def test_two_refreshes_and_a_rollback(self):
        self.config = BED.work / "run.toml"
        self.config.write_text(CONFIG.format(raw=raw_data(), probation=PROBATION))
        run = BED.work / "run"
        training = self.start(run, "train.epochs=1000")
        self.wait_for("a refresh by drift", training, lambda: ("ACTIVE", 1) in states(run))
        self.wait_for("its commit", training,
                      lambda: runs.newest_commit(run) >= events(run)[-1]["step"])
        # Asked for while that is on probation: its turn comes when it is over, and a person's comes first.
        self.refresh(training, node=2)
        switched = events(run)[-1]["step"]
        self.assertEqual(states(run)[-1], ("ACTIVE", 2))
        # By links, which take no time: the probation ends in a moment.
        self.copy(commit_at(run, switched), BED.work / "switch")
        self.copy(run, BED.work / "never", before=switched)
        self.refresh(training, "--rollback", node=3)
        before = runs.digest(BED.work / "switch")
        self.wait_for("commits after the rollback", training,
                      lambda: runs.newest_commit(run) > switched)
        training.kill(signal.SIGTERM)
        self.assertEqual(training.wait(120), 0, training.text())
        # To an end that is the run's own.
        steps = runs.newest_commit(run) + 10
        last = self.start(run, "train.epochs=1000", f"train.max_steps={steps}")
        self.assertEqual(last.wait(240), 0, last.text())
        self.assertIn("finished after ", last.text())
        runs.wait_for_none(run)

        self.check_events(run, switched)
        self.check_rollback(run, before, switched)
        self.check_never_switched(run, switched, steps)
        self.check_inspect(run)
        self.check_report(run, switched)

    @staticmethod
    def copy(run: Path, to: Path, before: int = 0):
        """A commit, or a run as it was at its last commit before that step. Commits are never written
        into, so links do; what a run appends to is copied."""
        def ignore(folder, names):
            late = [n for n in names if n.startswith("commit-") and
                    (not n[7:].isdigit() or int(n[7:]) >= before)]
            return late + [n for n in names if n in ("live", "lock", "refresh.request", "log")]

        def copy_file(source, target):
            (os.link if "/commit-" in source else shutil.copy2)(source, target)
        shutil.copytree(run, to, ignore=ignore, copy_function=copy_file)

    def check_events(self, run: Path, switched: int):
        self.assertEqual(states(run), [("BUILDING", 1), ("ACTIVE", 1), ("RETIRED", 1), ("BUILDING", 2),
                                       ("ACTIVE", 2), ("ROLLED_BACK", 1)])
        by_state = {(e["state"], e["version"]): e for e in events(run)}
        self.assertRegex(by_state["BUILDING", 1]["why"], "^drift: .* refresh.max_rq_mse_ratio")
        self.assertEqual(by_state["BUILDING", 2]["why"], "by hand")
        self.assertEqual(by_state["RETIRED", 1]["step"], by_state["ACTIVE", 1]["step"] + PROBATION)
        self.assertEqual(by_state["ROLLED_BACK", 1]["step"], switched)
        times = [e["time"] for e in events(run)]
        self.assertEqual(times, sorted(times))
        pauses = [by_state["ACTIVE", v]["stood_still_ms"] for v in (1, 2)]
        figure("refresh_bed", f"three nodes, three servers, two workers: training stood still for "
                              f"{pauses[0]:.0f} and {pauses[1]:.0f} ms at the switches")

    def check_rollback(self, run: Path, before: dict, switched: int):
        restored = runs.digest(commit_at(run, switched))
        self.assertEqual((before["codebook_version"], restored["codebook_version"]), (2, 1))
        self.assertEqual(of_any_version(restored), of_any_version(before))
        final = runs.digest(run)
        self.assertEqual(final["codebook_version"], 1)
        self.assertEqual(final["step"], json.loads((run / "result.json").read_text())["steps"])
        metrics = (run / "metrics.jsonl").read_text().splitlines()
        self.assertEqual(json.loads(metrics[-1])["codebook"]["version"], 1)

    def check_never_switched(self, run: Path, switched: int, steps: int):
        """The run that goes on from the commit before, and never switches, learns the same: codes and
        alignment rows, too."""
        never = BED.work / "never"
        self.assertLess(runs.newest_commit(never), switched)
        alone = self.start(never, "train.epochs=1000", f"train.max_steps={steps}",
                           "refresh.on_drift=false")
        self.assertEqual(alone.wait(240), 0, alone.text())
        self.assertEqual(runs.digest(never), runs.digest(run))

    def check_inspect(self, run: Path):
        shown = savior("inspect", "codebook", run, "--top", "0")
        self.assertEqual(shown.returncode, 0, shown.stdout)
        lines = [line.split() for line in shown.stdout.splitlines()]
        rows = [words for words in lines if len(words) > 3 and words[0].isdigit() and
                words[1].isdigit() and "contents," not in words]
        self.assertEqual([row[0] for row in rows], ["0", "1", "2"], shown.stdout)
        self.assertIn("retired", rows[0])
        self.assertIn("active", rows[1])
        self.assertIn("drift:", rows[1])
        self.assertEqual(rows[2][2:4], ["rolled", "back"])
        self.assertEqual(rows[2][-2:], ["by", "hand"])
        for row in rows[1:]:  # churn and utilisation of two levels
            self.assertEqual(sum(word.endswith("%") for word in row), 4, row)

    def check_report(self, run: Path, switched: int):
        done = savior("report", run)
        self.assertEqual(done.returncode, 0, done.stdout)
        page = (run / "report.html").read_text()
        around = page[page.index("Around each switch"):]
        first = next(e["step"] for e in events(run) if e["state"] == "ACTIVE")
        for text in (f"Version 1: active, switched after step {first}",
                     f"Version 2: rolled back, switched after step {switched}",
                     "click AUC before learning, all items", "click AUC before learning, bucket new",
                     "preserved R2", "churn %", "utilisation %", "perplexity", "dead codes"):
            self.assertIn(text, around)
        plots = page.count("<svg ")
        for kind, step in (("switch", first), ("switch", switched), ("rollback", switched)):
            self.assertEqual(page.count(f'mark-{kind}" data-step="{step}"'), plots)


def main() -> int:
    if not (raw_data() / "impressions.parquet").exists():
        print(f"SKIPPED, nothing was tested: {raw_data()} is not there: scripts/setup.sh --data")
        return runs.SKIPPED
    BED.up_or_skip()
    try:
        done = unittest.main(verbosity=2, exit=False)
        return 0 if done.result.wasSuccessful() else 1
    finally:
        BED.down()


if __name__ == "__main__":
    sys.exit(main())
