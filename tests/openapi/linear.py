"""A stand-in for Linear's GraphQL API, and for the receiver of a worker, on a free port of loopback.

The name of a token decides the answer, see ACCOUNTS and FAULTS. Linear does not accept any other token. As a receiver, `/webhook`
echoes challenges and answers everything else with 204, `/silent` echoes nothing.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORKSPACE = "f6fadfa7-e5c1-4b62-9362-da5cc13da58a"
# A webhook secret belongs to it, so that it is served.
OTHER_WORKSPACE = "00000000-0000-4000-8000-000000000001"
UNSERVED_WORKSPACE = "00000000-0000-4000-8000-000000000002"
TEAM_KEYS = ["HER", "OPS"]
USER = "ac8efe12-1c59-49f1-ba2d-de83458bfed0"
OTHER_USER = "ac8efe12-1c59-49f1-ba2d-de83458bfed1"


def account(user=USER, workspace=WORKSPACE, active=True, guest=False):
    """The answer for a token of this user."""
    nodes = [{"id": f"team-{key.lower()}", "key": key} for key in TEAM_KEYS]
    viewer = {
        "id": user,
        "name": "Ana Petrov",
        "displayName": "ana",
        "email": "ana@heron.example",
        "active": active,
        "guest": guest,
        "app": False,
    }
    return {
        "data": {
            "viewer": viewer,
            "organization": {"id": workspace, "urlKey": "heronworks", "name": "Heron Works"},
            "teams": {"nodes": nodes, "pageInfo": {"hasNextPage": False, "endCursor": None}},
        }
    }


def refusal(code):
    return {"errors": [{"message": code, "extensions": {"code": code}}]}


ACCOUNTS = {
    "lin_api_example": account(),
    "lin_api_other": account(user=OTHER_USER),
    "lin_api_elsewhere": account(workspace=UNSERVED_WORKSPACE),
    "lin_api_guest": account(guest=True),
    "lin_api_inactive": account(active=False),
}

FAULTS = {
    "lin_api_forbidden": (403, refusal("FORBIDDEN")),
    "lin_api_malformed": (400, refusal("INPUT_ERROR")),
    "lin_api_down": (500, refusal("INTERNAL_SERVER_ERROR")),
    "lin_api_ratelimited": (400, refusal("RATELIMITED")),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/webhook":
            message = json.loads(body)
            if message.get("type") == "edge.challenge":
                self.answer(200, {"challenge": message["challenge"]})
            else:
                self.answer(204, None)
        elif self.path == "/silent":
            self.answer(200, {})
        else:
            token = self.headers.get("authorization", "")
            if token in ACCOUNTS:
                self.answer(200, ACCOUNTS[token])
            else:
                self.answer(*FAULTS.get(token, (401, refusal("AUTHENTICATION_ERROR"))))

    def answer(self, status, value):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def start():
    """Serves in the background. Returns the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"
