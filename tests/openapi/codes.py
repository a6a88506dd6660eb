"""Beside schemathesis: whether docs/openapi.yaml has the relay's problem codes, and whether the relay answers with them.

`check_document` compares the codes with the table of the documentation. `check_calls` makes one call for each code and validates
its response against the operation, because generated requests reach few of them.
"""

import hashlib
import hmac
import http.client
import io
import json
import re
import socket
import threading
import time
from urllib.parse import urlsplit

import jsonschema_rs
import requests
import schemathesis
import urllib3
import yaml
from linear import WORKSPACE

TABLE_BEGIN = "<!-- Generated from protocol/src/problem.rs by its tests. -->"
PAGE = "api.md"

# The codes that no call here is answered with, each with its reason.
UNREACHED = {
    "internal_error": "needs a defect of the relay",
    "storage_unavailable": "needs a storage that fails",
    "worker_changed": "needs other calls that change the worker at the same moment, five times in a row",
    "webhook_secrets_malformed": "`edge-relay serve` reads its secrets at the start alone",
}

REGISTER = ("/edge/register", "POST")
WEBHOOK = ("/webhooks/linear", "POST")
WORKER = "/edge/workspaces/{workspace}/workers/{worker}"
MAILBOX = (f"{WORKER}/mailbox", "POST")


def documented(page):
    """The codes of the relay in the table of the documentation, each with its status."""
    table = page.read_text().split(TABLE_BEGIN)[1]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (relay|agent|both) \|", table, re.MULTILINE)
    return {code: int(status) for code, status, origin in rows if origin != "agent"}


def resolved(document, value):
    while isinstance(value, dict) and "$ref" in value:
        target = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        value = target
    return value


def codes_of(document, response):
    """The codes that a response names."""
    content = resolved(document, response).get("content", {}).get("application/problem+json")
    for part in content["schema"]["allOf"] if content else []:
        yield from part.get("properties", {}).get("code", {}).get("enum", [])


def check_document(path):
    """What is wrong with the codes and the examples in the document."""
    document = yaml.safe_load(path.read_text())
    expected = documented(path.parent / PAGE)
    named = document["components"]["schemas"]["ProblemCode"]["enum"]
    failed = list(check_examples(document, document))
    if named != sorted(expected):
        failed.append(f"ProblemCode differs from the table in {sorted(set(named) ^ set(expected))}, or is not sorted")
    used = set()
    for at, item in document["paths"].items():
        for method, operation in item.items():
            for status, response in operation["responses"].items() if method != "parameters" else []:
                for code in codes_of(document, response):
                    used.add(code)
                    if str(expected.get(code)) != status:
                        failed.append(f"{method} {at}: {code} is documented with {expected.get(code)}, here with {status}")
    for code in sorted(set(expected) - used):
        failed.append(f"{code} is in no response of an operation")
    return failed


def check_examples(document, value, at="#"):
    """The examples in this part of the document that are not valid against their schemas."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from check_examples(document, item, f"{at}/{index}")
    elif isinstance(value, dict):
        if isinstance(value.get("schema"), dict):
            schema = {**value["schema"], "components": document["components"]}
            examples = [example["value"] for example in value.get("examples", {}).values()]
            for example in examples + ([value["example"]] if "example" in value else []):
                for error in jsonschema_rs.validator_for(schema, validate_formats=True).iter_errors(example):
                    yield f"the example at {at}: {error.message}"
        for name, item in value.items():
            yield from check_examples(document, item, f"{at}/{name}")


class Calls:
    """Calls of one relay, each validated against the document."""

    def __init__(self, schema, url):
        self.schema, self.url = schema, url
        self.failed, self.seen = [], set()

    def call(self, operation, code, status=None, *, at=None, method=None, **request):
        """Makes a call and compares its code (or status, if it has none) with the expected one."""
        path, documented_method = operation
        request.setdefault("timeout", 20)
        response = requests.request(method or documented_method, self.url + (at or path), **request)
        return self.check(operation, code or status, response)

    def check(self, operation, expected, response):
        path, method = operation
        is_problem = response.headers.get("content-type") == "application/problem+json"
        got = response.json()["code"] if is_problem and response.content else response.status_code
        name = f"{method} {path}"
        if got != expected:
            self.failed.append(f"{name}: {expected} was expected, and is {got}: {response.text[:200]}")
        self.seen.add(got)
        try:
            self.schema[path][method].validate_response(response)
        except Exception as error:  # schemathesis raises one exception for each check, or a group of them.
            self.failed.append(f"{name}, {expected}: {error}")
        return response


def sign(secret, body):
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def webhook(secret, delivery="d-1", **fields):
    """The body and headers of a signed webhook."""
    payload = {"type": "Issue", "organizationId": WORKSPACE, "webhookTimestamp": int(time.time() * 1000), **fields}
    body = json.dumps({name: value for name, value in payload.items() if value is not ...}).encode()
    return {"data": body, "headers": {"Linear-Signature": sign(secret, body), "Linear-Delivery": delivery}}


def raw(url, body, declared, closes):
    """The response to a request whose body is shorter than it declares; `closes`: no more will come."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        head = f"POST /edge/register HTTP/1.1\r\nhost: relay\r\ncontent-length: {declared}\r\n\r\n"
        connection.sendall(head.encode() + body)
        if closes:
            connection.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(connection, method="POST")
        answer.begin()
        body, headers = io.BytesIO(answer.read()), dict(answer.getheaders())
        response = urllib3.HTTPResponse(body, headers, answer.status, version=11, preload_content=False)
        request = requests.Request("POST", f"{url}/edge/register").prepare()
        return requests.adapters.HTTPAdapter().build_response(request, response)


