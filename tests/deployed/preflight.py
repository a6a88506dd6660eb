"""Runs the code of the Preflight function, out of the translated template, with clients that answer as they are told.

python tests/deployed/preflight.py translated.json
"""

import io
import json
import os
import sys
import types

EVENT = {"DeploymentId": "d-1", "LifecycleEventHookExecutionId": "e-1"}


class Clients:
    """What the code asks of boto3."""

    def __init__(self, invoke):
        self.invoke = lambda FunctionName, Payload: invoke(FunctionName, json.loads(Payload))
        self.reported = []

    def client(self, name):
        return self

    def put_lifecycle_event_hook_execution_status(self, **status):
        self.reported.append(status)


def run(code, invoke):
    """Answers with the status that was reported."""
    clients = Clients(invoke)
    module = types.ModuleType("index")
    sys.modules["boto3"] = types.SimpleNamespace(client=clients.client)
    exec(code, module.__dict__)
    module.handler(EVENT, None)
    (reported,) = clients.reported
    assert reported["deploymentId"] == "d-1" and reported["lifecycleEventHookExecutionId"] == "e-1", reported
    return reported["status"]


def main():
    with open(sys.argv[1]) as file:
        properties = json.load(file)["Resources"]["Preflight"]["Properties"]
    code = properties["Code"]["ZipFile"]
    # Lambda's limit for code in a template.
    assert len(code) <= 4096, len(code)
    versions = list(properties["Environment"]["Variables"])
    assert sorted(versions) == ["DELIVER", "HEALTH", "INGEST", "REGISTER"], versions
    os.environ.update({name: name.lower() for name in versions})

    started = []

    def answers(version, event):
        started.append(version)
        return {"StatusCode": 200}

    assert run(code, answers) == "Succeeded"
    assert sorted(started) == ["deliver", "health", "ingest", "register"], started

    for failing in started:

        def fails(version, event):
            if version == failing:
                return {"FunctionError": "Unhandled", "Payload": io.BytesIO(b'{"errorType":"Runtime.ExitError"}')}
            return {"StatusCode": 200}

        def throttled(version, event):
            if version == failing:
                raise RuntimeError("TooManyRequestsException")
            return {"StatusCode": 200}

        assert run(code, fails) == "Failed", failing
        assert run(code, throttled) == "Failed", failing


if __name__ == "__main__":
    main()
