"""Hooks for schemathesis: they turn generated requests into requests that the relay can accept.

A schema cannot say that a signature must match, that a token must be one that Linear accepts, or that an address must answer a
challenge. Here, where the generated value is well formed, it is replaced by one that is right; where it is malformed, it stays.
`EDGE_RELAY_URL` is the relay, `STAND_IN_URL` the stand-in for Linear and for a receiver.
"""

import hashlib
import hmac
import os
import re
import time

import requests
import schemathesis
from linear import TEAM_KEYS

RELAY = os.environ["EDGE_RELAY_URL"]
RECEIVER = os.environ["STAND_IN_URL"] + "/webhook"
SECRET = os.environ["EDGE_RELAY_SECRET"]
# Replaced right before a request is sent. Requests from which schemathesis has removed it keep what they have.
PLACEHOLDER = "placeholder"
IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
WORKER_ID = re.compile(r"wrk_[0-9a-f]{32}")
LINEAR_TOKEN = re.compile(r"[!-~]([ -~]{0,1022}[!-~])?")
# One token in eight stays as it is generated, so that refused ones occur, too.
TOKENS_KEPT = 8

# The bearer tokens of the workers that were registered in this run, by workspace and worker.
tokens = {}
# The worker of the calls that name none of these.
current = None
calls = 0


def register():
    """Registers a pull worker."""
    body = {"linearToken": "lin_api_example", "name": "openapi"}
    response = requests.post(f"{RELAY}/edge/register", json=body, timeout=10)
    response.raise_for_status()
    return remember(response.json())


def remember(registered):
    key = (registered["workspace"]["id"], registered["workerId"])
    tokens[key] = registered["token"]
    return key


@schemathesis.auth(refresh_interval=None)
class Credentials:
    """Marks where credentials belong; `before_call` fills them in."""

    def get(self, case, context):
        return PLACEHOLDER

    def set(self, case, data, context):
        if case.operation.path == "/webhooks/linear":
            case.headers["Linear-Signature"] = data
        elif case.operation.path != "/edge/register":
            case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def before_call(context, case, kwargs):
    global calls
    calls += 1
    path = case.operation.path
    if path == "/webhooks/linear":
        sign(case)
    elif path == "/edge/register":
        admit(case.body)
    else:
        admit(case.body)
        authorize(case)


def sign(case):
    """Dates and signs a webhook."""
    if isinstance(case.body, dict):
        sent = case.body.get("webhookTimestamp")
        if isinstance(sent, (int, float)) and not isinstance(sent, bool):
            case.body["webhookTimestamp"] = int(time.time() * 1000)
    if case.headers.get("Linear-Signature") == PLACEHOLDER:
        request = requests.Request(**case.as_transport_kwargs(base_url=RELAY)).prepare()
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        case.headers["Linear-Signature"] = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def admit(body):
    """Replaces a well-formed token, address and team by one that Linear, the challenge and the filter accept."""
    if not isinstance(body, dict):
        return
    token = body.get("linearToken")
    if isinstance(token, str) and LINEAR_TOKEN.fullmatch(token) and calls % TOKENS_KEPT:
        body["linearToken"] = "lin_api_example"
    address = body.get("webhookUrl")
    if isinstance(address, str) and re.match(r"[a-z][a-z0-9+.-]*:", address, re.IGNORECASE) and len(address) <= 2048:
        body["webhookUrl"] = RECEIVER
    # The same user's workers are told apart by their names.
    if body.get("replace") is False:
        body["replace"] = True
    # To JSON Schema, 44.0 is an integer. The relay refuses it.
    if isinstance(body.get("limit"), float) and body["limit"].is_integer():
        body["limit"] = int(body["limit"])
    teams = body["filter"].get("teams") if isinstance(body.get("filter"), dict) else None
    if isinstance(teams, list) and all(isinstance(team, str) for team in teams):
        body["filter"]["teams"] = [TEAM_KEYS[at % len(TEAM_KEYS)] for at in range(len(teams))]


def authorize(case):
    """Addresses a worker that exists, with its token."""
    global current
    parameters = case.path_parameters
    key = (parameters.get("workspace"), parameters.get("worker"))
    if key not in tokens:
        is_well_formed = all(isinstance(part, str) for part in key) and (
            IDENTIFIER.fullmatch(key[0]) and WORKER_ID.fullmatch(key[1])
        )
        if is_well_formed:
            current = key = current or register()
            parameters["workspace"], parameters["worker"] = key
    if case.headers.get("Authorization") == f"Bearer {PLACEHOLDER}":
        case.headers["Authorization"] = f"Bearer {tokens.get(key, PLACEHOLDER)}"


@schemathesis.hook
def after_call(context, case, response):
    """Learns the tokens of new workers, and forgets a worker that was removed."""
    global current
    if case.operation.path == "/edge/register" and response.status_code == 201:
        remember(response.json())
    parameters = case.path_parameters or {}
    # A linearToken that is not accepted removes the worker, too.
    if current == (parameters.get("workspace"), parameters.get("worker")) and (
        response.status_code == 204 or (case.method == "PUT" and response.status_code in (401, 403))
    ):
        current = None


@schemathesis.check
def documented_fields(context, response, case):
    """No success has a field that the schema does not name. The schema allows more, for the sake of newer relays."""
    definition = case.operation.definition.raw["responses"].get(str(response.status_code))
    if definition is None or not 200 <= response.status_code < 300 or not response.content:
        return
    document = case.operation.schema.raw_schema
    while "$ref" in definition:
        definition = resolve(document, definition["$ref"])
    undocumented = list(unknown(document, definition["content"]["application/json"]["schema"], response.json()))
    assert not undocumented, f"fields that the schema does not name: {', '.join(undocumented)}"


def resolve(document, reference):
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


def unknown(document, schema, value, path=""):
    """The paths of the fields of `value` that `schema` does not name."""
    while "$ref" in schema:
        schema = resolve(document, schema["$ref"])
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from unknown(document, schema.get("items", {}), item, f"{path}[{at}]")
    elif isinstance(value, dict):
        if isinstance(schema.get("additionalProperties"), dict):
            return
        for name, inner in value.items():
            if name not in schema.get("properties", {}):
                yield f"{path}.{name}"
            else:
                yield from unknown(document, schema["properties"][name], inner, f"{path}.{name}")
