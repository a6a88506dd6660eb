#!/usr/bin/env bash
# Prints the part of CHANGELOG.md that is about a version, for the notes of its release.
#
#   packaging/changes.sh <version>
set -euo pipefail
cd "$(dirname "$0")/.."

changes=$(awk -v heading="## $1 " 'index($0, heading) == 1 { found = 1; next } /^## / { found = 0 } found' CHANGELOG.md)
if [ -z "$changes" ]; then
    echo "CHANGELOG.md has no heading \`## $1 - <date>\`" >&2
    exit 1
fi
printf '%s\n' "$changes"
