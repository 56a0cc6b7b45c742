// The playground: asks the API of this very gateway as any client would, and shows what comes, as text and nothing else.
// A chat goes to v1/chat/completions, a text to api/v1/inference; addresses are relative, so that a prefix does no harm.

const LOOK_EVERY_MS = 5000;
const NUMBERS = [
  "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
  "frequency_penalty", "seed",
];
// A number as JSON writes it: it goes into the request as it stands, so that no digit of a seed is lost.
const JSON_NUMBER = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$/;

const at = (id) => document.getElementById(id);
const form = at("form");
const log = at("log");
const empty = log.querySelector(".empty");

// What has been said, as the API takes it.
let messages = [];
// Stops what is running; null while nothing is.
let running = null;

class RequestError extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function showReadiness(state, text) {
  const shown = at("readiness");
  shown.className = `state ${state}`;
  // Said anew only when it has changed.
  if (shown.textContent !== text) shown.textContent = text;
}

function showModels(models) {
  const rows = models.map((model) => {
    const row = document.createElement("li");
    const kind = model.ready ? "ready" : model.state === "failed" ? "wrong" : "";
    row.append(element("b", "", model.name), element("span", kind, model.state));
    if (model.reason) row.append(element("small", "", model.reason));
    if (model.download?.total_bytes) {
      const percent = Math.floor((100 * model.download.done_bytes) / model.download.total_bytes);
      row.append(element("small", "", `${model.download.file}: ${percent} %`));
    }
    return row;
  });
  at("models").replaceChildren(...(rows.length ? rows : [element("li", "hint", "There are none yet.")]));
}

function offerModels(names) {
  const select = at("model");
  const offered = [...select.options].map((option) => option.value);
  if (names.length && names.join("\n") === offered.join("\n")) return;
  const chosen = select.value;
  const options = names.map((name) => new Option(name, name, false, name === chosen));
  select.replaceChildren(...(options.length ? options : [new Option("none answers yet", "")]));
}

async function look() {
  try {
    const readyz = await fetch("readyz", { cache: "no-store" });
    const readiness = await readyz.json();
    const answering = readiness.models.filter((model) => model.ready).length;
    const word = readiness.ready ? "Ready" : "Not ready";
    const count = `${answering} of ${readiness.models.length} models`;
    showReadiness(readiness.ready ? "ready" : "wrong", `${word} (${count})`);
    showModels(readiness.models);
    const list = await fetch("v1/models", { cache: "no-store" });
    offerModels(list.ok ? (await list.json()).data.map((model) => model.id) : []);
  } catch {
    showReadiness("wrong", "The gateway does not answer");
  }
}

async function keepLooking() {
  if (!document.hidden) await look();
  setTimeout(keepLooking, LOOK_EVERY_MS);
}

const isChat = () => form.elements.mode.value === "chat";

// The fields of the request, each with its value as JSON.
function parameters() {
  const fields = {};
  if (at("model").value) fields.model = JSON.stringify(at("model").value);
  for (const name of NUMBERS) {
    const value = at(name).value.trim();
    if (value === "") continue;
    if (!JSON_NUMBER.test(value)) {
      throw new RequestError(`${at(name).labels[0].textContent}: write a number, as 0.7, in place of ${value}`, name);
    }
    fields[name] = value;
  }
  const stops = at("stop_texts").value.split("\n").filter((line) => line !== "");
  if (stops.length) fields.stop = JSON.stringify(stops);
  fields.stream = "true";
  return fields;
}

function chatFields(prompt) {
  const system = at("system").value;
  const all = [...(system ? [{ role: "system", content: system }] : []), ...messages];
  return {
    messages: JSON.stringify([...all, { role: "user", content: prompt }]),
    stream_options: '{"include_usage":true}',
  };
}

const written = (fields) =>
  `{${Object.entries(fields).map(([name, value]) => `${JSON.stringify(name)}:${value}`).join(",")}}`;

// What an error of either dialect says, and of which field.
function asError({ error }) {
  return new RequestError(error.message, error.field ?? error.param ?? null);
}

// The data of each event of a stream.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split("\n\n");
    held = whole.pop();
    for (const event of whole) {
      if (event.startsWith("data: ")) yield event.slice("data: ".length);
    }
  }
}

// What an event of either API says: text, and at the end the numbers.
function told(event) {
  if (event.error) throw asError(event);
  const choice = event.choices?.[0];
  return {
    text: event.text ?? choice?.delta?.content ?? "",
    reason: event.metadata?.finish_reason ?? choice?.finish_reason ?? null,
    tokens: event.metadata?.tokens_generated ?? event.usage?.completion_tokens ?? null,
  };
}

async function ask(path, fields, signal, show) {
  const began = performance.now();
  const answer = { text: "", reason: null, tokens: null, first: null, last: null };
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: written(fields),
    signal,
  });
  if (!response.ok) {
    const body = await response.json().catch(() => null);
    throw body?.error ? asError(body) : new RequestError(`The gateway answered with status ${response.status}.`, null);
  }
  for await (const data of events(response.body)) {
    if (data === "[DONE]") break;
    const { text, reason, tokens } = told(JSON.parse(data));
    if (text) {
      const now = performance.now();
      answer.first ??= now - began;
      answer.last = now - began;
      answer.text += text;
      show(text, answer);
    }
    answer.reason = reason ?? answer.reason;
    answer.tokens = tokens ?? answer.tokens;
  }
  if (answer.reason === null) throw new RequestError("The answer was cut short: the connection ended.", null);
  return answer;
}

