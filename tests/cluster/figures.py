"""What fault tests print: the seed that repeats them, and what they have measured."""

import os
import random
import statistics


def seeded(name: str) -> tuple[random.Random, int]:
    """SAVIOR_TEST_SEED's, or a new one every time; printed, also where the test fails."""
    seed = int(os.environ.get("SAVIOR_TEST_SEED") or int.from_bytes(os.urandom(3), "little"))
    print(f"SEED {name}: {seed} (again: SAVIOR_TEST_SEED={seed})", flush=True)
    return random.Random(seed), seed


def figure(name: str, text: str):
    """One line per test of the catalogue in docs/reliability.md."""
    print(f"FIGURE {name}: {text}", flush=True)


def spread(seconds) -> str:
    return f"p50 {statistics.median(seconds):.1f} s, max {max(seconds):.1f} s"
