"""Asks the official Standard Webhooks library about each line, {"secret", "headers", "body"}, with the body in base64."""

import base64
import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    call = json.loads(line)
    body = base64.b64decode(call["body"])
    try:
        payload = Webhook(call["secret"]).verify(body, call["headers"])
        answer = {"verified": True, "payload": payload}
    except WebhookVerificationError as error:
        answer = {"verified": False, "reason": str(error)}
    print(json.dumps(answer), flush=True)
