#!/usr/bin/env bash
# The real servers that tests run against: etcd 3.4 and 3.5 as Debian ships them, unpacked under target/servers.
# Touches neither the machine's packages nor its sources, needs no root, and does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

# The mirror that this machine uses already.
mirror=${DEBIAN_MIRROR:-$( (cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true) |
  sed -nE 's/^(URIs:|deb( \[[^]]*\])?) +(https?:[^ ]+\/debian)\/?( .*)?$/\3/p' | sed -n 1p)}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# apt_of SUITE ARGUMENT...: apt-get with sources, lists and a cache of its own.
apt_of() {
  local suite=$1 own=$SERVERS/apt/$1
  shift
  mkdir -p "$own"/{lists/partial,cache/archives/partial,parts}
  echo "deb [signed-by=$keyring] $mirror $suite main" >"$own/sources.list"
  apt-get -q -o Dir::Etc::SourceList="$own/sources.list" -o Dir::Etc::SourceParts="$own/parts" \
    -o Dir::State::Lists="$own/lists" -o Dir::Cache="$own/cache" -o Acquire::Languages=none \
    -o Acquire::Retries=3 -o APT::Sandbox::User=root "$@" >&2
}

# unpack SUITE FOLDER PACKAGE...
unpack() {
  local suite=$1 folder=$SERVERS/$2
  shift 2
  [ ! -e "$folder/complete" ] || return 0
  command -v apt-get >/dev/null || fail "etcd for the tests comes from Debian's packages, and apt-get is missing"
  [ -n "$mirror" ] || fail "no Debian mirror among apt's sources: set DEBIAN_MIRROR to the address of one"
  [ -e "$keyring" ] || fail "Debian's keys are missing: install debian-archive-keyring"
  say "Fetching $* of Debian $suite"
  rm -rf "$folder"
  mkdir -p "$folder/debs"
  apt_of "$suite" update
  (cd "$folder/debs" && apt_of "$suite" download "$@")
  local deb
  for deb in "$folder"/debs/*.deb; do dpkg-deb -x "$deb" "$folder"; done
  "$folder/usr/bin/etcd" --version >/dev/null || fail "etcd of Debian $suite does not run on this machine"
  rm -rf "$folder/debs" "$SERVERS/apt"
  touch "$folder/complete"
}

unpack bookworm etcd34 etcd-server etcd-client
unpack trixie etcd35 etcd-server etcd-client
