#!/bin/sh
# Two gates that share their rate limits over a real Redis, which is killed, stopped and filled up in the middle:
# tests/redis/run.sh BINARY WORK_DIR
# Needs Node 20 or newer; installs Debian's redis-server (where it is gone, valkey-server) and openssl when they are
# missing. Logs stay in WORK_DIR.
# shellcheck source=tests/suite.sh
. "$(dirname "$0")/../suite.sh"
needs_node

server() { command -v redis-server || command -v valkey-server; }
command -v openssl >/dev/null || install openssl
# The package would start a server of its own; the suite starts its own and asks only that.
server >/dev/null || install redis-server || install valkey-server
REDIS_SERVER=$(server)

# A certificate for rediss://, of an authority that only this run knows.
tls=$work/tls
rm -rf "$tls"
mkdir "$tls"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=test authority' -addext basicConstraints=critical,CA:TRUE \
    -keyout "$tls/ca.key" -out "$tls/ca.pem" 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj '/CN=localhost' -keyout "$tls/server.key" -out "$tls/server.csr" 2>/dev/null
printf 'subjectAltName=DNS:localhost\n' >"$tls/extensions"
openssl x509 -req -days 2 -in "$tls/server.csr" -CA "$tls/ca.pem" -CAkey "$tls/ca.key" -CAcreateserial \
    -extfile "$tls/extensions" -out "$tls/server.pem" 2>/dev/null

export PEERS_WORK_DIR="$work" REDIS_SERVER
run_node 120000 "$here"/*.test.mjs
