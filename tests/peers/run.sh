#!/bin/sh
# Runs the gate against real peers: tests/peers/run.sh BINARY WORK_DIR
# Needs Node 20 or newer and npm; installs curl, nginx, openssl and systemd's tools when they are missing. Logs stay in WORK_DIR/logs.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: $0 BINARY WORK_DIR" >&2
    exit 64
fi
binary=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
mkdir -p "$2/logs"
work=$(realpath "$2")
[ -x "$binary" ] || { echo "$binary is no program" >&2; exit 69; }

for tool in node npm; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 69; }
done
[ "$(node -p 'process.versions.node.split(".")[0] >= 20')" = true ] || { echo "Node 20 or newer is needed" >&2; exit 69; }

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
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi

# A copy, so that the source tree stays as it is.
rm -rf "$work/suite"
mkdir "$work/suite"
cp "$here"/*.mjs "$here"/package.json "$here"/package-lock.json "$here"/.npmrc "$work/suite"
(cd "$work/suite" && npm ci --ignore-scripts --no-progress)

export WICKETGATE_BINARY="$binary" PEERS_WORK_DIR="$work/logs"
exec node --test --test-concurrency=1 --test-timeout=120000 --test-reporter=spec "$work"/suite/*.test.mjs
