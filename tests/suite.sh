# Sourced by each suite's run.sh, which has the binary and a directory to work in as its first arguments: $binary, $here
# (the suite) and $work, and what several of them need. Nothing here is for a suite alone.
# shellcheck shell=sh
set -eu

if [ $# -lt 2 ]; then
    echo "usage: $0 BINARY WORK_DIR" >&2
    exit 64
fi
binary=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
mkdir -p "$2/logs"
work=$(realpath "$2")
[ -x "$binary" ] || { echo "$binary is no program" >&2; exit 69; }
export WICKETGATE_BINARY="$binary"

# Programs that nobody installs here.
needs() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 69; }
    done
}

needs_node() {
    needs node "$@"
    [ "$(node -p 'process.versions.node.split(".")[0] >= 20')" = true ] || { echo "Node 20 or newer is needed" >&2; exit 69; }
}

# Debian's packages.
install() {
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

needs_chromium() {
    command -v chromium >/dev/null || install chromium fonts-dejavu-core
    CHROMIUM=$(command -v chromium)
    export CHROMIUM
}

# A copy of the suite below $work/suite, with its packages, so that the source tree stays as it is.
copy_to() {
    rm -rf "$work/suite"
    mkdir -p "$1"
    cp "$here"/*.mjs "$here"/package.json "$here"/package-lock.json "$here"/.npmrc "$1"
}

fetch_packages() {
    (cd "$1" && shift && npm ci --ignore-scripts --no-progress "$@")
}

run_node() {
    limit_ms=$1
    shift
    exec node --test --test-concurrency=1 --test-timeout="$limit_ms" --test-reporter=spec "$@"
}
