// A receiver: a worker of edge-relay that verifies each event and stores it in a file. See docs/receivers.md.
//
// With WEBHOOK_URL, the relay POSTs events to that address, which has to lead to LISTEN. Without it, this is a pull worker.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, renameSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const RELAY = (process.env.RELAY ?? "").replace(/\/+$/, "");
const LINEAR_TOKEN = process.env.LINEAR_TOKEN ?? "";
const NAME = process.env.NAME || hostname();
const LISTEN = process.env.LISTEN || "127.0.0.1:8080";
const WEBHOOK_URL = process.env.WEBHOOK_URL ?? "";
const DIR = process.env.DIR || "events";

const [TOLERANCE, RENEWAL_INTERVAL] = [300, 300]; // seconds
const [SIGNED_LIMIT, UNSIGNED_LIMIT] = [10_000_000, 4096]; // bytes of a body

type Fields = Record<string, any>;
type Answer = { status: number; headers?: Record<string, string>; body?: string };

// `nonce` is that of a registration under way; the rest is what the last registration returned.
const worker = { nonce: "", path: "", token: "", key: Buffer.alloc(0), state: "" };

function printable(text: unknown): string {
  return String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0)?.toString(16)}}`);
}

function log(text: unknown): void {
  console.error(printable(text));
}

/** The fields of a JSON object; none if the body is not one. */
function parse(body: Buffer): Fields {
  try {
    return Object(JSON.parse(body.toString()));
  } catch {
    return {};
  }
}

/** The HMAC over the parts, as `webhook-signature` and `webhook-receipt` hold it. */
function mac(...parts: (string | Buffer)[]): string {
  const hmac = createHmac("sha256", worker.key);
  parts.forEach((part, at) => hmac.update(at === 0 ? "" : ".").update(part));
  return `v1,${hmac.digest("base64")}`;
}

/** Whether one of the signatures was made with our key. If so, the id can be the name of a file. */
function isSigned(id: string, timestamp: string, signatures: string, body: Buffer): boolean {
  if (worker.key.length === 0 || !/^[A-Za-z0-9_-]{1,128}$/.test(id) || !/^[0-9]{1,12}$/.test(timestamp)) return false;
  const expected = Buffer.from(mac(id, timestamp, body));
  const given = signatures.split(" ").map((signature) => Buffer.from(signature));
  return given.some((signature) => signature.length === expected.length && timingSafeEqual(signature, expected));
}

/** Stores an event durably, unless it is stored already. All of it is synchronous, so that no two calls overlap. */
function store(id: string, body: Buffer): void {
  const [path, part] = [join(DIR, `${id}.json`), join(DIR, `${id}.part`)];
  const isNew = !existsSync(path);
  if (isNew) {
    writeFileSync(part, body, { flush: true });
    renameSync(part, path);
  }
  const directory = openSync(DIR, "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
  if (isNew) console.log(`${id} ${printable(parse(body).type ?? "")}`);
}

/** Answers a request. */
function receive(headers: Fields, body: Buffer): Answer {
  const [id, timestamp, signatures] = ["id", "timestamp", "signature"].map((name) => String(headers[`webhook-${name}`] ?? ""));
  if (signatures === "") {
    const { type, nonce, challenge } = parse(body);
    if (type !== "edge.challenge" || worker.nonce === "" || nonce !== worker.nonce) return { status: 401 };
    return { status: 200, headers: { "content-type": "application/json" }, body: JSON.stringify({ challenge }) };
  }
  if (!isSigned(id, timestamp, signatures, body)) return { status: 401 };
  const receipt = { "webhook-receipt": mac("receipt", id, timestamp) };
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE) return { status: 401, headers: receipt };
  if (parse(body).type !== "edge.ping") {
    try {
      store(id, body);
    } catch (error) {
      log(`cannot store ${id}: ${error}`);
      // Without `Retry-After`: the relay then keeps the event until this worker can store it.
      return { status: 503, headers: receipt };
    }
  }
  return { status: 204, headers: receipt };
}

/** Reads a request and answers it. What is too long is read and dropped. */
async function handle(request: IncomingMessage): Promise<Answer> {
  const limit = request.headers["webhook-signature"] ? SIGNED_LIMIT : UNSIGNED_LIMIT;
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length <= limit) chunks.push(chunk);
  }
  return length <= limit ? receive(request.headers, Buffer.concat(chunks)) : { status: 413 };
}

/** A call to the relay failed. If `isRefused`, it would fail again; otherwise it may succeed after `wait` seconds. */
class CallError extends Error {
  status = 0;
  code = "";
  wait = 0;
  isRefused = false;
}

/** Calls the relay. Redirects are not followed, since a call carries a token. */
async function call(method: string, path: string, body: object): Promise<Fields> {
  const headers = { "content-type": "application/json", authorization: `Bearer ${worker.token}` };
  const options = { method, headers, body: JSON.stringify(body), signal: AbortSignal.timeout(30_000) };
  let answer: Response;
  let fields: Fields;
  try {
    answer = await fetch(RELAY + path, { ...options, redirect: "manual" });
    fields = parse(Buffer.from(await answer.arrayBuffer()));
  } catch (error) {
    throw new CallError(`the relay cannot be reached: ${(error as Error).cause ?? error}`);
  }
  if (answer.ok && "state" in fields) return fields;
  const { status } = answer;
  const { code = "", detail = "" } = fields;
  const wait = Number(/^[0-9]{1,4}$/.exec(answer.headers.get("retry-after") ?? "") ?? 0);
  const isRefused = status >= 400 && status < 500 && status !== 429 && code !== "worker_changed";
  throw Object.assign(new CallError(`the relay answered ${status} ${code}: ${detail}`), { status, code, wait, isRefused });
}

async function register(): Promise<void> {
  worker.nonce = randomBytes(24).toString("base64url");
  const request = { linearToken: LINEAR_TOKEN, name: NAME, nonce: worker.nonce, pulls: !WEBHOOK_URL };
  const pushed = WEBHOOK_URL ? { webhookUrl: WEBHOOK_URL, receipts: true } : {};
  const answer = await call("POST", "/edge/register", { ...request, ...pushed }).finally(() => (worker.nonce = ""));
  worker.key = Buffer.from(answer.secret.replace(/^whsec_/, ""), "base64");
  Object.assign(worker, { path: answer.worker, token: answer.token, state: answer.state });
  log(`registered as ${NAME} in ${answer.workspace.name}: ${worker.state}`);
}

async function renew(): Promise<void> {
  // The token shows which teams its user sees. An OAuth token may have expired, and then the relay would remove the worker.
  const shown = LINEAR_TOKEN.startsWith("lin_api_") ? { linearToken: LINEAR_TOKEN } : {};
  worker.state = (await call("PUT", worker.path, shown)).state;
}

/** Empties the mailbox, the oldest event first. Returns whether it held any. */
async function pull(): Promise<boolean> {
  for (let ack: string[] = []; ; ) {
    const answer = await call("POST", `${worker.path}/mailbox`, { ack, limit: 100 });
    worker.state = answer.state;
    if (answer.events.length === 0) return ack.length > 0;
    ack = [];
    for (const event of answer.events) {
      const [id, timestamp, signatures] = ["id", "timestamp", "signature"].map((name) => event.headers[`webhook-${name}`]);
      if (!isSigned(id, timestamp, signatures, Buffer.from(event.body))) {
        throw new CallError("the signature of the oldest event in the mailbox does not match");
      }
      store(id, Buffer.from(event.body));
      ack.push(event.id);
    }
  }
}

/** Registers, renews, and empties the mailbox while the worker is not live. Returns when the relay refuses the worker. */
async function stayRegistered(): Promise<void> {
  let [failures, idle, renewAt, wait] = [0, 2, 0, 0];
  for (;;) {
    try {
      if (!worker.token || performance.now() >= renewAt) {
        await (worker.token ? renew() : register());
        renewAt = performance.now() + RENEWAL_INTERVAL * 1000;
      }
      if (worker.state !== "live") idle = (await pull()) ? 2 : Math.min(2 * idle, 8);
      [failures, wait] = [0, worker.state === "pull" ? idle : RENEWAL_INTERVAL];
    } catch (error) {
      log((error as Error).message);
      const { status, code, isRefused, wait: asked } = error instanceof CallError ? error : new CallError();
      [failures, wait] = [failures + 1, Math.max(Math.min(2 ** failures, 60), asked)];
      if (isRefused && (!worker.token || code === "worker_token_replaced")) return;
      if (status === 401 || code === "membership_check_due") worker.token = "";
    }
    await sleep(wait * 1000);
  }
}

if (!LINEAR_TOKEN || !/^(https:\/\/|http:\/\/(127\.0\.0\.1|localhost)([:/]|$))/.test(RELAY)) {
  log("set LINEAR_TOKEN, and RELAY to an address that begins with https:// or is on this machine");
  process.exit(1);
}
mkdirSync(DIR, { mode: 0o700, recursive: true });
if (WEBHOOK_URL) {
  const options = { headersTimeout: 10_000, requestTimeout: 30_000, keepAliveTimeout: 120_000 };
  const server = createServer(options, (request, response) => {
    const answered = handle(request).then(({ status, headers, body }) => response.writeHead(status, headers).end(body));
    answered.catch(() => response.destroy()); // the request broke off
  });
  const at = LISTEN.lastIndexOf(":");
  await new Promise<void>((resolve) => server.listen(Number(LISTEN.slice(at + 1)), LISTEN.slice(0, at), resolve));
  log(`listening on http://${LISTEN.slice(0, at)}:${(server.address() as AddressInfo).port}`);
}
await stayRegistered();
process.exit(1);
