# One measurement of one contestant; sourced by run.sh, and by idle.sh for the process that does the work.

# load ROW NAME SECONDS: asks NAME for it so long, and says what came of it: how many requests there were, how many failed,
# requests per second, and the 99th percentile of latency in ms.
load() {
  local with=() by_http1=http://127.0.0.1:${port[$2]} by_http2=http://127.0.0.1:${port[$2 http2]}
  local by_tls=127.0.0.1:${port[$2 tls]} by_tcp=http://127.0.0.1:${port[$2 tcp]}
  case $1 in
    get) wrk_for "$3" "$by_http1/" ;;
    post) wrk_for "$3" -s benches/proxy/post.lua "$by_http1/" ;;
    64k) wrk_for "$3" "$by_http1/64k" ;;
    close) wrk_for "$3" -H 'Connection: close' "$by_http1/" ;;
    http2) h2load_for "$3" "$by_http2/" ;;
    grpc)
      with=(-H 'content-type: application/grpc' -H 'te: trailers' -d benches/proxy/message)
      h2load_for "$3" "${with[@]}" "$by_http2/bench.Calls/Say"
      ;;
    tls) wrk_for "$3" "https://$by_tls/" ;;
    http2-tls) h2load_for "$3" "https://$by_tls/" ;;
    handshake) handshakes_for "$3" "$by_tls" ;;
    resumed) handshakes_for "$3" "$by_tls" -resume ;;
    tcp) wrk_for "$3" "$by_tcp/64k" ;;
    tcp-connect) wrk_for "$3" -H 'Connection: close' "$by_tcp/" ;;
    rpcx | rpcx-tcp) rpcx_for "$3" "${port[$2 $1]}" ;;
  esac
}

wrk_for() { # wrk_for SECONDS ARGUMENT...
  wrk -t1 -c"$CONNECTIONS" -d"$1" --latency "${@:2}" | awk '
    /requests in/ { requests = $1 }
    /Requests\/sec/ { rate = $2 }
    /Non-2xx/ { failed += $NF }
    /Socket errors/ { failed++ }
    $1 == "99%" { p99 = $2 + 0; if ($2 ~ /us$/) p99 /= 1000; else if ($2 !~ /ms$/) p99 *= 1000 }
    END { print requests + 0, failed + 0, rate + 0, p99 + 0 }'
}

# As many requests at once as there are connections in the other rows, over an eighth of the connections.
STREAMS=8
shared_connections() { echo $(((CONNECTIONS + STREAMS - 1) / STREAMS)); }

h2load_for() { # h2load_for SECONDS ARGUMENT...
  local log=$run/load/h2load counts
  mkdir -p "$run/load"
  rm -f "$log"
  counts=$(h2load -t1 -c"$(shared_connections)" -m$STREAMS -D"$1" --log-file="$log" "${@:2}" | awk '
    /^requests:/ { done = $8; failed = $10 + $12 + $14 }
    /^status codes:/ { other = $5 + $7 + $9 }
    /^finished in/ { rate = $4 }
    END { print done + 0, failed + other, rate + 0 }')
  echo "$counts" "$(cut -f3 "$log" | sort -n | awk '{ all[NR] = $1 } END { print all[int(NR * 0.99)] / 1000 }')"
}

rpcx_for() { # rpcx_for SECONDS PORT
  target/peers/rpcx load -gateway "127.0.0.1:$2" -connections "$(shared_connections)" -callers $STREAMS -for "$1s"
}

handshakes_for() { # handshakes_for SECONDS ADDRESS [-resume]
  target/peers/clients handshakes -address "$2" -connections "$CONNECTIONS" -for "$1s" "${@:3}"
}

# worker_of PID: the process that does the work; nginx has it below the first.
worker_of() {
  local child
  child=$(cat "/proc/$1/task/$1/children" 2>/dev/null || true)
  echo "${child%% *}" | grep . || echo "$1"
}

# ticks_of PID: user and system time of all its threads, in ticks of the clock.
ticks_of() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12, $13 }'; }

# measure ROUND ROW NAME: adds a line to the results: the three, then per request µs and those of them in user mode, then the
# 99th percentile of latency in ms, requests per second, and resident memory in MB after it.
measure() {
  local worker before after requests failed rate p99
  worker=$(worker_of "${pid[$3]}")
  [ "$WARM_UP" = 0 ] || load "$2" "$3" "$WARM_UP" >/dev/null
  before=$(ticks_of "$worker")
  read -r requests failed rate p99 < <(load "$2" "$3" "$SECONDS_EACH")
  after=$(ticks_of "$worker")
  if [ "$failed" != 0 ]; then
    tail -qn5 "$run/$3/log" "$run/$3/errors" "$run/backend/errors" >&2
    fail "$failed of $requests requests of $2 to $3 failed"
  fi
  [ "$requests" != 0 ] || fail "no request of $2 to $3 was answered"
  awk -v OFS='\t' -v round="$1" -v row="$2" -v name="$3" -v before="$before" -v after="$after" -v requests="$requests" \
    -v rate="$rate" -v p99="$p99" -v hertz="$(getconf CLK_TCK)" \
    -v rss="$(awk '/^VmRSS/ { print $2 / 1024 }' "/proc/$worker/status")" '
    BEGIN {
      split(before, old, " "); split(after, new, " ")
      user = (new[1] - old[1]) / hertz * 1e6 / requests
      both = user + (new[2] - old[2]) / hertz * 1e6 / requests
      printf "%d\t%s\t%s\t%.3f\t%.3f\t%.3f\t%.0f\t%.1f\n", round, row, name, both, user, p99, rate, rss
    }' >>"$output/results.tsv"
  tail -1 "$output/results.tsv" >&2
}
