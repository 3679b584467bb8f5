# shellcheck shell=bash
# Shared by the scripts of this folder: where things lie, and how a step is announced and logged.
# Source it; it sets `set -euo pipefail`.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${SAVIOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/savior}
LOGS=$ROOT/build/logs
mkdir -p "$CACHE" "$LOGS"

say() { printf '==> %s\n' "$*"; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Prints how long the step has run: in place on a terminal, one line a minute elsewhere (a log of a
# build server shows that it lives, and stays short). Ends when its parent kills it, or is gone: an
# orphan would hold the caller's pipe open.
heartbeat() {
  local log=$1 start=$SECONDS passed last
  while sleep 1 && kill -0 $$ 2>/dev/null; do
    passed=$((SECONDS - start))
    if [[ -t 1 ]]; then
      last=$(tail -n 1 "$log" 2>/dev/null | tr -d '\000-\037' | cut -c 1-80) || true
      printf '\r\033[K    %ds  %s' "$passed" "$last"
    elif ((passed % 60 == 0)); then
      printf '    %d min\n' $((passed / 60))
    fi
  done
}

# step NAME WHAT USUALLY COMMAND...: says what is done and how long it usually takes, runs COMMAND
# with its output in build/logs/NAME.log, and on failure shows the log's tail and returns its status.
# The command runs in the foreground, so that Ctrl-C reaches it; only the clock is in the background.
step() {
  local name=$1 what=$2 usually=$3 log=$LOGS/$1.log start=$SECONDS clock status=0
  shift 3
  say "$what (usually $usually; log: ${log#"$ROOT"/})"
  : >"$log"
  heartbeat "$log" &
  clock=$!
  # Not `"$@" || status=$?`: that would switch `set -e` off inside a COMMAND that is a function.
  set +e
  (set -e && "$@") >"$log" 2>&1 </dev/null
  status=$?
  set -e
  kill "$clock" 2>/dev/null || true
  wait "$clock" 2>/dev/null || true
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
  if ((status != 0)); then
    printf '    failed with status %d; the last lines of %s:\n' "$status" "$log" >&2
    tail -n 40 "$log" | sed 's/^/    | /' >&2
    return "$status"
  fi
  printf '    done in %d s\n' $((SECONDS - start))
}

# keyed_path NAME FILE...: where in the cache the things made from these files of pinned packages
# live. The Python version is part of the key: wheels are built for one.
keyed_path() {
  local name=$1 digest
  shift
  digest=$(cat "$@" <(/usr/bin/python3 --version) | sha256sum)
  printf '%s/%s-%s\n' "$CACHE" "$name" "${digest:0:12}"
}

# Configures the release build; afresh where .venv points to other wheels than last time, since
# CMake remembers where it found their libraries.
configure() {
  local remembered=$ROOT/build/release/wheels venv fresh=()
  venv=$(readlink "$ROOT/.venv")
  [[ ! -e $remembered || $(<"$remembered") == "$venv" ]] || fresh=(--fresh)
  step configure "Configuring the build" "10 seconds" cmake "${fresh[@]}" --preset release
  printf '%s\n' "$venv" >"$remembered"
}
