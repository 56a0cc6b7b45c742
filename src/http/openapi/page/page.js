// The OpenAPI document as a page: what can be asked, and a form to ask it. Nothing here is of one operation alone.

const METHODS = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
const EVENTS = "text/event-stream";
const LONGEST_RAW = 200_000;

const origin = new URL("openapi.json", location.href);
let api;

/** An element with text, of which `words in backticks` are code. */
function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  for (const [index, part] of String(text).split("`").entries()) {
    made.append(index % 2 ? code(part) : part);
  }
  return made;
}

function code(text) {
  const made = document.createElement("code");
  made.textContent = text;
  return made;
}

function fill(target, text) {
  target.replaceChildren(...element("span", "", text).childNodes);
}

/** What a reference leads to. */
function resolved(value) {
  if (!value?.$ref) return value;
  const steps = value.$ref.slice(2).split("/");
  const found = steps.reduce((inside, step) => inside?.[step.replaceAll("~1", "/").replaceAll("~0", "~")], api);
  return { ...resolved(found), ...Object.fromEntries(Object.entries(value).filter(([key]) => key !== "$ref")) };
}

const isNull = (schema) => schema.type === "null";

/** A schema without the `null` beside it. */
function given(schema) {
  const whole = resolved(schema);
  const kinds = whole.oneOf ?? whole.anyOf;
  const others = kinds?.filter((kind) => !isNull(resolved(kind)));
  if (others?.length !== 1) return whole;
  return { ...whole, oneOf: undefined, anyOf: undefined, ...resolved(others[0]) };
}

/** A schema's type, in words. */
function typeOf(schema) {
  const whole = given(schema);
  if (whole.enum) return whole.enum.map((value) => JSON.stringify(value)).join(" | ");
  const kinds = whole.oneOf ?? whole.anyOf;
  if (kinds) return kinds.filter((kind) => !isNull(resolved(kind))).map((kind) => typeOf(kind)).join(" | ");
  if (whole.allOf) return "object";
  const types = [whole.type ?? "anything"].flat().filter((type) => type !== "null");
  return types.map((type) => (type === "array" ? `list of ${typeOf(whole.items ?? {})}` : type)).join(" | ");
}

/** Bounds and default, in words. */
function limits(schema) {
  const whole = given(schema);
  const told = [];
  const range = (least, greatest, unit) => {
    // What this language cannot write exactly is as good as no bound.
    const most = greatest > Number.MAX_SAFE_INTEGER ? undefined : greatest;
    if (least !== undefined && most !== undefined) told.push(`${least} to ${most}${unit}`);
    else if (least !== undefined) told.push(`at least ${least}${unit}`);
    else if (most !== undefined) told.push(`at most ${most}${unit}`);
  };
  range(whole.minimum, whole.maximum, "");
  range(whole.minLength, whole.maxLength, " characters");
  range(whole.minItems, whole.maxItems, " items");
  range(whole.minProperties, whole.maxProperties, " entries");
  if (whole.default !== undefined) told.push(`default ${JSON.stringify(whole.default)}`);
  return told.join("; ");
}

/** Objects inside a schema that have fields of their own. */
function insides(schema) {
  const whole = given(schema);
  if (whole.allOf) return [merged(whole.allOf)];
  const kinds = whole.oneOf ?? whole.anyOf;
  if (kinds) return kinds.flatMap((kind) => insides(kind));
  if (whole.properties) return [whole];
  return whole.items ? insides(whole.items) : [];
}

function merged(parts) {
  const all = parts.map((part) => given(part));
  return {
    properties: Object.assign({}, ...all.map((part) => part.properties)),
    required: all.flatMap((part) => part.required ?? []),
  };
}

/** The fields of an object, as a list; those of objects inside are made when they are looked at. */
function fields(object) {
  const list = element("ul", "fields");
  for (const [name, schema] of Object.entries(object.properties ?? {})) {
    const item = element("li");
    const line = element("div");
    line.append(code(name), " ", element("span", "quiet", typeOf(schema)));
    if (object.required?.includes(name)) line.append(" ", element("strong", "", "required"));
    const told = limits(schema);
    if (told) line.append(" ", element("span", "quiet", `(${told})`));
    item.append(line);
    const { description } = given(schema);
    if (description) item.append(element("div", "", description));
    const objects = insides(schema);
    const title = (object) => (objects.length > 1 && object.description) || "Fields";
    objects.forEach((inside) => item.append(lazily(title(inside), () => fields(inside))));
    list.append(item);
  }
  return list;
}

