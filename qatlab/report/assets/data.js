// What the page shows, and how its values are written.

const data = JSON.parse(document.getElementById("data").textContent);
const parsed = new Map();

// What belongs to one run only is taken apart when it is needed.
function detailsOf(index) {
  if (!parsed.has(index)) parsed.set(index, JSON.parse(data.details[index]));
  return parsed.get(index);
}

// A row of the table and a point of the charts: a setting, or one of its runs.
function makeRow(label, runs, mean, deviation) {
  const row = { ...data.runs[runs[0]], label, runs, mean, deviation };
  const texts = runs.flatMap((i) => {
    const run = data.runs[i];
    return [run.folder, run.command, run.commit, run.reason, `seed=${run.seed}`];
  });
  row.words = [label, row.method, row.state, ...texts].join(" ").toLowerCase();
  row.seconds = meanOf(runs.map((i) => data.runs[i].seconds));
  row.seeds = seedText(runs.map((i) => data.runs[i].seed));
  row.commits = [...new Set(runs.map((i) => shortCommit(data.runs[i].commit)))].join(", ");
  return row;
}

const joinedRows = data.settings.map((s) => makeRow(s.label, s.runs, s.mean, s.deviation));
const singleRows = data.settings.flatMap((s) =>
  s.runs.map((i) => makeRow(s.label, [i], data.runs[i].top1, null)),
);

function meanOf(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

// 1, 2, 3, 7 as 1-3, 7.
function seedText(seeds) {
  const spans = [];
  for (const seed of seeds) {
    const last = spans.at(-1);
    if (last && seed !== null && last[1] + 1 === seed) last[1] = seed;
    else spans.push([seed, seed]);
  }
  return spans
    .map(([first, last]) => (first === null ? "?" : first === last ? first : `${first}-${last}`))
    .join(", ");
}

function shortCommit(commit) {
  return commit.slice(0, 7) + (commit.endsWith("+") ? "+" : "");
}

function percent(fraction) {
  return fraction === null ? "" : (100 * fraction).toFixed(2);
}

function accuracyText(row) {
  if (row.mean === null) return "";
  return percent(row.mean) + (row.deviation === null ? "" : ` ± ${percent(row.deviation)}`);
}

function count(number) {
  return number === null ? "" : number.toLocaleString("en");
}

// 123456789 as 123M: three digits tell sizes apart.
function short(number) {
  if (number === null) return "";
  const power = Math.max(0, Math.min(5, Math.floor(Math.log10(Math.max(number, 1)) / 3)));
  return Number((number / 1000 ** power).toPrecision(3)) + " kMGTP"[power].trim();
}

// 137496 as 137 kB.
function bytesText(number) {
  return short(number).replace(/[kMGTP]?$/, (unit) => ` ${unit}B`);
}

function duration(seconds) {
  if (seconds === null) return "";
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// Plotly reads some HTML in its texts, and what stands in files must not be read as such.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function orderOfBits(bits) {
  if (bits === "") return Infinity;
  return bits === "float" ? 32.5 : bits === "mixed" ? 32.25 : Number(bits);
}

function methodName(method) {
  return method || "not recorded";
}

// What a run was asked for, by key: {"quant.weight.bits": "2", ...}; keys without + and ~.
function askedFor(index) {
  const pairs = (data.runs[index].overrides ?? []).map((word) => {
    const at = word.indexOf("=");
    return at < 0 ? [word, ""] : [word.slice(0, at).replace(/^[+~]+/, ""), word.slice(at + 1)];
  });
  return Object.fromEntries(pairs);
}

// The keys that not all of these rows have with the same value; seeds are joined.
function differingKeys(rows) {
  const asked = rows.map((row) => askedFor(row.runs[0]));
  const keys = [...new Set(asked.flatMap(Object.keys))].filter((key) => key !== "seed");
  return keys.filter((key) => new Set(asked.map((words) => words[key])).size > 1);
}

// A name that breaks behind its dots and underscores, and not inside of its words.
function breakable(text) {
  return text.split(/(?<=[_.=/,])/).flatMap((part, i) => (i ? [node("wbr"), part] : [part]));
}

function linkTo(run, file) {
  return [data.base, run.link, file].filter(Boolean).join("/");
}

// An element with attributes and children; texts stay texts.
function node(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
