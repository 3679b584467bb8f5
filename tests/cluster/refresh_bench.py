"""What a refresh of the codebook costs training: how long it stands still at the switch, and how much
slower it is while the next version is built. Two workers and two servers on this machine.

refresh_bench.py [--items N] [--codes K] [--switches S] [key=value ...]

Prints one table. Method: one run; `savior refresh` asks for the next version again and again; samples per
second are of metrics.jsonl, those of a build beside the lines before and behind it; what it stands still is
of refresh.jsonl, the lead's clock around the whole switch. Both sides are of one run; a wall time alone
proves nothing.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import tempfile
from pathlib import Path

import runs

CONFIG = """
[data]
raw = "{folder}/raw"
cache = "{folder}/cache"
train_from = "2023-11-15"
train_until = "2023-11-28"
eval_from = "2023-11-28"
eval_until = "2023-11-29"
[codebook]
levels = 3
codes = {codes}
kmeans_iterations = 10
finetune_steps = 100
learn_until = "2023-11-22"
[encoder]
steps = 100
[model]
alignment = "codes"
[train]
epochs = 1000
metrics_every_s = 0.5
[commit]
interval_s = 0
every_steps = 0
[cluster]
servers = 2
workers = 2
[refresh]
probation_steps = 0
min_preserved_r2 = -100
max_churn = 1
max_dead_share = 1
max_error_ratio = 100
max_auc_loss = 100
replay_hours = 1
"""
# Of metrics.jsonl, between two builds; and how many of these, the last ones, a build is compared with. Behind
# a switch workers read the content rows anew that they keep: that is a cost of the switch, told apart.
IDLE_LINES, COMPARED_LINES = 120, 40


def lines(path: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line]
    except FileNotFoundError:
        return []


def percentile(values, share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--codes", type=int, default=256)
    parser.add_argument("--switches", type=int, default=10)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="savior-refresh-bench-") as name:
        folder = Path(name)
        subprocess.run([runs.PROGRAM, "generate", "--out", folder / "raw", "--users", "20000", "--items",
                        str(options.items), "--days", "14", "--requests-per-user-day", "0.5",
                        "--clusters", "500"], check=True, stderr=subprocess.DEVNULL)
        config = folder / "run.toml"
        config.write_text(CONFIG.format(folder=folder, codes=options.codes))
        launch = runs.Launch(config, folder / "run", *options.overrides, "--np", "4")
        try:
            measure(launch, options)
        finally:
            launch.end()


def measure(launch, options):
    runs.wait_until("some steps", lambda: runs.steps_done(launch.run) > IDLE_LINES, 1800)
    events = launch.run / "refresh.jsonl"
    for done in range(options.switches):
        # A commit is needed to ask; then the answer to it.
        if runs.newest_commit(launch.run) < 0:
            (launch.run / "refresh.request").write_text(json.dumps({"what": "refresh", "version": 1}))
        else:
            subprocess.run([runs.PROGRAM, "refresh", launch.run], check=True, stdout=subprocess.DEVNULL)
        runs.wait_until("a switch", lambda: sum(e["state"] == "ACTIVE" for e in lines(events)) > done
                        or launch.process.poll() is not None, 1800)
        runs.wait_until("its answer", lambda: not (launch.run / "refresh.request").exists()
                        or launch.process.poll() is not None, 600)
        if launch.process.poll() is not None:
            raise SystemExit(launch.text()[-3000:])
        before = runs.steps_done(launch.run)
        runs.wait_until("a pause", lambda: runs.steps_done(launch.run) > before + IDLE_LINES, 600)
    launch.kill(signal.SIGTERM)
    launch.wait(600)
    report(lines(launch.run / "metrics.jsonl"), lines(events), options)


def slowdowns(metrics: list[dict]) -> list[float]:
    """Of each build: 1 - samples/s while it ran over those of the lines before and behind it.

    Steps get slower as histories grow, whatever else happens: both sides are needed.
    """
    stretches = [(metrics[0]["codebook"]["state"], [])]  # samples/s of each one's lines
    for former, line in zip(metrics, metrics[1:]):
        state = line["codebook"]["state"]
        if state not in ("IDLE", "BUILDING"):
            continue
        if state != former["codebook"]["state"]:
            stretches.append((state, []))
        else:
            stretches[-1][1].append(line["samples_per_s"])
    found = []
    for before, now, after in zip(stretches, stretches[1:], stretches[2:]):
        if now[0] == "BUILDING" and before[1] and now[1] and after[1]:
            idle = [statistics.median(side[1][-COMPARED_LINES:]) for side in (before, after)]
            found.append(1 - statistics.median(now[1]) / statistics.mean(idle))
    return found


def report(metrics: list[dict], events: list[dict], options):
    still = {state: [e["stood_still_ms"] for e in events if e["state"] == state] for state in ("BUILDING", "ACTIVE")}
    active = [e for e in events if e["state"] == "ACTIVE"]
    slower = slowdowns(metrics)
    print(f"{options.items} items, 3 x {options.codes} codes, 2 workers, 2 servers, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}, {len(active)} switches")
    for what, state in (("T0", "BUILDING"), ("the switch", "ACTIVE")):
        print(f"stood still at {what}: median {statistics.median(still[state]):.1f} ms, "
              f"p99 {percentile(still[state], .99):.1f} ms")
    if slower:
        print(f"samples/s while building: {100 * statistics.median(slower):.1f}% fewer than before and behind it "
              f"(median of {len(slower)}, {100 * min(slower):.1f} to {100 * max(slower):.1f}%)")
    print(f"a build: {statistics.median(e['wall_s'] for e in active):.1f} s, CPU of the lead's part "
          f"{statistics.median(e['cpu_s'] for e in active):.1f} s")


if __name__ == "__main__":
    main()
