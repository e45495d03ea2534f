// Documents are other people's words: everything is put on the page by textContent, never as markup.

import { expression, fieldsOf, offer } from "./filters.js";
import { LANGUAGES, WORDS } from "./words.js";

const PARTS = ["tokenise", "encode", "scan", "network"];
const FIELDS_TTL = 30_000; // milliseconds after which the fields' values are asked for again
const EXAMPLES = ["高血压怎么治", "糖尿病人能吃水果吗", "小孩发烧怎么办"];

const at = (id) => document.getElementById(id);

let language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
let facts = null; // what the gateway says of itself
let shown = null; // the last answer or error, to be told again in the other language
let asking = null; // the request under way
let fields = { list: [], at: -Infinity }; // of the collection, and when they were told

const words = () => WORDS[language];

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function speak() {
  document.documentElement.lang = words().tag;
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = words()[element.dataset.word];
  }
  at("question").placeholder = words().placeholder;
  const button = at("language");
  const other = LANGUAGES.find((one) => one !== language);
  button.textContent = words().other;
  button.lang = WORDS[other].tag;
  if (facts) at("version").textContent = words().version(facts.version);
  showFilters();
  show();
}

function showFilters() {
  offer(at("filters"), fields.list, words(), () => {
    if (shown?.answer) ask(); // hits that do not fit what is chosen must not stay
  });
}

function milliseconds(microseconds) {
  const value = microseconds / 1000;
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${words().milliseconds}`;
}

function show() {
  const answer = shown?.answer;
  at("time").hidden = at("found").hidden = !answer;
  at("error").hidden = !shown?.error;
  at("status").textContent = "";
  if (asking) at("status").textContent = words().searching;
  else if (answer) at("status").textContent = words().count(answer.hits.length);
  else if (facts && !facts.ready && !shown) at("status").textContent = words().notReady;
  if (shown?.error) at("error").textContent = plain(shown.error);
  if (answer) {
    showTime(answer);
    cut.disconnect();
    at("hits").replaceChildren(...answer.hits.map((hit) => entry(hit, answer.hits[0].score)));
    at("found").hidden = !answer.hits.length;
  }
}

function plain(error) {
  const known = words().errors;
  let text = known[error.kind] ?? known.other;
  if (error.kind === 400) text += error.message;
  return error.id ? text + words().request(error.id) : text;
}

function showTime(answer) {
  const { times, total } = answer;
  at("total").textContent = milliseconds(total);
  at("bar").replaceChildren(
    ...PARTS.map((part) => {
      const piece = make("span", part);
      piece.style.flexGrow = String(times[part]); // by the object model, which the policy permits
      return piece;
    }),
  );
  at("parts").replaceChildren(
    ...PARTS.map((part) => {
      const group = make("div", part);
      group.append(
        make("dt", "", words().parts[part]),
        make("dd", "", milliseconds(times[part])),
        make("dd", "note", words().partNotes[part]),
      );
      return group;
    }),
  );
}

function entry(hit, best) {
  const item = make("li");
  const head = make("p", "head");
  const score = make("span", "score", `${words().score} ${hit.score.toFixed(4)}`);
  const measure = make("span", "measure");
  const length = make("span");
  length.style.width = `${best > 0 ? Math.max(0, Math.min(1, hit.score / best)) * 100 : 0}%`;
  measure.setAttribute("aria-hidden", "true");
  measure.append(length);
  head.append(score, measure, make("span", "id", typeof hit.id === "string" ? hit.id : `#${hit.id}`));
  item.append(head);

  const { title, text } = read(hit.document);
  if (title) item.append(make("h3", "", title));
  const body = make("p", text === null ? "body note" : "body clamped", text ?? words().nothing);
  body.lang = "zh-CN";
  item.append(body);
  if (text !== null) item.append(toggle(body));
  const more = fieldsOf(hit.document);
  if (more.length) {
    item.append(make("p", "fields", more.map(([name, value]) => `${name}: ${value}`).join(" · ")));
  }
  return item;
}

