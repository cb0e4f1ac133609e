#!/usr/bin/env bash
# image.sh PROGRAM FOLDER: puts together in FOLDER what an image is built of: the Dockerfile, and as root/ the program with the
# libraries that it was linked with, the authorities of this machine, and a configuration. ./dev release calls it.
set -euo pipefail
# Who runs in the image is another user, and has to read it.
umask 022
[ $# = 2 ] || { echo "usage: scripts/image.sh PROGRAM FOLDER" >&2; exit 2; }
program=$(realpath "$1") folder=$(realpath -m "$2")
cd "$(dirname "$0")/.."
. scripts/common.sh

authorities=/etc/ssl/certs/ca-certificates.crt
[ -e "$authorities" ] || install ca-certificates
root=$folder/root
# What is removed is what an earlier run made.
[ ! -e "$root" ] || [ -e "$root/usr/bin/witgate" ] || fail "$root is there, and is not of an image: name another folder"
rm -rf "$root" "$folder/state" "$folder/Dockerfile"
mkdir -p "$folder/state" "$root"/{etc/witgate,tmp}
chmod 1777 "$root/tmp"
put() { command install -D --mode="$1" "$2" "$root$3"; }

put 755 "$program" /usr/bin/witgate
# With a slash: those that are files, and the loader, whose path is in the program.
ldd "$program" | grep -oE '/[^ ]+' | sort -u | while read -r library; do put 755 "$library" "$library"; done
put 644 "$authorities" "$authorities"
put 644 packaging/image.toml /etc/witgate/witgate.toml
put 644 LICENSE /usr/share/doc/witgate/LICENSE
echo "witgate:x:65532:65532::/var/lib/witgate:/" >"$root/etc/passwd"
echo "witgate:x:65532:" >"$root/etc/group"
echo "hosts: files dns" >"$root/etc/nsswitch.conf"
command install --mode=644 packaging/Dockerfile "$folder/Dockerfile"
