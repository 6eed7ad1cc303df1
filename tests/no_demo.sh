#!/usr/bin/env bash
# The binary that ships has no demo in it: neither the command nor the code nor its made-up secrets.
# usage: no_demo.sh BINARY_WITH_DEMO BINARY_WITHOUT
set -euo pipefail
with=$1
without=$2

refused=0
"$without" demo > /dev/null 2>&1 || refused=$?
[ "$refused" = 64 ] || { echo "demo ended with $refused instead of 64"; exit 1; }
if "$without" --help | grep -qw demo; then echo "the help still names the demo"; exit 1; fi

# Texts of its pages and secrets, names of its modules and of the libraries that it alone uses.
marks=(weatherbot-secret 'made-up people' 'prefers-color-scheme' demo/weatherbot demo/issuer wicketgate4demo askama)
for mark in "${marks[@]}"; do
  # A mark that the other binary does not have either would show nothing.
  grep -qaF -- "$mark" "$with" || { echo "'$mark' is not even in the binary with the demo"; exit 1; }
  if grep -qaF -- "$mark" "$without"; then echo "'$mark' is in the binary without the demo"; exit 1; fi
done
[ "$(stat -c %s "$without")" -lt "$(stat -c %s "$with")" ] || { echo "it is not smaller"; exit 1; }
echo "ok: without the demo there is none of it: ${#marks[@]} marks looked for, demo refused"
