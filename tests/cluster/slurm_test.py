"""`savior slurm` under a real Slurm: time limits, nodes that fail, cancelled jobs, arrays."""

import json
import os
import re
import subprocess
import sys
import time
import unittest
from pathlib import Path

import runs
from bed import Bed

BED = Bed("svslurm", "10.81.2")
NODES = int(os.environ.get("SAVIOR_TEST_NODES", "3"))
LONG = ("train.epochs=40",)
LONGER = ("train.epochs=120",)
CLUSTER = ("cluster.interface=eth0", "cluster.lease_s=10", "cluster.allreduce_timeout_s=10",
           "commit.every_steps=100")


def on_node1(*command, check=True) -> str:
    done = subprocess.run([*BED.on(1), *map(str, command)], cwd=BED.work, text=True,
                          env={**os.environ, **BED.environment}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if check and done.returncode:
        raise AssertionError(f"{command}: {done.stdout}")
    return done.stdout


class Job:
    """A run, written by `savior slurm` and handed in. `sbatch` options are stronger than the file's."""

    def __init__(self, config: Path, run: Path, arguments, options=(), sbatch=()):
        self.run = run
        script = run.with_suffix(".sbatch")
        subprocess.run([runs.PROGRAM, "slurm", config, f"run.dir={run}", *CLUSTER, *arguments,
                        *options, "--out", script], check=True, cwd=BED.work,
                       stderr=subprocess.DEVNULL)
        self.id = on_node1("sbatch", "--parsable", *sbatch, script).strip()

    def state(self) -> str:
        """PENDING, RUNNING ... COMPLETED, FAILED, CANCELLED; of an array: all of its tasks'."""
        shown = on_node1("scontrol", "show", "job", self.id, check=False)
        return " ".join(sorted(set(re.findall(r"JobState=(\w+)", shown))))

    def text(self) -> str:
        logs = sorted(BED.work.glob(f"*-{self.id}*.out"))
        return "\n".join(log.read_text(errors="replace") for log in logs)

    def wait_for(self, state: str, limit_s: float):
        try:
            runs.wait_until(state, lambda: time.sleep(0.2) or self.state() == state, limit_s)
        except AssertionError as late:
            raise AssertionError(f"{late}; it is {self.state()}:\n{self.text()}") from None

    def restarts(self) -> int:
        return int(re.findall(r"Restarts=(\d+)", on_node1("scontrol", "show", "job", self.id))[0])


class SlurmTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.config = runs.make_world(BED.work)
        BED.call("slurm")
        cls.whole = Job(cls.config, BED.work / "whole", LONG, ("--nodes", str(NODES)))
        cls.whole.wait_for("COMPLETED", 300)
        cls.undisturbed = runs.result(cls.whole.run)

    def submit(self, *arguments, nodes=NODES, options=(), sbatch=()) -> Job:
        job = Job(self.config, BED.work / self._testMethodName, arguments,
                  ("--nodes", str(nodes), *options), sbatch)
        self.addCleanup(on_node1, "scancel", job.id, check=False)
        return job

    def test_lines_say_who_speaks(self):
        self.assertRegex(self.whole.text(), r"(?m)^0: .*all +\d")
        self.assertRegex(self.whole.text(), r"(?m)^job \d+ \| \S+ finished: .*result.json$")

    def test_a_time_limit_requeues_and_the_result_is_the_same(self):
        whole = Job(self.config, BED.work / "longer", LONGER, ("--nodes", str(NODES)))
        whole.wait_for("COMPLETED", 600)
        # USR1 comes within the first 15 s of every life of the job, which has too many steps for it.
        job = self.submit(*LONGER, sbatch=("--time=1", "--signal=B:USR1@45"))
        job.wait_for("COMPLETED", 900)
        self.assertGreaterEqual(job.restarts(), 1, job.text())
        self.assertIn("back into the queue", job.text())
        self.assertEqual(runs.result(job.run), runs.result(whole.run))
        runs.wait_for_none(job.run)

    def test_a_cancelled_job_is_gone_and_goes_on_when_handed_in_again(self):
        job = self.submit(*LONG)
        runs.wait_for_commit(job.run, 200)
        on_node1("scancel", job.id)
        job.wait_for("CANCELLED", 60)
        runs.wait_for_none(job.run)
        committed = runs.newest_commit(job.run)
        again = self.submit(*LONG)
        again.wait_for("COMPLETED", 300)
        self.assertIn(f"from step {committed}", again.text())
        self.assertEqual(runs.result(job.run), self.undisturbed)

    def test_a_killed_rank_is_restarted(self):
        job = self.submit(*LONG)
        runs.wait_for_commit(job.run, 200)
        os.kill(runs.processes(job.run, "train")[-1], 9)
        job.wait_for("COMPLETED", 300)
        self.assertIn("restart 1 of 10 without a new commit", job.text())
        self.assertEqual(runs.result(job.run), self.undisturbed)

    def test_bad_input_is_not_restarted(self):
        job = self.submit("data.raw=/nowhere")
        job.wait_for("FAILED", 60)
        self.assertIn("cannot go on", job.text())
        self.assertEqual(job.text().count("starting "), 1)

    def test_a_launcher_in_an_allocation_trains_on_its_nodes(self):
        run = BED.work / self._testMethodName
        said = on_node1("salloc", f"--nodes={NODES}", "--quiet", runs.PROGRAM, "launch",
                        self.config, f"run.dir={run}", *CLUSTER, *LONG)
        where = ",".join(f"node{n}:1" for n in range(1, NODES + 1))
        self.assertIn(f"starting {NODES} ranks on {where}, from the beginning", said)
        self.assertIn("finished after 0 restarts", said)
        self.assertIn(f"node{NODES} rank {NODES - 1} | ", said)
        self.assertEqual(runs.result(run), self.undisturbed)
        runs.wait_for_none(run)

    def test_a_launcher_in_an_allocation_restarts_a_killed_rank(self):
        run = BED.work / self._testMethodName
        launch = subprocess.Popen(
            [*BED.on(1), "salloc", f"--nodes={NODES}", "--quiet", runs.PROGRAM, "launch",
             self.config, f"run.dir={run}", *CLUSTER, *LONG], cwd=BED.work, text=True,
            env={**os.environ, **BED.environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        runs.wait_for_commit(run, 200)
        os.kill(runs.processes(run, "train")[-1], 9)
        said, _ = launch.communicate(timeout=300)
        self.assertEqual(launch.returncode, 0, said)
        self.assertIn("finished after 1 restart;", said)
        self.assertEqual(runs.result(run), self.undisturbed)
        runs.wait_for_none(run)

    def test_a_launcher_takes_two_ranks_of_every_node(self):
        # As docs/cluster.md has it for Slurm by hand: of each node a server and a worker.
        run = BED.work / self._testMethodName
        said = on_node1("salloc", f"--nodes={NODES}", "--ntasks-per-node=2", "--quiet",
                        runs.PROGRAM, "launch", self.config, f"run.dir={run}", *CLUSTER,
                        "train.max_steps=50", "--np", "2")
        self.assertIn(f"{NODES} servers with {NODES} shards, {NODES} workers on {NODES} hosts", said)
        self.assertIn("finished after 0 restarts", said)
        runs.wait_for_none(run)

    def test_an_allocation_that_is_too_small_is_not_tried_again(self):
        run = BED.work / self._testMethodName
        said = on_node1("salloc", f"--nodes={NODES}", "--ntasks-per-node=1", "--quiet",
                        runs.PROGRAM, "launch", self.config, f"run.dir={run}", *CLUSTER, "--np", "2",
                        check=False)
        self.assertIn("More processors requested than permitted", said)
        self.assertIn("cannot go on: no restart mends the error above", said)

    def test_an_array_trains_one_run_per_seed(self):
        job = self.submit("train.max_steps=100", nodes=1, options=("--seeds", "1,2"))
        job.wait_for("COMPLETED", 120)
        for seed in (1, 2):
            run = Path(f"{job.run}-seed{seed}")
            self.assertEqual(json.loads((run / "result.json").read_text())["seed"], seed)

    @unittest.skipIf(NODES < 2, "a job on one node has no rest to go on with")
    def test_a_node_without_power_is_left_out(self):
        job = self.submit(*LONG)
        runs.wait_for_commit(job.run, 200)
        BED.call("off", 3)  # node1 has the batch script
        # The tests after this one need it, whatever becomes of this one.
        self.addCleanup(BED.call, "slurm-node", 3)
        self.addCleanup(BED.call, "on", 3)
        job.wait_for("COMPLETED", 400)
        self.assertRegex(job.text(), r"starting 1 ranks on each of: node1 node2, from step \d{3}")
        runs.wait_for_none(job.run)


def main() -> int:
    BED.up_or_skip("slurmctld", "slurmd", "munged", "sbatch")
    try:
        done = unittest.main(verbosity=2, exit=False)
        return 0 if done.result.wasSuccessful() else 1
    finally:
        BED.down()


if __name__ == "__main__":
    sys.exit(main())
