"""What training sends over a slow network: bytes per sample, by precision on the wire.

network_bench.py [--config FILE] [--mbit 100] [--delay-ms 1] [--steps 300] [key=value ...]

Three nodes of the bed, a server and a worker in each process, cables of --mbit and --delay-ms. One
run per precision, and per run one row: bytes that cross the network per sample (impression) of
training, from the nodes' interface counters between the first and the last line of metrics.jsonl;
the same from our own counters (net_bytes there: payload of frames, without TCP, IP, Ethernet,
encryption and ZeroMQ's framing); samples per second of wall time; AUC of clicks. Without --config: a
small generated world, which shows that it works and no figure of use. Needs root, and
SAVIOR_PROGRAM, SAVIOR_BED and SAVIOR_BED_CABLE as tests/cluster/CMakeLists.txt sets them.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import runs
from bed import Bed
from runs import Launch

BED = Bed("svnet", "10.81.3")
PRECISIONS = {"float32": (), "bfloat16": ("cluster.wire_dtype=bfloat16",
                                          "cluster.allreduce_dtype=bfloat16")}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--mbit", type=int, default=100)
    parser.add_argument("--delay-ms", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--limit-s", type=float, default=1800)
    parser.add_argument("overrides", nargs="*")
    return parser.parse_args()


def sent_by_all() -> int:
    return sum(BED.bytes(node)[1] for node in BED.nodes)


def measure(config: Path, precision: str, options: argparse.Namespace) -> dict:
    launch = Launch(config, BED.work / precision, "cluster.interface=eth0", "commit.every_steps=0",
                    "train.metrics_every_s=0.2", f"train.max_steps={options.steps}",
                    *options.overrides, *PRECISIONS[precision], "--hosts",
                    ",".join(f"node{node}" for node in BED.nodes), on=BED.on(1),
                    env=BED.environment)
    metrics = launch.run / "metrics.jsonl"
    lines, seen = 0, []  # (line of metrics.jsonl, when it came, bytes sent by all nodes)

    def ended():
        nonlocal lines
        text = metrics.read_text() if metrics.exists() else ""
        if text.count("\n") > lines:
            now = sent_by_all()
            lines = text.count("\n")
            seen.append((json.loads(text.splitlines()[lines - 1]), time.monotonic(), now))
        return launch.process.poll() is not None

    try:
        runs.wait_until("the end of the run", ended, options.limit_s)
        assert launch.process.returncode == 0, launch.text()
    finally:
        launch.end()
    assert len(seen) > 1, f"{options.steps} steps are too few to be seen twice: --steps"
    (first, began, bytes_before), (last, ended_at, bytes_after) = seen[0], seen[-1]
    samples = last["samples"] - first["samples"]
    own = {key: last["net_bytes"][key] - first["net_bytes"][key] for key in last["net_bytes"]}
    nodes = len(BED.nodes)
    # The lead worker's. Of its rows 1 / nodes are on its own node.
    rows = (own["store_sent"] + own["store_received"]) * (nodes - 1)
    result = runs.result(launch.run)
    return {"precision": precision, "steps": last["step"] - first["step"], "samples": samples,
            "network": (bytes_after - bytes_before) / samples,
            "rows": rows / samples, "dense": own["allreduce_sent"] * nodes / samples,
            "samples_per_s": samples / (ended_at - began),
            "auc": 100 * result["eval"]["ctr"]["all"]["auc"]}


def main() -> int:
    options = arguments()
    BED.up_or_skip()
    try:
        config = options.config or runs.make_world(BED.work)
        BED.links(options.mbit, options.delay_ms)
        print(f"{len(BED.nodes)} nodes, {options.mbit} Mbit/s, {options.delay_ms} ms one way, "
              f"{options.steps} steps of {config}; bytes per sample")
        print(f"{'wire':>9} {'network':>8} {'rows':>8} {'dense':>8} {'samples/s':>9} {'AUC':>7}")
        found = []
        for precision in PRECISIONS:
            found.append(measure(config.resolve(), precision, options))
            f = found[-1]
            print(f"{precision:>9} {f['network']:8.0f} {f['rows']:8.0f} {f['dense']:8.0f} "
                  f"{f['samples_per_s']:9.0f} {f['auc']:7.2f}", flush=True)
        ratio = found[1]["network"] / found[0]["network"]
        print(f"bfloat16 sends {100 * ratio:.1f}% of the bytes")
        return 0 if ratio < 0.65 else 1  # whatever is wrong then
    finally:
        BED.down()


if __name__ == "__main__":
    sys.exit(main())
