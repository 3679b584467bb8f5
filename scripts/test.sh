#!/usr/bin/env bash
# Installs what is missing, builds everything, runs the default test suite (all but label slow).
# Exits with CTest's status and prints nothing after CTest's summary.
# Arguments go to ctest: scripts/test.sh -R Shard
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# With the headers that the test build.cuda compiles against.
"$ROOT/scripts/setup.sh"
"$ROOT/scripts/setup.sh" --cuda-build ||
  say "Without the CUDA headers the test build.cuda is skipped; everything else goes on"
cd "$ROOT"
configure
step build "Building the program, tests and benches" "20 minutes the first time, then seconds" \
  cmake --build --preset release
say "Running the default test suite (usually 8 minutes)"
exec ctest --preset release -j 2 "$@"
