#!/usr/bin/env bash
# Links a release of witgate (build.rs has the compiler call this with the command that links) and puts what debuggers and
# backtraces need, four fifths of it, into witgate.debug beside the program. The program has its name, where both look.
set -euo pipefail

command=() program='' keep=''
for argument in "$@"; do
  case $argument in
    # It would be gone before it is put aside.
    --strip-all | -s) continue ;;
    # A test of the program, not the program.
    */libtest-*) keep=1 ;;
  esac
  [ "${command[*]: -1}" != -o ] || program=$argument
  command+=("$argument")
done
"${command[@]}"
[ -z "$keep" ] || exit 0

# Cargo links in target/release/deps and shows the program in target/release.
symbols=$(dirname "$(dirname "$program")")/witgate.debug
objcopy --only-keep-debug "$program" "$symbols"
chmod -x "$symbols"
objcopy --strip-all --add-gnu-debuglink="$symbols" "$program"
