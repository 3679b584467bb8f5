"""What the tests of this folder share: a small world, runs of it, and the processes of a run."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

PROGRAM = os.environ["SAVIOR_PROGRAM"]
SKIPPED = 77  # what CMakeLists.txt tells CTest to call a skip
HANGS_S = 600  # what takes longer hangs, however busy the machine is

CONFIG = """
[data]
raw = "{folder}/raw"
cache = "{folder}/cache"
train_from = "2023-11-15"
train_until = "2023-11-26"
eval_from = "2023-11-26"
eval_until = "2023-11-29"
[encoder]
dim = 16
hidden = 16
steps = 10
batch = 64
[codebook]
levels = 2
codes = 8
hidden = 16
finetune_steps = 10
[model]
id_dim = 8
feature_dim = 4
dnn = "16"
tower = "8"
fusion_hidden = 16
id_dropout = 0.1
[train]
requests_per_batch = 16
shuffle_window = 100
metrics_every_s = 1e-6
[commit]
every_steps = 20
[cluster]
restart_after_s = 0.2
"""


def make_world(folder: Path) -> Path:
    """Data and a configuration of 69 steps per epoch, a commit every 20; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([PROGRAM, "generate", "--out", folder / "raw", "--users", "200", "--items", "300",
                    "--days", "14", "--requests-per-user-day", "0.5", "--clusters", "12",
                    "--vector-dim", "16"], check=True, stderr=subprocess.DEVNULL)
    config = folder / "run.toml"
    config.write_text(CONFIG.format(folder=folder))
    return config


class WorldTest(unittest.TestCase):
    """Tests of one folder, `path`, that holds a world and is gone behind them; `config` is its file."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix=f"savior-{cls.__name__.lower()}-")
        cls.addClassCleanup(folder.cleanup)
        cls.path = Path(folder.name)
        cls.config = make_world(cls.path)


def result(run: Path) -> dict:
    """result.json without what time and machine decide."""
    read = json.loads((run / "result.json").read_text())
    for key in ("wall_s", "cpu_s", "samples_per_cpu_s", "peak_rss_bytes", "processes"):
        read["train"].pop(key, None)
    return read


def digest(run: Path) -> dict:
    """What `savior inspect digest` says of its newest commit: steps, updates and hex digests."""
    done = subprocess.run([PROGRAM, "inspect", "digest", run, "--json"], check=True,
                          stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def newest_commit(run: Path) -> int:
    """Its step; -1: there is none."""
    steps = [int(c.name[7:]) for c in (run / "commits").glob("commit-*") if c.name[7:].isdigit()]
    return max(steps, default=-1)


def wait_until(what: str, condition, limit_s: float = HANGS_S):
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"after {limit_s} s: not yet: {what}")


def steps_done(run: Path) -> int:
    """Lines of metrics.jsonl: a step that was done twice counts twice."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def wait_for_commit(run: Path, step: int, limit_s: float = HANGS_S):
    wait_until(f"a commit of {run} at step {step}", lambda: newest_commit(run) >= step, limit_s)


def kill_mpirun(run: Path):
    """By SIGKILL, and waits until its ranks have ended, too."""
    ranks = processes(run, "train")
    os.kill(processes(run, "mpirun")[0], signal.SIGKILL)
    wait_until("all ranks have ended", lambda: not set(ranks) & set(processes(run, "train")), 10)


def program(pid: int) -> str:
    """Its name; empty: it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def processes(run: Path, kind: str = "") -> list[int]:
    """Pids of what runs for `run`, in any namespace: "launch", "mpirun", "srun", "train" or all."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:  # it has ended meanwhile
            continue
        if state == "Z" or f"run.dir={run}" not in words:
            continue
        program = os.path.basename(words[0])
        name = words[1] if program == "savior" and len(words) > 1 else program
        if kind in ("", name):
            found.append(int(entry.name))
    return sorted(found)


def is_alive(pid: int) -> bool:
    """Not ended, and not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def ranks(run: Path, numbers) -> list[int]:
    """Pids of the ranks with these numbers that run now."""
    found = []
    for pid in processes(run, "train"):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if any(f"OMPI_COMM_WORLD_RANK={n}".encode() in variables for n in numbers):
            found.append(pid)
    return found


def wait_for_none(run: Path, limit_s: float = 10):
    """Nothing of `run` may be left."""
    try:
        wait_until("", lambda: not processes(run), limit_s)
    except AssertionError:
        left = [f"{pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()}" for pid in processes(run)]
        raise AssertionError(f"left behind after {limit_s} s: {left}") from None


class Launch:
    """`savior launch CONFIG run.dir=RUN ...`; its output goes to RUN.out, or to `output`, which grows."""

    def __init__(self, config: Path, run: Path, *arguments: str, on=(), env=None, output=None):
        self.run = run
        self.output = output or run.with_name(run.name + ".out")
        with open(self.output, "ab") as out:
            self.process = subprocess.Popen(
                [*on, PROGRAM, "launch", str(config), f"run.dir={run}", *arguments], stdout=out,
                stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def kill(self, sent: signal.Signals):
        """To the launcher itself, wherever it runs: a wrapper passes nothing on."""
        for pid in processes(self.run, "launch"):
            os.kill(pid, sent)

    def wait(self, limit_s: float = HANGS_S) -> int:
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"still running after {limit_s} s:\n{self.text()}") from None

    def end(self):
        for pid in processes(self.run):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def starts(self) -> int:
        return len(re.findall(r"^launch \| \S+ starting ", self.text(), re.M))
