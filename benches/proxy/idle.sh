#!/usr/bin/env bash
# Memory of idle connections, beside nginx, HAProxy and Envoy. `./dev bench idle --help` tells how it is used.
#
# Each proxy is started anew for each kind of connection, so that none uses the memory that another has left. A few
# connections first have it set up what it has once. Then comes the number that counts, each with one request, and the
# resident memory of the process after them less that before them, over their number, is what one of them holds.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/common.sh
. benches/proxy/choose.sh
. benches/proxy/contestants.sh
. benches/proxy/measure.sh

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

usage() {
  cat <<TEXT
Usage: ./dev bench idle [OPTION...] [CONTESTANT...]

KiB of resident memory per idle connection: in clear, over TLS 1.3, and with HTTP/2 over TLS 1.3. Contestants are those
of ./dev bench proxy; nginx, haproxy, envoy and p2c-ewma by default.

  --gateway [NAME=]PATH  a build of Witgate, as in ./dev bench proxy
  --connections N        how many of each kind (5000)

The clients are a program in Go, which is built with the machine's Go or Debian's.
TEXT
}

CONNECTIONS=5000

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit ;;
    --gateway | --connections)
      [ $# -gt 1 ] || fail "$1 takes a value; see ./dev bench idle --help"
      case $1 in
        --gateway) builds+=("$2") ;;
        --connections) number "$1" "$2" && CONNECTIONS=$2 ;;
      esac
      shift
      ;;
    *) want "$1" || fail "neither an option nor a contestant: \"$1\"; see ./dev bench idle --help" ;;
  esac
  shift
done
# So many come first, and the proxy may not have noticed yet that they left when the others come.
WARM_UP=64
CLIENTS=$((CONNECTIONS + 1000))
# HAProxy wants two descriptors for each client, whether it uses them or not.
descriptors=$((2 * CLIENTS + 1000))
ulimit -n $descriptors 2>/dev/null ||
  fail "$CONNECTIONS connections take $descriptors descriptors of a process, and one may have $(ulimit -Hn)"
choose nginx haproxy envoy p2c-ewma
install_missing
scripts/servers.sh clients

run=$(mktemp -d)
trap stop EXIT

# resident PID: KiB of resident memory, as soon as they hold still.
resident() {
  local before=0 now
  for _ in {1..50}; do
    now=$(awk '/^VmRSS/ { print $2 }' "/proc/$1/status")
    [ "$now" != "$before" ] || break
    before=$now
    sleep 0.2
  done
  echo "$now"
}

# visit NAME KIND COUNT: opens connections, and writes the memory that the process has then to the file `resident`.
visit() {
  local worker url with=()
  worker=$(worker_of "${pid[$1]}")
  case $2 in
    clear) url=http://127.0.0.1:${port[$1]}/ ;;
    tls) url=https://127.0.0.1:${port[$1 tls]}/ ;;
    http2-tls) url=https://127.0.0.1:${port[$1 tls]}/ with=(-http 2) ;;
  esac
  rm -f "$run/leave"
  mkfifo "$run/leave"
  : >"$run/said"
  target/peers/clients idle -url "$url" -connections "$3" "${with[@]}" <"$run/leave" >"$run/said" &
  pid[clients]=$!
  exec 4>"$run/leave"
  until [ "$(<"$run/said")" = open ]; do
    kill -0 "${pid[clients]}" 2>/dev/null || fail "$3 connections of $2 to $1 could not be opened"
    sleep 0.1
  done
  resident "$worker" >"$run/resident"
  exec 4>&-
  wait "${pid[clients]}"
  unset "pid[clients]"
  [ "$(tail -n1 "$run/said")" = "$3" ] || fail "not all of $3 connections of $2 to $1 were open at the end"
}

# idle KIND NAME: writes KiB per connection to the file `figure`.
idle() {
  local before
  start "$2"
  visit "$2" "$1" "$WARM_UP"
  before=$(resident "$(worker_of "${pid[$2]}")")
  visit "$2" "$1" "$CONNECTIONS"
  end "$2"
  awk -v before="$before" -v after="$(<"$run/resident")" -v n="$CONNECTIONS" \
    'BEGIN { printf "%.1f", (after - before) / n }' >"$run/figure"
}

make_certificate
start_backend
printf '\n| KiB per connection, %s idle | in clear | TLS | HTTP/2 over TLS |\n|---|---|---|---|\n' "$CONNECTIONS"
for contestant in "${contestants[@]}"; do
  line=''
  for kind in clear tls http2-tls; do
    idle "$kind" "$contestant"
    line+=" $(<"$run/figure") |"
  done
  printf '| %s |%s\n' "${title[$contestant]}" "$line"
done
[ -z "$absent" ] || printf '\n%s\n' "$absent"
