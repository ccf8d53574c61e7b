// Puts the parts together: what is filtered, sorted or clicked changes what is shown.

const byId = (id) => document.getElementById(id);
const FILTERS = ["method", "weightBits", "activationBits", "state"];
// Pixels: between the margins of A4, and such that the overview fills a page.
const PRINTED = { half: { width: 337, height: 235 }, wide: { width: 690, height: 350 } };
const allRows = [...joinedRows, ...singleRows];
allRows.forEach((row, id) => {
  row.id = id;
});
const sorting = { column: COLUMNS.findIndex(({ title }) => title.startsWith("top-1")), down: true };
let visible = [];

function open(id) {
  if (id === undefined || id === null) return; // the Pareto front
  for (const line of document.querySelectorAll("tr.open")) line.classList.remove("open");
  document.querySelector(`tr[data-row="${id}"]`)?.classList.add("open");
  showRow(byId("run"), allRows[id], allRows[id].runs[0]);
  byId("run").scrollIntoView({ block: "start" });
}

function markFronts(rows) {
  for (const row of rows) row.front = "";
  for (const [cost, word] of [
    ["bytes", "size"],
    ["operations", "ops"],
  ]) {
    for (const row of paretoFront(rows, cost)) row.front += (row.front ? ", " : "") + word;
  }
}

function order() {
  fillTable(byId("table"), sortRows(visible, sorting), sorting, open);
}

function update() {
  const words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = Object.fromEntries(FILTERS.map((name) => [name, byId(name).value]));
  const rows = byId("join").checked ? joinedRows : singleRows;
  visible = rows.filter((row) => matches(row, words, chosen));
  markFronts(visible);
  const all = rows.length === visible.length;
  byId("shown").textContent = all ? "" : `${visible.length} of ${rows.length} rows are shown.`;
  order();
  return drawOverview(visible);
}

function summary() {
  const states = ["finished", "unfinished", "failed", "damaged"].map((state) => [
    data.runs.filter((run) => run.state === state).length,
    state,
  ]);
  const parts = states.filter(([number]) => number).map(([number, state]) => `${number} ${state}`);
  const settings = `${data.settings.length} setting${data.settings.length === 1 ? "" : "s"}`;
  return `${data.runs.length} run${data.runs.length === 1 ? "" : "s"} of ${settings}: ${parts.join(", ")}.`;
}

// Plotly draws in pixels, so that charts have to be told the width of the paper.
function resizeForPrint(printing) {
  for (const place of document.querySelectorAll(".chart")) {
    if (!place.layout) continue;
    const size = place.closest("figure").classList.contains("wide") ? PRINTED.wide : PRINTED.half;
    Plotly.relayout(place, printing ? size : { width: null, height: null, autosize: true });
  }
}

byId("summary").textContent = summary();
for (const name of FILTERS) {
  const values = [...new Set(joinedRows.map((row) => row[name]))];
  const order = name.endsWith("Bits") ? (a, b) => orderOfBits(a) - orderOfBits(b) : undefined;
  fillSelect(byId(name), values.sort(order), methodName);
  byId(name).addEventListener("change", update);
}
let waiting;
byId("words").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(update, 120); // charts need not follow each letter
});
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("join").addEventListener("change", update);
byId("join").disabled = data.settings.every(({ runs }) => runs.length < 2);
makeHead(byId("table").tHead, sorting, order);
const drawOverview = makeOverview(byId("overview"), open);
const { dataset } = document.documentElement; // times in milliseconds, for tests
const now = () => performance.now().toFixed(0);
update().then(() => {
  dataset.drawn = now();
});
dataset.opened = now();
addEventListener("beforeprint", () => resizeForPrint(true));
addEventListener("afterprint", () => resizeForPrint(false));
if (joinedRows.length === 1) showRow(byId("run"), joinedRows[0], joinedRows[0].runs[0]);
