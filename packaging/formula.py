#!/usr/bin/env python3
"""Makes the Homebrew formula of a release from its archives' checksums.

    packaging/formula.py <homepage> <version> <directory with the *.sha256 files>

The formula goes to stdout. A target without a checksum is an error: a formula has all four or does not exist.
"""

import pathlib
import re
import sys

TEMPLATE = pathlib.Path(__file__).with_name("homebrew") / "edge-agent.rb"


def formula(homepage: str, version: str, checksums: pathlib.Path) -> str:
    def value(match: re.Match[str]) -> str:
        kind, target = match["kind"], match["target"]
        archive = f"edge-relay-{version}-{target}.tar.gz"
        match kind:
            case "HOMEPAGE":
                return homepage
            case "VERSION":
                return version
            case "URL":
                return f"{homepage}/releases/download/v{version}/{archive}"
            case "SHA256":
                digest = (checksums / f"{archive}.sha256").read_text().split()[0]
                if not re.fullmatch("[0-9a-f]{64}", digest):
                    sys.exit(f"`{archive}.sha256` does not begin with a SHA-256 in hex")
                return digest
        sys.exit(f"the template has an unknown placeholder: {match[0]}")

    text = TEMPLATE.read_text()
    text = text[text.index("class ") :]
    return re.sub(r"@(?P<kind>[A-Z0-9]+)(?::(?P<target>[a-z0-9_-]+))?@", value, text)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.stdout.write(formula(sys.argv[1].rstrip("/"), sys.argv[2], pathlib.Path(sys.argv[3])))
