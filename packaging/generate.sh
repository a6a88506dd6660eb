#!/usr/bin/env bash
# Has the programs write their manual pages, completions and schema, for archives and packages.
#
#   packaging/generate.sh <directory of the programs> <directory to write into>
set -euo pipefail

programs="$1" out="$2"
rm -rf "$out/man" "$out/completions"
mkdir -p "$out/man" "$out/completions"
for program in edge-agent edge-relay; do
    "$programs/$program" man "$out/man"
    "$programs/$program" completions bash >"$out/completions/$program.bash"
    "$programs/$program" completions fish >"$out/completions/$program.fish"
    "$programs/$program" completions zsh >"$out/completions/_$program"
done
"$programs/edge-agent" schema >"$out/edge-agent.schema.json"
