#!/bin/sh
# Frames that RFC 9113 and RFC 7541 forbid, and some that they allow, against the gate as an HTTP/2 server:
# tests/h2/run.sh BINARY WORK_DIR [TEST ...]
# Needs Python 3; installs hpack from PyPI below WORK_DIR.
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
test -x "$work/venv/bin/python" || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'hpack==4.*'

export WICKETGATE_BINARY="$binary" H2_WORK_DIR="$work"
cd "$here"
exec "$work/venv/bin/python" -B cases.py "$@"
