#!/usr/bin/env bash
# CPU per proxied request, beside nginx and HAProxy from Debian, in one run.
#
#   ./dev bench proxy [CONTESTANT...]     nginx haproxy p2c-ewma round-robin native; all of them by default
#
# One worker each, 64 client connections that stay open, a 12-byte answer from one nginx behind. What counts is the CPU
# time of the proxy's process over its requests, user and system, from /proc/PID/stat: on a small machine with
# neighbours it holds still where requests per second do not. Contestants take turns, so that a bad moment of the
# machine falls on all of them; the table has medians, and ratios within a round.
#
# ROUNDS (10), SECONDS_EACH (3) and CONNECTIONS (64) change the run; WITGATE names a binary instead of building one.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/common.sh

ROUNDS=${ROUNDS:-10} SECONDS_EACH=${SECONDS_EACH:-3} CONNECTIONS=${CONNECTIONS:-64}
contestants=("$@")
[ $# -gt 0 ] || contestants=(nginx haproxy p2c-ewma round-robin native)
PATH=$PATH:/usr/sbin
run=$(mktemp -d)
conf=$PWD/benches/proxy
declare -A port pid

stop() {
  local process
  for process in "${pid[@]}"; do kill "$process" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$run"
}
trap stop EXIT

free_port() {
  local candidate
  while true; do
    candidate=$((20000 + RANDOM % 10000))
    (: <"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null || { echo $candidate; return; }
  done
}

# fill TEMPLATE: the configuration with its ports, in the folder of this run.
fill() {
  sed -e "s|@RUN@|$run|g" -e "s|@PORT@|${port[$2]}|g" -e "s|@ADMIN@|$(free_port)|g" \
    -e "s|@BACKEND@|${port[backend]:-}|g" -e "s|@SELECTOR@|${3:-}|g" "$conf/$1" >"$run/$2.conf"
}

# Whether a whole answer comes from a port.
answers() {
  local line
  { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
  printf 'GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n' >&3
  read -r -t 5 line <&3 || line=
  exec 3>&-
  [[ $line == *" 200 "* ]]
}

# begin NAME COMMAND...: starts it and waits until it serves.
begin() {
  local name=$1 tries=0
  shift
  (cd "$run" && exec "$@") >"$run/$name.log" 2>&1 </dev/null &
  pid[$name]=$!
  until answers "${port[$name]}"; do
    if ! kill -0 "${pid[$name]}" 2>/dev/null || [ $((tries += 1)) -gt 200 ]; then
      tail -20 "$run/$name.log" >&2
      fail "$name does not serve"
    fi
    sleep 0.05
  done
}

start_nginx() { # start_nginx NAME TEMPLATE
  fill "$2" "$1"
  begin "$1" nginx -p "$run" -e "$run/$1.err" -c "$run/$1.conf"
}

start() {
  port[$1]=$(free_port)
  case $1 in
    nginx) start_nginx nginx nginx.conf ;;
    haproxy)
      fill haproxy.cfg haproxy
      begin haproxy haproxy -q -db -f "$run/haproxy.conf"
      ;;
    *)
      # No plugin has this name, so the native round robin picks.
      local selector=$1
      [ "$selector" != native ] || selector=not-a-plugin
      fill witgate.toml "$1" "$selector"
      # Each has a folder of its own for its state.
      mkdir -p "$run/$1"
      mv "$run/$1.conf" "$run/$1/witgate.toml"
      begin "$1" "$WITGATE" run --config "$run/$1/witgate.toml"
      ;;
  esac
}

# The process that does the work: nginx has it below the first.
worker_of() {
  local child
  child=$(cat "/proc/$1/task/$1/children" 2>/dev/null || true)
  echo "${child%% *}" | grep . || echo "$1"
}

ticks_of() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }

# measure NAME: one line "NAME µs-per-request p99-ms rss-MB requests-per-second".
measure() {
  local worker before after out
  worker=$(worker_of "${pid[$1]}")
  wrk -t1 -c"$CONNECTIONS" -d1s "http://127.0.0.1:${port[$1]}/" >/dev/null
  before=$(ticks_of "$worker")
  out=$(wrk -t1 -c"$CONNECTIONS" -d"${SECONDS_EACH}s" --latency "http://127.0.0.1:${port[$1]}/")
  after=$(ticks_of "$worker")
  ! grep -E 'Non-2xx|Socket errors' <<<"$out" >&2 || fail "requests to $1 failed"
  awk -v name="$1" -v ticks=$((after - before)) -v hertz="$(getconf CLK_TCK)" \
    -v rss="$(awk '/^VmRSS/ { print $2 / 1024 }' "/proc/$worker/status")" '
    /requests in/ { requests = $1 }
    /Requests\/sec/ { rate = $2 }
    $1 == "99%" { p99 = $2 + 0; if ($2 ~ /us$/) p99 /= 1000; else if ($2 !~ /ms$/) p99 *= 1000 }
    END { printf "%s %.3f %.3f %.1f %.0f\n", name, ticks / hertz * 1e6 / requests, p99, rss, rate }' <<<"$out"
}

missing=()
command -v nginx >/dev/null || missing+=(nginx-light)
command -v haproxy >/dev/null || missing+=(haproxy)
command -v wrk >/dev/null || missing+=(wrk)
[ ${#missing[@]} = 0 ] || install "${missing[@]}"

if [ -z "${WITGATE:-}" ] && [[ " ${contestants[*]} " =~ \ (p2c-ewma|round-robin|native)\  ]]; then
  say "Building with all optimisations; this takes some minutes"
  $CARGO build --release --bin witgate
  WITGATE=$PWD/${CARGO_TARGET_DIR:-target}/release/witgate
fi
WITGATE=$(realpath "${WITGATE:-/dev/null}")

port[backend]=$(free_port)
start_nginx backend backend.conf
for contestant in "${contestants[@]}"; do start "$contestant"; done
for ((round = 1; round <= ROUNDS; round++)); do
  say "Round $round of $ROUNDS"
  for contestant in "${contestants[@]}"; do measure "$contestant" | tee -a "$run/results" >&2; done
done

title_of() {
  case $1 in
    nginx) echo "nginx $(nginx -v 2>&1 | sed 's|.*/||; s| .*||')" ;;
    haproxy) echo "HAProxy $(haproxy -v | sed -nE '1s/.*version ([0-9.]+).*/\1/p')" ;;
    native) echo "Witgate, native round robin" ;;
    *) echo "Witgate, $1" ;;
  esac
}

for contestant in "${contestants[@]}"; do printf '%s\t%s\n' "$contestant" "$(title_of "$contestant")"; done |
  awk -f benches/proxy/table.awk - "$run/results"
