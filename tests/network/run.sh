#!/bin/sh
# The gate between two hosts on networks that lose, delay and swallow packets: tests/network/run.sh BINARY WORK_DIR
# Needs root, Linux with network namespaces and /dev/net/tun, iproute2 (installed when missing) and Python 3. The networks
# are made of namespaces and of a cable in this program, since not every kernel has netem. Logs stay in WORK_DIR.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: $0 BINARY WORK_DIR [TEST ...]" >&2
    exit 64
fi
binary=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
mkdir -p "$2"
work=$(realpath "$2")
shift 2
[ -x "$binary" ] || { echo "$binary is no program" >&2; exit 69; }
command -v python3 >/dev/null || { echo "python3 is missing" >&2; exit 69; }
[ "$(id -u)" = 0 ] || { echo "root is needed to make network namespaces" >&2; exit 69; }
PATH=$PATH:/usr/sbin:/sbin
if ! command -v ip >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends iproute2
fi
# Loudly, before anything else: without these nothing below means anything.
probe=wicketgate-probe-$$
ip netns add "$probe" || { echo "network namespaces cannot be made here" >&2; exit 69; }
ip netns del "$probe"
[ -c /dev/net/tun ] || { echo "/dev/net/tun is missing" >&2; exit 69; }

export WICKETGATE_BINARY="$binary" NETWORK_WORK_DIR="$work"
cd "$here"
exec python3 -B -W ignore::ResourceWarning faults.py "$@"
