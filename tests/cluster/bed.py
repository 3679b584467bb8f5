"""The bed of bed/bed.sh: several machines on this one, for one test program."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import runs

SCRIPT = Path(__file__).resolve().parent / "bed" / "bed.sh"


class Bed:
    """Nodes 1 to `nodes`. `name` and `net` differ from those of other beds of this checkout."""

    def __init__(self, name: str, net: str, nodes: int = 3):
        self.folder = Path(os.environ["SAVIOR_BED"] + "-" + name)
        self.nodes = range(1, nodes + 1)
        # Beds of other checkouts may stand beside this one.
        mark = hashlib.blake2s(str(self.folder).encode()).hexdigest()[:6]
        self.settings = {"SAVIOR_BED": str(self.folder), "BED_PREFIX": f"{name}-{mark}-",
                         "BED_NET": net, "BED_NODES": str(nodes)}
        self.environment = {**self.settings,
                            "OMPI_MCA_plm_rsh_args": f"-F {self.folder}/ssh/config"}
        self.work = self.folder / "work"  # on every node, unlike /tmp

    def call(self, *arguments, check=True) -> str:
        done = subprocess.run([SCRIPT, *map(str, arguments)], env={**os.environ, **self.environment},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if check and done.returncode:
            raise AssertionError(f"bed.sh {arguments}: {done.returncode}\n{done.stdout}")
        return done.stdout

    def up_or_skip(self, *programs: str):
        """Ends the program with runs.SKIPPED where this machine has no room for a bed."""
        missing = [p for p in programs if not shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin")]
        can = subprocess.run([SCRIPT, "can"], env={**os.environ, **self.environment}, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if can.returncode or missing:
            print(f"SKIPPED, nothing was tested: {can.stdout}", "no", *missing, "here:",
                  "scripts/setup.sh --cluster")
            sys.exit(runs.SKIPPED)
        hidden = [p for p in (SCRIPT, self.folder.resolve()) if p.is_relative_to("/tmp")]
        if hidden:
            print("SKIPPED, nothing was tested: every node has a /tmp of its own, so it would not see",
                  *hidden, "- check out and build elsewhere")
            sys.exit(runs.SKIPPED)
        self.call("down")  # what a killed test left
        try:
            self.call("up")
        except AssertionError as error:  # the machine's doing, not the program's
            print(f"SKIPPED, nothing was tested: this machine holds no bed: {error}")
            self.call("down", check=False)
            sys.exit(runs.SKIPPED)
        self.work.mkdir()

    def down(self):
        self.call("down")

    def on(self, node: int) -> list[str]:
        """What stands before a command to run it on `node`."""
        return [str(SCRIPT), "exec", str(node)]

    def node_of(self, pid: int) -> int:
        """0: none of the bed."""
        for node in self.nodes:
            if pid in self.processes(node):
                return node
        return 0

    def processes(self, node: int) -> list[int]:
        """All of its pids, as seen from here."""
        init = (self.folder / f"node{node}.pid").read_text().strip()
        space = os.readlink(f"/proc/{init}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns/pid") == space:
                    found.append(int(entry.name))
            except OSError:  # it has ended meanwhile
                continue
        return found

    def links(self, mbit: int, delay_ms: int):
        """All cables are so from now on; 0, 0: as fast as it goes. While nothing runs."""
        for node in self.nodes:
            self.call("delay", node, delay_ms)
            self.call("rate", node, mbit)

    def bytes(self, node: int) -> tuple[int, int]:
        """Received and sent by its network card so far."""
        pid = (self.folder / f"node{node}.pid").read_text().strip()
        for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == "eth0":
                counters = counters.split()
                return int(counters[0]), int(counters[8])
        raise AssertionError(f"node{node} has no eth0")
