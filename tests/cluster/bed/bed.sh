#!/usr/bin/env bash
# Several machines on this one, for tests of clusters. Settings: lib.sh.
#
#   bed.sh can              exit code 0 if this machine permits it; says what is missing otherwise
#   bed.sh up | down
#   bed.sh exec I COMMAND   on node I, in this folder
#   bed.sh off I | on I     power failure; switched on again
#   bed.sh cable I up|down  the cable of node I
#   bed.sh rate I MBIT      a slow cable: both ways, MBIT megabits a second; 0: as fast as it goes
#   bed.sh delay I MS       a long cable: what node I sends arrives MS milliseconds later; 0: at
#                           once. Takes the old cable out, so not while anything runs there
#   bed.sh bytes I          received and sent by node I's eth0
#   bed.sh slurm            a Slurm on the bed
#   bed.sh slurm-node I     its daemon on node I, after `on`
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/slurm.sh"

bed_can() {
  local program missing=()
  for program in ip ssh sshd ssh-keygen nsenter unshare mpirun; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || missing+=("$program")
  done
  ((${#missing[@]} == 0)) ||
    die "without ${missing[*]} there is no bed: scripts/setup.sh --cluster"
  ((EUID == 0)) || die "namespaces need root"
  unshare --net --uts --mount --pid --fork --mount-proc true 2>/dev/null ||
    die "this machine permits no namespaces"
}

case ${1-} in
  can) bed_can ;;
  up) bed_up ;;
  down) bed_down ;;
  exec) node_exec "${@:2}" ;;
  off) node_off "$2" ;;
  on) node_on "$2" ;;
  cable) ip -n "$SWITCH" link set "port$2" "$3" ;;
  rate) cable_rate "$2" "$3" ;;
  delay) cable_delay "$2" "$3" ;;
  bytes) awk '/eth0:/ { print $2, $10 }' "/proc/$(node_pid "$2")/net/dev" ;;
  slurm) slurm_up ;;
  slurm-node) slurm_node_on "$2" ;;
  *) die "unknown command '${1-}': see the top of $0" ;;
esac
