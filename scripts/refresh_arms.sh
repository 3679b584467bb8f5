#!/usr/bin/env bash
# The ablation of docs/refresh.md: a run is trained up to a step, its codebook refreshed there in each way, and each
# result goes on for some steps, every batch scored before it is learnt from. Prints the comparison. What is there
# already is kept, so it can be stopped and started again.
#   scripts/refresh_arms.sh CONFIG DATA OUT STEP WINDOW [JOBS] [-- key=value ...]
#   SEEDS="1 2" ARMS="frozen distilled" scripts/refresh_arms.sh configs/complete_journey.toml my_data runs/refresh 700 140
# Arm encoder renews the encoder, too; it needs "-- encoder.refreshable=true".
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT" || exit
(($# >= 5)) || die "usage: scripts/refresh_arms.sh CONFIG DATA OUT STEP WINDOW [JOBS] [-- key=value ...]"
CONFIG=$1 DATA=$2 OUT=$3 STEP=$4 WINDOW=$5
shift 5
JOBS=2
if (($# > 0)) && [[ $1 != -- ]]; then JOBS=$1; shift; fi
if (($# > 0)); then shift; fi
OVERRIDES="$*"
SEEDS=${SEEDS:-1 2 3 4 5 6}
ARMS=${ARMS:-frozen distilled conditional_mean hungarian index zero}
SAVIOR=${SAVIOR:-build/release/savior}
[[ " $ARMS " != *" encoder "* || $OVERRIDES == *encoder.refreshable=true* ]] ||
  die "arm encoder needs -- encoder.refreshable=true, from the start of the run on"
mkdir -p "$OUT"

# What the gates would refuse is measured here.
OPEN="refresh.min_preserved_r2=-1e9 refresh.max_churn=1 refresh.max_dead_share=1 refresh.max_error_ratio=1e9 refresh.max_auc_loss=1e9 refresh.cpu_share=1"

seed_one() {
  local seed=$1 start=$OUT/start-$1 arm run how
  if [[ ! -f $start/result.json ]]; then
    # shellcheck disable=SC2086
    "$SAVIOR" train "$CONFIG" "data.raw=$DATA" "seed=$seed" "run.dir=$start" "train.max_steps=$STEP" \
      eval.progressive=true $OVERRIDES --resume >"$start.log" 2>&1 || die "$start failed; see $start.log"
  fi
  for arm in $ARMS; do
    run=$OUT/$arm-$seed
    [[ ! -f $run/result.json ]] || continue
    rm -rf "$run"
    cp -r "$start" "$run"
    rm "$run/result.json"
    if [[ $arm != frozen ]]; then
      how="refresh.remap=$arm refresh.encoder_steps=0"
      [[ $arm != encoder ]] || how="refresh.remap=distilled"
      # shellcheck disable=SC2086
      "$SAVIOR" refresh "$run" $how $OPEN >"$run.log" 2>&1 || die "$run failed; see $run.log"
    fi
    "$SAVIOR" train "$run/resolved.toml" "run.dir=$run" "train.max_steps=$((STEP + WINDOW))" eval.progressive=true \
      eval.save_predictions=true --resume >>"$run.log" 2>&1 || die "$run failed; see $run.log"
    sed -i "s/\"arm\": \"[a-z_]*\"/\"arm\": \"$arm\"/" "$run/result.json"
    say "$arm, seed $seed: done"
  done
}
export -f seed_one say die
export CONFIG DATA OUT STEP WINDOW OVERRIDES ARMS SAVIOR OPEN OMP_NUM_THREADS=1

printf '%s\n' $SEEDS | xargs -P "$JOBS" -L 1 bash -c 'seed_one "$@"' _

runs=() contrasts=()
for arm in $ARMS; do
  [[ $arm == frozen || $arm == distilled ]] || contrasts+=(--contrast "distilled:$arm")
  for seed in $SEEDS; do runs+=("$OUT/$arm-$seed"); done
done
"$ROOT/.venv/bin/python" scripts/compare_runs.py "${runs[@]}" --baseline frozen "${contrasts[@]}"