function lazily(title, make) {
  const details = element("details");
  details.append(element("summary", "", title));
  details.addEventListener("toggle", () => details.childElementCount > 1 || details.append(make()));
  return details;
}

/** The kinds of content of a body or an answer. */
function contents(content) {
  return Object.entries(content ?? {}).map(([kind, { schema }]) =>
    lazily(`${kind}: ${typeOf(schema ?? {})}`, () => {
      const all = element("div", "", given(schema ?? {}).description ?? "");
      all.append(...insides(schema ?? {}).map(fields));
      return all;
    }),
  );
}

/** Where a request goes, from what the form holds. */
function target(form, operation, path) {
  const headers = {};
  let filled = path;
  for (const input of form.querySelectorAll(".parameters input")) {
    if (input.dataset.in === "path") filled = filled.replace(`{${input.name}}`, encodeURIComponent(input.value));
    else if (input.dataset.in === "header" && input.value) headers[input.name] = input.value;
  }
  if (operation.requestBody) headers["content-type"] = "application/json";
  return { url: new URL(`.${filled}`, origin).href, headers };
}

function command(method, { url, headers }, body) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [`curl -N -X ${method.toUpperCase()} ${quoted(url)}`];
  for (const [name, value] of Object.entries(headers)) lines.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body !== undefined) lines.push(`-d ${quoted(body)}`);
  return lines.join(" \\\n  ");
}

/** The piece of text in an event of any dialect, of the first choice or text. */
function piece(event) {
  if (event.index) return "";
  const choice = event.choices?.find((one) => !one.index);
  return event.text ?? choice?.text ?? choice?.delta?.content ?? event.token?.text ?? "";
}

/** Shows an answer while it comes. */
async function show(response, view) {
  const streamed = response.headers.get("content-type")?.startsWith(EVENTS);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let raw = "";
  let rest = "";
  for (let chunk; (chunk = await reader.read()), !chunk.done; ) {
    raw = (raw + chunk.value).slice(-LONGEST_RAW);
    view.raw.textContent = raw;
    if (!streamed) continue;
    const lines = (rest + chunk.value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter((one) => one.startsWith("data:"))) {
      const data = line.slice(5).trim();
      try {
        view.text.append(piece(JSON.parse(data)));
      } catch {
        // `[DONE]` is no JSON; it is seen below.
      }
    }
    view.text.hidden = !view.text.textContent;
  }
  if (!streamed && response.headers.get("content-type")?.includes("json")) {
    try {
      view.raw.textContent = JSON.stringify(JSON.parse(raw), null, 2);
    } catch {
      // Shown as it came.
    }
  }
}

async function send(made, method, path, operation, stopped) {
  const form = made.querySelector("form");
  const status = made.querySelector(".status");
  const view = { text: made.querySelector(".answer .text"), raw: made.querySelector(".answer .raw") };
  const { url, headers } = target(form, operation, path);
  const body = operation.requestBody ? form.querySelector(".content").value : undefined;
  made.querySelector(".answer").hidden = false;
  view.text.hidden = true;
  view.text.textContent = view.raw.textContent = "";
  made.querySelector(".headers pre").textContent = "";
  status.className = "status";
  status.textContent = "…";
  const began = performance.now();
  const took = () => `${Math.round(performance.now() - began)} ms`;
  try {
    const response = await fetch(url, { method: method.toUpperCase(), headers, body, signal: stopped });
    status.className = `status ${response.ok ? "good" : "bad"}`;
    status.textContent = `${response.status} ${response.statusText}`;
    const told = [...response.headers].map(([name, value]) => `${name}: ${value}`);
    made.querySelector(".headers pre").textContent = told.join("\n");
    await show(response, view);
    status.textContent += `, ${took()}`;
  } catch (error) {
    status.className = "status bad";
    status.textContent = stopped.aborted ? `stopped after ${took()}` : `no answer: ${error.message}`;
  }
}

