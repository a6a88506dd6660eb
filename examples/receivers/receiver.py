"""A receiver: a worker of edge-relay that verifies each event and stores it in a file. See docs/receivers.md.

With WEBHOOK_URL, the relay POSTs events to that address, which has to lead to LISTEN. Without it, this is a pull worker.
"""

import base64, gzip, hmac, json, os, re, secrets, signal, socket, sys, threading, time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

RELAY = os.environ.get("RELAY", "").rstrip("/")
LINEAR_TOKEN = os.environ.get("LINEAR_TOKEN", "")
NAME = os.environ.get("NAME") or socket.gethostname()
LISTEN = os.environ.get("LISTEN") or "127.0.0.1:8080"
WEBHOOK_URL = os.environ.get("WEBHOOK_URL", "")
DIR = Path(os.environ.get("DIR") or "events")

TOLERANCE = RENEWAL_INTERVAL = 300  # seconds
SIGNED_LIMIT, UNSIGNED_LIMIT = 10_000_000, 4096  # bytes of a body

# `nonce` is that of a registration under way; the rest is what the last registration returned.
worker = SimpleNamespace(nonce="", path="", token="", key=b"", state="")
storing = threading.Lock()


def printable(text):
    return "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in str(text))


def log(text):
    print(printable(text), file=sys.stderr, flush=True)


