#!/usr/bin/env bash
# Runs the commands on the demo's start page as a reader would paste them, and compares what comes of them.
# usage: demo.sh BINARY WORK_DIR
set -euo pipefail
binary=$1
work=$2
mkdir -p "$work"
port=$((20000 + $$ % 8000))
"$binary" demo --port "$port" --config "$work/wicketgate.yaml" > "$work/demo.log" 2>&1 &
demo=$!
trap 'kill "$demo" 2>/dev/null || true' EXIT
for _ in $(seq 100); do
  curl -sf "http://127.0.0.1:$((port + 1))/readyz" > /dev/null && grep -q '^  Open http' "$work/demo.log" && break
  kill -0 "$demo" || { cat "$work/demo.log"; exit 1; }
  sleep 0.1
done
head -1 "$work/demo.log" | grep -q '^DEMO: made-up people' || { echo "the first line does not say what this is"; exit 1; }
# The address of the start page stands above all events.
start=$(sed -n '3s/^  Open \(http:[^ ]*\) .*/\1/p' "$work/demo.log")
[ -n "$start" ] || { echo "the third line does not say what to open:"; cat "$work/demo.log"; exit 1; }

# The commands as they stand on the start page, each followed by a mark.
curl -sf "$start/" | python3 -c '
import html, re, sys
for command in re.findall("<pre>(.*?)</pre>", sys.stdin.read(), re.S):
    print(html.unescape(command), "echo; echo == end", sep="\n")
' > "$work/commands.sh"
bash "$work/commands.sh" > "$work/answers" 2> /dev/null
expected='401 resource issuer 200 403 201 status'
found=$(awk '/^HTTP\/1.1 /{print $2} /^\{"authorization_servers"/{print "resource"} /"authorization_endpoint"/{print "issuer"} /^\{"city".*"forecast".*"x-auth-subject":"station"/{print "200"} /"config_hash"/{print "status"}' "$work/answers" | tr '\n' ' ' | sed 's/ $//')
if [ "$found" != "$expected" ]; then
  echo "the start page's commands gave '$found' instead of '$expected'"
  cat "$work/commands.sh" "$work/answers"
  exit 1
fi

# The Management API, as the guide has it, with this demo's ports.
sed -n '/^MANAGEMENT=/p; /\$MANAGEMENT/p' docs/guide.md | sed "s/127\.0\.0\.1:8082/127.0.0.1:$((port + 2))/" > "$work/management.sh"
bash "$work/management.sh" > "$work/applications"
grep -q '"id":"weatherbot"' "$work/applications" || { echo "the guide's call of the Management API gave:"; cat "$work/applications"; exit 1; }

# A busy port is an error that names it.
refused=0
"$binary" demo --port "$port" --config "$work/second.yaml" > /dev/null 2> "$work/busy" || refused=$?
if [ "$refused" != 69 ] || ! grep -q "127.0.0.1:$((port + 2))" "$work/busy"; then
  echo "a second demo on the same ports ended with $refused:"
  cat "$work/busy"
  exit 1
fi

# Ctrl-C ends all of it, and the configuration goes with it.
kill -INT "$demo"
wait "$demo"
for party in 0 1 2 3 4 5 6; do
  if curl -s -o /dev/null "http://127.0.0.1:$((port + party))/"; then echo "port $((port + party)) still answers"; exit 1; fi
done
if [ -e "$work/wicketgate.yaml" ]; then echo "the configuration is still there"; exit 1; fi
echo "ok: the start page's commands work as shown: $found"
