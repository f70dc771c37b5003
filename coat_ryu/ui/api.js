// The controller's REST API. Paths are relative to the page, so that it also works behind a relay.

const KEPT = "coat-token";
const ATTEMPTS = 2;
const SILENCE = 45; // seconds until a stream is taken for dead: the controller says something every 15

export class Refusal extends Error {
  constructor(status, cause, message) {
    super(message);
    this.status = status;
    this.cause = cause;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEPT),
  set: (value) => sessionStorage.setItem(KEPT, value),
};

function headers(more = {}) {
  return token.get() ? { Authorization: `Bearer ${token.get()}`, ...more } : more;
}

async function ask(method, path, { body, more, signal } = {}) {
  const wanted = { method, signal, headers: headers(more), body: body && JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, wanted);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "no_answer", "The controller does not answer.");
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Refusal(answer.status, said.cause ?? "unknown", said.message ?? `The controller answered ${answer.status}.`);
}

const get = async (path) => (await ask("GET", path)).json();
const at = (folder, name) => `v1.0/${folder}/${encodeURIComponent(name)}`;

export const topology = () => get("v1.0/topology");
export const nodes = () => get("v1.0/nodes");
export const containers = () => get("v1.0/containers");
export const migrations = (limit) => get(`v1.0/migrations?limit=${limit}`);
export const migration = (id) => get(at("migrations", id));
export const abort = (id) => ask("DELETE", at("migrations", id));

export async function plan(body, signal) {
  return (await ask("POST", "v1.0/plan", { body, signal })).json();
}

// An answer that is lost says nothing about the migration: the same key asks again and never begins a second one.
export async function migrate(body) {
  // randomUUID is there over HTTPS and on localhost only.
  const key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  for (let attempt = 1; ; attempt += 1) {
    try {
      return (await ask("POST", "migrate", { body, more: { "Idempotency-Key": key } })).json();
    } catch (error) {
      if (error.status !== 0 || attempt === ATTEMPTS) throw error;
    }
  }
}

// Server-Sent Events by fetch, for EventSource cannot send a token. Returns when the stream ends; the first word that
// comes, which is a comment, is told by `opened`: from then on nothing is missed.
export async function follow(opened, happened, signal) {
  const answer = await ask("GET", "v1.0/events", { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let begun = false;
  for (;;) {
    const { value, done } = await next(reader);
    if (done) return;
    if (!begun) opened();
    begun = true;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "));
      if (data) happened(JSON.parse(data.slice("data: ".length)));
    }
  }
}

async function next(reader) {
  let timer;
  const silence = new Promise((resolve) => (timer = setTimeout(resolve, 1000 * SILENCE, { done: true })));
  try {
    return await Promise.race([reader.read(), silence]);
  } catch {
    return { done: true };
  } finally {
    clearTimeout(timer);
  }
}
