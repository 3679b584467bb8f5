# shellcheck shell=bash
# The bed: several "machines" on this one, each a set of network, host name, mount and process
# namespaces with an sshd of its own, cabled to a bridge in a namespace of its own: nothing leaves
# this machine. Needs root. To be sourced; bed.sh is the command.
#
#   SAVIOR_BED      its folder: pids, keys, logs, Slurm's state. Not below /tmp, which every node has
#                   for itself
#   BED_PREFIX      of its switch's namespace, the one name that is the machine's: another one for
#                   every bed, so that they can stand side by side
#   BED_NET         addresses: BED_NET.1, BED_NET.2 ...; they exist inside the namespaces only
#   BED_NODES       how many
#   SAVIOR_BED_CABLE  the program of cable.cc; only long cables need it
set -euo pipefail

BED=${SAVIOR_BED:?the folder of the bed}
PREFIX=${BED_PREFIX:-sv}
NET=${BED_NET:-10.81.0}
NODES=${BED_NODES:-3}
SWITCH=${PREFIX}switch

die() {
  printf 'bed: %s\n' "$*" >&2
  exit 1
}

all_nodes() { seq "$NODES"; }
node_pid() { cat "$BED/node$1.pid"; } # of the node's process 1, as seen from here

# retry N COMMAND...: up to N times, 20 ms apart.
retry() {
  local n=$1
  shift
  for ((; n > 0; --n)); do
    if "$@"; then return 0; fi
    sleep 0.02
  done
  return 1
}

# node_exec I COMMAND...: on node I. Not `ip netns exec`: that remounts /sys, which breaks slurmd.
node_exec() {
  local pid
  pid=$(node_pid "$1")
  shift
  nsenter -t "$pid" -n -u -m -p --wd="$PWD" -- "$@"
}

# What process 1 of a node does: its own /tmp and /run, and then nothing.
node_init() {
  printf '%s\n' "
    hostname node$1
    mount -t tmpfs tmpfs /dev/shm
    mount --bind '$BED/hosts' /etc/hosts
    mount --bind '$BED/tmp.$1' /tmp
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/sshd
    ip link set lo up
    touch '$BED/node$1.ready'
    trap : TERM INT
    while :; do sleep 3600 & wait -n; done"
}

# Also brings back a node that was switched off.
node_on() {
  local i=$1 outer
  [[ ! -e $BED/node$i.pid ]] || [[ ! -d /proc/$(node_pid "$i") ]] || die "node$i is on"
  rm -rf "$BED/tmp.$i" "$BED/node$i.ready"
  mkdir -p "$BED/tmp.$i"
  chmod 1777 "$BED/tmp.$i"
  setsid unshare --net --uts --mount --pid --fork --kill-child --mount-proc --propagation private \
    bash -c "$(node_init "$i")" </dev/null >"$BED/node$i.log" 2>&1 &
  outer=$!
  retry 500 test -e "$BED/node$i.ready" || die "node$i does not start: $(cat "$BED/node$i.log")"
  pgrep -P "$outer" >"$BED/node$i.pid"
  plug_in "$i"
  node_exec "$i" /usr/sbin/sshd -f "$BED/ssh/sshd_config" -E "$BED/node$i.sshd.log"
}

# The cable: eth0 of the node at one end, a port of the bridge at the other. Fixed MAC: what the
# others remember stays right when a node comes back. The kernel tells the bridge of a new carrier
# up to a second late and loses frames before: so wait for it.
plug_in() {
  local i=$1 address delay
  address=$(printf '02:77:00:00:00:%02x' "$i")
  delay=$(setting "delay$i")
  if ((delay)); then
    lay_long_cable "$i" "$delay"
  else
    ip -n "$SWITCH" link add "port$i" type veth peer name "end$i"
    ip -n "$SWITCH" link set "end$i" netns "$(node_pid "$i")" name eth0
  fi
  ip -n "$SWITCH" link set "port$i" master br0 up
  node_exec "$i" ip link set eth0 address "$address"
  node_exec "$i" ip addr add "$NET.$i/24" dev eth0
  node_exec "$i" ip link set eth0 up
  retry 250 forwards "$i" || die "port$i does not forward"
  limit_rate "$i"
}
unplug() {
  local file=$BED/cable$1.daemon.pid
  if [[ -e $file ]]; then
    kill -9 "$(cat "$file")" 2>/dev/null || true
    rm -f "$file"
  fi
  ip -n "$SWITCH" link del "port$1" 2>/dev/null || true # gone with the program or the node
  # A long cable's two ends go one after the other.
  retry 250 has_no_cable "$1" || die "the cable of node$1 stays"
}
has_no_cable() {
  local pid
  ! ip -n "$SWITCH" link show "port$1" >/dev/null 2>&1 || return 1
  pid=$(node_pid "$1")
  [[ ! -d /proc/$pid ]] || ! grep -q 'eth0:' "/proc/$pid/net/dev" 2>/dev/null
}
lay_long_cable() {
  local i=$1 delay=$2
  [[ -x ${SAVIOR_BED_CABLE-} ]] || die "SAVIOR_BED_CABLE names no program: build bed_cable"
  : >"$BED/cable$i.log"
  setsid "$SAVIOR_BED_CABLE" "/proc/$(node_pid "$i")/ns/net" "/run/netns/$SWITCH" "port$i" \
    $((delay * 1000)) </dev/null >"$BED/cable$i.log" 2>&1 &
  echo $! >"$BED/cable$i.daemon.pid"
  retry 250 grep -q ready "$BED/cable$i.log" || die "no cable: $(cat "$BED/cable$i.log")"
}

