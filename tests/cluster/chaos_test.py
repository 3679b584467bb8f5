"""A run on three machines to which everything happens, at random, and which learns the same.

chaos_test.py [--minutes 30] [--seed N] [key=value ...]

Kills of ranks, of the launcher and of mpirun, processes that stand still, cables that are cut, a full
disk, machines that lose their power: one after the other for so many minutes, or until the run has
finished. Then everything is mended, the run finishes, and must have the tables and dense weights of a
run that was left alone: digests in hex (`savior inspect digest`). The number of workers is the same
whichever machines are there, so sums have the same order. Trains on The Complete Journey where
scripts/setup.sh --data has put it, else on generated data.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import runs
from bed import Bed
from chaos import Chaos, SmallDisk
from figures import figure, seeded
from runs import Launch

BED = Bed("svchaos", "10.81.4")
LEASE_S = 6
# Two workers and as many servers as there are ranks beside them: with any one machine gone, too.
HOSTS = "node1:2,node2:2,node3:1"
CLUSTER = ("cluster.workers=2", "cluster.interface=eth0", f"cluster.lease_s={LEASE_S}",
           "cluster.allreduce_timeout_s=10", "cluster.restart_after_s=0.5",
           "cluster.max_restarts=100000", "cluster.start_timeout_s=60")
# What a run that is disturbed does of the steps of one that is not, at least.
PROGRESS = 0.2
RATE_S = 20  # how long the rate is measured
JOURNEY = """
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
[train]
threads = 1
metrics_every_s = 1e-6
"""


def make_world() -> tuple[Path, str]:
    cache = os.environ.get("SAVIOR_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "savior"
    raw = Path(cache) / "data/complete_journey"
    if not (raw / "impressions.parquet").exists():
        return runs.make_world(BED.work), "generated data"
    config = BED.work / "run.toml"
    config.write_text(JOURNEY.format(raw=raw))
    return config, "The Complete Journey"


def launch(config: Path, run: Path, *arguments) -> Launch:
    # What it says is not for the small disk.
    return Launch(config, run, *CLUSTER, *arguments, "--hosts", HOSTS, on=BED.on(1),
                  env=BED.environment, output=BED.work / f"{run.name}.out")


def measure_rate(config: Path, overrides) -> float:
    """Steps per second of a run that is left alone."""
    run = launch(config, BED.work / "rate", "train.epochs=1000", *overrides)
    try:
        runs.wait_until("the first step", lambda: runs.steps_done(run.run))
        began = runs.steps_done(run.run)
        time.sleep(RATE_S)
        return (runs.steps_done(run.run) - began) / RATE_S
    except AssertionError as late:
        raise AssertionError(f"{late}\n{run.text()}") from None
    finally:
        run.end()


def train_alone(config: Path, arguments, limit_s: float) -> dict:
    alone = launch(config, BED.work / "undisturbed", *arguments)
    try:
        assert alone.wait(limit_s) == 0, alone.text()
        return runs.digest(alone.run)
    finally:
        alone.end()


def train_in_chaos(config: Path, arguments, minutes, disk: SmallDisk, random,
                   limit_s: float) -> tuple[Chaos, dict]:
    chaos = Chaos(BED, disk, random, lambda: launch(config, disk.folder / "run", *arguments), LEASE_S)
    try:
        # A machine that is not there at the very first start is a mistake, and refused.
        runs.wait_until("the first commit", lambda: runs.newest_commit(chaos.launch.run) >= 0)
        chaos.go_on(minutes)
        chaos.log("everything is mended")
        runs.wait_until("the end of the run", chaos.has_finished, limit_s)
        runs.wait_for_none(chaos.launch.run, 60)
        subprocess.run([runs.PROGRAM, "inspect", "commit", chaos.launch.run, "--verify"], check=True,
                       stdout=subprocess.DEVNULL)
        return chaos, runs.digest(chaos.launch.run)
    except BaseException:
        print(chaos.launch.text()[-20_000:], flush=True)
        raise
    finally:
        chaos.launch.end()


def test(options, disk: SmallDisk) -> bool:
    random, seed = seeded("chaos")
    config, data = make_world()
    rate = measure_rate(config, options.overrides)
    steps = max(100, int(PROGRESS * rate * 60 * options.minutes))
    arguments = ("train.epochs=1000", f"train.max_steps={steps}",
                 f"commit.every_steps={max(5, int(5 * rate))}", *options.overrides)
    print(f"chaos | {data}: {rate:.1f} steps/s, so {steps} steps for {options.minutes} minutes",
          flush=True)
    limit_s = 300 + 6 * steps / rate
    undisturbed = train_alone(config, arguments, limit_s)
    chaos, found = train_in_chaos(config, arguments, options.minutes, disk, random, limit_s)
    faults = ", ".join(f"{count} {name}" for name, count in sorted(chaos.counts.items()))
    same = found == undisturbed
    figure("chaos", f"{(time.monotonic() - chaos.began) / 60:.1f} min, {sum(chaos.counts.values())} "
                    f"faults ({faults}), {chaos.launch.starts()} starts, {found['step']} steps of {data}: "
                    f"tables and dense weights {'equal in hex' if same else 'DIFFER'} (seed {seed})")
    if not same:
        print("undisturbed:", undisturbed, "\ndisturbed:", found, flush=True)
    return same


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if options.seed is not None:
        os.environ["SAVIOR_TEST_SEED"] = str(options.seed)
    if os.geteuid() != 0:
        BED.up_or_skip()  # says why not
    disk = SmallDisk(BED.folder.with_name(BED.folder.name + "-disk"), megabytes=700)
    try:
        BED.up_or_skip()
        return 0 if test(options, disk) else 1
    finally:
        BED.down()
        disk.remove()


if __name__ == "__main__":
    sys.exit(main())
