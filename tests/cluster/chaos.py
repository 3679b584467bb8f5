"""What the chaos test does to a run on the bed: one fault after the other, each undone in the end.

A fault is a function that does harm and returns how to undo it, or None. At most one machine is
unreachable at a time: the number of workers is fixed, and needs the other two.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import runs
from runs import Launch


class SmallDisk:
    """A tmpfs that all nodes share, since it is there before they are; the run's folder is in it."""

    def __init__(self, folder: Path, megabytes: int):
        self.folder = folder
        self.full = False
        self.remove()
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)

    def fill(self):
        """Until nothing more fits; what the run frees meanwhile is taken as well."""
        self.full = True
        with open(self.folder / "ballast", "ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(1 << 16))
            except OSError:
                return

    def make_room(self):
        (self.folder / "ballast").unlink(missing_ok=True)
        self.full = False

    def remove(self):
        if os.path.ismount(self.folder):  # also that of a killed test
            subprocess.run(["umount", "-l", self.folder], check=True)
        if self.folder.exists():
            self.folder.rmdir()


class Chaos:
    """`start` starts the launcher; random is the only source of decisions."""

    def __init__(self, bed, disk: SmallDisk, random, start, lease_s: float):
        self.bed, self.disk, self.random, self.start = bed, disk, random, start
        self.lease_s = lease_s
        self.launch: Launch = start()
        self.met_full_disk = False  # since this launcher was started
        self.began = time.monotonic()
        self.counts: dict[str, int] = {}
        self.faults = {self.kill_rank: 4, self.kill_launcher: 2, self.kill_mpirun: 1, self.stop_rank: 3,
                       self.cut_cable: 3, self.fill_disk: 2, self.power_off: 2}

    def log(self, text: str):
        print(f"chaos | {time.monotonic() - self.began:7.1f} s | {text}", flush=True)

    def go_on(self, minutes: float):
        """Faults until then, or until the run has finished; returns with everything mended."""
        while time.monotonic() - self.began < 60 * minutes and not self.has_finished():
            self.wait(self.random.uniform(1, 12))
            fault = self.random.choices(list(self.faults), list(self.faults.values()))[0]
            if not self.has_finished():
                undo = fault()
                self.counts[fault.__name__] = self.counts.get(fault.__name__, 0) + 1
                if undo:
                    undo()

    def has_finished(self) -> bool:
        """Starts the launcher again where it was killed; any other end but a good one fails."""
        code = self.launch.process.poll()
        if code is None:
            return False
        if code == 0:
            assert "finished after " in self.launch.text(), self.launch.text()
            return True
        text = self.launch.text()
        # It begins by making sure that the run's folder can be written to, and says so if not.
        refused = code == 1 and self.met_full_disk and text.endswith("No space left on device\n")
        # Its wrapper's status where it was killed, or its node.
        assert refused or code in (-9, 137), f"the launcher ended with {code}:\n{text}"
        self.met_full_disk = self.disk.full
        self.launch = self.start()
        return False

    def wait(self, seconds: float):
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.has_finished():
            time.sleep(0.05)

    def kill_one_of(self, kind: str):
        found = runs.processes(self.launch.run, kind)
        if found:
            victim = self.random.choice(found)
            self.log(f"SIGKILL to {kind} {victim} on node{self.bed.node_of(victim)}")
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def kill_rank(self):
        self.kill_one_of("train")

    def kill_mpirun(self):
        self.kill_one_of("mpirun")

    def kill_launcher(self):
        self.kill_one_of("launch")

    def stop_rank(self):
        found = runs.processes(self.launch.run, "train")
        if not found:
            return None
        victim, seconds = self.random.choice(found), self.random.uniform(0.5, 2 * self.lease_s)
        self.log(f"SIGSTOP to rank {victim} on node{self.bed.node_of(victim)} for {seconds:.1f} s")

        def send(sent):
            try:
                os.kill(victim, sent)
            except ProcessLookupError:
                pass
        send(signal.SIGSTOP)
        self.wait(seconds)
        return lambda: send(signal.SIGCONT)

    def cut_cable(self):
        node, seconds = self.random.choice(self.bed.nodes), self.random.uniform(0.5, 2 * self.lease_s)
        self.log(f"the cable of node{node} is out for {seconds:.1f} s")
        self.bed.call("cable", node, "down")
        self.wait(seconds)
        return lambda: self.bed.call("cable", node, "up")

    def fill_disk(self):
        seconds = self.random.uniform(1, 15)
        self.log(f"the disk is full for {seconds:.1f} s")
        self.met_full_disk = True
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.has_finished():
            self.disk.fill()
            time.sleep(0.1)
        return self.disk.make_room

    def power_off(self):
        node, seconds = self.random.choice(self.bed.nodes), self.random.uniform(0.5, 15)
        self.log(f"node{node} is without power for {seconds:.1f} s")
        self.bed.call("off", node)
        until = time.monotonic() + seconds
        while time.monotonic() < until:  # the launcher may have been there: it waits, too
            time.sleep(0.05)
        return lambda: self.bed.call("on", node)
