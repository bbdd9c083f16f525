"use strict";
// Shows the listed images, takes a decision about each by mouse or keyboard, keeps the decisions in the browser, and saves them as a CSV.
const byId = (id) => document.getElementById(id);
const { key, savedAs, classes, cells, items, sources } = JSON.parse(byId("data").textContent);
const ACTIONS = ["keep", "drop", "relabel"];
const UNDECIDED = "undecided";
const STORE = `noisebench-review-${key}`;
const list = byId("list");
const shown = () => list.querySelectorAll(".item:not([hidden])");
const decisions = new Map(); // position of the item -> { action, label }
const undone = []; // of each step: [[position, decision before], ...]
let current = 0; // position of the item that the keys act on

// Text from the data keeps its own direction within a sentence.
const isolated = (text) => `\u2068${text}\u2069`;
const className = (label) => isolated(classes[label]);

function say(text) {
  byId("message").textContent = text;
}

// The list

function makeCard(item, position) {
  const card = byId("item").content.firstElementChild.cloneNode(true);
  const find = (selector) => card.querySelector(selector);
  card.dataset.position = position;
  showImage(find("img"), item.index, `image ${isolated(item.file)}, given ${className(item.given)}, suggested ${className(item.suggested)}`);
  find(".file bdi").textContent = item.file;
  find(".given").textContent = classes[item.given];
  find(".suggested").textContent = classes[item.suggested];
  find(".facts").textContent = `quality ${item.quality.toFixed(3)}`;
  if (item.confident) {
    const mark = document.createElement("strong");
    mark.textContent = "confident";
    find(".facts").append(" · ", mark);
  }
  const near = find(".near");
  for (const [index, given, file] of item.neighbours) {
    const entry = document.createElement("li");
    const image = entry.appendChild(document.createElement("img"));
    image.loading = "lazy";
    showImage(image, index, `near image ${isolated(file)}`);
    entry.appendChild(document.createElement("bdi")).textContent = classes[given];
    near.append(entry);
  }
  if (!item.neighbours.length) near.remove();
  return card;
}

function showImage(image, index, alt) {
  image.alt = alt;
  if (index in sources) {
    image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < 100), { once: true });
    image.src = sources[index];
  } else {
    const missing = document.createElement("span");
    missing.className = "missing";
    missing.textContent = "no image";
    image.replaceWith(missing);
  }
}

function decisionText(position) {
  const decision = decisions.get(position);
  if (!decision) return UNDECIDED;
  return decision.action === "relabel" ? `relabel: ${className(decision.label)}` : decision.action;
}

function showDecision(position) {
  const card = list.children[position];
  const item = items[position];
  const decision = decisions.get(position);
  card.dataset.decision = decision ? decision.action : UNDECIDED;
  card.querySelector(".decision").textContent = decisionText(position);
  const chosen = !decision ? "" : decision.action === "relabel" && decision.label !== item.suggested ? "choose" : decision.action;
  for (const button of card.querySelectorAll("[data-do]")) button.setAttribute("aria-pressed", String(button.dataset.do === chosen));
  card.setAttribute(
    "aria-label",
    `${isolated(item.file)}, given ${className(item.given)}, suggested ${className(item.suggested)}, quality ${item.quality.toFixed(3)}` +
      `${item.confident ? ", confident" : ""}, ${decisionText(position)}`,
  );
}

function showProgress() {
  byId("progress").value = decisions.size;
  byId("progress-text").textContent = progressText();
  byId("undo").disabled = !undone.length;
}

const progressText = () => `${decisions.size} of ${items.length} decided`;

// Decisions

// Sets decisions, [[position, decision or undefined], ...], as one step that can be undone.
function decide(changes) {
  undone.push(changes.map(([position]) => [position, decisions.get(position)]));
  apply(changes);
  store();
}

function apply(changes) {
  for (const [position, decision] of changes) {
    if (decision) decisions.set(position, decision);
    else decisions.delete(position);
    showDecision(position);
  }
  showProgress();
}

function decideOne(position, action, label) {
  const item = items[position];
  if (action === "choose") {
    choose(position);
    return false;
  }
  decide([[position, ACTIONS.includes(action) ? { action, label: action === "relabel" ? (label ?? item.suggested) : item.given } : undefined]]);
  say(`${isolated(item.file)}: ${decisionText(position)}. ${progressText()}.`);
  return true;
}

