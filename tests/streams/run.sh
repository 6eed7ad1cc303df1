#!/bin/sh
# gRPC (grpcio, grpc-js, grpc-web), WebSocket (ws, websockets, Chromium) and server-sent events through the gate:
# tests/streams/run.sh BINARY WORK_DIR
# Needs Node 20 or newer, npm and Python 3 with venv; installs openssl and Chromium when they are missing. Logs stay in WORK_DIR/logs.
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

for tool in node npm python3; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 69; }
done
[ "$(node -p 'process.versions.node.split(".")[0] >= 20')" = true ] || { echo "Node 20 or newer is needed" >&2; exit 69; }

missing=
command -v openssl >/dev/null || missing="$missing openssl"
command -v chromium >/dev/null || missing="$missing chromium fonts-dejavu-core"
if [ -n "$missing" ]; then
    apt-get update -q
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi

test -x "$work/venv/bin/python" || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"

# A copy, so that the source tree stays as it is.
rm -rf "$work/suite"
mkdir "$work/suite"
cp "$here"/*.mjs "$here"/*.py "$here"/package.json "$here"/package-lock.json "$here"/.npmrc "$work/suite"
cp "$here"/../peers/gate.mjs "$here"/../peers/ports.mjs "$work/suite"
(cd "$work/suite" && npm ci --ignore-scripts --no-progress)

# A certificate for localhost, of an authority that only this run knows.
(
    cd "$work/logs"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=test authority' \
        -addext keyUsage=critical,keyCertSign -keyout authority.key -out authority.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=localhost' -keyout localhost.key -out localhost.csr
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n' >extensions
    openssl x509 -req -days 2 -in localhost.csr -CA authority.pem -CAkey authority.key -CAcreateserial -extfile extensions -out localhost.pem
) 2>/dev/null

WICKETGATE_BINARY=$binary
PEERS_WORK_DIR=$work/logs
PYTHON=$work/venv/bin/python
CHROMIUM=$(command -v chromium)
export WICKETGATE_BINARY PEERS_WORK_DIR PYTHON CHROMIUM
exec node --test --test-concurrency=1 --test-timeout=180000 --test-reporter=spec "$work"/suite/*.test.mjs
