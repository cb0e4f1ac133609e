# Which contestants are measured, and what is installed and built for them; sourced by run.sh and idle.sh.

wanted=() builds=() order=() contestants=()
# What is not measured although it is by default, in words.
absent=''
# Programs of Witgate by the name of the build; `order` is that of the options.
declare -A gateways

number() { # number OPTION VALUE
  [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || fail "$1 takes a number from 1 on, not \"$2\""
}

wants() { [[ " ${wanted[*]} " == *" $1 "* ]]; }

# want NAME: notes a contestant. Fails when none has this name.
want() {
  case $1 in
    nginx | nginx-16k | haproxy | envoy | p2c-ewma | round-robin | native | least-request | random | policies)
      wants "$1" || wanted+=("$1")
      ;;
    *) return 1 ;;
  esac
}

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

# choose DEFAULT...: what was asked for, or else these.
choose() {
  local build name selectors=() gateway
  for build in "${builds[@]}"; do add_build "$build"; done

  # What was asked for by name has to be there; what is measured by default may be missing.
  if [ ${#wanted[@]} = 0 ]; then
    wanted=("$@")
    if wants envoy && ! ENVOY=$(benches/proxy/envoy.sh); then
      absent='Envoy is left out: this machine has none, and none could be fetched.'
      wanted=()
      for name in "$@"; do [ "$name" = envoy ] || wanted+=("$name"); done
      say "$absent"
    fi
  elif wants envoy; then
    ENVOY=$(benches/proxy/envoy.sh) || fail "there is no Envoy to measure"
  fi

  for name in "${wanted[@]}"; do
    case $name in
      nginx | nginx-16k | haproxy | envoy) contestants+=("$name") ;;
      *) selectors+=("$name") ;;
    esac
  done
  [ ${#selectors[@]} = 0 ] || [ ${#order[@]} != 0 ] || build_release
  for gateway in "${order[@]}"; do
    for name in "${selectors[@]}"; do contestants+=("$gateway/$name"); done
  done
}

build_release() {
  say "Building with all optimisations; this takes some minutes"
  $CARGO build --release --locked --bin witgate
  add_build "release=$target/release/witgate"
  if [ -x "$target/handout/witgate" ]; then
    add_build "guided=$target/handout/witgate"
    say "Beside it, called guided: what ./dev release has built, on $(date -r "$target/handout/witgate" '+%F at %R')"
  else
    say "What ./dev release builds is left out: it has not been built"
  fi
}

# install_missing PROGRAM=PACKAGE...: what contestants need, and these programs.
install_missing() {
  local pair missing=()
  PATH=$PATH:/usr/sbin
  ! wants haproxy || set -- "$@" haproxy=haproxy
  for pair in nginx=nginx-light openssl=openssl "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} = 0 ] || install "${missing[@]}"
  ! wants nginx && ! wants nginx-16k || stream_module >/dev/null || install libnginx-mod-stream
}