def check_webhooks(calls, secret, bound_secret):
    def post(code, status=None, **request):
        return calls.call(WEBHOOK, code, status, **request)

    first = webhook(secret, action="create")
    post(None, 200, **first)
    if not post(None, 200, **first).json().get("duplicate"):
        calls.failed.append("the same webhook again is no duplicate")
    post(None, 200, **webhook(secret, organizationId=None))
    post("body_malformed", **webhook(secret, type=...))
    post("timestamp_too_old", **webhook(secret, webhookTimestamp=1))
    post("timestamp_in_future", **webhook(secret, webhookTimestamp=int(time.time() * 1000) + 120_000))
    post("workspace_not_signed", **webhook(bound_secret))
    post("delivery_invalid", **webhook(secret, delivery="not one"))
    post("signature_missing", data=b"{}", headers={"Linear-Delivery": "d-2"})
    post("signature_invalid", **{**webhook(secret), "data": b"{}"})
    text = b"\xff"
    post("body_not_utf8", data=text, headers={"Linear-Signature": sign(secret, text), "Linear-Delivery": "d-3"})
    post("body_too_large", data=b" " * (6 * 1024 * 1024 + 1))
    post("method_not_allowed", method="GET")


def check_registrations(calls, stand_in):
    def post(code, status=None, **fields):
        body = {"linearToken": "lin_api_example", "name": "codes", **fields}
        return calls.call(REGISTER, code, status, json=body)

    post("invalid_request", name="")
    post("invalid_webhook_url", webhookUrl="https://user@worker.example.com/")
    post("address_blocked", webhookUrl="https://192.0.2.1/")
    post("challenge_failed", webhookUrl=f"{stand_in}/silent")
    post("unknown_team", filter={"teams": ["NONE"]})
    post("linear_token_malformed", linearToken="lin_api_malformed")
    post("linear_token_invalid", linearToken="lin_api_unknown")
    post("linear_token_forbidden", linearToken="lin_api_forbidden")
    post("linear_user_refused", linearToken="lin_api_guest")
    post("workspace_not_served", linearToken="lin_api_elsewhere")
    post("linear_unavailable", linearToken="lin_api_down")
    calls.call(REGISTER, "not_found", at="/edge/registers")
    calls.call(REGISTER, "method_not_allowed", method="GET")
    calls.call(REGISTER, "body_too_large", data=b" " * (64 * 1024 + 1))
    post(None, 201, webhookUrl=f"{stand_in}/webhook", nonce="n-1", name="live")
    post(None, 201)
    post("name_in_use", replace=False)


def registered(calls, **fields):
    """Registers a worker. Returns its path and the header with its token."""
    body = {"linearToken": "lin_api_example", "name": "worker", **fields}
    worker = calls.call(REGISTER, None, 201, json=body).json()
    return worker["worker"], {"Authorization": f"Bearer {worker['token']}"}


