// What all charts share: the library, looks, axes, places.

const FONT = {
  family: "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif",
  size: 12,
  color: "#222",
};
const CONFIG = {
  displaylogo: false,
  responsive: true,
  modeBarButtonsToRemove: ["lasso2d", "select2d", "zoomIn2d", "zoomOut2d"],
};
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
const GRID = "#e3e3e3";

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

function layout(changes) {
  return {
    font: FONT,
    margin: { l: 60, r: 16, t: 14, b: 48 },
    hoverlabel: { bgcolor: "white", align: "left", namelength: -1 },
    legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" },
    ...changes,
  };
}

function axis(title, changes = {}) {
  const look = { gridcolor: GRID, zeroline: false, automargin: true };
  return { title: { text: title, standoff: 8 }, ...look, ...changes };
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
  const known = values.filter((value) => value > 0);
  if (!known.length) return axis(title, { type: "log", ...changes });
  const [lowest, highest] = extremes(known);
  const decades = Math.log10(highest / lowest);
  const dtick = decades < 0.7 ? undefined : decades < 3 ? "D2" : 1;
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
  parent.append(
    node("figure", wide ? { class: "wide" } : {}, node("figcaption", {}, title), place),
  );
  return place;
}
