// Puts the parts together: what is filtered, sorted, clicked or pinned changes what is shown.

const byId = (id) => document.getElementById(id);
const FILTERS = ["method", "weightBits", "activationBits", "state"];
const NARROW = 700; // pixels, as in page.css
const allRows = [...joinedRows, ...singleRows];
allRows.forEach((row, id) => {
  row.id = id;
});
const sorting = { column: COLUMNS.findIndex(({ title }) => title.startsWith("top-1")), down: true };
let visible = [];
let pinned = [];
let opened = null;

// A row is known by its first run, so that it is found again when runs have been added.
function keyOf(row) {
  return `${singleRows.includes(row) && !joinedRows.includes(row) ? "run" : "setting"}:${
    data.runs[row.runs[0]].folder
  }`;
}

// What is chosen stands behind the # of the address: it survives a reload, and can be sent.
function remember() {
  const state = new URLSearchParams();
  if (byId("words").value) state.set("words", byId("words").value);
  for (const name of FILTERS) if (byId(name).value !== "all") state.set(name, byId(name).value);
  if (!byId("join").checked) state.set("seeds", "apart");
  for (const [title, heights] of ranges) {
    state.append("range", [...heights.map((one) => one.toFixed(3)), title].join());
  }
  for (const row of pinned) state.append("pin", keyOf(row));
  if (opened) state.set("open", keyOf(opened));
  const text = state.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  byId("words").value = state.get("words") ?? "";
  for (const name of FILTERS) {
    const values = [...byId(name).options].map(({ value }) => value);
    if (values.includes(state.get(name))) byId(name).value = state.get(name);
  }
  byId("join").checked = state.get("seeds") !== "apart";
  for (const text of state.getAll("range")) {
    const [, low, high, title] = text.match(/^([01]\.\d+),([01]\.\d+),(.+)$/) ?? [];
    if (title) ranges.set(title, [Number(low), Number(high)]);
  }
  const found = (key) => allRows.find((row) => keyOf(row) === key);
  pinned = state.getAll("pin").map(found).filter(Boolean).slice(0, MOST_PINNED);
  return found(state.get("open"));
}

function open(id, scroll = true) {
  if (id === undefined || id === null) return; // the Pareto front
  for (const line of document.querySelectorAll("tr.open")) line.classList.remove("open");
  document.querySelector(`tr[data-row="${id}"]`)?.classList.add("open");
  opened = allRows[id];
  showRow(byId("run"), opened, opened.runs[0]);
  if (scroll) byId("run").scrollIntoView({ block: "start" });
  remember();
}

function pin(id, wanted) {
  pinned = pinned.filter((row) => row.id !== id);
  if (wanted && pinned.length < MOST_PINNED) pinned.push(allRows[id]);
  showPins();
  remember();
}

function showPins() {
  limitPins(byId("table"), pinned);
  showPinned(byId("pinned"), pinned, () => {
    pinned = [];
    showPins();
    remember();
  });
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
  const rows = sortRows(visible, sorting);
  fillTable(byId("table"), rows, sorting, pinned, { opened: open, pin });
  limitPins(byId("table"), pinned);
  if (opened) document.querySelector(`tr[data-row="${opened.id}"]`)?.classList.add("open");
}

function update() {
  const words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = Object.fromEntries(FILTERS.map((name) => [name, byId(name).value]));
  const rows = byId("join").checked ? joinedRows : singleRows;
  visible = withinRanges(rows.filter((row) => matches(row, words, chosen)));
  markFronts(visible);
  const all = rows.length === visible.length;
  byId("shown").textContent = all ? "" : `${visible.length} of ${rows.length} rows are shown.`;
  fillBest(byId("best"), visible, open);
  order();
  return drawOverview(visible);
}

function changed() {
  remember();
  return update();
}

function summary() {
  if (!data.runs.length) return "There is no run yet.";
  const states = ["finished", "unfinished", "failed", "damaged"].map((state) => [
    data.runs.filter((run) => run.state === state).length,
    state,
  ]);
  const parts = states.filter(([number]) => number).map(([number, state]) => `${number} ${state}`);
  const settings = `${data.settings.length} setting${data.settings.length === 1 ? "" : "s"}`;
  return `${data.runs.length} run${data.runs.length === 1 ? "" : "s"} of ${settings}: ${parts.join(", ")}.`;
}

// That of the system, until a reader chooses the other one.
const system = matchMedia("(prefers-color-scheme: dark)");
const THEME = "qatlab-theme";

function storedTheme() {
  try {
    return localStorage.getItem(THEME);
  } catch {
    return null; // a browser may store nothing for files
  }
}

function setTheme(theme) {
  root.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "☀ light" : "☾ dark";
  byId("theme").title = `change to ${theme === "dark" ? "light" : "dark"} colours`;
  repaintAll();
}

function switchTheme() {
  const theme = isDark() ? "light" : "dark";
  try {
    if ((theme === "dark") === system.matches) localStorage.removeItem(THEME);
    else localStorage.setItem(THEME, theme);
  } catch {
    // It is that of the system again when the page is opened again.
  }
  setTheme(theme);
}

const currentTheme = () => storedTheme() ?? (system.matches ? "dark" : "light");

// Paper is white, and plotly draws in pixels: charts have to be told the width of the paper.
function print(starts) {
  printing = starts;
  setTheme(starts ? "light" : currentTheme());
}

setTheme(currentTheme());
byId("theme").addEventListener("click", switchTheme);
system.addEventListener("change", () => setTheme(currentTheme()));
byId("summary").textContent = summary();
byId("controls").open = innerWidth > NARROW;
for (const name of FILTERS) {
  const values = [...new Set(joinedRows.map((row) => row[name]))];
  const order = name.endsWith("Bits") ? (a, b) => orderOfBits(a) - orderOfBits(b) : undefined;
  fillSelect(byId(name), values.sort(order), methodName);
  byId(name).addEventListener("change", changed);
}
let waiting;
byId("words").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(changed, 120); // charts need not follow each letter
});
for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
byId("join").addEventListener("change", changed);
byId("join").disabled = data.settings.every(({ runs }) => runs.length < 2);
makeHead(byId("table").tHead, sorting, order);
const drawOverview = makeOverview(byId("overview"), open, changed);
const { dataset } = root; // times in milliseconds, for tests
const now = () => performance.now().toFixed(0);
const before = recall();
update().then(() => {
  dataset.drawn = now();
});
showPins();
if (before) open(before.id, false);
else if (joinedRows.length === 1) open(joinedRows[0].id, false);
dataset.opened = now();
let resized;
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return; // the bars of a phone change the height
  width = innerWidth;
  clearTimeout(resized);
  resized = setTimeout(repaintAll, 150);
});
addEventListener("beforeprint", () => print(true));
addEventListener("afterprint", () => print(false));
watch(byId("live"));
