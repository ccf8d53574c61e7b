// The charts of one run, and of several side by side.

const MOST_COUNTS = 25; // classes whose counts are written into the matrix

// Bands and names of phases; the last one has no band.
function phaseMarks(phases) {
  const shapes = phases.map(([, first, last], i) => ({
    ...{ type: "rect", xref: "x", yref: "paper", x0: first - 0.5, x1: last + 0.5, y0: 0, y1: 1 },
    ...{ layer: "below", line: { width: 0 } },
    fillcolor: (phases.length - 1 - i) % 2 ? themed("raised") : themed("panel"),
  }));
  const annotations = phases.map(([name, first, last]) => ({
    ...{ text: plain(name), x: (first + last) / 2, y: 1, xref: "x", yref: "paper" },
    ...{ yanchor: "bottom", showarrow: false, font: { color: themed("muted") } },
  }));
  return { shapes, annotations };
}

function learningOf(place, { epochs, phases, series }) {
  const looks = {
    train: ["training", shade(COLORS[0]), "circle"],
    val: ["validation", shade(COLORS[1]), "square"],
  };
  const traces = Object.entries(series).map(([key, values]) => {
    const [part, metric] = key.split("/");
    const [name, color, symbol] = looks[part];
    const factor = metric === "acc" ? 100 : 1;
    return {
      x: epochs,
      y: values.map((value) => (value === null ? null : factor * value)),
      yaxis: metric === "acc" ? "y" : "y2",
      name,
      legendgroup: part,
      showlegend: metric === "acc" || !(`${part}/acc` in series),
      mode: epochs.length > 40 ? "lines" : "lines+markers",
      line: { color, width: 1.8 },
      marker: { size: 5, symbol },
      connectgaps: true,
      hovertemplate: `${name} %{y:.4g}<extra></extra>`,
    };
  });
  const losses = [...(series["train/loss"] ?? []), ...(series["val/loss"] ?? [])];
  return [
    traces,
    {
      xaxis: epochAxis(epochs, { anchor: "y2" }),
      yaxis: axis("accuracy (%)", { domain: [0.54, 1], nticks: 5 }),
      yaxis2: logAxis("loss", losses, { domain: [0, 0.44], nticks: 4 }),
      legend: { y: 1.09 },
      showlegend: true,
      ...{ ...phaseMarks(phases), hovermode: "x", margin: { l: 64, r: 20, t: 30, b: 52 } },
    },
  ];
}

function bitsOfLayers(place, layers) {
  // A float tensor has no bar that fits beside 2 bits: it gets one a little above the highest.
  const top = Math.max(2, ...layers.map(([, , , bits]) => bits ?? 0)) + 2;
  const parts = [
    ["weight", "weights", COLORS[0], ""],
    ["activation", "activations", COLORS[4], "/"],
  ];
  const traces = parts.map(([part, name, color, shape]) => {
    const own = layers.filter((layer) => layer[1] === part);
    return {
      type: "bar",
      x: own.map(([layer]) => layer),
      y: own.map(([, , , bits]) => bits ?? top),
      name,
      marker: { color: shade(color), pattern: { shape } },
      hovertext: own.map(([layer, , type, bits, parameters, macs, method]) =>
        [
          `<b>${plain(layer)}</b>`,
          `${plain(type)}, ${bits === null ? "float" : `${bits} bits`} ${plain(method)}`,
          parameters ? `${count(parameters)} weights, ${count(macs)} multiply-accumulates` : "",
        ].join("<br>"),
      ),
      hoverinfo: "text",
      textposition: "none",
    };
  });
  const ticks = [...new Set(layers.map(([, , , bits]) => bits ?? top))].sort((a, b) => a - b);
  const labels = ticks.map((bits) => (bits === top ? "float" : String(bits)));
  return [
    traces,
    {
      xaxis: layerAxis(place, layers.map(([name]) => name)),
      yaxis: axis("bits", { tickvals: ticks, ticktext: labels, rangemode: "tozero" }),
      bargap: 0.25,
      barmode: "overlay", // a name is that of a layer or of a site
      showlegend: true,
    },
  ];
}

// Names in the order of computation; of long ones the end, which tells them apart.
function layerAxis(place, names) {
  const most = printing ? 16 : 24;
  const room = printing ? 30 : Math.max(8, (place.clientWidth - 80) / 16); // names side by side
  const every = Math.ceil(names.length / room);
  const shown = names.filter((_, i) => i % every === 0);
  return axis("", {
    ...{ type: "category", categoryorder: "array", categoryarray: names, tickangle: -60 },
    ...{ tickvals: shown, ticktext: shown.map((name) => plain(endOf(name, most))), showgrid: false },
    tickfont: { size: printing ? 7 : 11 },
  });
}

function endOf(text, most) {
  return text.length <= most ? text : `…${text.slice(-(most - 1))}`;
}

// Blue to yellow by depth: early layers are dark, late ones bright.
function depthColor(at) {
  const [first, last] = isDark()
    ? [
        [86, 118, 190],
        [255, 222, 80],
      ]
    : [
        [0, 32, 76],
        [224, 180, 20],
      ];
  const middle = isDark() ? [150, 150, 150] : [110, 110, 115];
  return mix([first, middle, last], at);
}