# What `rate` and `delay` have set; it outlives a power failure. 0: nothing.
setting() { cat "$BED/$1.set" 2>/dev/null || echo 0; }
cable_rate() {
  echo "$2" >"$BED/rate$1.set"
  limit_rate "$1"
}
limit_rate() {
  local i=$1 mbit
  mbit=$(setting "rate$i")
  node_exec "$i" tc qdisc del dev eth0 root 2>/dev/null || true
  ip netns exec "$SWITCH" tc qdisc del dev "port$i" root 2>/dev/null || true
  ((mbit)) || return 0
  local limit=(root tbf rate "${mbit}mbit" burst 64kb latency 50ms)
  node_exec "$i" tc qdisc add dev eth0 "${limit[@]}"
  ip netns exec "$SWITCH" tc qdisc add dev "port$i" "${limit[@]}"
}
cable_delay() {
  [[ $(setting "delay$1") != "$2" ]] || return 0
  echo "$2" >"$BED/delay$1.set"
  unplug "$1"
  plug_in "$1"
}
forwards() { ip -n "$SWITCH" -d link show "port$1" | grep -q 'state forwarding'; }

# Power failure: SIGKILL to process 1 takes everything on the node along. The cable first: the kernel
# would close the node's connections in good order, which a machine without power does not.
node_off() {
  local pid
  pid=$(node_pid "$1")
  ip -n "$SWITCH" link set "port$1" down
  kill -9 "$pid"
  retry 250 test ! -d "/proc/$pid" || die "node$1 does not die"
  unplug "$1"
}

write_ssh_files() {
  local key known=$BED/ssh/known_hosts hosts=$BED/hosts
  mkdir -p "$BED/ssh"
  # Good for this bed only.
  ssh-keygen -q -t ed25519 -N '' -C bed -f "$BED/ssh/id"
  ssh-keygen -q -t ed25519 -N '' -C bed-host -f "$BED/ssh/hostkey"
  cp "$BED/ssh/id.pub" "$BED/ssh/authorized_keys"
  chmod 600 "$BED"/ssh/*
  key=$(cut -d ' ' -f 2 "$BED/ssh/hostkey.pub")
  echo "127.0.0.1 localhost" >"$hosts"
  for i in $(all_nodes); do
    echo "$NET.$i node$i" >>"$hosts"
    echo "node$i ssh-ed25519 $key" >>"$known"
  done
  cat >"$BED/ssh/config" <<END
Host node*
  User root
  IdentityFile $BED/ssh/id
  IdentitiesOnly yes
  UserKnownHostsFile $known
  ConnectTimeout 2
  ConnectionAttempts 3
  LogLevel ERROR
END
  cat >"$BED/ssh/sshd_config" <<END
Port 22
HostKey $BED/ssh/hostkey
AuthorizedKeysFile $BED/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
PidFile none
MaxStartups 100
END
}

bed_up() {
  [[ ! -e $BED/hosts ]] || die "$BED holds a bed already: bed.sh down"
  mkdir -p "$BED" /run/sshd
  write_ssh_files
  ip netns add "$SWITCH"
  ip -n "$SWITCH" link add br0 type bridge
  ip -n "$SWITCH" link set br0 up
  for i in $(all_nodes); do node_on "$i"; done
  for i in $(all_nodes); do
    retry 100 node_exec 1 ssh -F "$BED/ssh/config" "node$i" true 2>/dev/null ||
      die "node$i does not answer: $(cat "$BED/node$i.sshd.log")"
  done
}

# By recorded pids only.
bed_down() {
  local file pid
  for file in "$BED"/*.daemon.pid "$BED"/node*.pid; do
    [[ -e $file ]] || continue
    pid=$(cat "$file")
    if [[ -n $pid && -d /proc/$pid ]]; then
      kill -9 "$pid"
      retry 250 test ! -d "/proc/$pid" || true
    fi
  done
  if ip netns list | grep -q "^$SWITCH\b"; then ip netns del "$SWITCH"; fi
  rm -rf "$BED"
}
