// The batch script that launcher/slurm_script.cc fills in: @NAME@ is replaced.
#pragma once

namespace savior {

// What sbatch reads stands first: it stops at the first command.
inline constexpr const char* kSlurmJob = R"BASH(#!/bin/bash
# Written by: savior slurm. Hand in with: sbatch THIS_FILE
#SBATCH --job-name=@JOB_NAME@
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=@TASKS@
@OPTIONAL@#SBATCH --output=@OUTPUT@
# A requeued job goes on in the same log.
#SBATCH --open-mode=append
# A node that fails takes only its own ranks away; if the first fails, the job goes to the queue.
#SBATCH --no-kill
#SBATCH --requeue
# Two minutes before the time limit this script, not the ranks, gets USR1.
#SBATCH --signal=B:USR1@120

SAVIOR=@PROGRAM@
CONFIG=@CONFIG@
@RUN@OVERRIDES=(@OVERRIDES@)
TASKS_PER_NODE=@TASKS@
MAX_RESTARTS=@MAX_RESTARTS@ # in a row, without a new commit
cd @FOLDER@ || exit 1
mkdir -p "$RUN" || exit 1

# All data between ranks goes by TCP or shared memory, whatever else the nodes have.
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_mpi_yield_when_idle=1
@INTERFACE@
say() { echo "job $SLURM_JOB_ID | $(date +%T) $*"; }

# Nodes of this job that Slurm believes to be alive: "alloc*" is one that no longer answers.
nodes_left() {
  sinfo -h -N -n "$SLURM_JOB_NODELIST" -o '%N %t' |
    awk '$2 ~ /^(alloc|mix|idle|comp)$/ { print $1 }' | sort -u
}

# Step of the newest commit; 0: there is none.
newest_commit() {
  local name
  name=$(ls "$RUN/commits" 2>/dev/null | grep -E '^commit-[0-9]+$' | sort | tail -n 1)
  echo $((10#0${name#commit-}))
}

step='' asked='' signalled=''
# To srun, which passes it on: the ranks stop after the step, commit and end with 0.
ask_to_stop() {
  asked=$1 signalled=1
  say "got $1: asking the ranks to commit and stop"
  [[ -z $step ]] || kill -USR1 "$step" 2>/dev/null
}
trap 'ask_to_stop USR1' USR1 # the time limit is near: commit, then back into the queue
trap 'ask_to_stop TERM' TERM # scancel, preemption: commit within KillWait, if that is long enough

# Until process $1 ends, with its status: a signal that is trapped ends a wait early.
wait_for() {
  local status
  while :; do
    signalled=''
    wait "$1"
    status=$?
    [[ -n $signalled ]] || return "$status"
  done
}

say "restart ${SLURM_RESTART_COUNT:-0} of $RUN on $SLURM_JOB_NODELIST"
touch "$RUN/slurm-$SLURM_JOB_ID.start" # a result that is newer was made by this job
failures=0 wait_s=@WAIT@ status=1
commit=$(newest_commit)
while [[ -z $asked ]]; do
  mapfile -t nodes < <(nodes_left)
  [[ -z $asked ]] || break
  say "starting $TASKS_PER_NODE ranks on each of: ${nodes[*]:-no node}, from step $commit"
  if ((${#nodes[@]})); then
    list=$(printf '%s,' "${nodes[@]}")
    srun --mpi=pmix --kill-on-bad-exit=1 --overlap --label --input=none --distribution=block \
      --nodes=${#nodes[@]} --nodelist="${list%,}" --ntasks-per-node="$TASKS_PER_NODE" \
      --ntasks=$((TASKS_PER_NODE * ${#nodes[@]})) \
      "$SAVIOR" train "$CONFIG" "${OVERRIDES[@]}" --resume 2> >(tee "$RUN/srun.err" >&2) &
    step=$!
    [[ -z $asked ]] || kill -USR1 "$step" 2>/dev/null # it was asked while this started
    wait_for "$step"
    status=$?
    step=''
  fi
  say "the ranks ended with $status"
  [[ $status != 0 && -z $asked ]] || break
  # Exit code @BAD_INPUT@: configuration or data are wrong, which no restart mends. srun itself
  # returns the highest code, which may be that of a rank killed afterwards.
  if ((status == @BAD_INPUT@)) || grep -qs 'Exited with exit code @BAD_INPUT@$' "$RUN/srun.err"; then
    say "cannot go on: see the error above"
    exit @BAD_INPUT@
  fi
  newest=$(newest_commit)
  if ((newest > commit)); then failures=0 wait_s=@WAIT@; fi
  commit=$newest failures=$((failures + 1))
  if ((failures > MAX_RESTARTS)); then
    say "gave up after $MAX_RESTARTS restarts without a new commit"
    exit 1
  fi
  say "restart $failures of $MAX_RESTARTS without a new commit in $wait_s s"
  sleep "$wait_s" & # in the background, so that a signal ends the wait
  wait $!
  wait_s=$((wait_s < 30 ? 2 * wait_s : 60))
done

if [[ $status == 0 && $RUN/result.json -nt $RUN/slurm-$SLURM_JOB_ID.start ]]; then
  say "finished: $RUN/result.json"
elif [[ $asked == USR1 ]]; then
  say "the time is up at step $(newest_commit): back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
  sleep 60 # until Slurm takes it away: an exit now would end the job for good
else
  say "stopped at step $(newest_commit): sbatch this file again to go on"
  exit 143
fi
)BASH";

}  // namespace savior
