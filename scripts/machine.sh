#!/usr/bin/env bash
# What a build needs beyond rustup: a C compiler, protoc with its include files, the wasm target.
# Installs what is missing and says nothing otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
command -v cargo >/dev/null || fail "cargo is missing: install Rust with rustup, see https://rustup.rs"
rustc --version >/dev/null 2>&1 || {
  say "Installing the stable Rust toolchain"
  rustup toolchain install stable --profile minimal
}

packages=()
command -v cc >/dev/null && [ -e /usr/include/stdio.h ] || packages+=(gcc libc6-dev)
command -v protoc >/dev/null || packages+=(protobuf-compiler)
[ -e "$(dirname "$(command -v protoc || echo /usr/bin/protoc)")/../include/google/protobuf/any.proto" ] ||
  packages+=(libprotobuf-dev)
[ ${#packages[@]} = 0 ] || install "${packages[@]}"

# Without rustup the toolchain is somebody else's, and so are its targets and tools.
have() { [ -e "$(rustc --print sysroot)/$1" ]; }
target=wasm32-wasip2
if ! have "lib/rustlib/$target/lib"; then
  command -v rustup >/dev/null || fail "this Rust has no standard library for $target"
  say "Adding the target $target"
  rustup target add $target
fi
for component in "$@"; do
  case $component in
    rustfmt) tool=bin/rustfmt ;;
    clippy) tool=bin/cargo-clippy ;;
    llvm-tools) tool=lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/llvm-profdata ;;
  esac
  have "$tool" || {
    command -v rustup >/dev/null || fail "this Rust has no $component, and without rustup nothing adds it; see https://rustup.rs"
    say "Adding $component"
    rustup component add "$component"
  }
done
