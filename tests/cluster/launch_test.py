"""`savior launch` on one machine: stops, goes on, restarts, and leaves nothing behind."""

import os
import re
import signal
import sys
import time
import unittest

import runs
from figures import figure
from runs import Launch

RANKS = 2  # a server and a worker
LONG = ("train.epochs=4",)  # 276 steps: long enough to disturb
ENDLESS = ("train.epochs=1000",)


class LaunchTest(runs.WorldTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        launch = Launch(cls.config, cls.path / "undisturbed", *LONG, "--np", str(RANKS))
        assert launch.wait() == 0, launch.text()
        cls.undisturbed = runs.result(cls.path / "undisturbed")

    def start(self, *arguments, name=None, hosts=("--np", str(RANKS))) -> Launch:
        launch = Launch(self.config, self.path / (name or self._testMethodName), *arguments, *hosts)
        self.addCleanup(launch.end)
        return launch

    def expect_end(self, launch: Launch, code: int, words: str):
        self.assertEqual(launch.wait(), code, launch.text())
        self.assertIn(words, launch.text())
        runs.wait_for_none(launch.run)

    def expect_undisturbed(self, launch: Launch):
        self.expect_end(launch, 0, "finished after ")
        self.assertEqual(runs.result(launch.run), self.undisturbed)

    def test_every_line_says_who_speaks_and_is_kept(self):
        run = self.path / "undisturbed"
        lines = (run.with_name("undisturbed.out")).read_text().splitlines()
        for line in lines:
            self.assertRegex(line, r"^(launch|rank [01]) \| ")
        self.assertTrue(any(re.match(r"rank 1 \| all +\d", line) for line in lines))
        self.assertRegex(lines[-1], r"finished after 0 restarts; result: .*result.json; log: .*log$")
        self.assertEqual(sorted((run / "launch.log").read_text().splitlines()), sorted(lines))

    def test_a_request_to_stop_commits_and_the_same_command_goes_on(self):
        for sent in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            with self.subTest(sent.name):
                name = f"stopped-{sent.name}"
                launch = self.start(*LONG, name=name)
                runs.wait_for_commit(launch.run, 40)
                steps = runs.steps_done(launch.run)
                launch.kill(sent)
                self.expect_end(launch, 0, "stopped; step ")
                self.assertGreaterEqual(runs.newest_commit(launch.run), steps)
                self.assertFalse((launch.run / "result.json").exists())
                self.expect_undisturbed(self.start(*LONG, name=name))

    def test_a_killed_rank_is_restarted(self):
        launch = self.start(*LONG)
        for rank, step in enumerate((20, 120)):  # pids rise with ranks
            runs.wait_for_commit(launch.run, step)
            os.kill(runs.processes(launch.run, "train")[rank], signal.SIGKILL)
        self.expect_undisturbed(launch)
        self.assertEqual(launch.starts(), 3)
        # Each was the first since a new commit.
        self.assertEqual(len(re.findall("restart 1 of 10 without a new commit", launch.text())), 2)

    def test_a_killed_mpirun_takes_its_ranks_along_and_is_restarted(self):
        launch = self.start(*LONG)
        runs.wait_for_commit(launch.run, 20)
        runs.kill_mpirun(launch.run)
        self.expect_undisturbed(launch)

    def test_a_killed_launcher_leaves_nothing_behind(self):
        launch = self.start(*ENDLESS)
        runs.wait_for_commit(launch.run, 20)
        self.assertEqual(len(runs.processes(launch.run)), 2 + RANKS)
        launch.kill(signal.SIGKILL)
        runs.wait_for_none(launch.run)
        # Its lock is gone with it.
        self.expect_end(self.start("train.max_steps=1000", *ENDLESS), 0, "finished after 0 restarts")

    def test_a_second_request_kills(self):
        launch = self.start(*ENDLESS)
        runs.wait_for_commit(launch.run, 20)
        os.kill(runs.processes(launch.run, "train")[0], signal.SIGSTOP)  # it will not stop by itself
        launch.kill(signal.SIGTERM)
        time.sleep(1)
        self.assertIsNone(launch.process.poll())
        launch.kill(signal.SIGTERM)
        self.expect_end(launch, 130, "killed; step ")

    def test_a_second_launcher_is_refused_within_a_second(self):
        launch = self.start(*ENDLESS)
        runs.wait_for_commit(launch.run, 20)
        took = []
        for _ in range(5):  # loading the program alone takes longer on a machine that is busy
            began = time.monotonic()
            second = Launch(self.config, launch.run, *ENDLESS)
            self.assertEqual(second.process.wait(), 1)
            took.append(time.monotonic() - began)
            if took[-1] < 1:
                break
        self.assertLess(min(took), 1)
        figure("two_launchers", f"the second is refused after {min(took):.2f} s, the first one's pid "
                                "named")
        self.assertIn("another savior launch has this run", second.text())
        self.assertIn(str(launch.process.pid), second.text())
        launch.kill(signal.SIGTERM)
        self.expect_end(launch, 0, "stopped")

    def test_what_no_restart_mends_is_not_restarted(self):
        launch = self.start("train.dense_rl=1")
        self.expect_end(launch, 2, "nearest is train.dense_lr")
        self.assertEqual(launch.starts(), 0)
        self.assertFalse(launch.run.exists())
        launch = self.start("data.raw=/nowhere")
        self.expect_end(launch, 2, "cannot go on: no restart mends the error above")
        self.assertIn("/nowhere", launch.text())
        self.assertEqual(launch.starts(), 1)

    def test_restarts_are_bounded(self):
        launch = self.start("train.max_steps=3")
        self.expect_end(launch, 0, "finished")
        # A run with another seed: an error that might be mended, though not by this.
        launch = self.start("train.max_steps=3", "seed=2", "cluster.max_restarts=2")
        self.expect_end(launch, 1, "gave up after 2 restarts; step 3 is committed")
        self.assertEqual(launch.starts(), 1 + 3)
        self.assertIn("in 0.4 s", launch.text())

    def test_a_request_during_a_wait_ends_it(self):
        launch = self.start("train.max_steps=3")
        self.expect_end(launch, 0, "finished")
        launch = self.start("train.max_steps=3", "seed=2", "cluster.restart_after_s=50")
        runs.wait_until("waiting", lambda: "without a new commit in 50.0 s" in launch.text())
        launch.kill(signal.SIGTERM)
        self.expect_end(launch, 0, "stopped; step 3 is committed")

    def test_an_interface_that_is_not_there_is_named(self):
        launch = self.start("cluster.interface=eth99")
        self.expect_end(launch, 2, 'cluster.interface = "eth99"')
        self.assertEqual(launch.starts(), 0)

    def test_a_host_that_does_not_answer_is_named(self):
        launch = self.start(hosts=("--hosts", "localhost,no-such-host.invalid"))
        self.expect_end(launch, 2, "1 of 2 hosts cannot be used")
        self.assertIn("without no-such-host.invalid: ssh", launch.text())


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=[sys.argv[0], *sys.argv[1:]])
