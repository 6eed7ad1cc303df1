#!/bin/sh
# Runs the gate against real peers: tests/peers/run.sh BINARY WORK_DIR
# Needs Node 20 or newer and npm; installs curl, nginx, openssl and systemd's tools when they are missing. Logs stay in WORK_DIR/logs.
# shellcheck source=tests/suite.sh
. "$(dirname "$0")/../suite.sh"

needs_node npm

PATH=$PATH:/usr/sbin
missing=
for tool in curl nginx openssl systemd-socket-activate; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    # The package nginx-light has all that is needed; where it is gone, nginx has it too.
    apt-get update -q
    case $missing in
        *nginx*) if apt-cache show nginx-light >/dev/null 2>&1; then missing=$(echo "$missing" | sed 's/nginx/nginx-light/'); fi ;;
    esac
    # It is a part of systemd.
    missing=$(echo "$missing" | sed 's/systemd-socket-activate/systemd/')
    # shellcheck disable=SC2086
    install $missing
fi

copy_to "$work/suite"
fetch_packages "$work/suite"

export PEERS_WORK_DIR="$work/logs"
run_node 120000 "$work"/suite/*.test.mjs
