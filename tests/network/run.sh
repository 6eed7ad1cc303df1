#!/bin/sh
# The gate between two hosts on networks that lose, delay and swallow packets: tests/network/run.sh BINARY WORK_DIR
# Needs root, Linux with network namespaces and /dev/net/tun, iproute2 (installed when missing) and Python 3. The networks
# are made of namespaces and of a cable in this program, since not every kernel has netem. Logs stay in WORK_DIR.
# shellcheck source=tests/suite.sh
. "$(dirname "$0")/../suite.sh"
shift 2
needs python3
[ "$(id -u)" = 0 ] || { echo "root is needed to make network namespaces" >&2; exit 69; }
PATH=$PATH:/usr/sbin:/sbin
command -v ip >/dev/null || install iproute2
# Loudly, before anything else: without these nothing below means anything.
probe=wicketgate-probe-$$
ip netns add "$probe" || { echo "network namespaces cannot be made here" >&2; exit 69; }
ip netns del "$probe"
[ -c /dev/net/tun ] || { echo "/dev/net/tun is missing" >&2; exit 69; }

export NETWORK_WORK_DIR="$work"
cd "$here"
exec python3 -B -W ignore::ResourceWarning faults.py "$@"
