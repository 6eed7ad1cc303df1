#!/bin/sh
# Lives the demo's story in Chromium: tests/browser/run.sh BINARY WORK_DIR
# Needs Node 20 or newer and npm; installs Chromium when it is missing. Logs and pictures stay in WORK_DIR.
# With UPDATE_IMAGES=1 the pictures in docs/images are taken anew.
# shellcheck source=tests/suite.sh
. "$(dirname "$0")/../suite.sh"

needs_node npm

needs_chromium

copy_to "$work/suite"
fetch_packages "$work/suite"

BROWSER_WORK_DIR=$work/logs
DOCS_IMAGES=$(realpath "$here/../../docs")/images
export BROWSER_WORK_DIR DOCS_IMAGES
run_node 120000 "$work"/suite/*.test.mjs
