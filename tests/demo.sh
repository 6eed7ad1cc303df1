#!/usr/bin/env bash
# Runs the demo's printed commands as a reader would paste them, and compares what comes of them.
# usage: demo.sh BINARY WORK_DIR
set -euo pipefail
binary=$1
work=$2
mkdir -p "$work"
port=$((20000 + $$ % 8000))
"$binary" demo --port "$port" > "$work/demo.log" 2>&1 &
demo=$!
trap 'kill "$demo" 2>/dev/null || true' EXIT
for _ in $(seq 100); do
  curl -sf "http://127.0.0.1:$((port + 1))/readyz" > /dev/null && break
  kill -0 "$demo" || { cat "$work/demo.log"; exit 1; }
  sleep 0.1
done
head -1 "$work/demo.log" | grep -q '^DEMO: made-up keys' || { echo "the first line does not say what this is"; exit 1; }

# The commands as they stand, each followed by a mark.
sed -n 's/^  \(curl .*\|TOKEN=.*\)$/\1/p' "$work/demo.log" | while read -r line; do printf '%s\necho; echo "== end"\n' "$line"; done > "$work/commands.sh"
bash "$work/commands.sh" > "$work/answers" 2> /dev/null
expected='401 resource 200 403 201'
found=$(awk '/^HTTP\/1.1 /{print $2} /^\{"authorization_servers"/{print "resource"} /^\{"city".*"forecast".*"x-auth-subject":"weatherbot"/{print "200"}' "$work/answers" | tr '\n' ' ' | sed 's/ $//')
if [ "$found" != "$expected" ]; then
  echo "the demo's commands gave '$found' instead of '$expected'"
  cat "$work/answers"
  exit 1
fi
kill -INT "$demo"
wait "$demo"
echo "ok: the demo's commands work as printed: $found"