function parameterInput(parameter) {
  const label = element("label", "", `\`${parameter.name}\` `);
  label.append(element("span", "quiet", `${parameter.description ?? ""}${parameter.required ? " (required)" : ""}`));
  const input = element("input");
  Object.assign(input, { name: parameter.name, required: parameter.required ?? false, autocomplete: "off" });
  input.dataset.in = parameter.in;
  label.append(input);
  return label;
}

function fillBody(made, { content, description }) {
  const { schema, examples = {} } = Object.values(content)[0];
  const select = made.querySelector(".examples");
  const area = made.querySelector(".content");
  for (const [name, { summary }] of Object.entries(examples)) {
    const option = element("option", "", summary ?? name);
    option.value = name;
    select.append(option);
  }
  const choose = () => {
    area.value = JSON.stringify(examples[select.value]?.value ?? {}, null, 2);
    made.dispatchEvent(new Event("input"));
  };
  select.addEventListener("change", choose);
  select.parentElement.hidden = select.options.length < 2;
  choose();
  const about = description ?? given(schema).description;
  if (about) made.querySelector(".schema").append(element("p", "", about));
  made.querySelector(".schema").append(...insides(schema).map(fields));
}

function operationView(path, method, operation) {
  const made = document.getElementById("operation").content.cloneNode(true).firstElementChild;
  made.id = operation.operationId;
  made.querySelector(".method").textContent = method;
  made.querySelector(".path").textContent = path;
  fill(made.querySelector(".summary"), operation.summary ?? "");
  fill(made.querySelector(".description"), operation.description ?? "");
  const form = made.querySelector("form");
  const parameters = (operation.parameters ?? []).map(resolved);
  made.querySelector(".parameters").append(...parameters.map(parameterInput));
  const told = made.querySelector(".command pre");
  const tell = () => {
    const body = operation.requestBody ? form.querySelector(".content").value : undefined;
    told.textContent = command(method, target(form, operation, path), body);
  };
  made.addEventListener("input", tell);
  if (operation.requestBody) fillBody(made, resolved(operation.requestBody));
  else made.querySelector(".body").remove();
  tell();
  const answers = made.querySelector(".responses");
  for (const [status, reference] of Object.entries(operation.responses)) {
    const response = resolved(reference);
    const about = element("dd", "", response.description);
    about.append(...contents(response.content));
    answers.append(element("dt", "", status), about);
  }
  const [sendButton, stopButton] = [made.querySelector(".send"), made.querySelector(".stop")];
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const stop = new AbortController();
    stopButton.onclick = () => stop.abort();
    [sendButton.disabled, stopButton.disabled] = [true, false];
    await send(made, method, path, operation, stop.signal);
    [sendButton.disabled, stopButton.disabled] = [false, true];
  });
  return made;
}

/** Every operation, by its first tag. */
function groups() {
  const found = new Map((api.tags ?? []).map((tag) => [tag.name, []]));
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((one) => item[one])) {
      const [tag = "Others"] = item[method].tags ?? [];
      if (!found.has(tag)) found.set(tag, []);
      found.get(tag).push(operationView(path, method, item[method]));
    }
  }
  return found;
}

/** Opens the operation that the address names. */
function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView();
  }
}

async function start() {
  const about = document.getElementById("about");
  try {
    const response = await fetch(origin);
    if (!response.ok) throw new Error(`status ${response.status}`);
    api = await response.json();
  } catch (error) {
    about.className = "bad";
    about.textContent = `The document could not be read: ${error.message}`;
    return;
  }
  document.getElementById("title").textContent = `${api.info.title} ${api.info.version}`;
  fill(about, `${api.info.description} OpenAPI ${api.openapi}: `);
  const link = element("a", "", "openapi.json");
  link.href = origin.href;
  about.append(link);
  for (const [index, [tag, views]] of [...groups()].entries()) {
    if (!views.length) continue;
    const title = element("h2", "", tag);
    title.id = `group-${index}`;
    const jump = element("a", "", tag);
    jump.href = `#${title.id}`;
    document.getElementById("groups").append(jump);
    const description = api.tags?.find((one) => one.name === tag)?.description ?? "";
    document.getElementById("operations").append(title, element("p", "quiet", description), ...views);
  }
  addEventListener("hashchange", openNamed);
  openNamed();
}

start();
