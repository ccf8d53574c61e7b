// What all charts share: the library, colours of the theme, axes, places, and when they are painted.

const root = document.documentElement;
const FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif";
const CONFIG = {
  displaylogo: false,
  modeBarButtonsToRemove: ["lasso2d", "select2d", "zoomIn2d", "zoomOut2d"],
};
// Okabe and Ito's; black is that of the text, which is bright in the dark.
const COLORS = [
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#000000",
  "#882255",
];
const IN_THE_DARK = {
  "#0072B2": "#4fa8e8",
  "#D55E00": "#f5853f",
  "#009E73": "#2cc497",
  "#CC79A7": "#e19cc4",
  "#E69F00": "#f2b93b",
  "#56B4E9": "#9ad6f7",
  "#000000": "#f2f4f6",
  "#555555": "#a8b1bc",
  "#882255": "#d16d9e",
  "#666600": "#bfbf4a",
};
const COSTS = [
  ["bytes", "Accuracy against size", "size (bytes)"],
  ["operations", "Accuracy against bit operations", "bit operations per image"],
];
// Pixels: what A4 has between margins of 12 mm; Letter is a little wider, and lower.
const PRINTED = {
  half: { width: 340, height: 230 },
  tall: { width: 340, height: 310 }, // classes below one another
  alone: { width: 690, height: 230 },
  wide: { width: 690, height: 275 },
};

const pause = () => new Promise((resolve) => setTimeout(resolve));

// The library takes much longer to start than all else does. So it stands in the page as a text, and
// becomes a script when the table has been painted.
const libraryStarted = new Promise((resolve) => requestAnimationFrame(resolve))
  .then(pause)
  .then(() => {
    const source = document.getElementById("plotly");
    document.head.append(node("script", {}, source.textContent));
    source.remove();
  });

function isDark() {
  return root.dataset.theme === "dark";
}

function shade(color) {
  return isDark() ? (IN_THE_DARK[color] ?? color) : color;
}

// A colour of page.css, as the theme has it now; plotly reads no variables.
const probe = document.body.appendChild(node("span", { hidden: "" }));
const known = new Map();
function themed(name) {
  const key = `${name} ${root.dataset.theme}`;
  if (!known.has(key)) {
    probe.style.color = `var(--${name})`;
    known.set(key, getComputedStyle(probe).color);
  }
  return known.get(key);
}

// Charts are painted again when theme, width or paper change: what makes traces and layout is kept.
const painters = new Map();
let printing = false;

function paint(place, make) {
  painters.set(place, make);
  repaint(place);
}

function repaint(place) {
  const [traces, changes] = painters.get(place)();
  const size = printing ? PRINTED[kindOf(place)] : { autosize: true };
  Plotly.react(place, traces, { ...layout(changes), ...size }, CONFIG);
}

function kindOf(place) {
  const { classList } = place.closest("figure");
  for (const kind of ["wide", "alone"]) if (classList.contains(kind)) return kind;
  return place.matches("[id*=confusion], [id*=classes]") ? "tall" : "half";
}

function repaintAll() {
  for (const place of [...painters.keys()]) {
    if (place.isConnected) repaint(place);
    else painters.delete(place);
  }
}

function layout(changes) {
  const side = printing ? 46 : 60;
  return {
    font: { family: FONT, size: printing ? 10 : 12, color: themed("ink") },
    paper_bgcolor: themed("panel"),
    plot_bgcolor: themed("panel"),
    hoverlabel: {
      ...{ bgcolor: themed("panel"), bordercolor: themed("line"), align: "left", namelength: -1 },
      font: { color: themed("ink") },
    },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: themed("muted"), activecolor: themed("accent") },
    ...changes,
    margin: { l: side, r: 16, t: 14, b: 48, ...changes.margin },
    legend: {
      ...{ orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" },
      ...changes.legend,
    },
  };
}

function axis(title, changes = {}) {
  const look = { gridcolor: themed("grid"), linecolor: themed("line"), zeroline: false };
  return { title: { text: title, standoff: 10 }, automargin: true, ...look, ...changes };
}

// Not Math.min(...values): a call takes no more than some ten thousand arguments.
function extremes(values) {
  return values.reduce(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Infinity, -Infinity],
  );
}

// Logarithmic, with as many ticks as have room: 1, 2, 5 where there are some decades.
function logAxis(title, values, changes = {}) {
  const positive = values.filter((value) => value > 0);
  if (!positive.length) return axis(title, { type: "log", ...changes });
  const [lowest, highest] = extremes(positive);
  const decades = Math.log10(highest / lowest);
  const dtick = decades < 0.7 ? undefined : decades < 2 ? "D2" : 1;
  return axis(title, { type: "log", dtick, nticks: 6, tickformat: "~g", ...changes });
}

function epochAxis(epochs, changes = {}) {
  if (!epochs.length) return axis("epoch", changes);
  const [first, last] = extremes(epochs);
  const ticks = last - first < 12 ? { dtick: 1 } : { nticks: 10 };
  return axis("epoch", { tickformat: "d", range: [first - 0.5, last + 0.5], ...ticks, ...changes });
}

// A place for a chart with a heading; wide ones take the whole width.
function chartPlace(parent, id, title, wide = false) {
  const place = node("div", { id, class: "chart" });
  const figure = node("figure", wide ? { class: "wide" } : {}, node("figcaption", {}, title), place);
  parent.append(figure);
  return place;
}

function setTitle(place, title) {
  place.previousElementSibling.textContent = title;
}

// Leaves no hole: three charts share a row where that is wide enough; else an odd one has its own.
function closeGaps(parent) {
  const halves = [...parent.children].filter((figure) => !figure.classList.contains("wide"));
  parent.classList.toggle("thirds", halves.length === 3);
  for (const figure of halves) figure.classList.remove("alone");
  if (halves.length % 2) halves.at(-1).classList.add("alone");
}

function cut(text, most) {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

// A colour between those of the stops, at 0 to 1.
function mix(stops, at) {
  const place = at * (stops.length - 1);
  const i = Math.min(Math.floor(place), stops.length - 2);
  return `rgb(${stops[i].map((v, k) => Math.round(v + (place - i) * (stops[i + 1][k] - v)))})`;
}
