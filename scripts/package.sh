#!/usr/bin/env bash
# package.sh PROGRAM FOLDER: makes of a program what distributions take, in FOLDER: a .deb with the unit, and the list of what
# it is built of (SBOM, CycloneDX). ./dev release calls it.
set -euo pipefail
[ $# = 2 ] || { echo "usage: scripts/package.sh PROGRAM FOLDER" >&2; exit 2; }
program=$(realpath "$1") folder=$(realpath -m "$2")
cd "$(dirname "$0")/.."
. scripts/common.sh

for needed in dpkg-deb:dpkg dpkg-shlibdeps:dpkg-dev objdump:binutils; do
  command -v "${needed%:*}" >/dev/null || install "${needed#*:}"
done

version=$("$program" --version | sed -n 's/^witgate //p')
[ -n "$version" ] || fail "$program does not say its version"
mkdir -p "$folder"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

say "What it is built of"
scripts/sbom.sh >"$folder/witgate.cdx.json"

say "The package"
architecture=$(dpkg --print-architecture)
tree=$root/tree
install_in() { command install -D --mode="$1" "${@:3}" "$tree/$2"; }
install_in 755 usr/bin/witgate "$program"
install_in 644 usr/lib/systemd/system/witgate.service packaging/witgate.service
install_in 644 etc/witgate/witgate.toml packaging/witgate.toml
install_in 644 usr/share/doc/witgate/copyright packaging/debian/copyright
install_in 644 usr/share/doc/witgate/witgate.cdx.json "$folder/witgate.cdx.json"
for page in docs/*.md docs/alerts.yml; do
  install_in 644 "usr/share/doc/witgate/${page#docs/}" "$page"
done
gzip --no-name --best <CHANGELOG.md >"$root/changelog.gz"
install_in 644 usr/share/doc/witgate/changelog.gz "$root/changelog.gz"
for script in postinst prerm postrm; do
  install_in 755 DEBIAN/$script packaging/debian/$script
done
echo /etc/witgate/witgate.toml >"$tree/DEBIAN/conffiles"

# It asks for a source package.
mkdir "$root/debian"
printf 'Source: witgate\n\nPackage: witgate\nArchitecture: any\n' >"$root/debian/control"
depends=$(cd "$root" && dpkg-shlibdeps -O "tree/usr/bin/witgate" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || fail "the libraries of $program belong to no package"
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@DEPENDS@/$depends/" \
  -e "s/@SIZE@/$(du -sk --exclude DEBIAN "$tree" | cut -f 1)/" packaging/debian/control >"$tree/DEBIAN/control"
(cd "$tree" && find usr etc -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
dpkg-deb --root-owner-group --build "$tree" "$folder/witgate_${version}_$architecture.deb" >&2
