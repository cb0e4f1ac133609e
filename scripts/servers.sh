#!/usr/bin/env bash
# The real servers that tests run against: etcd 3.4 and 3.5, Consul 1.8, ZooKeeper 3.8 and 3.9, Redis 7, bind, dnsmasq,
# avahi and Prometheus as Debian ships them, unpacked under target/servers, and services and clients of go-zero and rpcx,
# built from tests/peers as target/peers/go-zero and target/peers/rpcx. Their Go is the machine's or, where it has none
# that is new enough, Debian's, unpacked beside etcd; their modules come from where GOPROXY says. With names only these:
# rpcx, go-zero, eureka, which Maven builds, spring, dubbo, nacos-naming, rnacos and kubernetes, an API server, which Maven,
# npm, Cargo and Go build for ./dev peers, or clients, which the proxy benchmark has in benches/proxy/clients.
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

# unpack SUITE FOLDER COMMAND PACKAGE...: COMMAND, run in the folder, shows that the program runs.
unpack() {
  local suite=$1 folder=$SERVERS/$2 shows=$3
  shift 3
  [ ! -e "$folder/complete" ] || return 0
  command -v apt-get >/dev/null || fail "$1 for the tests comes from Debian's packages, and apt-get is missing"
  [ -n "$mirror" ] || fail "no Debian mirror among apt's sources: set DEBIAN_MIRROR to the address of one"
  [ -e "$keyring" ] || fail "Debian's keys are missing: install debian-archive-keyring"
  say "Fetching $* of Debian $suite"
  rm -rf "$folder"
  mkdir -p "$folder/debs"
  apt_of "$suite" update
  (cd "$folder/debs" && apt_of "$suite" download "$@")
  local deb
  for deb in "$folder"/debs/*.deb; do dpkg-deb -x "$deb" "$folder"; done
  # Its words are words, whatever stars are in them.
  (cd "$folder" && set -f && $shows >/dev/null) || fail "$1 of Debian $suite does not run on this machine"
  rm -rf "$folder/debs" "$SERVERS/apt"
  touch "$folder/complete"
}

# with_go SOURCE ARGUMENT...: runs Go in that folder: the machine's or, where it has none that is new enough, Debian's.
with_go() {
  local source=$1 go=go
  shift
  # A toolchain that is too old for go.mod says so here, and does not fetch another by itself.
  export GOTOOLCHAIN=local
  if ! go -C "$source" list -m >/dev/null 2>&1; then
    unpack trixie go124 "usr/lib/go-1.24/bin/go version" golang-1.24-go golang-1.24-src
    go=$SERVERS/go124/usr/lib/go-1.24/bin/go
  fi
  "$go" -C "$source" "$@"
}

# go_program SOURCE PROGRAM TIME: builds it anew when something in its folder is newer than it is.
go_program() {
  local source=$1 program=$2
  [ -e "$program" ] && [ -z "$(find "$source" -newer "$program" -print -quit)" ] && return
  say "Building ${program#"$PWD/"}, $3 the first time"
  mkdir -p "${program%/*}"
  CGO_ENABLED=0 with_go "$source" build -trimpath -buildvcs=false -ldflags='-s -w' -o "$program.new" . ||
    fail "$program is not built; its modules come from GOPROXY=$(with_go "$source" env GOPROXY)"
  mv "$program.new" "$program"
}

# peer NAME [FOLDER]: the peers of a framework.
peer() {
  go_program "${2:-tests/peers/$1}" "$PWD/target/peers/$1" "two minutes"
}

# java_peer NAME: the same for one in Java, with everything that it needs in target/peers/NAME/lib.
java_peer() {
  local source=tests/peers/$1 folder=$PWD/target/peers/$1
  [ -e "$folder" ] && [ -z "$(find "$source" -newer "$folder" -print -quit)" ] && return
  command -v mvn >/dev/null && command -v javac >/dev/null ||
    fail "target/peers/$1 is built with Maven: install Debian's maven and default-jdk-headless"
  say "Building target/peers/$1, a minute the first time"
  rm -rf "$folder.new"
  mvn -q -B -f "$source" -Doutput="$folder.new/build" package dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$folder.new/lib" ||
    fail "the peers of the tests are not built; what they need comes from the repositories that Maven is told of"
  mv "$folder.new/build/$1-1.jar" "$folder.new/lib"
  rm -rf "$folder.new/build" "$folder"
  mv "$folder.new" "$folder"
}

# node_peer NAME: the same for one in JavaScript, with its packages beside it.
node_peer() {
  local source=tests/peers/$1 folder=$PWD/target/peers/$1
  [ -e "$folder" ] && [ -z "$(find "$source" -newer "$folder" -print -quit)" ] && return
  command -v npm >/dev/null || fail "target/peers/$1 is built with npm: install Debian's nodejs and npm"
  say "Building target/peers/$1"
  rm -rf "$folder.new"
  cp -r "$source" "$folder.new"
  (cd "$folder.new" && npm ci --ignore-scripts --no-audit --no-fund) ||
    fail "the peers of the tests are not built; what they need comes from the registry that npm is told of"
  rm -rf "$folder"
  mv "$folder.new" "$folder"
}

# A server of Nacos, as a package of Cargo.
rnacos=0.8.8
rnacos() {
  local folder=$SERVERS/rnacos
  [ "$(cat "$folder/complete" 2>/dev/null)" != $rnacos ] || return 0
  say "Building rnacos $rnacos, ten minutes the first time"
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=$SERVERS/rnacos-build \
    cargo install rnacos --version $rnacos --locked --debug --force --root "$folder" \
    --config 'profile.dev.package.bcrypt.opt-level=3' --config 'profile.dev.package.blowfish.opt-level=3' ||
    fail "rnacos for the tests is not built; its crates come from where Cargo is told that they are"
  rm -rf "$SERVERS/rnacos-build"
  echo $rnacos >"$folder/complete"
}

if [ $# = 0 ]; then
  unpack bookworm etcd34 "usr/bin/etcd --version" etcd-server etcd-client
  unpack bullseye consul "usr/bin/consul version" consul
  command -v java >/dev/null || fail "ZooKeeper for the tests needs Java: install Debian's default-jre-headless"
  for zookeeper in "bookworm zookeeper38" "trixie zookeeper39"; do
    unpack $zookeeper "java -cp usr/share/java/* org.apache.zookeeper.version.VersionInfoMain" \
      libzookeeper-java libslf4j-java libdropwizard-metrics-java libsnappy-java libnetty-java
  done
  unpack trixie etcd35 "usr/bin/etcd --version" etcd-server etcd-client
  unpack bookworm prometheus "usr/bin/promtool --version" prometheus
  # Its libraries stand beside it: a machine need not have them.
  LD_LIBRARY_PATH=$SERVERS/redis/usr/lib/$(uname -m)-linux-gnu unpack bookworm redis "usr/bin/redis-server --version" \
    redis-tools redis-server libjemalloc2 liblzf1 libatomic1
  # So do those of bind, and of dnsmasq beside it.
  LD_LIBRARY_PATH=$SERVERS/dns/usr/lib/$(uname -m)-linux-gnu:$SERVERS/dns/lib/$(uname -m)-linux-gnu \
    unpack bookworm dns "usr/sbin/named -v" bind9 bind9-libs bind9-dnsutils dnsmasq-base libbsd0 libcap2 libcom-err2 \
    libdbus-1-3 libedit2 libfstrm0 libgmp10 libgssapi-krb5-2 libhogweed6 libicu72 libidn2-0 libjansson4 libjemalloc2 \
    libjson-c5 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 liblmdb0 libmaxminddb0 libmd0 libmnl0 \
    libnetfilter-conntrack3 libnettle8 libnfnetlink0 libnftables1 libnftnl11 libnghttp2-14 libprotobuf-c1 libunistring2 \
    libuv1 libxml2 libxtables12
  # And those of avahi, with the bus that its tools ask it over.
  LD_LIBRARY_PATH=$SERVERS/avahi/usr/lib/$(uname -m)-linux-gnu:$SERVERS/avahi/lib/$(uname -m)-linux-gnu \
    unpack bookworm avahi "usr/sbin/avahi-daemon --version" avahi-daemon avahi-utils dbus-daemon libapparmor1 libaudit1 \
    libavahi-client3 libavahi-common-data libavahi-common3 libavahi-core7 libcap-ng0 libcap2 libdaemon0 libdbus-1-3 \
    libexpat1 libgcrypt20 libgdbm6 libgpg-error0 liblz4-1 liblzma5 libpcre2-8-0 libselinux1 libsystemd0 libzstd1
  set -- go-zero rpcx
fi
for name in "$@"; do
  case $name in
    go-zero | rpcx) peer "$name" ;;
    eureka | spring | dubbo) java_peer "$name" ;;
    nacos-naming) node_peer "$name" ;;
    rnacos) rnacos ;;
    kubernetes) go_program tests/peers/kubernetes "$SERVERS/kubernetes/kube-apiserver" "a quarter of an hour" ;;
    clients) peer clients benches/proxy/clients ;;
    *)
      fail "scripts/servers.sh takes rpcx, go-zero, eureka, spring, dubbo, nacos-naming, rnacos, kubernetes and" \
        "clients, not \"$name\""
      ;;
  esac
done
