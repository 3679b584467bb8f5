"""Codebook refreshes of runs of two servers and two workers: killed at every state, asked for by hand,
rolled back. Row 25, refresh_kill, of docs/reliability.md.

The oracle: an undisturbed run that switches at the same step, by its digests in hex, or one that never
does.

refresh_test.py [--kills N]: N at random moments, 4 without it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import unittest

import runs
from figures import figure, seeded, spread
from runs import Launch

KILLS = 4
BEGIN, SWITCH, STEPS = 45, 55, 130  # commits at 40 and 60: none in between
RANKS = 4
COMMON = (
    f"train.max_steps={STEPS}", "train.epochs=3", "codebook.learn_until=2023-11-20", "cluster.servers=2",
    "cluster.workers=2", "cluster.lease_s=20", "cluster.restart_after_s=0.05", "commit.keep=3",
    # Small worlds: what gates refuse is tested elsewhere.
    "refresh.min_preserved_r2=-100", "refresh.max_churn=1", "refresh.max_dead_share=1", "refresh.max_error_ratio=100",
    "refresh.max_auc_loss=100", "refresh.cpu_share=1", "refresh.probation_steps=1000",
    # The encoder is renewed as well, and rows of prefixes carried over by both workers.
    "encoder.refreshable=true", "refresh.encoder_steps=10", "model.prefix_ngrams=true")
REFRESH = (f"refresh.at_step={BEGIN}", f"refresh.switch_after_steps={SWITCH - BEGIN}")
# Ends a process at the point; every worker comes to the first ones, the lead alone to the others.
POINTS = [line.split()[0] for line in subprocess.run(
    [runs.PROGRAM, "--list-failpoints"], stdout=subprocess.PIPE, text=True).stdout.splitlines()
          if line.startswith("refresh.") and "rollback" not in line]


def events(run) -> list[dict]:
    try:
        return [json.loads(line) for line in (run / "refresh.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []


def states(run) -> list[str]:
    return [event["state"] for event in events(run)]


def refresh(run, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run([runs.PROGRAM, "refresh", run, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120)


def in_use(digest: dict) -> dict:
    """Without what only the other version reads, and what is counted of it."""
    return {key: value for key, value in digest.items() if key != "codebook_version"}


class RefreshTest(runs.WorldTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.once = cls.finished("once", *REFRESH)
        cls.never = cls.finished("never")

    @classmethod
    def finished(cls, name: str, *arguments) -> dict:
        launch = Launch(cls.config, cls.path / name, *COMMON, *arguments, "--np", str(RANKS))
        assert launch.wait() == 0, launch.text()
        return runs.digest(launch.run)

    def start(self, name: str, *arguments, ranks=RANKS, env=None) -> Launch:
        launch = Launch(self.config, self.path / name, *COMMON, *arguments, "--np", str(ranks), env=env)
        self.addCleanup(launch.end)
        return launch

    def test_it_is_a_refresh(self):
        self.assertEqual(states(self.path / "once"), ["BUILDING", "ACTIVE"])
        self.assertEqual(self.once["codebook_version"], 1)
        self.assertGreater(events(self.path / "once")[1]["z_moved"], 0)
        # Both workers made theirs: at the switch all rows are there.
        at_switch = self.finished("at-switch", *REFRESH, f"train.max_steps={SWITCH}")
        made = events(self.path / "at-switch")[1]["prefixes"]
        self.assertGreater(made["made"], 0)
        self.assertGreater(made["again"], 0)
        self.assertGreaterEqual(at_switch["tables"]["prefix"]["rows"], made["made"])
        self.assertNotEqual(self.once["dense"], self.never["dense"])
        figure("refresh", f"two workers, two servers: training stood still for "
                          f"{events(self.path / 'once')[1]['stood_still_ms']:.0f} ms at the switch")

    def test_a_run_may_end_while_it_builds(self):
        launch = self.start("ends", f"refresh.at_step={STEPS - 2}", "refresh.cpu_share=0.01")
        self.assertEqual(launch.wait(), 0, launch.text())
        self.assertEqual(states(launch.run), ["BUILDING"])
        self.assertEqual(runs.digest(launch.run)["dense"], self.never["dense"])

    def test_killed_at_every_point(self):
        self.assertGreater(len(POINTS), 5)
        for point in POINTS:
            with self.subTest(point):
                name = "killed-" + point
                launch = self.start(name, *REFRESH, "cluster.max_restarts=0",
                                    env={"SAVIOR_FAILPOINTS": point + "=exit"})
                self.assertNotEqual(launch.wait(), 0, "it was to be killed")
                self.assertLess(runs.newest_commit(launch.run), SWITCH, "wholly the old version")
                again = self.start(name, *REFRESH)
                self.assertEqual(again.wait(), 0, again.text())
                self.assertEqual(runs.digest(again.run), self.once)
        figure("refresh_kill", f"{len(POINTS)} of {len(POINTS)} points: wholly the old version, then the same "
                               "tables as undisturbed")

    def test_killed_at_random(self):
        random, seed = seeded("refresh_kill_random")
        roles = {"a server": [0, 1], "a worker": [2, 3]}
        recovery = []
        for n in range(KILLS):
            role = sorted(roles)[n % len(roles)]
            launch = self.start(f"random-{n}", *REFRESH, "cluster.max_restarts=5")
            # From before it begins to after its commit.
            at = random.randint(BEGIN - 2, SWITCH + 8)
            runs.wait_until(f"step {at}", lambda: runs.steps_done(launch.run) >= at or
                            launch.process.poll() is not None)
            victims = runs.ranks(launch.run, [random.choice(roles[role])])
            began = time.monotonic()
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            self.assertEqual(launch.wait(), 0, launch.text())
            recovery.append(time.monotonic() - began)
            with self.subTest(f"{role} killed at step {at}, seed {seed}"):
                self.assertEqual(runs.digest(launch.run), self.once)
        figure("refresh_kill_random", f"{KILLS} kills of servers and workers, all ended as undisturbed, "
                                      f"to the end {spread(recovery)} (seed {seed})")

    def grown(self, name: str, *arguments, until: int, to: int = STEPS) -> tuple[dict, dict]:
        """A run of two workers up to step `until`, from there on of three; its digest and result."""
        launch = self.start(name, *arguments, f"train.max_steps={until}")
        self.assertEqual(launch.wait(), 0, launch.text())
        return self.gone_on_with_three(name, *arguments, f"train.max_steps={to}")

    def gone_on_with_three(self, name: str, *arguments) -> tuple[dict, dict]:
        launch = self.start(name, *arguments, "cluster.workers=3", ranks=RANKS + 1)
        self.assertEqual(launch.wait(), 0, launch.text())
        return runs.digest(launch.run), runs.result(launch.run)

    def test_a_worker_joins_while_it_builds(self):
        # What two were building is given up, and begun again by three.
        joined, result = self.grown("joins-building", *REFRESH, until=BEGIN + 3)
        self.assertEqual(states(self.path / "joins-building"), ["BUILDING", "BUILDING", "ACTIVE"])
        self.assertEqual(joined["codebook_version"], 1)
        # As if it had been asked for only then; its rows of prefixes are of build 1, not 2.
        later = f"refresh.at_step={BEGIN + 4}"
        clean, clean_result = self.grown("joins-idle", *REFRESH, later, until=BEGIN + 3)
        self.assertEqual(states(self.path / "joins-idle"), ["BUILDING", "ACTIVE"])
        self.assertEqual(joined["dense"], clean["dense"])
        self.assertEqual(result["eval"], clean_result["eval"])
        for table in ("user", "item", "align", "content"):
            self.assertEqual(joined["tables"][table], clean["tables"][table], table)
        self.assertEqual(joined["tables"]["prefix"]["updates"], clean["tables"]["prefix"]["updates"])

    def test_a_worker_joins_in_probation(self):
        # It goes on with both versions, and a rollback takes it back with the others: to the run of three that
        # never switched.
        name = "joins-probation"
        joined, _ = self.grown(name, *REFRESH, until=SWITCH + 3, to=SWITCH + 12)
        self.assertEqual(joined["codebook_version"], 1)
        back = refresh(self.path / name, "--rollback")
        self.assertEqual(back.returncode, 0, back.stdout)
        self.assertEqual(runs.newest_commit(self.path / name), SWITCH)
        again, result = self.gone_on_with_three(name)
        never, never_result = self.grown("joins-never", until=SWITCH)
        self.assertEqual(again["codebook_version"], 0)
        self.assertEqual(again["dense"], never["dense"])
        self.assertEqual(result["eval"], never_result["eval"])

    def test_by_hand_and_back(self):
        launch = self.start("by-hand", "train.max_steps=60000", "train.epochs=1000",
                            "commit.every_steps=50")
        runs.wait_until("a commit", lambda: runs.newest_commit(launch.run) >= 0)
        asked = refresh(launch.run, "--wait")
        self.assertEqual(asked.returncode, 0, asked.stdout + launch.text())
        self.assertEqual(states(launch.run)[-1], "ACTIVE")
        switched = events(launch.run)[-1]["step"]
        # Stopped and started again it knows as much of both versions.
        launch.kill(signal.SIGTERM)
        self.assertEqual(launch.wait(), 0, launch.text())
        launch = self.start("by-hand", "train.max_steps=60000", "train.epochs=1000",
                            "commit.every_steps=50")
        stopped = runs.newest_commit(launch.run)
        runs.wait_until("a commit of the run that goes on",
                        lambda: runs.newest_commit(launch.run) > stopped)
        newest = launch.run / f"commits/commit-{runs.newest_commit(launch.run):012}"
        state = json.loads((newest / "manifest.json").read_text())["codebook"]
        self.assertEqual([state[key] for key in ("version", "previous", "encoder", "previous_encoder",
                                                 "probation")], [1, 0, 1, 0, True])
        self.assertTrue((newest / "encoder-previous.safetensors").exists())
        back = refresh(launch.run, "--rollback", "--wait")
        self.assertEqual(back.returncode, 0, back.stdout + launch.text())
        runs.wait_until("a step after the rollback", lambda: runs.newest_commit(launch.run) > switched)
        launch.kill(signal.SIGTERM)
        self.assertEqual(launch.wait(), 0, launch.text())
        self.assertEqual(runs.digest(launch.run)["codebook_version"], 0)
        self.assertIn("ROLLED_BACK", states(launch.run))
        # The run that never switched, at the same step.
        steps = runs.newest_commit(launch.run)
        alone = self.start("by-hand-never", f"train.max_steps={steps}", "train.epochs=1000",
                           "commit.every_steps=0")
        self.assertEqual(alone.wait(), 0, alone.text())
        self.assertEqual(in_use(runs.digest(alone.run))["dense"], in_use(runs.digest(launch.run))["dense"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=KILLS)
    known, rest = parser.parse_known_args()
    KILLS = known.kills
    unittest.main(verbosity=2, argv=[sys.argv[0], *rest])