function undo() {
  const changes = undone.pop();
  if (!changes) return;
  apply(changes);
  store();
  const [position] = changes[0];
  if (!list.children[position].hidden) moveTo(position);
  say(`Undone: ${changes.length === 1 ? `${isolated(items[position].file)}: ${decisionText(position)}` : `${changes.length} decisions`}. ${progressText()}.`);
}

function store() {
  const kept = Object.fromEntries([...decisions].map(([position, { action, label }]) => [items[position].index, [action, label]]));
  try {
    localStorage.setItem(STORE, JSON.stringify(kept));
  } catch {
    warn("This browser cannot keep the decisions of this page. Save them before you close it.");
  }
}

// Takes over what this browser keeps: of an earlier visit, or of another tab.
function restore() {
  let kept;
  try {
    kept = JSON.parse(localStorage.getItem(STORE) ?? "{}");
  } catch {
    warn("The decisions that this browser keeps for this page cannot be read. Load a saved file instead.");
    return;
  }
  const changes = items.map(({ index }, position) => {
    const [action, label] = kept[index] ?? [];
    return [position, ACTIONS.includes(action) && label in classes ? { action, label } : undefined];
  });
  apply(changes);
}

function warn(text) {
  if (byId("storage").hidden) addEventListener("beforeunload", (event) => decisions.size && event.preventDefault());
  byId("storage").textContent = text;
  byId("storage").hidden = false;
}

// Other classes

function choose(position) {
  const item = items[position];
  byId("chooser").dataset.position = position;
  byId("chooser-of").textContent = `${isolated(item.file)}, given ${className(item.given)}`;
  byId("chooser-search").value = "";
  listClasses();
  byId("chooser").showModal();
  byId("chooser-search").focus();
}

function listClasses() {
  const item = items[byId("chooser").dataset.position];
  const text = byId("chooser-search").value.trim().toLowerCase();
  const found = [...classes.keys()].filter((label) => label !== item.given && classes[label].toLowerCase().includes(text));
  // names that begin with the text come first
  found.sort((a, b) => classes[b].toLowerCase().startsWith(text) - classes[a].toLowerCase().startsWith(text) || a - b);
  byId("chooser-list").replaceChildren(...found.map((label) => new Option(classes[label], label)));
  byId("chooser-list").selectedIndex = 0;
  byId("chooser-ok").disabled = !found.length;
}

function chosen() {
  const chooser = byId("chooser");
  const label = byId("chooser-list").value;
  if (label === "") return;
  chooser.close();
  decideOne(Number(chooser.dataset.position), "relabel", Number(label));
}

// Filters and movement

function filter() {
  const pair = byId("pair").value;
  const state = byId("state").value;
  const text = byId("search").value.trim().toLowerCase();
  const most = Number(byId("quality").value);
  const confident = byId("confident").checked;
  let count = 0;
  items.forEach((item, position) => {
    const fits =
      (!pair || pair === `${item.given} ${item.suggested}`) &&
      (!state || state === (decisions.get(position)?.action ?? UNDECIDED)) &&
      (most === 1 || item.quality <= most) &&
      (!confident || item.confident) &&
      item.file.toLowerCase().includes(text);
    count += fits;
    list.children[position].hidden = !fits;
  });
  byId("quality-value").textContent = most.toFixed(2);
  byId("shown").textContent = count === items.length ? "" : `${count} shown`;
  byId("none").hidden = count > 0;
  const first = list.children[current].hidden && list.querySelector(".item:not([hidden])");
  if (first) setCurrent(Number(first.dataset.position));
  return count;
}

function setCurrent(position) {
  for (const [at, index] of [[current, -1], [position, 0]]) {
    const card = list.children[at];
    for (const element of [card, ...card.querySelectorAll("button")]) element.tabIndex = index;
  }
  current = position;
}

function moveTo(position) {
  setCurrent(position);
  const card = list.children[position];
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest", behavior: "instant" });
}

