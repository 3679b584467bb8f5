#!/usr/bin/env bash
# Installs what is missing, builds everything, runs the default test suite (all but label slow).
#
#   scripts/test.sh            the default suite
#   scripts/test.sh --slow     the slow one instead: three nodes, Slurm, 600 kills, chaos, fuzzing
#   scripts/test.sh -R Shard   arguments go to ctest
#
# Exits with CTest's status and prints nothing after CTest's summary.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SUITE=release
if [[ ${1-} == --slow ]]; then
  SUITE=slow
  shift
fi

# With the headers that the test build.cuda compiles against.
"$ROOT/scripts/setup.sh"
"$ROOT/scripts/setup.sh" --cuda-build ||
  say "Without the CUDA headers the test build.cuda is skipped; everything else goes on"
[[ $SUITE == release ]] || "$ROOT/scripts/setup.sh" --cluster ||
  say "Without what the cluster tests need they are skipped; everything else goes on"
cd "$ROOT"
configure
step build "Building the program, tests and benches" "20 minutes the first time, then seconds" \
  cmake --build --preset release
if [[ $SUITE == slow ]]; then
  say "Running the slow test suite (an hour at most; as root, or the cluster's tests are skipped)"
else
  say "Running the default test suite (usually 15 minutes)"
fi
exec ctest --preset "$SUITE" -j 2 "$@"
