"use strict";
// Sorts tables, opens the panel of a cell, copies commands, and highlights the line of a row. Everything shown is already in the file.
const panel = document.getElementById("panel");
const body = document.getElementById("panel-body");
const title = document.getElementById("panel-title");
const images = JSON.parse(document.getElementById("images").textContent);
let opener = null;

function say(text) {
  document.getElementById("status").textContent = text;
}

// Sorts a table's rows by a column: better values first, then worse first, then the original order. Rows without a value stay last.
function sort(button) {
  const head = button.closest("th");
  const table = button.closest("table");
  const rows = table.tBodies[0];
  const first = button.dataset.first;
  const now = head.getAttribute("aria-sort");
  const next = now === null ? first : now === first ? (first === "ascending" ? "descending" : "ascending") : null;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  if (next) head.setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const ordered = [...rows.rows].sort((a, b) => (next && compare(a.cells[head.cellIndex], b.cells[head.cellIndex], sign)) || a.place - b.place);
  rows.append(...ordered);
  say(next ? `sorted by ${button.textContent.trim()}, ${next}` : "in the original order");
}

function compare(a, b, sign) {
  if (a.tagName === "TH") return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
  const [x, y] = [a.dataset.value || "", b.dataset.value || ""];
  if (!x || !y) return (x === "") - (y === "");
  return sign * (Number(x) - Number(y));
}

function open(cell) {
  opener = cell;
  title.textContent = cell.getAttribute("aria-label").split(": ")[0];
  body.replaceChildren();
  for (const id of [`${cell.id}-head`, cell.dataset.runs]) {
    const part = id && document.getElementById(id);
    if (part) body.append(part.content.cloneNode(true));
  }
  for (const image of body.querySelectorAll("img[data-image]")) image.src = images[image.dataset.image];
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
  history.replaceState(null, "", `#${encodeURIComponent(cell.id)}`);
}

function openByAddress() {
  const cell = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (cell && cell.classList.contains("cell")) {
    cell.scrollIntoView({ block: "center", inline: "center" });
    open(cell);
  }
}

async function copy(button) {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code); // pages opened from disk may not access the clipboard: select the text instead
    say("text selected: copy it with the keyboard");
    return;
  }
  button.textContent = "Copied";
  say("copied");
}

function show(line, on) {
  const lines = document.querySelectorAll(`.line[data-line="${line}"]`);
  if (!lines.length) return;
  lines[0].closest(".table").querySelectorAll(".charts").forEach((charts) => charts.classList.toggle("one", on));
  lines.forEach((one) => one.classList.toggle("shown", on));
}

function press(button) {
  const on = button.getAttribute("aria-pressed") !== "true";
  for (const other of button.closest(".legend").querySelectorAll("[aria-pressed=true]")) {
    other.setAttribute("aria-pressed", "false");
    show(other.dataset.shows, false);
  }
  button.setAttribute("aria-pressed", String(on));
  show(button.dataset.shows, on);
}

for (const table of document.querySelectorAll("table.results")) {
  [...table.tBodies[0].rows].forEach((row, place) => (row.place = place));
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target === panel) panel.close();
  else if (!button) return;
  else if (button.classList.contains("sort")) sort(button);
  else if (button.classList.contains("cell")) open(button);
  else if (button.classList.contains("close")) panel.close();
  else if (button.classList.contains("copy")) copy(button);
  else if (button.dataset.shows) press(button);
});
for (const [kind, on] of [["mouseenter", true], ["mouseleave", false]]) {
  for (const row of document.querySelectorAll("tr[data-line]")) {
    row.addEventListener(kind, () => {
      if (!row.closest(".table").querySelector(".legend [aria-pressed=true]")) show(row.dataset.line, on);
    });
  }
}
panel.addEventListener("close", () => {
  history.replaceState(null, "", location.pathname + location.search);
  if (opener) opener.focus();
});
addEventListener("hashchange", openByAddress);
openByAddress();
