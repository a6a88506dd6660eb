#!/usr/bin/env bash
# Makes the archive of a release, and its checksum in the form of `sha256sum`:
#
#   packaging/archive.sh <directory of the programs> <target triple> <directory to write into>
#
# It holds edge-agent and edge-relay with their manual pages, completions and the schema, the licences, README and CHANGELOG, and on
# Linux the unit of edge-relay.
set -euo pipefail
cd "$(dirname "$0")/.."

programs="$1" target="$2" out="$3"
programs=$(cd "$programs" && pwd)
version=$("$programs/edge-agent" --version | cut -d ' ' -f 2)
name="edge-relay-$version-$target"
mkdir -p "$out"
out=$(cd "$out" && pwd)
packaging/generate.sh "$programs" "$out/$name"
cp "$programs/edge-agent" "$programs/edge-relay" README.md CHANGELOG.md LICENSE LICENSE-APACHE LICENSE-MIT "$out/$name"
case "$target" in
*linux*) cp packaging/edge-relay.service packaging/environment "$out/$name" ;;
esac
cd "$out"
# The owner is not who made the archive. GNU tar and macOS's name the option differently.
owner=(--owner=0 --group=0 --numeric-owner)
if tar --version | grep -q bsdtar; then owner=(--uid 0 --gid 0); fi
COPYFILE_DISABLE=1 tar "${owner[@]}" -czf "$name.tar.gz" "$name"
rm -rf "$name"
# macOS has no sha256sum.
if command -v sha256sum >/dev/null; then
    sha256sum "$name.tar.gz" >"$name.tar.gz.sha256"
else
    shasum -a 256 "$name.tar.gz" >"$name.tar.gz.sha256"
fi