// Moves by a number of shown items; stops at the ends.
function move(by) {
  const cards = [...shown()];
  if (!cards.length) return;
  const at = cards.indexOf(list.children[current]);
  const within = list.contains(document.activeElement); // else the first key only shows where it is
  moveTo(Number(cards[Math.min(Math.max(at + (within ? by : 0), 0), cards.length - 1)].dataset.position));
}

function nextUndecided() {
  const cards = [...shown()];
  const at = cards.indexOf(list.children[current]);
  const next = [...cards.slice(at + 1), ...cards.slice(0, at + 1)].find((card) => !decisions.has(Number(card.dataset.position)));
  if (next) moveTo(Number(next.dataset.position));
  else say("No shown image is undecided.");
}

const columns = () => getComputedStyle(list).gridTemplateColumns.split(" ").length;
const MOVES = { ArrowLeft: () => move(-1), ArrowRight: () => move(1), ArrowUp: () => move(-columns()), ArrowDown: () => move(columns()) };
const LETTERS = { k: "keep", d: "drop", r: "relabel", c: "choose", u: UNDECIDED };

function onKey(event) {
  const field = event.target.closest("select, textarea, input:not([type=checkbox])");
  if (byId("chooser").open) return;
  if (event.key === "Escape" && field) moveTo(current);
  // a keyboard of another script sends its own letters: the place of the key counts
  const letter = /^[a-z]$/i.test(event.key) ? event.key.toLowerCase() : event.code.replace(/^Key/, "").toLowerCase();
  if (field || event.altKey) return;
  if (event.ctrlKey || event.metaKey) {
    if (letter !== "z" || event.shiftKey) return;
    undo();
  } else if (event.key in MOVES) {
    MOVES[event.key]();
  } else if (!byId("letters").checked) {
    return;
  } else if (letter === "z") {
    undo();
  } else if (letter === "n") {
    nextUndecided();
  } else if (letter in LETTERS && !list.children[current].hidden) {
    if (!list.contains(document.activeElement)) moveTo(current);
    else if (decideOne(current, LETTERS[letter]) && letter !== "u") move(1);
  } else {
    return;
  }
  event.preventDefault();
}

// Files

