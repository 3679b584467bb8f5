#!/usr/bin/env bash
# Runs the benches, one after the other, on a release build: their tables on the terminal, and every
# figure as a line of JSON in build/bench/. About half an hour and 12 GB of RAM; leave the machine
# alone meanwhile. Arguments: names of benches, default all.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ALL=(bench_hot_tier bench_pull_push bench_cold bench_commit bench_table_growth bench_scaling
  bench_overlap bench_rank bench_serve bench_export)
(($#)) || set -- "${ALL[@]}"

"$ROOT/scripts/setup.sh"
cd "$ROOT"
configure
step build-bench "Building the benches" "5 minutes the first time, then seconds" \
  cmake --build --preset release --target "$@"
mkdir -p build/bench
for bench in "$@"; do
  say "$bench"
  rm -f "build/bench/$bench.json"
  "build/release/bench/$bench" --json "build/bench/$bench.json"
done
say "Figures: $(printf 'build/bench/%s.json ' "$@")"