// Whether a text is cut off depends on the window: its button is there only while it is.
const cut = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const button = target.nextElementSibling;
    if (button && target.classList.contains("clamped")) {
      button.hidden = target.scrollHeight <= target.clientHeight + 1;
    }
  }
});

function toggle(body) {
  const button = make("button", "quiet more", words().more);
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.hidden = true;
  cut.observe(body);
  button.addEventListener("click", () => {
    const open = !body.classList.toggle("clamped");
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? words().less : words().more;
  });
  return button;
}

// A document is any JSON value: a text, an object with a title and a text, or something else.
function read(document) {
  if (document === null || document === undefined) return { title: "", text: null };
  if (typeof document === "string") return { title: "", text: document };
  if (typeof document === "object" && typeof document.text === "string") {
    return { title: typeof document.title === "string" ? document.title : "", text: document.text };
  }
  return { title: "", text: JSON.stringify(document, null, 2) };
}

async function ask() {
  const query = at("question").value.trim();
  if (!query) {
    shown = { error: { kind: "empty" } };
    show();
    at("question").focus();
    return;
  }
  asking?.abort();
  const mine = (asking = new AbortController());
  shown = null;
  show();
  let result;
  try {
    result = await request(query, mine.signal);
  } catch (failure) {
    result = failure.name === "AbortError" ? null : { error: { kind: "network" } };
  }
  if (asking !== mine) return; // a later question is under way
  asking = null;
  shown = result;
  show();
  if (result?.error?.kind === 401) {
    at("access").hidden = false;
    at("token").focus();
  }
  if (result?.answer) loadFields();
}

function headersWithToken() {
  const token = at("token").value.trim();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

// Without them the page is as useful as with an index that is no collection: an error is not told.
async function loadFields() {
  const now = performance.now();
  if (!facts?.collection || now - fields.at < FIELDS_TTL) return;
  if (facts.token_required && !at("token").value) return;
  try {
    const options = { headers: headersWithToken(), cache: "no-store", credentials: "omit" };
    const response = await fetch("v1/fields", options);
    if (!response.ok) return;
    fields = { list: (await response.json()).fields, at: now };
    showFilters();
  } catch {
    // the next answer asks again
  }
}

async function request(query, signal) {
  const headers = { "Content-Type": "application/json", ...headersWithToken() };
  const filter = expression();
  const started = performance.now();
  const response = await fetch("v1/search", {
    method: "POST",
    headers,
    body: JSON.stringify({ query, k: Number(at("k").value), ...(filter && { filter }) }),
    signal,
    cache: "no-store",
    credentials: "omit",
  });
  const text = await response.text();
  const total = 1000 * (performance.now() - started);
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // a proxy's page, for one
  }
  if (!response.ok || !body?.data) {
    const id = response.headers.get("X-Request-ID");
    return { error: { kind: response.status, message: body?.error?.message ?? "", id } };
  }
  const [found] = body.data;
  const times = {
    tokenise: found.timings.tokenise_us,
    encode: found.timings.encode_us,
    scan: found.timings.scan_us,
  };
  times.network = Math.max(0, total - times.tokenise - times.encode - times.scan);
  return { answer: { hits: found.hits, times, total } };
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});

at("language").addEventListener("click", () => {
  language = LANGUAGES.find((one) => one !== language);
  speak();
});

at("token").addEventListener("change", loadFields);

for (const example of EXAMPLES) {
  const button = make("button", "quiet", example);
  button.type = "button";
  button.lang = "zh-CN";
  button.addEventListener("click", () => {
    at("question").value = example;
    ask();
  });
  at("examples").append(button);
}

speak();

try {
  facts = await (await fetch("page/settings", { cache: "no-store", credentials: "omit" })).json();
  at("access").hidden = !facts.token_required;
  for (const option of [...at("k").options]) {
    if (Number(option.value) > facts.most_k) option.remove();
  }
  if (facts.token_required) at("token").focus();
  speak();
  loadFields();
} catch {
  shown = { error: { kind: "network" } };
  show();
}
