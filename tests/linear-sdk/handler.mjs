// Code that uses Linear's own SDK, unchanged: what its README tells to write, and a line of JSON for each event.
import { createServer } from "node:http";
import { LinearWebhookClient } from "@linear/sdk/webhooks";

const handler = new LinearWebhookClient(process.env.LINEAR_WEBHOOK_SECRET).createHandler();
handler.on("*", (payload) => console.log(JSON.stringify(payload)));
const server = createServer(handler).listen(0, "127.0.0.1", () => console.log(server.address().port));
