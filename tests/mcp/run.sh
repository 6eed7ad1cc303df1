#!/bin/sh
# Runs MCP clients and servers through the gate: tests/mcp/run.sh BINARY WORK_DIR
# Needs Node 20 or newer and npm. Logs stay in WORK_DIR/logs.
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

# A copy, so that the source tree stays as it is.
rm -rf "$work/suite"
mkdir "$work/suite"
cp "$here"/*.mjs "$here"/package.json "$here"/package-lock.json "$here"/.npmrc "$work/suite"
# The conformance suite needs Node 22: a copy of it is fetched where there is none.
omit=
[ "$(node -p 'process.versions.node.split(".")[0] >= 22')" = true ] && omit=--omit=optional
# shellcheck disable=SC2086
(cd "$work/suite" && npm ci --ignore-scripts --no-progress $omit)

export WICKETGATE_BINARY="$binary" MCP_WORK_DIR="$work/logs"
exec node --test --test-concurrency=1 --test-timeout=120000 --test-reporter=spec "$work"/suite/*.test.mjs
