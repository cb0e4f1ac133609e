#!/usr/bin/env bash
# Builds what is handed out, in target/handout: the release (fat LTO, stripped, symbols beside it), guided by a profile of
# the load of the proxy benchmark. The compiler then knows which branches requests take and lays the code out for them.
#
# The program is built twice: once so that it counts what it executes, and again with these counts. Everything comes from the
# toolchain in use, since a profile can be read by the LLVM that made it alone.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

[ $# = 0 ] || fail "./dev release takes no arguments"
command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
scripts/machine.sh llvm-tools
command -v objcopy >/dev/null || install binutils
# Other compilers link without scripts/link.sh, which puts the symbols aside; build.rs decides.
cc -wrapper env -x c -E /dev/null >/dev/null 2>&1 ||
  fail "the release is linked with GCC, which puts its symbols aside, and \`cc\` is another compiler here"

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
work=$target/guided handout=$target/handout
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata

# build FOLDER FLAG: a release below $work/FOLDER with one more flag for the compiler; `built` is where. With a target named,
# flags do not reach what runs during the build, whose counts would be in the profile, too.
build() {
  local flags folder=$work/$1
  read -ra flags <<<"${RUSTFLAGS:-}"
  flags+=("$2")
  CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}") \
    $CARGO build --release --locked --bin witgate --target "$host" --target-dir "$folder"
  built=$folder/$host/release
  [ -s "$built/witgate.debug" ] || fail "the build put no symbols beside $built/witgate
They are put there when the linker is GCC's: look for a \`linker\` in cargo's configuration, in CARGO_TARGET_*_LINKER, and for a
comma in the path of this folder."
}

# What an earlier run has left must not be taken for this one's.
rm -rf "$work/counts" "$work/with-profile" "$work"/*.profdata
mkdir -p "$work/counts"

say "1 of 4: the program that counts; ten minutes or more on two cores, and as long again in step 4"
build counting "-Cprofile-generate=$work/counts"

say "2 of 4: the load, the rows of ./dev bench proxy; 5 minutes"
benches/proxy/run.sh --gateway "counting=$built/witgate" --output "$work/load" \
  --rounds 1 --seconds 10 p2c-ewma round-robin >/dev/null

say "3 of 4: the profile"
shopt -s nullglob
counts=("$work/counts"/*.profraw)
[ ${#counts[@]} -gt 0 ] || fail "the program that counts left nothing in $work/counts: did it end by itself?"
"$profdata" merge --output="$work/new.profdata" "${counts[@]}"
"$profdata" show "$work/new.profdata" >&2
# Cargo looks at the flags, not into the files that they name. So a profile has a name that no other has.
profile=$work/$(sha256sum "$work/new.profdata" | cut -c 1-16).profdata
mv "$work/new.profdata" "$profile"

say "4 of 4: the program for which the profile is"
build with-profile "-Cprofile-use=$profile"

say "Whether it serves"
benches/proxy/run.sh --gateway "guided=$built/witgate" --output "$work/trial" --short p2c-ewma >/dev/null

rm -rf "$handout" "$handout.new"
mkdir -p "$handout.new"
cp "$built"/witgate{,.debug} "$handout.new"
rm -rf "$work/with-profile"
scripts/package.sh "$handout.new/witgate" "$handout.new"
scripts/image.sh "$handout.new/witgate" "$handout.new/image"
(cd "$handout.new" && find witgate* image -type f -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
mv "$handout.new" "$handout"
"$handout/witgate" --version
ls -l "$handout"
