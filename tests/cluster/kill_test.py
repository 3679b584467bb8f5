"""SIGKILL at random moments: the run goes on, and learns what it would have learned.

The oracle: an undisturbed run with as many workers. Of every table the number of rows, the number of
updates and the digest of all that rows hold, and the digest of the dense weights with their moments,
must be equal in hex. A lost update makes the sum of updates smaller, a doubled one larger, and
either changes the digest.

kill_test.py [--kills N]: N of each kind, 10 without it.
"""

import argparse
import os
import signal
import sys
import time
import unittest

import runs
from figures import figure, seeded, spread
from runs import Launch

RANKS = 3  # a server and two workers
KILLS = 10
STEPS = ("train.max_steps=450", "train.epochs=7", "commit.every_steps=10")  # some seconds
CLUSTER = ("cluster.max_restarts=1000", "cluster.restart_after_s=0.05", "cluster.lease_s=20",
           "--np", str(RANKS))
STARTS = 0.3  # the share of kills that come while the run is starting
TRAINING_S = 1.5  # the others come within this after its first step


def updates(digest: dict) -> int:
    return sum(table["updates"] for table in digest["tables"].values())


class KillTest(runs.WorldTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        began = time.monotonic()
        launch = Launch(cls.config, cls.path / "undisturbed", *STEPS, *CLUSTER)
        runs.wait_until("the first step", lambda: runs.steps_done(launch.run))
        cls.start_s = time.monotonic() - began
        assert launch.wait() == 0, launch.text()
        cls.undisturbed = runs.digest(launch.run)

    def start(self, name: str) -> Launch:
        launch = Launch(self.config, self.path / name, *STEPS, *CLUSTER)
        self.addCleanup(launch.end)
        return launch

    @staticmethod
    def until(what: str, condition, launch: Launch):
        """Until then, or until the launcher has ended."""
        try:
            runs.wait_until(what, lambda: launch.process.poll() is not None or condition())
        except AssertionError as late:
            left = [f"{pid}: {runs.program(pid)}" for pid in runs.processes(launch.run)]
            raise AssertionError(f"{late}; running: {left}\n{launch.text()[-5000:]}") from None

    def kill_one(self, victim: int, launch: Launch, restart: bool) -> tuple[Launch, float]:
        """The launcher, a new one where it was to `restart`, and how long it took to go on."""
        former, began = runs.processes(launch.run, "train"), time.monotonic()
        os.kill(victim, signal.SIGKILL)
        if restart:
            launch.process.wait(10)
            launch = self.start(launch.run.name)
        # What was under way when it was killed may still be done, and is no recovery.
        self.until("the end of all ranks", lambda: not any(map(runs.is_alive, former)), launch)
        steps = runs.steps_done(launch.run)
        self.until("a step", lambda: runs.steps_done(launch.run) > steps, launch)
        return launch, time.monotonic() - began

    def kill_at_random(self, name: str, victims, restart: bool = False):
        """Kills one of victims(run) at random moments of as many runs as it takes."""
        random, seed = seeded(name)
        recovery, learned = [], []
        while len(recovery) < KILLS:
            launch = self.start(f"{name}-{len(learned)}")
            steps = 0
            while len(recovery) < KILLS and launch.process.poll() is None:
                if random.random() < STARTS:
                    time.sleep(random.uniform(0, self.start_s))
                else:
                    self.until("a step", lambda: runs.steps_done(launch.run) > steps, launch)
                    time.sleep(random.uniform(0, TRAINING_S))
                found = victims(launch.run)
                if found and launch.process.poll() is None:
                    launch, took = self.kill_one(random.choice(found), launch, restart)
                    recovery.append(took)
                steps = runs.steps_done(launch.run)
            self.assertEqual(launch.wait(), 0, launch.text())
            runs.wait_for_none(launch.run)
            learned.append(runs.digest(launch.run))
        lost, doubled = (sum(max(0, sign * (updates(run) - updates(self.undisturbed)))
                             for run in learned) for sign in (-1, 1))
        figure(name, f"{len(recovery)} kills, {lost} lost, {doubled} doubled, {len(recovery)} resumed, "
                     f"recovery {spread(recovery)}; {len(learned)} runs of {learned[0]['step']} steps and "
                     f"{updates(learned[0])} updates (seed {seed})")
        for run in learned:
            self.assertEqual(run, self.undisturbed)

    def test_kill_shard_random(self):
        self.kill_at_random("kill_shard_random", lambda run: runs.ranks(run, [0]))

    def test_kill_worker_random(self):
        self.kill_at_random("kill_worker_random", lambda run: runs.ranks(run, [1, 2]))

    def test_kill_launcher_random(self):
        self.kill_at_random("kill_launcher_random", lambda run: runs.processes(run, "launch"),
                            restart=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=KILLS)
    known, rest = parser.parse_known_args()
    KILLS = known.kills
    unittest.main(verbosity=2, argv=[sys.argv[0], *rest])