// A text of the log, and where more is added to it.
function say(className, given) {
  empty.remove();
  const said = element("div", `said ${className}`, "");
  if (given) said.append(element("span", "given", given));
  const rest = document.createTextNode("");
  said.append(rest);
  log.append(said);
  return { said, rest };
}

function add(rest, text) {
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  rest.appendData(text);
  if (follows) log.scrollTop = log.scrollHeight;
}

function showNumbers(answer) {
  const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`;
  at("first").textContent = answer.first === null ? "–" : seconds(answer.first);
  const after = (answer.tokens ?? 0) - 1;
  const rate = after > 0 && answer.last > answer.first ? (1000 * after) / (answer.last - answer.first) : null;
  at("rate").textContent = rate === null ? "–" : rate.toFixed(1);
  at("tokens").textContent = answer.tokens ?? "–";
  at("reason").textContent = answer.reason ?? "–";
}

function showError(error) {
  const shown = at("error");
  // Shown first: only what changes in sight is read out.
  shown.hidden = false;
  shown.textContent = error instanceof RequestError ? error.message : "The gateway does not answer.";
  const names = { text: "prompt", messages: "prompt", stop: "stop_texts", max_completion_tokens: "max_tokens" };
  const field = at(names[error.field] ?? error.field ?? "");
  if (field?.matches("input, textarea, select")) {
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-errormessage", "error");
    // In one column the field is far from the message.
    const beside = element("p", "beside", shown.textContent);
    beside.setAttribute("aria-hidden", "true");
    field.after(beside);
    field.focus();
    beside.scrollIntoView({ block: "nearest" });
  }
}

function forgetError() {
  at("error").hidden = true;
  at("error").textContent = "";
  for (const beside of form.querySelectorAll(".beside")) beside.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    field.removeAttribute("aria-errormessage");
  }
}

function setRunning(controller) {
  const focused = document.activeElement;
  running = controller;
  const busy = controller !== null;
  log.setAttribute("aria-busy", String(busy));
  at("generate").disabled = busy;
  at("stop").disabled = !busy;
  at("clear").disabled = busy;
  // A button that is disabled would take the focus with it.
  if (busy && (focused === at("generate") || focused === at("clear"))) at("stop").focus();
  if (!busy && focused === at("stop")) at("prompt").focus();
}

async function generate() {
  if (running) return;
  forgetError();
  const prompt = at("prompt").value;
  const chat = isChat();
  let fields;
  try {
    if (prompt === "") throw new RequestError("Write a prompt first.", "text");
    const own = chat ? chatFields(prompt) : { text: JSON.stringify(prompt), return_full_text: "false" };
    fields = { ...own, ...parameters() };
  } catch (error) {
    showError(error);
    return;
  }
  if (!chat) log.replaceChildren();
  const question = chat ? say("user", "") : null;
  question?.rest.appendData(prompt);
  const { said, rest } = say("model", chat ? "" : prompt);
  log.scrollTop = log.scrollHeight;
  showNumbers({ first: null, last: null, tokens: null, reason: null });
  at("progress").textContent = "Generating";
  setRunning(new AbortController());
  const heard = { text: "", first: null, last: null, tokens: null, reason: "stopped" };
  let failure = null;
  try {
    const path = chat ? "v1/chat/completions" : "api/v1/inference";
    const answer = await ask(path, fields, running.signal, (text, soFar) => {
      Object.assign(heard, { text: soFar.text, first: soFar.first, last: soFar.last });
      add(rest, text);
      if (heard.first === heard.last) showNumbers({ ...heard, reason: null });
    });
    Object.assign(heard, answer);
  } catch (error) {
    if (!running.signal.aborted) failure = error;
  }
  setRunning(null);
  end({ chat, prompt, question, said, heard, failure });
}

function end({ chat, prompt, question, said, heard, failure }) {
  if (failure) {
    heard.reason = "error";
    at("progress").textContent = "";
  } else {
    at("progress").textContent = heard.reason === "stopped" ? "Stopped" : `Done, ${heard.tokens} tokens`;
  }
  showNumbers(heard);
  const isKept = heard.text !== "" || !(failure || heard.reason === "stopped");
  if (!isKept) {
    question?.said.remove();
    said.remove();
    if (!log.children.length) log.append(empty);
  } else if (chat) {
    messages.push({ role: "user", content: prompt }, { role: "assistant", content: heard.text });
    at("prompt").value = "";
  }
  if (failure) showError(failure);
}

function clear() {
  messages = [];
  log.replaceChildren(empty);
  forgetError();
  showNumbers({ first: null, last: null, tokens: null, reason: null });
}

function setMode() {
  at("system-field").hidden = !isChat();
  clear();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
at("stop").addEventListener("click", () => running?.abort());
at("clear").addEventListener("click", () => {
  clear();
  at("prompt").focus();
});
for (const mode of form.elements.mode) mode.addEventListener("change", setMode);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    generate();
  }
});
document.addEventListener("visibilitychange", () => document.hidden || look());
keepLooking();
