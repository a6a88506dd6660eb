"""Tests `edge-relay serve` against docs/openapi.yaml: `run.py <edge-relay>`. See README.md.

Starts a stand-in for Linear and the relay on free ports of loopback, runs schemathesis, and ends the relay by its pid. Exits with
schemathesis's code, or with 1 if one of the other checks fails.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import codes
import linear

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent.parent / "docs" / "openapi.yaml"
SECRET = "an-openapi-webhook-secret"
BOUND_SECRET = "a-secret-of-another-workspace"
START_SECONDS = 20


class Relay:
    """`edge-relay serve` in memory, with these settings beside the common ones."""

    def __init__(self, program, stand_in, **settings):
        secrets = (
            f'[{{"secret":"{SECRET}"}},{{"secret":"{BOUND_SECRET}","workspace":"{linear.OTHER_WORKSPACE}"}}]'
        )
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "LINEAR_WEBHOOK_SECRETS": secrets,
            "LINEAR_API_URL": f"{stand_in}/graphql",
            "WORKSPACES": linear.WORKSPACE,
            "REGISTRATIONS_PER_MINUTE": "100000",
            "WORKERS_PER_USER": "100000",
            "WORKERS_PER_WORKSPACE": "100000",
            **settings,
        }
        arguments = ["serve", "--in-memory", "--listen", "127.0.0.1:0", "--allow-private-workers"]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [program, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(rb"agents\s+(http://\S+)", self.read_log())
            if found:
                self.url = found[1].decode()
                return
            time.sleep(0.05)
        log = self.read_log().decode(errors="replace")
        self.stop()
        sys.exit(f"the relay did not start within {START_SECONDS} s:\n{log}")

    def read_log(self):
        """What the relay has written. Reading does not move the place where it writes."""
        return os.pread(self.log.fileno(), 1 << 30, 0)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def schemathesis(relay, stand_in):
    """Runs schemathesis. Returns its exit code."""
    environment = {
        **os.environ,
        "EDGE_RELAY_URL": relay.url,
        "STAND_IN_URL": stand_in,
        "EDGE_RELAY_SECRET": SECRET,
        "PYTHONPATH": str(HERE),
    }
    command = [
        Path(sys.executable).parent / "schemathesis",
        "--config-file",
        HERE / "schemathesis.toml",
        "run",
        DOCUMENT,
        "--url",
        relay.url,
        "--no-color",
        *sys.argv[2:],
    ]
    return subprocess.run(command, env=environment, cwd=HERE, check=False).returncode


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    program = os.path.abspath(sys.argv[1])
    begun = time.monotonic()
    failed = codes.check_document(DOCUMENT)
    stand_in = linear.start()
    relays = []
    try:
        relays.append(Relay(program, stand_in))
        relays.append(Relay(program, stand_in, WORKERS_PER_USER="1", REGISTRATIONS_PER_MINUTE="6", MEMBERSHIP_SECONDS="1"))
        failed += codes.check_calls(DOCUMENT, *relays, stand_in, SECRET, BOUND_SECRET)
        code = schemathesis(relays[0], stand_in)
        failed += [f"a relay ended by itself with {relay.process.returncode}" for relay in relays if relay.process.poll()]
    finally:
        for relay in relays:
            relay.stop()
    for problem in failed:
        print(f"FAILED {problem}")
    print(f"{time.monotonic() - begun:.0f} s")
    sys.exit(code or bool(failed))


if __name__ == "__main__":
    main()
