#!/usr/bin/env bash
# Trains every arm of docs/results.md with every seed and prints the comparison. Runs that are there
# already are kept, so it can be stopped and started again.
#   scripts/results.sh CONFIG DATA OUT [JOBS]
#   SEEDS="1 2 3" ARMS="base savior" scripts/results.sh configs/complete_journey.toml my_data runs/cj 2
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"
(($# >= 3)) || die "usage: scripts/results.sh CONFIG DATA OUT [JOBS]"
CONFIG=$1 DATA=$2 OUT=$3 JOBS=${4:-2}
SEEDS=${SEEDS:-1 2 3}
ARMS=${ARMS:-base mba_off savior shuffled_sid free_content}
mkdir -p "$OUT"

train_one() {
  local arm=$1 seed=$2 run=$OUT/$1-$2
  [[ ! -f $run/result.json ]] || return 0
  # --resume: a run that was stopped goes on from its commit.
  "${SAVIOR:-build/release/savior}" train "$CONFIG" "data.raw=$DATA" "model.arm=$arm" "seed=$seed" \
    "run.dir=$run" eval.save_predictions=true --resume >"$run.log" 2>&1 ||
    die "$run failed; see $run.log"
  say "$arm, seed $seed: done"
}
export -f train_one say die
export CONFIG DATA OUT OMP_NUM_THREADS=1

for seed in $SEEDS; do
  for arm in $ARMS; do printf '%s %s\n' "$arm" "$seed"; done
done | xargs -P "$JOBS" -L 1 bash -c 'train_one "$@"' _

runs=()
for seed in $SEEDS; do
  for arm in $ARMS; do runs+=("$OUT/$arm-$seed"); done
done
"$ROOT/.venv/bin/python" scripts/compare_runs.py "${runs[@]}" --baseline base \
  --contrast savior:mba_off --contrast savior:shuffled_sid --contrast savior:free_content \
  --contrast mba_off:base
