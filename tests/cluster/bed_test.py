"""`savior launch` on several machines: the same result, over the cables, whatever falls over.

bed_test.py --short runs what the default suite does.
"""

import os
import re
import signal
import subprocess
import sys
import time
import unittest

import runs
from bed import Bed
from figures import figure
from runs import Launch

BED = Bed("svbed", "10.81.1")
LONG = ("train.epochs=6",)
ENDLESS = ("train.epochs=1000",)
# Every node has a server and a worker in one process. A node's silence is noticed within 10 s.
CLUSTER = ("cluster.interface=eth0", "cluster.lease_s=10", "cluster.allreduce_timeout_s=10")

# What may be missed first when a machine falls silent.
SILENCE = (r"not heard from for \d+\.\d s \(cluster.lease_s\)|no word from the coordinator"
           r"|allreduce: |keys: |lost communication with a remote daemon")


class BedTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.config = runs.make_world(BED.work)
        # As many workers on one machine, beside one server: what the nodes must agree with, bit for
        # bit.
        one = Launch(cls.config, BED.work / "one", *LONG, "--np", "4", env=BED.environment)
        assert one.wait(240) == 0, one.text()
        cls.undisturbed = runs.result(BED.work / "one")

    def setUp(self):
        self.addCleanup(self.mend)

    @staticmethod
    def mend():
        for node in BED.nodes:
            BED.call("on", node, check=False)  # says so where it is on
            BED.call("cable", node, "up")
        BED.links(0, 0)

    def start(self, *arguments, name=None, hosts="node1,node2,node3") -> Launch:
        launch = Launch(self.config, BED.work / (name or self._testMethodName), *CLUSTER, *arguments,
                        "--hosts", hosts, on=BED.on(1), env=BED.environment)
        self.addCleanup(launch.end)
        return launch

    def expect_finished(self, launch: Launch, same: bool = True, limit_s: float = 240):
        self.assertEqual(launch.wait(limit_s), 0, launch.text())
        self.assertIn("finished after ", launch.text())
        found = runs.result(launch.run)
        self.assertEqual(found["steps"] > 0, True)
        if same:
            self.assertEqual(found, self.undisturbed)
        runs.wait_for_none(launch.run)

    def expect_named(self, launch: Launch, words: str):
        # What a rank says last reaches the launcher after the rank's end.
        deadline = time.monotonic() + 60
        while not re.search(words, launch.text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertRegex(launch.text(), words)

    def expect_no_daemons(self):
        """Nothing of Open MPI is left on any node."""
        def daemons():
            return [pid for node in BED.nodes for pid in BED.processes(node)
                    if runs.program(pid) in ("orted", "mpirun")]
        runs.wait_until("no orted is left", lambda: not daemons(), 60)

    @staticmethod
    def on(node: int, *command: str):
        subprocess.run([*BED.on(node), *command], env={**os.environ, **BED.environment}, check=True)

    # Short.

    def test_nodes_and_one_machine_give_the_same_result_over_the_cables(self):
        before = {node: BED.bytes(node) for node in BED.nodes}
        launch = self.start(*LONG)
        self.expect_finished(launch)
        for node in BED.nodes:
            self.assertIn(f"node{node} rank {node - 1} | ", launch.text())
            for was, now in zip(before[node], BED.bytes(node)):
                # Rows of hundreds of steps, both ways; starting alone takes some 100 kB.
                self.assertGreater(now - was, 2_000_000, f"node{node}")

    def test_a_node_without_power_is_left_out(self):
        launch = self.start(*LONG)
        runs.wait_for_commit(launch.run, 40)
        BED.call("off", 3)
        began, steps = time.monotonic(), runs.steps_done(launch.run)
        runs.wait_until("a step without it", lambda: launch.starts() > 1 and
                        runs.steps_done(launch.run) > steps + 1, 180)
        resumed = time.monotonic() - began
        self.expect_finished(launch, same=False)
        self.assertIn("without node3: ", launch.text())
        self.assertIn("starting 2 ranks on node1:1,node2:1, from step ", launch.text())
        figure("node_power_off", f"resumes on the two nodes left after {resumed:.1f} s (lease 10 s)")

    # Slow.

    def test_a_node_that_comes_back_is_used_again(self):
        launch = self.start(*LONG, "cluster.restart_after_s=8")
        runs.wait_for_commit(launch.run, 40)
        BED.call("off", 2)
        BED.call("on", 2)
        self.expect_finished(launch)
        self.assertEqual(launch.text().count("starting 3 ranks on "), 2)
        figure("node_power_off", "a node that comes back is used again, result equal")

    def test_a_killed_rank_anywhere_is_restarted(self):
        launch = self.start(*LONG)
        for step in (20, 120, 220):
            runs.wait_for_commit(launch.run, step)
            ranks = runs.processes(launch.run, "train")
            os.kill(ranks[step // 100], signal.SIGKILL)
            runs.wait_until("all ranks have ended",
                            lambda: not set(ranks) & set(runs.processes(launch.run, "train")), 10)
        self.expect_finished(launch)

    def test_a_request_to_stop_commits_and_the_same_command_goes_on(self):
        launch = self.start(*LONG)
        runs.wait_for_commit(launch.run, 40)
        launch.kill(signal.SIGTERM)
        self.assertEqual(launch.wait(60), 0, launch.text())
        self.assertIn("stopped; step ", launch.text())
        runs.wait_for_none(launch.run)
        self.expect_finished(self.start(*LONG))

    def test_a_killed_launcher_leaves_nothing_behind_on_any_node(self):
        launch = self.start(*ENDLESS)
        runs.wait_for_commit(launch.run, 20)
        self.assertGreaterEqual(len(runs.processes(launch.run, "train")), 3)
        launch.kill(signal.SIGKILL)
        runs.wait_for_none(launch.run)

    def test_a_killed_mpirun_leaves_no_rank_on_any_node(self):
        launch = self.start(*LONG)
        runs.wait_for_commit(launch.run, 20)
        runs.kill_mpirun(launch.run)
        self.expect_finished(launch)

    def test_a_cable_that_is_out_for_a_moment_changes_nothing(self):
        launch = self.start(*LONG)
        runs.wait_for_commit(launch.run, 40)
        BED.call("cable", 2, "down")
        time.sleep(5)
        BED.call("cable", 2, "up")
        self.expect_finished(launch)
        # It went on where it was, or said what it missed before it went on from the last commit.
        if launch.starts() > 1:
            self.expect_named(launch, SILENCE)
        figure("partition_heal", f"cable down 5 s, lease 10 s: {launch.starts() - 1} restarts, "
                                 "result equal")

    def test_a_cable_that_is_out_for_half_a_minute_with_a_longer_lease_changes_nothing(self):
        launch = self.start(*LONG, "cluster.lease_s=90", "cluster.allreduce_timeout_s=90",
                            "ps.timeout_s=90")
        runs.wait_for_commit(launch.run, 40)
        BED.call("cable", 2, "down")
        time.sleep(30)
        steps = runs.steps_done(launch.run)
        BED.call("cable", 2, "up")
        began = time.monotonic()
        runs.wait_until("a step", lambda: runs.steps_done(launch.run) > steps, 180)
        stalled = time.monotonic() - began
        self.expect_finished(launch)
        if launch.starts() > 1:
            self.expect_named(launch, SILENCE)
        figure("partition_heal", f"cable down 30 s, lease 90 s: steps again {stalled:.1f} s after it, "
                                 f"{launch.starts() - 1} restarts, result equal")

    def test_a_cable_that_is_out_for_longer_than_the_lease_is_named(self):
        launch = self.start(*LONG, "cluster.restart_after_s=5")
        runs.wait_for_commit(launch.run, 40)
        ranks = runs.processes(launch.run, "train")
        BED.call("cable", 2, "down")
        began = time.monotonic()
        # On both sides, of which neither can tell the other.
        runs.wait_until("all ranks have ended",
                        lambda: not set(ranks) & set(runs.processes(launch.run, "train")), 40)
        self.expect_named(launch, SILENCE)
        figure("partition_heal", "cable down for longer than a lease of 10 s: named, all ranks ended "
                                 f"after {time.monotonic() - began:.1f} s")
        runs.wait_until("left out", lambda: "without node2: " in launch.text(), 60)
        BED.call("cable", 2, "up")
        self.expect_finished(launch, same=False)
        self.expect_no_daemons()

    def test_a_process_that_stands_still_for_longer_than_the_lease_is_named(self):
        # Whoever waits for it would give up later.
        launch = self.start(*LONG, "cluster.allreduce_timeout_s=60")
        runs.wait_for_commit(launch.run, 40)
        ranks = runs.processes(launch.run, "train")
        stopped = next(pid for pid in ranks if BED.node_of(pid) == 3)
        os.kill(stopped, signal.SIGSTOP)
        runs.wait_until("all ranks have ended",
                        lambda: not set(ranks) & set(runs.processes(launch.run, "train")), 40)
        self.expect_named(launch, r"rank 2 \(server and worker on node3\): "
                                  r"not heard from for \d+\.\d s \(cluster.lease_s\)")
        self.expect_finished(launch)

    def test_links_of_100_mbit_and_a_millisecond_change_nothing(self):
        BED.links(100, 1)
        self.expect_finished(self.start(*LONG))

    def test_an_interface_that_one_node_lacks_is_named_with_the_node(self):
        for node in (1, 2):
            self.on(node, "ip", "link", "add", "ib0", "type", "bridge")
            self.addCleanup(self.on, node, "ip", "link", "del", "ib0")
            self.on(node, "ip", "addr", "add", f"10.82.0.{node}/24", "dev", "ib0")
            self.on(node, "ip", "link", "set", "ib0", "up")
        launch = self.start(*LONG, "cluster.interface=ib0")
        self.assertEqual(launch.wait(120), 2, launch.text())
        self.expect_named(launch, r"without node3: it has no network interface ib0 "
                                  r"\(cluster.interface\), but .*eth0")
        runs.wait_for_none(launch.run)
        self.assertEqual(runs.newest_commit(launch.run), -1)

    def test_a_run_folder_that_is_not_shared_is_named(self):
        launch = self.start(*LONG, "run.dir=/tmp/run")  # every node has a /tmp of its own
        self.assertEqual(launch.wait(120), 2, launch.text())
        self.expect_named(launch, r"savior: rank [12] \(server and worker on node[23]\): run.dir = "
                                  r"/tmp/run: this host does not see what node1 has written there")

    def test_a_node_that_was_never_there_is_named(self):
        BED.call("off", 3)
        launch = self.start(*LONG)
        self.assertEqual(launch.wait(60), 2, launch.text())
        self.assertIn("1 of 3 hosts cannot be used, and there is no commit to go on from",
                      launch.text())

    def test_hosts_too_few_for_the_workers_are_waited_for(self):
        launch = self.start(*LONG, "cluster.workers=2", "cluster.restart_after_s=1",
                            hosts="node1:1,node2:1,node3:1")
        runs.wait_for_commit(launch.run, 40)
        BED.call("cable", 1, "down")  # the launcher's
        runs.wait_until("a start on one host", lambda: "starting 1 rank on node1:1" in launch.text(), 180)
        runs.wait_until("its end", lambda: "ended with exit code 2" in launch.text(), 60)
        BED.call("cable", 1, "up")
        self.expect_finished(launch, same=False)

    def test_several_ranks_per_node(self):
        launch = self.start("train.max_steps=30", hosts="node1:2,node2:2,node3:1")
        self.expect_finished(launch, same=False)
        self.assertIn("node2 rank 3 | ", launch.text())
        self.assertIn("node3 rank 4 | ", launch.text())


SHORT = ("test_nodes_and_one_machine_give_the_same_result_over_the_cables",
         "test_a_node_without_power_is_left_out")


def main() -> int:
    arguments = sys.argv[1:]
    if arguments == ["--short"]:
        arguments = [f"BedTest.{name}" for name in SHORT]
    BED.up_or_skip()
    try:
        done = unittest.main(verbosity=2, argv=[sys.argv[0], *arguments], exit=False)
        return 0 if done.result.wasSuccessful() else 1
    finally:
        BED.down()


if __name__ == "__main__":
    sys.exit(main())
