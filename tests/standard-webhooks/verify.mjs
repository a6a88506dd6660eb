// Asks the official Standard Webhooks library about each line, {"secret", "headers", "body"}, with the body in base64.
import { createInterface } from "node:readline";
import { Webhook } from "standardwebhooks";

for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  const bytes = Buffer.from(body, "base64");
  try {
    const payload = new Webhook(secret).verify(bytes, headers);
    console.log(JSON.stringify({ verified: true, payload }));
  } catch (error) {
    console.log(JSON.stringify({ verified: false, reason: error.message }));
  }
}
