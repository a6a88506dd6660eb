#!/usr/bin/env bash
# Makes the Debian packages of edge-agent and edge-relay from programs that are built: `cargo install cargo-deb --locked` first.
#
#   packaging/deb.sh <profile: release, dev> <directory to write into>
set -euo pipefail
cd "$(dirname "$0")/.."

profile="$1" out="$2"
directory="$profile"
[ "$profile" = dev ] && directory=debug
packaging/generate.sh "target/$directory" target/packaging
mkdir -p "$out"
for package in edge-agent local; do
    cargo deb --package "$package" --profile "$profile" --no-build --locked --output "$out/"
done