def parse(body):
    """The fields of a JSON object; none if the body is not one."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def mac(*parts):
    """The HMAC over the parts, as `webhook-signature` and `webhook-receipt` hold it."""
    return b"v1," + base64.b64encode(hmac.digest(worker.key, b".".join(parts), "sha256"))


def is_signed(id, timestamp, signatures, body):
    """Whether one of the signatures was made with our key. If so, the id can be the name of a file."""
    if not worker.key or not re.fullmatch("[A-Za-z0-9_-]{1,128}", id) or not re.fullmatch("[0-9]{1,12}", timestamp):
        return False
    expected = mac(id.encode(), timestamp.encode(), body)
    return any([hmac.compare_digest(expected, given.encode()) for given in signatures.split(" ")])


def store(id, body):
    """Stores an event durably, unless it is stored already."""
    path, part = DIR / f"{id}.json", DIR / f"{id}.part"
    with storing:
        is_new = not path.exists()
        if is_new:
            with open(part, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
        directory = os.open(DIR, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        if is_new:
            print(id, printable(parse(body).get("type", "")), flush=True)


def receive(headers, body):
    """Answers a request: status, headers, body."""
    id, timestamp, signatures = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not signatures:
        fields = parse(body)
        if fields.get("type") != "edge.challenge" or not worker.nonce or fields.get("nonce") != worker.nonce:
            return 401, {}, b""
        return 200, {"content-type": "application/json"}, json.dumps({"challenge": fields.get("challenge")}).encode()
    if not is_signed(id, timestamp, signatures, body):
        return 401, {}, b""
    receipt = {"webhook-receipt": mac(b"receipt", id.encode(), timestamp.encode()).decode()}
    if abs(time.time() - int(timestamp)) > TOLERANCE:
        return 401, receipt, b""
    if parse(body).get("type") != "edge.ping":
        try:
            store(id, body)
        except OSError as error:
            log(f"cannot store {id}: {error}")
            # Without `Retry-After`: the relay then keeps the event until this worker can store it.
            return 503, receipt, b""
    return 204, receipt, b""


class Handler(BaseHTTPRequestHandler):
    timeout = 10  # seconds without a byte

    def do_POST(self):
        limit = SIGNED_LIMIT if self.headers.get("webhook-signature") else UNSIGNED_LIMIT
        length = self.headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,12}", length) or int(length) > limit:
            return self.answer(413 if length else 411)
        body = self.rfile.read(int(length))
        self.answer(*receive(self.headers, body) if len(body) == int(length) else [400])

    def answer(self, status, headers={}, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_):
        log(f"a request broke off: {sys.exc_info()[1]}")


class CallError(Exception):
    """A call to the relay failed. If `is_refused`, it would fail again; otherwise it may succeed after `wait` seconds."""

    def __init__(self, text, status=0, code="", wait=0):
        super().__init__(text)
        self.status, self.code, self.wait = status, code, wait
        self.is_refused = 400 <= status < 500 and status != 429 and code != "worker_changed"


def call(method, path, body):
    """Calls the relay. Redirects are not followed, since a call carries a token."""
    url = urlsplit(RELAY + path)
    connection = (HTTPSConnection if url.scheme == "https" else HTTPConnection)(url.netloc, timeout=30)
    headers = {"content-type": "application/json", "accept-encoding": "gzip", "authorization": f"Bearer {worker.token}"}
    try:
        connection.request(method, url.path, json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        fields = parse(gzip.decompress(content) if answer.getheader("content-encoding") == "gzip" else content)
    except (OSError, EOFError, HTTPException) as error:
        raise CallError(f"the relay cannot be reached: {error}") from None
    finally:
        connection.close()
    if 200 <= answer.status < 300 and "state" in fields:
        return fields
    code, wait = fields.get("code", ""), answer.getheader("retry-after", "")
    wait = int(wait) if re.fullmatch("[0-9]{1,4}", wait) else 0
    raise CallError(f"the relay answered {answer.status} {code}: {fields.get('detail', '')}", answer.status, code, wait)


def register():
    worker.nonce = secrets.token_urlsafe(24)
    request = {"linearToken": LINEAR_TOKEN, "name": NAME, "nonce": worker.nonce, "pulls": not WEBHOOK_URL}
    if WEBHOOK_URL:
        request |= {"webhookUrl": WEBHOOK_URL, "receipts": True}
    try:
        answer = call("POST", "/edge/register", request)
    finally:
        worker.nonce = ""
    worker.key = base64.b64decode(answer["secret"].removeprefix("whsec_"))
    worker.path, worker.token, worker.state = answer["worker"], answer["token"], answer["state"]
    log(f"registered as {NAME} in {answer['workspace']['name']}: {worker.state}")


def renew():
    # The token shows which teams its user sees. An OAuth token may have expired, and then the relay would remove the worker.
    shown = {"linearToken": LINEAR_TOKEN} if LINEAR_TOKEN.startswith("lin_api_") else {}
    worker.state = call("PUT", worker.path, shown)["state"]


def pull():
    """Empties the mailbox, the oldest event first. Returns whether it held any."""
    ack = []
    while True:
        answer = call("POST", f"{worker.path}/mailbox", {"ack": ack, "limit": 100})
        worker.state = answer["state"]
        if not answer["events"]:
            return bool(ack)
        ack = []
        for event in answer["events"]:
            id, timestamp, signatures = (event["headers"][f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
            if not is_signed(id, timestamp, signatures, event["body"].encode()):
                raise CallError("the signature of the oldest event in the mailbox does not match")
            store(id, event["body"].encode())
            ack.append(event["id"])


def stay_registered():
    """Registers, renews, and empties the mailbox while the worker is not live. Returns when the relay refuses the worker."""
    failures, idle, renew_at = 0, 2, 0
    while True:
        try:
            if not worker.token or time.monotonic() >= renew_at:
                renew() if worker.token else register()
                renew_at = time.monotonic() + RENEWAL_INTERVAL
            if worker.state != "live":
                idle = 2 if pull() else min(2 * idle, 8)
            failures, wait = 0, idle if worker.state == "pull" else RENEWAL_INTERVAL
        except (CallError, OSError) as error:
            log(error)
            failed = error if isinstance(error, CallError) else CallError("")
            failures, wait = failures + 1, max(min(2**failures, 60), failed.wait)
            if failed.is_refused and (not worker.token or failed.code == "worker_token_replaced"):
                return
            if failed.status == 401 or failed.code == "membership_check_due":
                worker.token = ""
        time.sleep(wait)


def main():
    if not LINEAR_TOKEN or not re.match(r"https://|http://(127\.0\.0\.1|localhost)([:/]|$)", RELAY):
        sys.exit("set LINEAR_TOKEN, and RELAY to an address that begins with https:// or is on this machine")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    if WEBHOOK_URL:
        host, port = LISTEN.rsplit(":", 1)
        server = Server((host, int(port)), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        log(f"listening on http://{host}:{server.server_port}")
    stay_registered()
    sys.exit(1)


if __name__ == "__main__":
    main()
