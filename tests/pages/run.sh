#!/bin/sh
# Pages of several origins that call a service through the gate, in Chromium: tests/pages/run.sh BINARY WORK_DIR
# Needs Node 20 or newer and npm; installs Chromium when it is missing. Logs stay in WORK_DIR.
# shellcheck source=tests/suite.sh
. "$(dirname "$0")/../suite.sh"

needs_node npm

needs_chromium

copy_to "$work/suite/pages"
mkdir "$work/suite/peers"
cp "$here"/../peers/gate.mjs "$here"/../peers/ports.mjs "$work/suite/peers"
fetch_packages "$work/suite/pages"

export PEERS_WORK_DIR="$work/logs"
run_node 120000 "$work"/suite/pages/*.test.mjs
