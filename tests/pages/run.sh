#!/bin/sh
# Pages of several origins that call a service through the gate, in Chromium: tests/pages/run.sh BINARY WORK_DIR
# Needs Node 20 or newer and npm; installs Chromium when it is missing. Logs stay in WORK_DIR.
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

if ! command -v chromium >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium fonts-dejavu-core
fi

# A copy, so that the source tree stays as it is.
rm -rf "$work/suite"
mkdir -p "$work/suite/pages" "$work/suite/peers"
cp "$here"/*.mjs "$here"/package.json "$here"/package-lock.json "$here"/.npmrc "$work/suite/pages"
cp "$here"/../peers/gate.mjs "$here"/../peers/ports.mjs "$work/suite/peers"
(cd "$work/suite/pages" && npm ci --ignore-scripts --no-progress)

CHROMIUM=$(command -v chromium)
export WICKETGATE_BINARY="$binary" PEERS_WORK_DIR="$work/logs" CHROMIUM
exec node --test --test-concurrency=1 --test-timeout=120000 --test-reporter=spec "$work"/suite/pages/*.test.mjs