function toCsv() {
  const withPath = items.some((item) => item.path);
  const names = ["rank", "index", ...(withPath ? ["path"] : []), "given_label", "predicted_label", "label_quality", "decision"];
  const rows = items.map((item, position) => {
    const { action, label } = decisions.get(position) ?? { action: UNDECIDED };
    const predicted = cells[action === "relabel" ? label : item.suggested];
    return [position + 1, item.index, ...(withPath ? [item.path] : []), cells[item.given], predicted, item.quality.toFixed(6), action];
  });
  const quoted = (cell) => (/^\s|[",;\t\r\n]|\s$/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  return [names, ...rows].map((row) => `${row.map((cell) => quoted(String(cell))).join(",")}\n`).join("");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([toCsv()], { type: "text/csv" }));
  link.download = savedAs;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`Saved as ${savedAs}: ${progressText()}.`);
}

// The rows of a CSV with commas, semicolons or tabs, as spreadsheets write it.
function parseCsv(text) {
  const head = text.split(/\r?\n/, 1)[0];
  const mark = [",", ";", "\t"].reduce((a, b) => (head.split(b).length > head.split(a).length ? b : a));
  const rows = [[]];
  const field = new RegExp(`("(?:[^"]|"")*"|[^${mark}\\r\\n]*)(${mark}|\\r?\\n|\\r|$)`, "gy");
  while (field.lastIndex < text.length) {
    const match = field.exec(text);
    if (!match) throw new Error(`row ${rows.length}: a quote is wrong`);
    rows.at(-1).push(match[1].startsWith('"') ? match[1].slice(1, -1).replaceAll('""', '"') : match[1].trim());
    if (match[2] !== mark) rows.push([]);
  }
  return rows.filter((row) => row.some(Boolean));
}

// The decisions of a saved file, and the number of its rows that are not in this list. Throws an Error for a wrong row.
function readCsv(text) {
  const [head = [], ...rows] = parseCsv(text);
  const names = head.map((name) => name.trim().toLowerCase());
  const columns = ["index", "given_label", "predicted_label", "decision"].map((name) => names.indexOf(name));
  if (columns.includes(-1)) throw new Error("it needs the columns index, given_label, predicted_label and decision");
  const labels = new Map([...classes.map((name, label) => [name, label]), ...cells.map((name, label) => [name, label])]);
  const positions = new Map(items.map((item, position) => [String(item.index), position]));
  const changes = [];
  let others = 0;
  rows.forEach((row, number) => {
    const [index, given, predicted, word] = columns.map((column) => row[column] ?? "");
    const action = word.toLowerCase() || UNDECIDED;
    const position = positions.get(index);
    if (position === undefined || labels.get(given) !== items[position].given) {
      others += 1;
    } else if (ACTIONS.includes(action)) {
      const label = action === "relabel" ? labels.get(predicted) : items[position].given;
      if (label === undefined) throw new Error(`row ${number + 1}: ${predicted} is not a class`);
      changes.push([position, { action, label }]);
    } else if (action === UNDECIDED) {
      changes.push([position, undefined]);
    } else {
      throw new Error(`row ${number + 1}: decision must be keep, drop, relabel or undecided, not ${word}`);
    }
  });
  return [changes, others];
}

async function load(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const encoding = bytes[0] === 0xff && bytes[1] === 0xfe ? "utf-16le" : bytes[0] === 0xfe && bytes[1] === 0xff ? "utf-16be" : "utf-8";
  try {
    const [changes, others] = readCsv(new TextDecoder(encoding, { fatal: true }).decode(bytes));
    if (changes.length) decide(changes);
    const rest = others ? ` ${others} rows are not in this list.` : "";
    say(`Loaded ${changes.filter(([, decision]) => decision).length} decisions.${rest} ${progressText()}.`);
  } catch (error) {
    say(`${isolated(file.name)} is not loaded: ${error.message}.`);
  }
}

async function copy() {
  const code = byId("command");
  try {
    await navigator.clipboard.writeText(code.textContent);
    say("Copied.");
  } catch {
    getSelection().selectAllChildren(code); // pages opened from disk may not access the clipboard: select the text instead
    say("The command is selected: copy it with the keyboard.");
  }
}

function resetFilters() {
  for (const id of ["pair", "state", "search"]) byId(id).value = "";
  byId("quality").value = 1;
  byId("confident").checked = false;
  filter();
}

function start() {
  const counts = new Map();
  for (const { given, suggested } of items) counts.set(`${given} ${suggested}`, (counts.get(`${given} ${suggested}`) ?? 0) + 1);
  for (const [pair, count] of [...counts].sort((a, b) => b[1] - a[1])) {
    const [given, suggested] = pair.split(" ").map(className);
    byId("pair").append(new Option(`${given} → ${suggested} (${count})`, pair));
  }
  list.append(...items.map(makeCard));
  restore();
  filter();
  setCurrent(0);
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    setCurrent(Number(button.closest(".item").dataset.position)); // not every browser focuses a clicked button
    decideOne(current, button.dataset.do);
  });
  list.addEventListener("focusin", (event) => setCurrent(Number(event.target.closest(".item").dataset.position)));
  for (const id of ["pair", "state", "search", "quality", "confident"]) byId(id).addEventListener("input", () => say(`${filter()} images shown.`));
  for (const [id, react] of [["undo", undo], ["save", save], ["copy", copy], ["reset", resetFilters], ["load", () => byId("file").click()]]) byId(id).addEventListener("click", react);
  byId("file").addEventListener("change", async (event) => {
    if (event.target.files.length) await load(event.target.files[0]);
    event.target.value = ""; // so that the same file can be loaded again
  });
  byId("chooser-search").addEventListener("input", listClasses);
  byId("chooser-list").addEventListener("dblclick", chosen);
  byId("chooser-ok").addEventListener("click", chosen);
  byId("chooser-cancel").addEventListener("click", () => byId("chooser").close());
  byId("chooser").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.tagName !== "BUTTON") chosen();
    else if (event.target === byId("chooser-search") && (event.key === "ArrowDown" || event.key === "ArrowUp")) byId("chooser-list").focus();
    else return;
    event.preventDefault();
  });
  byId("chooser").addEventListener("close", () => moveTo(current));
  addEventListener("keydown", onKey);
  addEventListener("storage", (event) => event.key === STORE && restore());
}

if (items.length) start();
