#!/usr/bin/env bash
# Installs what building and testing need: packages of Debian 12 (Ubuntu 24.04 has the same names,
# untried) and a virtual environment with pinned wheels that serve as C++ SDKs. Safe to run again:
# when nothing is missing it ends in well under a second.
#
#   scripts/setup.sh                 for a CPU machine
#   scripts/setup.sh --cuda-build    and what compiling and linking the CUDA build needs (0.2 GB);
#                                    its programs need --gpu to run
#   scripts/setup.sh --gpu           the same, and torch's full set of CUDA libraries (about 4 GB)
#   scripts/setup.sh --cluster       what tests/cluster needs besides: network tools, sshd, Slurm.
#                                    None of their daemons is started: the tests start their own
#
# The environment lives in ${SAVIOR_CACHE:-~/.cache/savior}; .venv in the repository points to it,
# and .cuda to the headers and libraries of the CUDA build.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PACKAGES=(
  g++ cmake ninja-build ccache pkg-config git curl python3 python3-venv
  libopenmpi-dev openmpi-bin libzmq3-dev cppzmq-dev librocksdb-dev
  libgoogle-glog-dev libgtest-dev libgmock-dev libbenchmark-dev
  libabsl-dev libtomlplusplus-dev libcli11-dev nlohmann-json3-dev
  libxxhash-dev libzstd-dev libfmt-dev prometheus-cpp-dev libcpp-httplib-dev libssl-dev openssl
  clang-format clang-tidy clang libclang-rt-dev
)

CLUSTER_PACKAGES=(iproute2 openssh-client openssh-server slurm-wlm munge)

# missing_packages PACKAGE...
missing_packages() {
  # `|| true`: dpkg-query fails when a single name is unknown, but lists the others all the same.
  comm -23 <(printf '%s\n' "$@" | sort) <(
    { dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true; } |
      sed -n 's/^installed //p' | sort
  )
}

# Runs apt-get as root. Another apt may be at work: wait for its lock rather than fail.
apt_get() {
  local as_root=()
  ((EUID == 0)) || as_root=(sudo)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -y -o DPkg::Lock::Timeout=900 -o APT::Update::Error-Mode=any "$@"
}

# DPkg::Lock::Timeout does not cover the lock of the package lists, hence the second and third try.
install_packages() {
  apt_get update || { sleep 20 && apt_get update; } || { sleep 60 && apt_get update; }
  apt_get install --no-install-recommends "$@"
}

# policy-rc.d is what Debian's packages ask before they start a daemon: "no" while this lasts.
install_packages_without_daemons() {
  local policy=/usr/sbin/policy-rc.d as_root=() status=0
  ((EUID == 0)) || as_root=(sudo)
  if [[ -e $policy ]]; then "${as_root[@]}" mv "$policy" "$policy.savior"; fi
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
  install_packages "$@" || status=$?
  "${as_root[@]}" rm -f "$policy"
  if [[ -e $policy.savior ]]; then "${as_root[@]}" mv "$policy.savior" "$policy"; fi
  return "$status"
}

may_become_root() {
  ((EUID == 0)) && return 0
  command -v sudo >/dev/null || return 1
  # Asks for the password here, before output goes to a log; without a terminal it must need none.
  if [[ -t 0 ]]; then sudo -v; else sudo -n true 2>/dev/null; fi
}

# ensure_packages NAME INSTALL PACKAGE...: NAME of the step, INSTALL the function that does it
ensure_packages() {
  local missing name=$1 install=$2
  shift 2
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  if ! may_become_root; then
    printf 'These packages are missing, and without root or sudo this script cannot install them:\n'
    printf '\n    apt-get install --no-install-recommends %s\n\n' "${missing[*]}"
    exit 1
  fi >&2
  step "$name" "Installing ${#missing[@]} system packages: ${missing[*]}" "3 minutes" \
    "$install" "${missing[@]}"
}

# READY is written last: a folder without it is an interrupted installation and is made anew. (An
# environment cannot be built elsewhere and renamed: its scripts hold its path.) Two at once take
# turns.
install_wheels() {
  local venv=$1
  shift
  (
    flock 9
    [[ -e $venv/READY ]] && exit 0
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@"
    touch "$venv/READY"
  ) 9>"$venv.lock"
}

ensure_wheels() {
  local gpu=$1 requirements=$ROOT/scripts/requirements.txt cpu_venv venv
  cpu_venv=$(keyed_path venv "$requirements")
  venv=$cpu_venv
  # The full set serves CPU runs too: once a checkout has it, plain setup leaves it in place.
  if ((gpu)) || [[ $(readlink "$ROOT/.venv" || true) == "$cpu_venv-gpu" ]]; then
    venv=$cpu_venv-gpu
  fi
  if [[ ! -e $venv/READY ]]; then
    if [[ $venv == *-gpu ]]; then
      step wheels "Installing LibTorch with CUDA, and Arrow, from wheels" "10 minutes, 4 GB" \
        install_wheels "$venv" -r "$requirements"
    else
      step wheels "Installing LibTorch and Arrow from wheels" "2 minutes, 0.6 GB to load" \
        install_wheels "$venv" --no-deps -r "$requirements"
    fi
  fi
  # ln -T: were .venv a folder, -sfn alone would put the link inside it.
  ln -sfnT "$venv" "$ROOT/.venv"
}

# Beside the environment, not in it: who builds for the CPU keeps the wheels that he has.
install_cuda() {
  local folder=$1
  (
    flock 9
    [[ -e $folder/READY ]] && exit 0
    rm -rf "$folder"
    "$ROOT/.venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
      --no-deps --target "$folder" -r "$ROOT/scripts/requirements-cuda.txt"
    touch "$folder/READY"
  ) 9>"$folder.lock"
}

ensure_cuda() {
  local folder
  folder=$(keyed_path cuda "$ROOT/scripts/requirements-cuda.txt")
  [[ -e $folder/READY ]] ||
    step cuda "Installing NCCL and CUDA headers from wheels" "1 minute, 0.2 GB to load" \
      install_cuda "$folder"
  ln -sfnT "$folder" "$ROOT/.cuda"
}

gpu=0 cuda_build=0 cluster=0
for argument in "$@"; do
  case $argument in
    --gpu) gpu=1 cuda_build=1 ;;
    --cuda-build) cuda_build=1 ;;
    --cluster) cluster=1 ;;
    *) die "unknown argument '$argument'; usage: scripts/setup.sh [--cuda-build | --gpu] [--cluster]" ;;
  esac
done
ensure_packages apt install_packages "${PACKAGES[@]}"
if ((cluster)); then
  ensure_packages apt-cluster install_packages_without_daemons "${CLUSTER_PACKAGES[@]}"
fi
ensure_wheels "$gpu"
((!cuda_build)) || ensure_cuda
