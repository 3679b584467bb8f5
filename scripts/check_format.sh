#!/usr/bin/env bash
# Names the tracked C++ files that clang-format (.clang-format) would change, and where;
# --fix changes them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SKIPPED=77 # what tests/style/CMakeLists.txt tells CTest to call a skip

command -v clang-format >/dev/null || {
  echo "SKIPPED, nothing was checked: clang-format is not installed; run scripts/setup.sh"
  exit "$SKIPPED"
}
mapfile -d '' -t tracked < <(git ls-files -z '*.h' '*.cc')
files=()
for file in "${tracked[@]}"; do
  # Deleted in the working tree, not yet in the index.
  [[ ! -e $file ]] || files+=("$file")
done
# An empty list means that git could not tell (no repository, or one of another owner): not a pass.
((${#files[@]})) || {
  echo "error: git names no C++ files in $PWD" >&2
  exit 1
}

case ${1-} in
  --fix) exec clang-format -i "${files[@]}" ;;
  "") ;;
  *)
    echo "usage: scripts/check_format.sh [--fix]" >&2
    exit 2
    ;;
esac
clang-format --dry-run --Werror "${files[@]}" || {
  clang-format --version
  echo "error: run scripts/check_format.sh --fix, and read what it did to comments"
  exit 1
} >&2
echo "${#files[@]} files are as clang-format would have them"
