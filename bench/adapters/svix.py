#!/usr/bin/env python3
"""Adapter for svix-server, so that `bench compare` can measure it: `svix.py [--listen HOST:PORT] [--pid PID]... BASE_URL`.

The author of this file did not run it against a svix-server. It was only tried against a stand-in that answers the same
calls. They are those of Svix's public REST API for applications, their endpoints, and messages.

BASE_URL is the server's, for example http://127.0.0.1:8071. The environment variable SVIX_TOKEN has the bearer token, which
`svix-server jwt generate` prints. A server that refuses to deliver to loopback needs 127.0.0.1/32 in its setting
`whitelist_subnets`. Each `--pid` names one process of the sender: the server, and the database and queue if they count.

README.md beside this file describes the contract. Bodies are handed over as they are. Svix may serialise them anew and sends its
own headers instead of Linear's, so the bench recognises an event by its body.
"""

import argparse
import http.client
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 30


class SvixError(Exception):
    """A call of Svix's API failed."""


class Svix:
    """Calls the API of one server, over one connection for each thread."""

    def __init__(self, base_url, token):
        base = urlsplit(base_url)
        if base.scheme not in ("http", "https") or not base.hostname:
            raise SystemExit(f"`{base_url}` is not an HTTP URL")
        self.connection_type = http.client.HTTPSConnection if base.scheme == "https" else http.client.HTTPConnection
        self.address = base.netloc
        self.prefix = base.path.rstrip("/") + "/api/v1/app/"
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self.local = threading.local()

    def call(self, method, path, body=None):
        """Returns the parsed response; a status other than 2xx is an error."""
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = self.local.connection = self.connection_type(self.address, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, self.prefix + path, body, self.headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            # The next call opens a new connection. This one is not repeated: the server may have accepted the event.
            connection.close()
            raise SvixError(f"{method} {path}: {error}") from error
        if not 200 <= response.status < 300:
            raise SvixError(f"{method} {path}: {response.status} {text[:200]!r}")
        return json.loads(text) if text else None


class Receivers:
    """The application that events are sent to now, and its endpoints."""

    def __init__(self, svix):
        self.svix = svix
        self.lock = threading.Lock()
        self.application = None
        self.endpoints = []

    def replace(self, urls):
        """Sends each further event to these URLs and to no others."""
        with self.lock:
            self._remove()
            if not urls:
                return
            # svix-server caches the endpoints of an application for some seconds. A new application is in no cache.
            self.application = self.svix.call("POST", "", json.dumps({"name": "edge-relay bench"}))["id"]
            for url in urls:
                endpoint = json.dumps({"url": url, "version": 1})
                self.endpoints.append(self.svix.call("POST", f"{self.application}/endpoint/", endpoint)["id"])

    def _remove(self):
        while self.endpoints:
            self.svix.call("DELETE", f"{self.application}/endpoint/{self.endpoints[-1]}/")
            self.endpoints.pop()
        if self.application:
            self.svix.call("DELETE", f"{self.application}/")
            self.application = None

    def send(self, event_type, body):
        """Returns once Svix has accepted the event."""
        application = self.application
        if application is None:
            raise SvixError("there are no receivers")
        # The body is not parsed here: that would cost time, and change its bytes.
        message = b'{"eventType":' + json.dumps(event_type).encode() + b',"payload":' + body + b"}"
        self.svix.call("POST", f"{application}/msg/?with_content=false", message)


class Adapter(BaseHTTPRequestHandler):
    """The three calls of the contract."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Set by `main`.
    receivers = None
    pids = ()

    def do_PUT(self):
        body = self._body()
        if self.path != "/receivers":
            self._answer(404)
            return
        try:
            urls = json.loads(body)["urls"]
        except (ValueError, KeyError, TypeError):
            self._answer(400, {"error": "the body is not {\"urls\": […]}"})
            return
        self._try(lambda: self.receivers.replace(urls), 204)

    def do_POST(self):
        body = self._body()
        if self.path != "/events":
            self._answer(404)
            return
        event_type = self.headers.get("Linear-Event") or "event"
        self._try(lambda: self.receivers.send(event_type, body), 202)

    def do_GET(self):
        if self.path == "/process" and self.pids:
            self._answer(200, {"pids": list(self.pids)})
        else:
            self._answer(404)

    def log_message(self, *_):
        """A line for each event would be measured, too."""

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _try(self, call, status):
        try:
            call()
        except SvixError as error:
            print(error, file=sys.stderr, flush=True)
            self._answer(502, {"error": str(error)})
        else:
            self._answer(status)

    def _answer(self, status, value=None):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    # The bench opens up to 64 connections at once.
    request_queue_size = 128
    daemon_threads = True


def main():
    arguments = argparse.ArgumentParser(description="An adapter between `bench compare` and svix-server.")
    arguments.add_argument("base_url", metavar="BASE_URL")
    arguments.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    arguments.add_argument("--pid", type=int, action="append", default=[], help="a process of the sender; may be repeated")
    given = arguments.parse_args()
    token = os.environ.get("SVIX_TOKEN")
    if not token:
        raise SystemExit("SVIX_TOKEN is not set")
    host, _, port = given.listen.rpartition(":")
    Adapter.receivers = Receivers(Svix(given.base_url, token))
    Adapter.pids = tuple(given.pid)
    with Server((host, int(port)), Adapter) as server:
        print(f"listening on http://{host}:{server.server_port}", file=sys.stderr, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
