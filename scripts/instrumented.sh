#!/bin/sh
# The compiler for the packages of this workspace while they are built for the fuzzer: `RUSTC_WORKSPACE_WRAPPER` of
# `./dev fuzz`. Tells the fuzzer what a run has met, as far as a stable compiler can; libraries of others are left as they
# are, so that they are the same files that tests and the demo use. A build script is linked without the fuzzer.
case " $* " in
  *" --crate-name build_script_"*) exec "$@" ;;
esac
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
