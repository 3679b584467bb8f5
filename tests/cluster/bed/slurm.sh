# shellcheck shell=bash
# A real Slurm on the bed: slurmctld on node1, a slurmd on every node, munged outside, reached by a
# path. Its configuration is mounted over /etc/slurm inside the nodes only. No cgroups, no
# accounting; short time-outs, so that failures show within seconds. To be sourced after lib.sh.

SLURM=$BED/slurm

write_slurm_conf() {
  cat >"$SLURM/etc/slurm.conf" <<END
ClusterName=bed
SlurmctldHost=node1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it starts again: 120 s by default.
AuthInfo=socket=$BED/munge/socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$SLURM/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
StateSaveLocation=$SLURM/state
SlurmdSpoolDir=$SLURM/spool.%n
SlurmctldPidFile=$SLURM/slurmctld.pid
SlurmdPidFile=$SLURM/slurmd.%n.pid
SlurmctldLogFile=$SLURM/log/slurmctld.log
SlurmdLogFile=$SLURM/log/slurmd.%n.log
ReturnToService=2
SlurmctldTimeout=20
SlurmdTimeout=10
MessageTimeout=5
BatchStartTimeout=10
KillWait=10
InactiveLimit=0
MinJobAge=300
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=100000,bf_interval=1,bf_min_age_reserve=0
END
  local i
  for i in $(all_nodes); do
    # More slots than this machine has cores: config_overrides.
    echo "NodeName=node$i NodeAddr=$NET.$i CPUs=4 RealMemory=2000 State=UNKNOWN"
  done >>"$SLURM/etc/slurm.conf"
  echo "PartitionName=main Nodes=ALL Default=YES MaxTime=30 OverTimeLimit=0 State=UP" \
    >>"$SLURM/etc/slurm.conf"
}

slurm_up() {
  mkdir -p "$SLURM/etc" "$SLURM/state" "$SLURM/log" "$BED/munge"
  chmod 755 "$BED/munge"
  dd if=/dev/urandom of="$BED/munge/key" bs=128 count=1 status=none
  chmod 600 "$BED/munge/key"
  munged --force --socket="$BED/munge/socket" --key-file="$BED/munge/key" \
    --log-file="$BED/munge/log" --pid-file="$BED/munge.daemon.pid" \
    --seed-file="$BED/munge/seed" 2>"$BED/munge/err"
  write_slurm_conf
  node_exec 1 mount --bind "$SLURM/etc" /etc/slurm
  node_exec 1 slurmctld -c
  for i in $(all_nodes); do slurm_node_on "$i"; done
  retry 1000 all_idle || die "Slurm does not come up: $(tail -n 20 "$SLURM"/log/*)"
}
all_idle() { [[ $(node_exec 1 sinfo -h -t idle -o %D 2>/dev/null) == "$NODES" ]]; }

# After node_on, too. A node that lost power leaves PMIx's sockets behind, and a requeued job, which
# keeps its number, could not make them anew.
slurm_node_on() {
  local i=$1 spool=$SLURM/spool.node$1
  mkdir -p "$spool"
  rm -rf "$spool"/stepd.slurm.pmix.* "$spool"/pmix.*
  node_exec "$i" mountpoint -q /etc/slurm || node_exec "$i" mount --bind "$SLURM/etc" /etc/slurm
  node_exec "$i" slurmd -N "node$i"
}
