# Shared by the scripts here; sourced, never run. The repository's root is the working directory.

# Another cargo can be named, for machines where builds must queue.
CARGO=${CARGO:-cargo}
SERVERS=$PWD/target/servers

say() { printf '\n==> %s (%s)\n' "$*" "$(date +%T)" >&2; }

fail() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "only root may run: $*
Run it as root once, or install sudo, then start again."
  fi
}

# install PACKAGE...: from the machine's own suite, without asking and without starting any daemon.
install() {
  command -v apt-get >/dev/null || fail "these Debian packages, or what your system calls them, are needed: $*"
  say "Installing $*"
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod +x $policy
    made=$policy
  fi
  local result=0
  { as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >&2 || result=$?
  [ -z "$made" ] || as_root rm -f "$made"
  [ $result = 0 ] || fail "could not install: $*"
}
