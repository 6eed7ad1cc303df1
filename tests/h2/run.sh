#!/bin/sh
# Frames that RFC 9113 and RFC 7541 forbid, and some that they allow, against the gate as an HTTP/2 server:
# tests/h2/run.sh BINARY WORK_DIR [TEST ...]
# Needs Python 3; installs hpack from PyPI below WORK_DIR.
# shellcheck source=tests/suite.sh
. "$(dirname "$0")/../suite.sh"
shift 2
needs python3
test -x "$work/venv/bin/python" || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'hpack==4.*'

export H2_WORK_DIR="$work"
cd "$here"
exec "$work/venv/bin/python" -B cases.py "$@"
