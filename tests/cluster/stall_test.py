"""Processes that stand still, die at the wrong moment, or have a clock that jumps.

A run either goes on as if nothing had been, or ends within the configured time with an error that
names who is missing; started again it learns what it would have learned.
"""

import json
import os
import re
import signal
import struct
import sys
import time
import unittest

import runs
from figures import figure
from runs import Launch

STEPS = ("train.max_steps=300", "train.epochs=5")
TWO_SERVERS = ("cluster.servers=2", "--np", "3")
TWO_WORKERS = ("cluster.servers=1", "--np", "3")
EVICTION = ("ps.eviction_idle_steps=20", "ps.eviction_max_share_per_minute=1.0",
            "ps.steps_per_minute=10")
DAY = 86_400
HANG_S = 60  # what takes longer hangs


class StallTest(runs.WorldTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.undisturbed = {}

    def start(self, *arguments, name=None, env=None) -> Launch:
        launch = Launch(self.config, self.path / (name or self._testMethodName), *STEPS, *arguments,
                        env=env)
        self.addCleanup(launch.end)
        return launch

    def expect_same(self, launch: Launch, arguments):
        """It finishes, and has learned what an undisturbed run with these arguments has."""
        self.assertEqual(launch.wait(), 0, launch.text())
        runs.wait_for_none(launch.run)
        if arguments not in self.undisturbed:
            alone = self.start(*arguments, name=f"undisturbed-{len(self.undisturbed)}")
            self.assertEqual(alone.wait(), 0, alone.text())
            self.undisturbed[arguments] = runs.digest(alone.run)
        self.assertEqual(runs.digest(launch.run), self.undisturbed[arguments])

    @staticmethod
    def stop(launch: Launch, rank: int) -> float:
        """SIGSTOP to the rank in the middle of training; returns when."""
        runs.wait_for_commit(launch.run, 20)
        os.kill(runs.ranks(launch.run, [rank])[0], signal.SIGSTOP)
        return time.monotonic()

    def test_sigstop_shard_for_a_moment_goes_on(self):
        launch = self.start("cluster.lease_s=30", *TWO_SERVERS)
        self.stop(launch, 1)
        steps = runs.steps_done(launch.run)
        time.sleep(3)
        stalled = runs.steps_done(launch.run) - steps
        os.kill(runs.ranks(launch.run, [1])[0], signal.SIGCONT)
        began = time.monotonic()
        runs.wait_until("a step", lambda: runs.steps_done(launch.run) > steps + stalled, HANG_S)
        again = time.monotonic() - began
        self.expect_same(launch, TWO_SERVERS)
        self.assertEqual(launch.starts(), 1, launch.text())
        figure("sigstop_shard", f"3 s: goes on {again:.2f} s after it, 0 restarts, tables equal")

    def test_sigstop_shard_for_longer_than_the_lease_is_named(self):
        lease = 4
        for rank, named in ((0, r"rank [12] \| .*no word from the coordinator \(rank 0\) for \d+\.\d s"),
                            (1, r"rank 1 \(server on .*\): not heard from for \d+\.\d s")):
            with self.subTest(rank=rank):
                launch = self.start(f"cluster.lease_s={lease}", *TWO_SERVERS,
                                    name=f"{self._testMethodName}-{rank}")
                began = self.stop(launch, rank)
                # Rank 0 is stopped, too, when it is to say so: the others have to.
                runs.wait_until(named, lambda: re.search(named, launch.text()), lease + HANG_S)
                detected = time.monotonic() - began
                self.expect_same(launch, TWO_SERVERS)
                figure("sigstop_shard", f"longer than a lease of {lease} s: rank {rank} named after "
                                        f"{detected:.1f} s, {launch.starts() - 1} restarts, tables equal")

    def test_rank_death_allreduce(self):
        timeout = 4
        for sent in (signal.SIGKILL, signal.SIGSTOP):
            with self.subTest(sent.name):
                launch = self.start(f"cluster.allreduce_timeout_s={timeout}", "cluster.lease_s=120",
                                    "cluster.max_restarts=0", *TWO_WORKERS,
                                    name=f"{self._testMethodName}-{sent.name}")
                runs.wait_for_commit(launch.run, 20)
                ranks = runs.processes(launch.run, "train")
                os.kill(runs.ranks(launch.run, [2])[0], sent)
                began = time.monotonic()
                runs.wait_until("all ranks have ended", lambda: not any(map(runs.is_alive, ranks)),
                                timeout + HANG_S)
                ended = time.monotonic() - began
                self.assertEqual(launch.wait(HANG_S), 1, launch.text())
                if sent == signal.SIGSTOP:  # who waits in a sum says for whom
                    self.assertRegex(launch.text(), r"allreduce: .*worker 1")
                figure("rank_death_allreduce", f"{sent.name}: all ranks ended after {ended:.1f} s "
                                               f"(time-out {timeout} s)")

    def test_clock_jump(self):
        arguments = ("cluster.lease_s=20", *EVICTION, *TWO_WORKERS)
        offset = self.path / "offset"

        def jump(seconds: int):
            with open(offset, "r+b") as file:
                file.write(struct.pack("=q", seconds))
        offset.write_bytes(struct.pack("=q", 0))
        launch = self.start(*arguments, env={"LD_PRELOAD": os.environ["SAVIOR_CLOCK_SHIM"],
                                             "SAVIOR_CLOCK_OFFSET": str(offset)})
        jumps = 0
        while launch.process.poll() is None:
            jump((DAY, -DAY, 0)[jumps % 3])
            jumps += 1
            time.sleep(0.1)
        self.expect_same(launch, arguments)
        self.assertEqual(launch.starts(), 1, launch.text())
        lines = [json.loads(line)
                 for line in (launch.run / "metrics.jsonl").read_text().splitlines()]
        # The clock did jump, and nobody waited for it to come back.
        times = [line["time"] for line in lines]
        self.assertGreater(max(times) - min(times), 1.9 * DAY)
        self.assertEqual([line["step"] for line in lines], list(range(1, len(lines) + 1)))
        self.assertEqual(len(lines), self.undisturbed[arguments]["step"])
        evicted = sum(table["evicted"] for table in lines[-1]["tables"].values())
        self.assertGreater(evicted, 0)
        figure("clock_jump", f"{jumps} jumps of +1, -2, +1 days: 0 restarts, {evicted} rows evicted "
                             "as without, tables equal")


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=[sys.argv[0], *sys.argv[1:]])
