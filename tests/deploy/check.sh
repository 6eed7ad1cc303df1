#!/usr/bin/env bash
# Has what we ship for Docker, Kubernetes and systemd read by those who know the formats:
#
#   tests/deploy/check.sh SCRATCH_DIRECTORY
#
# SCRATCH_DIRECTORY gets a Python environment with the checkers of requirements.txt; it is made when missing and may
# be kept between runs. Also needed: python3 with venv, and systemd-analyze (Debian: systemd, 250 or newer), which
# works without a running systemd. A checker that cannot be had is a failure: nothing is skipped.
set -eu

scratch=${1:?usage: tests/deploy/check.sh SCRATCH_DIRECTORY}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$scratch"
scratch=$(cd "$scratch" && pwd)
cd "$here/../.."

python3 -m venv "$scratch/venv"
bin=$scratch/venv/bin
"$bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --requirement "$here/requirements.txt"

checked() { printf 'ok: %s\n' "$1"; }

"$bin/hadolint" --no-color Dockerfile
checked "Dockerfile: $("$bin/hadolint" --version)"

# The oldest version that the file claims to work with, and the newest that the checker knows. Strict: an unknown key
# is an error.
for version in 1.30.0 1.37.0; do
    "$bin/kubernetes-validate" --quiet --strict --kubernetes-version "$version" deploy/kubernetes-sidecar.yaml
    checked "deploy/kubernetes-sidecar.yaml: schemas of Kubernetes $version"
done

# `verify` wants the program to exist and exits with 0 after an unknown key: a stand-in takes the program's place, and
# any output is a failure.
unit=$scratch/wicketgate.service
sed 's#/usr/local/bin/wicketgate#/bin/true#' deploy/wicketgate.service >"$unit"
complaints=$(systemd-analyze verify --man=no --recursive-errors=no "$unit" 2>&1) || {
    printf '%s\n' "$complaints" >&2
    exit 1
}
if [ -n "$complaints" ]; then
    printf '%s\n' "$complaints" >&2
    exit 1
fi
cp deploy/wicketgate.socket "$scratch"
complaints=$(systemd-analyze verify --man=no --recursive-errors=no "$scratch/wicketgate.socket" 2>&1) || true
if [ -n "$complaints" ]; then
    printf '%s\n' "$complaints" >&2
    exit 1
fi
# 14 of 100 when written (shown as 1.4): the network, and /proc/stat for the process metrics.
systemd-analyze security --offline=true --threshold=20 --no-pager "$unit" >"$scratch/exposure" || {
    cat "$scratch/exposure" >&2
    exit 1
}
checked "deploy/wicketgate.service: $(systemd-analyze --version | sed -n '1s/ (.*//p'), $(tail -n 1 "$scratch/exposure" | sed 's/.*\(Overall exposure level\).*: \([0-9.]*\).*/exposure \2/')"
