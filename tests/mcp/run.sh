#!/bin/sh
# Runs MCP clients and servers through the gate: tests/mcp/run.sh BINARY WORK_DIR
# Needs Node 20 or newer and npm. Logs stay in WORK_DIR/logs.
# shellcheck source=tests/suite.sh
. "$(dirname "$0")/../suite.sh"

needs_node npm

copy_to "$work/suite"
# The conformance suite needs Node 22: a copy of it is fetched where there is none.
omit=
[ "$(node -p 'process.versions.node.split(".")[0] >= 22')" = true ] && omit=--omit=optional
# shellcheck disable=SC2086
fetch_packages "$work/suite" $omit

export MCP_WORK_DIR="$work/logs"
run_node 120000 "$work"/suite/*.test.mjs
