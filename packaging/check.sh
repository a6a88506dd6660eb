#!/usr/bin/env bash
# Makes and tries everything that a release consists of, with the programs of `cargo build`, and lints what describes it.
#
#   packaging/check.sh
#
# It needs cargo-deb, actionlint, zizmor, hadolint, taplo, shellcheck, ruby and systemd-analyze, which .ci/run provides. The Debian packages
# are installed and removed if CI is set and this is root; otherwise they are unpacked.
set -euo pipefail
cd "$(dirname "$0")/.."

out=target/packaging-check
rm -rf "$out"
mkdir -p "$out"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
target=$(rustc -vV | sed -n 's/^host: //p')

# --- what describes a release ---
actionlint
zizmor --offline --quiet .github
hadolint packaging/Containerfile
shellcheck packaging/*.sh .ci/run
packaging/changes.sh "$version" >"$out/changes.md"

# --- the archive ---
packaging/archive.sh target/debug "$target" "$out"
(cd "$out" && sha256sum --check --quiet ./*.sha256)
tar -xzf "$out/edge-relay-$version-$target.tar.gz" -C "$out"
archive="$out/edge-relay-$version-$target"
for file in edge-agent edge-relay man/edge-agent.1 man/edge-agent-up.1 man/edge-relay-serve.1 completions/edge-agent.bash \
    completions/edge-relay.fish completions/_edge-agent LICENSE-MIT LICENSE-APACHE README.md edge-relay.service; do
    test -s "$archive/$file"
done
for page in "$archive"/man/*.1; do
    # `mandoc` and `man` are not everywhere; each page has to begin as man(7) has it and name itself.
    grep -q "^\.TH $(basename "$page" .1) 1" "$page"
done
"$archive/edge-agent" --version | grep -Ex "edge-agent $version \([0-9a-f]{12} [0-9]{4}-[0-9]{2}-[0-9]{2}\)"

# --- the schema, by the program that editors ask ---
(cd "$out" && "../../$archive/edge-agent" --quiet init 3000 --relay http://127.0.0.1:9)
taplo lint --schema "file://$PWD/$archive/edge-agent.schema.json" "$out/edge-agent.toml"
printf 'tunnle = "auto"\n' >"$out/wrong.toml"
if taplo lint --schema "file://$PWD/$archive/edge-agent.schema.json" "$out/wrong.toml" 2>/dev/null; then
    echo "the schema takes a key that does not exist" >&2
    exit 1
fi

# --- the formula, with one checksum in the place of those that are made elsewhere ---
for other in aarch64-apple-darwin x86_64-apple-darwin aarch64-unknown-linux-gnu x86_64-unknown-linux-gnu; do
    test -e "$out/edge-relay-$version-$other.tar.gz.sha256" ||
        cp "$archive.tar.gz.sha256" "$out/edge-relay-$version-$other.tar.gz.sha256"
done
packaging/formula.py https://example.com/edge-relay "$version" "$out" >"$out/edge-agent.rb"
ruby -wc "$out/edge-agent.rb"
if grep -n '@[A-Z]' "$out/edge-agent.rb"; then exit 1; fi

# --- the Debian packages ---
packaging/deb.sh dev "$out"
for package in "$out"/*.deb; do dpkg-deb --field "$package" Depends | grep -q libc6; done
if [ -n "${CI:-}" ] && [ "$(id -u)" = 0 ]; then
    dpkg --install "$out"/*.deb
    trap 'dpkg --purge edge-agent edge-relay' EXIT
    root=""
    edge-agent --version
    edge-relay --version
    systemd-analyze verify --man=no edge-relay.service
else
    root="$out/root"
    for package in "$out"/*.deb; do dpkg-deb --extract "$package" "$root"; done
fi
for file in usr/bin/edge-agent usr/bin/edge-relay usr/share/man/man1/edge-agent.1.gz usr/share/man/man1/edge-relay-serve.1.gz \
    usr/share/bash-completion/completions/edge-agent usr/share/edge-agent/edge-agent.schema.json usr/share/doc/edge-agent/copyright; do
    test -s "$root/$file"
done
test "$(stat -c %a "$root/etc/edge-relay/environment")" = 600
# 0 is the best that a service can have, 100 the worst.
systemd-analyze security --offline=true --threshold=15 "$root/usr/lib/systemd/system/edge-relay.service" >"$out/security.txt" || {
    cat "$out/security.txt"
    exit 1
}
