#!/usr/bin/env bash
# sbom.sh: what the program is built of, the plugins inside it included, as CycloneDX 1.6 on standard output.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh
command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
command -v jq >/dev/null || install jq

# metadata FOLDER TARGET: the packages that the lock file there names, for that target.
metadata() { (cd "$1" && cargo metadata --format-version 1 --locked --filter-platform "$2"); }

# checksums LOCK...: an object of the SHA-256 of packages, by name and version.
checksums() {
  awk -F'"' '/^name = /{name=$2} /^version = /{version=$2} /^checksum = /{print name "@" version "\t" $2}' "$@" |
    jq -R -n '[inputs / "\t" | {(.[0]): .[1]}] | add'
}

host=$(rustc -vV | sed -n 's/^host: //p')
# What the roots, and nothing else of a workspace, lead to without what only tests and builds use.
# shellcheck disable=SC2016
jq -n --argjson sums "$(checksums Cargo.lock plugins/Cargo.lock)" \
  --slurpfile gateway <(metadata . "$host") --slurpfile plugins <(metadata plugins wasm32-wasip2) '
  def kept($metadata; $roots):
    ($metadata.packages | INDEX(.id)) as $packages
    | ($metadata.resolve.nodes | INDEX(.id)
        | map_values([.deps[] | select(any(.dep_kinds[]; .kind == null)) | .pkg])) as $uses
    | def reached($known): ([$known[] | $uses[.][]] + $known | unique) as $more
        | if $more == $known then $known else reached($more) end;
    reached($roots | unique) | map({id: ., package: $packages[.], uses: $uses[.]});
  def name: "\(.name)@\(.version)";
  def purl: "pkg:cargo/\(name)";
  ($gateway[0] | kept(.; [.packages[] | select(.name == "witgate") | .id])) as $own
  | ($plugins[0] | . as $all
      | kept(.; [.workspace_members[] as $id | .packages[]
          | select(.id == $id and (.manifest_path | contains("/testing/") | not)) | .id])) as $inside
  | ($own + $inside | map({key: .id, value: (.package | purl)}) | from_entries) as $refs
  | ($own[] | .package | select(.name == "witgate")) as $self
  | {
      bomFormat: "CycloneDX", specVersion: "1.6", version: 1,
      metadata: {component: {
        type: "application", "bom-ref": ($self | purl), name: $self.name, version: $self.version, purl: ($self | purl),
        licenses: [{expression: $self.license}]}},
      components: [$own + $inside | unique_by(.package | purl)[] | .package | select(.name != "witgate")
        | {type: "library", "bom-ref": purl, name, version, purl: purl}
          + (if .license then {licenses: [{expression: (.license | gsub("/"; " OR "))}]} else {} end)
          + (if $sums[name] then {hashes: [{alg: "SHA-256", content: $sums[name]}]} else {} end)],
      dependencies: [$own + $inside | group_by(.package | purl)[]
        | {ref: (.[0].package | purl), dependsOn: ([.[].uses[] | $refs[.]] | unique)}]
    }'
