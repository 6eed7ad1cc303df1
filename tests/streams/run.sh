#!/bin/sh
# gRPC (grpcio, grpc-js, grpc-web), WebSocket (ws, websockets, Chromium) and server-sent events through the gate:
# tests/streams/run.sh BINARY WORK_DIR
# Needs Node 20 or newer, npm and Python 3 with venv; installs openssl and Chromium when they are missing. Logs stay in WORK_DIR/logs.
# shellcheck source=tests/suite.sh
. "$(dirname "$0")/../suite.sh"

needs_node npm python3

command -v openssl >/dev/null || install openssl
needs_chromium

test -x "$work/venv/bin/python" || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"

copy_to "$work/suite"
cp "$here"/*.py "$work/suite"
cp "$here"/../peers/gate.mjs "$here"/../peers/ports.mjs "$work/suite"
fetch_packages "$work/suite"

# A certificate for localhost, of an authority that only this run knows.
(
    cd "$work/logs"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=test authority' \
        -addext keyUsage=critical,keyCertSign -keyout authority.key -out authority.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=localhost' -keyout localhost.key -out localhost.csr
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n' >extensions
    openssl x509 -req -days 2 -in localhost.csr -CA authority.pem -CAkey authority.key -CAcreateserial -extfile extensions -out localhost.pem
) 2>/dev/null

PEERS_WORK_DIR=$work/logs
PYTHON=$work/venv/bin/python
export PEERS_WORK_DIR PYTHON
run_node 180000 "$work"/suite/*.test.mjs
