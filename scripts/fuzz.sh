#!/usr/bin/env bash
# Builds the fuzz preset's targets and runs each for SECONDS (default 60), from the committed corpus.
# What they find new is kept in build/fuzz/corpus; what fails is written to build/fuzz/ and named.
# Exit code 77: clang++ is not installed. (It is also what a fuzzer that has found something ends with,
# unless told otherwise.)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SECONDS_EACH=${1-60}
TARGETS=(request response rank infer config manifest log)

command -v clang++ >/dev/null || {
  echo "SKIPPED, nothing was fuzzed: clang++ is not installed"
  exit 77
}
cmake --preset fuzz >build/fuzz-configure.log || {
  cat build/fuzz-configure.log >&2
  exit 1
}
cmake --build --preset fuzz --target "${TARGETS[@]/%/_fuzz}"
for side in "${TARGETS[@]}"; do
  found=build/fuzz/corpus/$side
  mkdir -p "$found"
  echo "== $side: $SECONDS_EACH s"
  "build/fuzz/tests/fuzz/${side}_fuzz" -max_total_time="$SECONDS_EACH" -max_len=4096 \
    -print_final_stats=1 -error_exitcode=1 -artifact_prefix=build/fuzz/ "$found" "tests/fuzz/corpus/$side"
done
