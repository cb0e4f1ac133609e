#!/usr/bin/env bash
# What a service costs: memory, and questions to etcd when the gateway starts. `./dev bench services --help` tells how
# it is used.
#
# The gateway runs once for a single service, and once for that and many more; the proportional set size of the second
# less that of the first, over their number, is what one of them holds. Its plugins are compiled beforehand.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/common.sh

ETCD=127.0.0.1:19902
SERVICES=1000
INSTANCES=3
# Seconds between two looks at what etcd was asked.
LOOK=0.05
gateway=${CARGO_TARGET_DIR:-target}/release/witgate
picture=

usage() {
  cat <<TEXT
Usage: ./dev bench services [OPTION...]

Starts the gateway with many services in etcd, each with $INSTANCES instances, and tells how much memory each takes, how
long it takes until all lists are there, and how many questions etcd was asked per second meanwhile.

  --services N     how many ($SERVICES)
  --gateway PATH   a build of Witgate (that of \`cargo build --release\`, which is made)
  --picture FILE   the questions as a picture, an SVG
TEXT
}

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit ;;
    --services | --gateway | --picture)
      [ $# -gt 1 ] || fail "$1 takes a value; see ./dev bench services --help"
      case $1 in
        --services) SERVICES=$2 ;;
        --gateway) gateway=$2 build= ;;
        --picture) picture=$2 ;;
      esac
      shift
      ;;
    *) fail "no option: \"$1\"; see ./dev bench services --help" ;;
  esac
  shift
done
[[ $SERVICES =~ ^[1-9][0-9]{0,4}$ ]] || fail "--services takes a number from 1 to 99999, not \"$SERVICES\""
if [ -z "${build-yes}" ]; then
  [ -x "$gateway" ] || fail "no program is at $gateway"
else
  say "Building"
  $CARGO build --release --locked --bin witgate
fi
command -v curl >/dev/null || install curl
scripts/servers.sh

run=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait; rm -rf "$run"' EXIT

# until_so COMMAND...: waits until it succeeds.
until_so() {
  local tries
  for tries in {1..600}; do
    "$@" && return
    sleep 0.1
  done
  fail "not so after $((tries / 10)) seconds: $*
$(tail -n3 "$run"/*.log)"
}

start_etcd() {
  "$SERVERS/etcd35/usr/bin/etcd" --data-dir "$run/etcd" --listen-client-urls "http://$ETCD" --max-txn-ops 1000000 \
    --advertise-client-urls "http://$ETCD" --listen-peer-urls http://127.0.0.1:19903 >"$run/etcd.log" 2>&1 &
  etcd=$!
  pids+=($etcd)
  until_so etcd_answers
  # A transaction is compares, what is done if they hold, and what otherwise, with empty lines between.
  awk -v services="$SERVICES" -v instances=$INSTANCES 'BEGIN {
    print ""
    for (s = 0; s <= services; s++)
      for (i = 1; i <= instances; i++) printf "put /services/s%d/%d 127.0.0.%d:%d\n", s, i, i, 2000 + s % 60000
    print "\n"
  }' | ETCDCTL_API=3 "$SERVERS/etcd35/usr/bin/etcdctl" --endpoints "$ETCD" txn >/dev/null
}

# The one that was started, and not another at its address.
etcd_answers() {
  kill -0 $etcd 2>/dev/null || fail "etcd has ended: $(tail -n3 "$run/etcd.log")"
  curl -sf "http://$ETCD/health" >/dev/null
}

# start NAME COUNT: a gateway for the services 0 to COUNT.
start() {
  {
    printf 'workers = 2\n[admin]\naddress = "127.0.0.1:0"\n[state]\ndirectory = "%s"\n' "$run/state"
    printf '[[listener]]\naddress = "127.0.0.1:0"\n[registry.main]\nplugin = "etcd"\netcd = { endpoints = ["%s"] }\n' "$ETCD"
    printf 'settings = { layout = "plain", prefix = "/services" }\n'
    local number
    for ((number = 0; number <= $2; number++)); do
      printf '[upstream.s%d]\nservice = "s%d"\nregistry = "main"\n' $number $number
    done
  } >"$run/$1.toml"
  # Lists of the last run would be there at once.
  rm -rf "$run/state/lists"
  : >"$run/said"
  "$gateway" run --config "$run/$1.toml" >"$run/said" 2>"$run/$1.log" &
  pids+=($!)
  pid=$!
}

# complete COUNT: whether the lists of the services 0 to COUNT are there.
complete() {
  local lists admin
  kill -0 "$pid" 2>/dev/null || fail "the gateway has ended: $(tail -n3 "$run"/{one,many}.log)"
  admin=$(awk '$2 == "admin" { print $3 }' "$run/said")
  lists=$(curl -sf "http://$admin/metrics" | grep -c "^witgate_source_instances{.*} $INSTANCES$" || true)
  [ "$lists" = $(($1 + 1)) ]
}

# KiB, with what processes share counted by its share, as soon as they hold still.
held() {
  local before=0 now
  for _ in {1..20}; do
    now=$(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup")
    [ "$now" != "$before" ] || break
    before=$now
    sleep 0.5
  done
  echo "$now"
}

end() { kill "$pid" && wait "$pid" || fail "the gateway failed: $(tail -n3 "$run"/*.log)"; }

# Lines with the time in seconds, and how many lists and watches etcd was asked for so far.
watch_etcd() {
  while :; do
    printf '%s %s\n' "$(date +%s.%N)" "$(curl -s "http://$ETCD/metrics" | awk '
      /^grpc_server_started_total.*grpc_method="Range"/ { lists += $2 }
      /^grpc_server_started_total.*grpc_method="Watch"/ { watches += $2 }
      END { print lists + 0, watches + 0 }')"
    sleep $LOOK
  done
}

start_etcd
say "One service, twice: plugins are compiled the first time"
for _ in 1 2; do
  start one 0
  until_so complete 0
  one=$(held)
  end
done

say "$SERVICES services more"
watch_etcd >"$run/asked" &
watching=$!
pids+=($watching)
began=$(date +%s.%N)
start many "$SERVICES"
until_so complete "$SERVICES"
ready=$(date +%s.%N)
kill $watching
many=$(held)
end

awk -v began="$began" -v ready="$ready" -v one="$one" -v many="$many" -v services="$SERVICES" -v picture="$picture" \
  -f benches/services/report.awk "$run/asked"
