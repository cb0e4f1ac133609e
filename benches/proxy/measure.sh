# One measurement of one contestant; sourced by run.sh.

# row ROW: how wrk asks for it.
row() {
  case $1 in
    get) path=/ with=() ;;
    post) path=/ with=(-s benches/proxy/post.lua) ;;
    64k) path=/64k with=() ;;
    close) path=/ with=(-H 'Connection: close') ;;
  esac
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
  local path with worker before after said url
  row "$2"
  worker=$(worker_of "${pid[$3]}")
  url=http://127.0.0.1:${port[$3]}$path
  [ "$WARM_UP" = 0 ] || wrk -t1 -c"$CONNECTIONS" -d"$WARM_UP" "${with[@]}" "$url" >/dev/null
  before=$(ticks_of "$worker")
  said=$(wrk -t1 -c"$CONNECTIONS" -d"$SECONDS_EACH" --latency "${with[@]}" "$url")
  after=$(ticks_of "$worker")
  if grep -E 'Non-2xx|Socket errors' <<<"$said" >&2; then
    tail -5 "$run/$3/log" >&2
    fail "requests of $2 to $3 failed"
  fi
  awk -v OFS='\t' -v round="$1" -v row="$2" -v name="$3" -v before="$before" -v after="$after" \
    -v hertz="$(getconf CLK_TCK)" -v rss="$(awk '/^VmRSS/ { print $2 / 1024 }' "/proc/$worker/status")" '
    /requests in/ { requests = $1 }
    /Requests\/sec/ { rate = $2 }
    $1 == "99%" { p99 = $2 + 0; if ($2 ~ /us$/) p99 /= 1000; else if ($2 !~ /ms$/) p99 *= 1000 }
    END {
      if (!requests) exit 1
      split(before, old, " "); split(after, new, " ")
      user = (new[1] - old[1]) / hertz * 1e6 / requests
      both = user + (new[2] - old[2]) / hertz * 1e6 / requests
      printf "%d\t%s\t%s\t%.3f\t%.3f\t%.3f\t%.0f\t%.1f\n", round, row, name, both, user, p99, rate, rss
    }' <<<"$said" >>"$output/results.tsv" || fail "no request of $2 to $3 was answered"
  tail -1 "$output/results.tsv" >&2
}