def check_worker(calls, secret, stand_in):
    replaced = registered(calls)[1]
    path, token = registered(calls, group="g", capabilities=["Issue"])
    get, put, delete = [(WORKER, method) for method in ("GET", "PUT", "DELETE")]

    def call(operation, code, status=None, headers=token, **request):
        at = f"{path}/mailbox" if operation == MAILBOX else path
        return calls.call(operation, code, status, at=at, headers=headers, **request)

    bodies = {get: {}, put: {"json": {}}, delete: {}, MAILBOX: {"json": {}}}
    for operation, body in bodies.items():
        call(operation, "worker_token_missing", headers={}, **body)
        call(operation, "worker_token_invalid", headers={"Authorization": "Bearer edge_0"}, **body)
        call(operation, "worker_token_replaced", headers=replaced, **body)
        call(operation, "body_too_large", data=b" " * (64 * 1024 + 1))
        call(operation, "method_not_allowed", method="PATCH")
    calls.call(WEBHOOK, None, 200, **webhook(secret, delivery="d-pulled", type="Issue", data={"id": "i"}))
    call(get, None, 200)
    call(put, "invalid_request", json={"state": "live"})
    call(put, "linear_user_differs", json={"linearToken": "lin_api_other"})
    call(put, "linear_token_forbidden", json={"linearToken": "lin_api_forbidden"})
    call(put, "linear_token_malformed", json={"linearToken": "lin_api_malformed"})
    call(put, "linear_unavailable", json={"linearToken": "lin_api_ratelimited"})
    call(put, "unknown_team", json={"filter": {"teams": ["NONE"]}})
    call(put, "challenge_failed", json={"webhookUrl": f"{stand_in}/silent"})
    call(put, None, 200, json={"linearToken": "lin_api_example", "filter": {"mine": True, "teams": ["her"]}})
    call(MAILBOX, "invalid_limit", json={"limit": 0})
    call(MAILBOX, "invalid_ack", json={"ack": ["x"]})
    call(MAILBOX, "invalid_request", json={"ack": "x"})
    pulled = eventually(lambda: call(MAILBOX, None, 200, json={}).json()["events"])
    call(MAILBOX, None, 200, json={"ack": [event["id"] for event in pulled], "limit": 1})
    call(put, None, 200, json={"webhookUrl": f"{stand_in}/webhook"})
    call(put, None, 200, json={"state": "away"})
    call(delete, None, 204)
    call(delete, "worker_token_invalid")
    path, token = registered(calls, name="guest")
    calls.call(put, "linear_user_refused", at=path, headers=token, json={"linearToken": "lin_api_inactive"})
    calls.call(get, "worker_token_invalid", at=path, headers=token)


def check_faults(calls):
    """Requests with a field of a wrong type, which the generated ones do not have."""
    path, token = registered(calls, name="faults")
    registration = {"linearToken": "lin_api_example", "name": "faulty"}
    requests_by_fault = {
        "`filter` is an empty list": ("POST", "/edge/register", {**registration, "filter": []}),
        "`filter` is a list": ("POST", "/edge/register", {**registration, "filter": [True, ["HER"]]}),
        "`filter.teams` is empty": ("POST", "/edge/register", {**registration, "filter": {"teams": []}}),
        "`filter` of a renewal is a list": ("PUT", path, {"filter": [False]}),
        "`state` is an object": ("PUT", path, {"state": {"away": None}}),
        "`receipts` is null": ("POST", "/edge/register", {**registration, "receipts": None}),
        "the body is a list": ("PUT", path, []),
        "`capabilities` is empty": ("PUT", path, {"capabilities": []}),
    }
    for fault, (method, at, body) in requests_by_fault.items():
        response = requests.request(method, calls.url + at, json=body, headers=token, timeout=10)
        if response.status_code != 400:
            calls.failed.append(f"{fault}: {method} answers {response.status_code}, not 400")


def eventually(look, seconds=10):
    """What `look` finds within this time."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def check_limits(calls):
    """Calls of a relay that allows one worker of a user, six registrations a minute, and checks members each second."""
    path, token = registered(calls)
    body = {"linearToken": "lin_api_example", "name": "second"}
    calls.call(REGISTER, "too_many_workers", json=body)
    time.sleep(1.1)
    calls.call((WORKER, "PUT"), "membership_check_due", at=path, headers=token, json={})
    calls.call(MAILBOX, "membership_check_due", at=f"{path}/mailbox", headers=token, json={})
    # The minute in which they are counted may end in between.
    for _ in range(16):
        response = requests.post(f"{calls.url}/edge/register", json=body, timeout=10)
        if response.status_code == 429:
            break
    calls.check(REGISTER, "too_many_registrations", response)


def check_calls(path, relay, strict, stand_in, secret, bound_secret):
    """What is wrong with the responses to these calls."""
    schema = schemathesis.openapi.from_path(path)
    calls, limited = Calls(schema, relay.url), Calls(schema, strict.url)
    slow = []
    waiting = threading.Thread(target=lambda: slow.append(raw(relay.url, b"{", 10, closes=False)))
    waiting.start()
    check_webhooks(calls, secret, bound_secret)
    check_registrations(calls, stand_in)
    check_worker(calls, secret, stand_in)
    check_faults(calls)
    check_limits(limited)
    calls.check(REGISTER, "body_broken_off", raw(relay.url, b"{", 10, closes=True))
    waiting.join()
    calls.check(REGISTER, "body_too_slow", slow[0])
    seen = calls.seen | limited.seen
    expected = set(documented(path.parent / PAGE))
    missing = expected - seen - set(UNREACHED)
    reached = seen & set(UNREACHED)
    print(f"{len(expected & seen)} of {len(expected)} problem codes were answered; not: {', '.join(sorted(UNREACHED))}")
    return (
        calls.failed
        + limited.failed
        + [f"no call was answered with {code}" for code in sorted(missing)]
        + [f"{code} was answered, though it is among UNREACHED" for code in sorted(reached)]
    )
