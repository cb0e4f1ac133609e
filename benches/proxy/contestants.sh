# Starting and ending what is measured; sourced by run.sh and idle.sh. A contestant is `nginx`, `nginx-16k`, `haproxy`,
# `envoy`, or GATEWAY/SELECTOR for a build of Witgate and the selector that it uses; `backend` is the nginx behind all of them.
# Calls of gRPC are answered by nghttpd: it reads a whole request first, and an answer before that is not what a call gets.
# Those of rpcx are answered by servers of rpcx.

ENDPOINTS=10
# Clients at once that a contestant has to have room for.
CLIENTS=4000
endpoints=() call_endpoints=() rpcx_endpoints=()
declare -A port pid title

# take NAME: gives NAME a port of its own.
take() {
  local candidate
  while true; do
    candidate=$((20000 + RANDOM % 10000))
    [[ " ${port[*]} " != *" $candidate "* ]] || continue
    (: <"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null || break
  done
  port[$1]=$candidate
}

# fill TEMPLATE NAME LINE [MORE]: the configuration of a contestant in its folder, with LINE for each endpoint, PORT being its
# port, and MORE in its place. What a Witgate selects by is in $plugin.
fill() {
  local text purpose folder=$run/$2
  mkdir -p "$folder"
  text=$(<"benches/proxy/$1")
  text=${text//@ENDPOINTS@/"$(lines "$3" "${endpoints[@]}")"}
  text=${text//@CALL_ENDPOINTS@/"$(lines "$3" "${call_endpoints[@]}")"}
  text=${text//@RPCX_ENDPOINTS@/"$(lines "$3" "${rpcx_endpoints[@]}")"}
  for purpose in http2 tls tcp rpcx rpcx-tcp admin; do
    text=${text//@"${purpose^^}"@/"${port[$2 $purpose]:-}"}
  done
  text=${text//@PORT@/"${port[$2]:-}"}
  text=${text//@RUN@/"$folder"}
  text=${text//@CERTIFICATE@/"$run/certificate.pem"}
  text=${text//@CLIENTS@/"$CLIENTS"}
  # One for the client and one for the endpoint.
  text=${text//@SOCKETS@/"$((2 * CLIENTS))"}
  text=${text//@SELECTOR@/"${plugin:-}"}
  text=${text//@MODULE@/"${module:-}"}
  text=${text//@MORE@/"${4:-}"}
  echo "$text" >"$folder/$1"
}

# lines LINE PORT...: LINE for each of them.
lines() {
  local number
  for number in "${@:2}"; do echo "${1//PORT/$number}"; done
}

# fetch PORT PATH: the answer to a request, head and all. Fails when nobody listens.
fetch() {
  { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
  printf 'GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' "$2" >&3
  timeout 10 cat <&3 || true
  exec 3>&-
}

# The status is read before the rest: nobody writes into a pipe whose reader has gone.
answers() {
  local answer
  answer=$(fetch "$1" /) && [[ $answer == HTTP/*" 200 "*"hello world"* ]]
}

# serves NAME: whether it passes requests on, a Witgate with the selector that is to be measured: the native round robin
# stands in until the plugin is compiled.
serves() {
  local answer
  answers "${port[$1]}" || return 1
  [[ $1 == */* && $1 != */native ]] || return 0
  answer=$(fetch "${port[$1 admin]}" /api/v1/upstreams/backend) && [[ $answer =~ \"selector_version\":\ *[1-9] ]]
}

# begin NAME COMMAND...: starts it in its folder and waits until it serves.
begin() {
  local name=$1 until=$((SECONDS + 60))
  shift
  (cd "$run/$name" && exec "$@") >"$run/$name/log" 2>&1 </dev/null &
  pid[$name]=$!
  until serves "$name"; do
    if ! kill -0 "${pid[$name]}" 2>/dev/null || [ $SECONDS -gt $until ]; then
      tail -20 "$run/$name/log" >&2
      fail "$name does not serve"
    fi
    sleep 0.1
  done
}

begin_nginx() { # begin_nginx NAME CONFIGURATION
  # Its worker is another user when the first process is root.
  chmod a+rx "$run" "$run/$1"
  begin "$1" nginx -p "$run/$1" -e "$run/$1/errors" -c "$run/$1/$2"
}

start_backend() {
  local i
  for ((i = 0; i < ENDPOINTS; i++)); do
    take "endpoint $i"
    endpoints+=("${port[endpoint $i]}")
    take "call endpoint $i"
    call_endpoints+=("${port[call endpoint $i]}")
    take "rpcx endpoint $i"
    rpcx_endpoints+=("${port[rpcx endpoint $i]}")
  done
  port[backend]=${endpoints[0]}
  fill backend.conf backend '    listen 127.0.0.1:PORT reuseport;'
  mkdir "$run/backend/files"
  head -c 65536 /dev/zero | tr '\0' x >"$run/backend/files/64k"
  chmod -R a+rX "$run/backend"
  begin_nginx backend backend.conf
}

start_call_endpoints() {
  local endpoint
  mkdir -p "$run/calls/bench.Calls"
  cp benches/proxy/message "$run/calls/bench.Calls/Say"
  for endpoint in "${call_endpoints[@]}"; do
    start_endpoint "$endpoint" nghttpd --no-tls --address=127.0.0.1 --htdocs="$run/calls" --no-content-length \
      --trailer='grpc-status: 0' "$endpoint"
  done
}

start_rpcx_endpoints() {
  local endpoint
  for endpoint in "${rpcx_endpoints[@]}"; do
    start_endpoint "$endpoint" target/peers/rpcx server -listen "127.0.0.1:$endpoint"
  done
}

start_endpoint() { # start_endpoint PORT COMMAND...
  local endpoint=$1
  shift
  "$@" >/dev/null 2>&1 </dev/null &
  pid[endpoint at $endpoint]=$!
  until (: <"/dev/tcp/127.0.0.1/$endpoint") 2>/dev/null; do
    kill -0 "${pid[endpoint at $endpoint]}" 2>/dev/null || fail "$1 does not serve"
    sleep 0.1
  done
}

# make_certificate: one for all contestants, and its key beside it, where HAProxy looks for it.
make_certificate() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -out "$run/certificate.pem" -keyout "$run/certificate.pem.key" 2>/dev/null ||
    fail "openssl made no certificate"
}

# stream_module: how nginx loads its module for TCP; nothing where that is built in. Fails where it has none.
stream_module() {
  local options path
  options=$(nginx -V 2>&1)
  path=$(grep -oP -- '--modules-path=\K\S+' <<<"$options" || true)/ngx_stream_module.so
  if [ -e "$path" ]; then
    echo "load_module $path;"
  else
    grep -qE -- '--with-stream( |$)' <<<"$options"
  fi
}

# start NAME: begins a contestant and notes how a reader knows it.
start() {
  take "$1"
  # Witgate and Envoy have both versions of HTTP on one port.
  port[$1 http2]=${port[$1]}
  take "$1 tls"
  take "$1 tcp"
  take "$1 rpcx"
  # The others do not read what they pass on.
  port[$1 rpcx-tcp]=${port[$1 rpcx]}
  case $1 in
    nginx | nginx-16k)
      local buffers='' module
      module=$(stream_module)
      take "$1 http2"
      title[$1]="nginx $(nginx -v 2>&1 | sed 's|.*/||; s| .*||')"
      if [ "$1" = nginx-16k ]; then
        title[$1]+=', buffers of 16 KiB'
        buffers='      proxy_buffers 8 16k; proxy_buffer_size 16k; proxy_busy_buffers_size 64k;'
      fi
      fill nginx.conf "$1" '    server 127.0.0.1:PORT;' "$buffers"
      begin_nginx "$1" nginx.conf
      ;;
    haproxy)
      take "$1 http2"
      fill haproxy.cfg haproxy '  server ePORT 127.0.0.1:PORT'
      title[haproxy]="HAProxy $(haproxy -v | sed -nE '1s/.*version ([0-9.]+[0-9]).*/\1/p')"
      begin haproxy haproxy -q -db -f "$run/haproxy/haproxy.cfg"
      ;;
    envoy)
      fill envoy.yaml envoy \
        '            - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: PORT } } }'
      title[envoy]="Envoy $("$ENVOY" --version | sed -nE 's|.*version: [^/]*/([0-9.]+)/.*|\1|p')"
      begin envoy "$ENVOY" --concurrency 1 --disable-hot-restart --log-level error -c "$run/envoy/envoy.yaml"
      ;;
    *)
      local gateway=${1%/*} selector=${1##*/} plugin line='"127.0.0.1:PORT",' policies=''
      title[$1]="Witgate, $selector"
      [ "$selector" != native ] || title[$1]="Witgate, native round robin"
      [ ${#gateways[@]} = 1 ] || title[$1]+=" ($gateway)"
      # No plugin has this name, so the native round robin picks.
      plugin=$selector
      [ "$selector" != native ] || plugin=not-a-plugin
      if [ "$selector" = policies ]; then
        title[$1]="Witgate, p2c-ewma with policies"
        plugin=p2c-ewma
        line='{ address = "127.0.0.1:PORT", zone = "here" },'
        policies='
retries         = { most = 2, budget = 0.2, per_try_ms = 5000 }
breaker         = true
limits          = { max_in_flight = 1000, max_in_flight_per_endpoint = 500, queue = 100 }
slow_start_secs = 30
zone_aware      = true

[gateway]
zone = "here"'
      fi
      take "$1 rpcx-tcp"
      take "$1 admin"
      fill witgate.toml "$1" "$line" "$policies"
      begin "$1" "${gateways[$gateway]}" run --config "$run/$1/witgate.toml"
      ;;
  esac
}

# end NAME: ends it and waits for it.
end() {
  kill "${pid[$1]}"
  wait "${pid[$1]}" 2>/dev/null || true
  unset "pid[$1]"
}

# Ends all and waits for them, so that what they write at their end is there.
stop() {
  local process
  for process in "${pid[@]}"; do kill "$process" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$run"
}