function quantizersOf(place, { epochs, rows }, column) {
  const dashes = { alpha: "solid", step_size: "dash" };
  const own = rows.filter((row) => row[column].length);
  const factor = column === 3 ? 100 : 1;
  const traces = own.map(([name, learned, ...values], i) => ({
    x: values[column] ?? epochs, // thinned curves have epochs of their own
    y: values[column - 2].map((value) => (value === null ? null : factor * value)),
    mode: values[column - 2].length > 40 ? "lines" : "lines+markers",
    marker: { size: 4 },
    line: {
      color: depthColor(own.length > 1 ? i / (own.length - 1) : 0),
      dash: dashes[learned],
      width: 1.6,
    },
    name: `${plain(name)}, ${column === 3 ? "clipped" : learned}`,
    hovertemplate: "%{fullData.name}, epoch %{x}: %{y:.4g}<extra></extra>",
    showlegend: own.length <= 8,
  }));
  const note = {
    ...{ text: "dark: first layers, bright: last ones", xref: "paper", yref: "paper", x: 0, y: 1.02 },
    ...{ xanchor: "left", yanchor: "bottom", showarrow: false, font: { color: themed("muted") } },
  };
  return [
    traces,
    {
      xaxis: epochAxis(epochs),
      yaxis:
        column === 3
          ? axis("values beyond the grid (%)", { rangemode: "tozero" })
          : logAxis(
              "alpha or step (logarithmic)",
              traces.flatMap((trace) => trace.y),
            ),
      annotations: own.length > 8 ? [note] : [],
      hovermode: "closest",
      margin: { l: 64, r: 20, t: 30, b: 52 },
    },
  ];
}

// Names of classes, or their numbers where no names are recorded.
function namesOf(classNames, n) {
  return classNames.length ? classNames : Array.from({ length: n }, (_, i) => String(i));
}

// An axis of classes: numbers as places, as two classes may have one name.
function classAxis(title, names, changes = {}) {
  const n = names.length;
  const most = printing ? 10 : 16;
  const every = Math.ceil(n / (printing ? 20 : 34));
  const shown = names.map((_, i) => i).filter((i) => i % every === 0);
  return axis(title, {
    ...{ range: [-0.5, n - 0.5], tickvals: shown, showgrid: false, ticks: "", zeroline: false },
    ticktext: shown.map((i) => plain(cut(names[i], most))),
    ...(n > 12 ? { tickfont: { size: printing ? 7 : 10 } } : {}),
    ...changes,
  });
}

function mostErrors(matrix) {
  return matrix.reduce(
    (most, line, i) => line.reduce((own, v, j) => (i === j ? own : Math.max(own, v)), most),
    1,
  );
}

// Counts of errors by colour; ``most`` is the number that the darkest one stands for.
function confusionOf(place, matrix, names, most) {
  const n = matrix.length;
  const at = names.map((_, i) => i);
  const written = n <= MOST_COUNTS;
  const common = {
    ...{ type: "heatmap", x: at, y: at, hoverongaps: false, hoverinfo: "text", showscale: false },
    texttemplate: written ? "%{text}" : undefined,
    ...(written ? { xgap: 1, ygap: 1 } : {}),
  };
  const cells = (f) => matrix.map((line, i) => line.map((value, j) => f(value, i, j)));
  const hover = (value, i, j) =>
    i === j
      ? `${plain(names[i])} recognized: ${count(value)}`
      : `${plain(names[i])} taken for ${plain(names[j])}: ${count(value)}`;
  const orange = isDark()
    ? [
        [0, "#2a2420"],
        [0.5, "#b5541c"],
        [1, "#ffb27a"],
      ]
    : [
        [0, "#fff5eb"],
        [0.5, "#fd8d3c"],
        [1, "#7f2704"],
      ];
  const traces = [
    {
      ...common,
      // The root lets a single error be seen; right answers are grey, or they would hide all errors.
      z: cells((value, i, j) => (i === j ? null : Math.sqrt(value))),
      text: cells((value, i, j) => (value && i !== j ? String(value) : "")),
      hovertext: cells(hover),
      colorscale: orange,
      ...{ zmin: 0, zmax: Math.sqrt(most) },
    },
    {
      ...common,
      z: cells((_, i, j) => (i === j ? 1 : null)),
      text: cells((value, i, j) => (i === j ? String(value) : "")),
      hovertext: cells(hover),
      colorscale: [
        [0, themed("right")],
        [1, themed("right")],
      ],
    },
  ];
  return [
    traces,
    {
      xaxis: classAxis("estimated class", names, { tickangle: -45 }),
      yaxis: classAxis("true class", names, { range: [n - 0.5, -0.5] }),
      hovermode: "closest",
    },
  ];
}

// The share of each class's images that were recognized.
function recallOf(place, matrix, names) {
  const totals = matrix.map((line) => line.reduce((sum, value) => sum + value, 0));
  const seen = names.map((_, i) => i).filter((i) => totals[i]);
  const recall = seen.map((i) => (100 * matrix[i][i]) / totals[i]);
  const [low] = extremes(recall);
  const written = names.length <= MOST_COUNTS;
  const margin = Math.max(0.06 * (100 - low), 0.2);
  const trace = {
    x: recall,
    y: seen,
    text: recall.map((value) => value.toFixed(1)),
    mode: written ? "markers+text" : "markers",
    textposition: "middle right",
    textfont: { size: printing ? 8 : 11 },
    marker: { color: shade(COLORS[0]), size: written ? 8 : 5 },
    hovertext: seen.map(
      (i, k) => `${plain(names[i])}: ${recall[k].toFixed(2)} % of ${count(totals[i])}`,
    ),
    hoverinfo: "text",
    cliponaxis: false,
  };
  return [
    [trace],
    {
      xaxis: axis("recognized images of the class (%)", { range: [low - margin, 100 + 2 * margin] }),
      yaxis: classAxis("", names, { range: [names.length - 0.5, -0.5], showgrid: true }),
      margin: { r: 34 },
    },
  ];
}
