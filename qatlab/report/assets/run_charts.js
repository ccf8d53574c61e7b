// The charts of one run.

const PHASE_COLORS = ["#ffffff", "#f0f0f0"]; // the last phase is white
const MOST_COUNTS = 25; // classes whose counts are written into the matrix

function drawLearning(place, { epochs, phases, series }) {
  const looks = {
    train: ["training", COLORS[0], "circle"],
    val: ["validation", COLORS[1], "square"],
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
  const shapes = phases.map(([, first, last], i) => ({
    ...{ type: "rect", xref: "x", yref: "paper", x0: first - 0.5, x1: last + 0.5, y0: 0, y1: 1 },
    ...{ layer: "below", line: { width: 0 }, fillcolor: PHASE_COLORS[(phases.length - 1 - i) % 2] },
  }));
  const annotations = phases.map(([name, first, last]) => ({
    ...{ text: plain(name), x: (first + last) / 2, y: 1, xref: "x", yref: "paper" },
    ...{ yanchor: "bottom", showarrow: false, font: { size: 12, color: "#555" } },
  }));
  const losses = [...(series["train/loss"] ?? []), ...(series["val/loss"] ?? [])];
  Plotly.newPlot(
    place,
    traces,
    layout({
      xaxis: epochAxis(epochs, { anchor: "y2" }),
      yaxis: axis("accuracy (%)", { domain: [0.54, 1] }),
      yaxis2: logAxis("loss", losses, { domain: [0, 0.46] }),
      legend: { orientation: "h", x: 0, y: 1.09, xanchor: "left", yanchor: "bottom" },
      ...{ shapes, annotations, hovermode: "x", margin: { l: 64, r: 20, t: 30, b: 52 } },
    }),
    CONFIG,
  );
}

function drawLayers(place, layers) {
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
      marker: { color, pattern: { shape } },
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
  const order = {
    type: "category",
    categoryorder: "array",
    categoryarray: layers.map(([name]) => name),
  };
  Plotly.newPlot(
    place,
    traces,
    layout({
      xaxis: axis("", { ...order, tickangle: -60, tickfont: { size: 11 }, showgrid: false }),
      yaxis: axis("bits", { tickvals: ticks, ticktext: labels, rangemode: "tozero" }),
      bargap: 0.25,
      barmode: "overlay", // a name is that of a layer or of a site
    }),
    CONFIG,
  );
}

// Blue to yellow by depth: early layers are dark, late ones bright.
function depthColor(at) {
  const stops = [
    [0, 32, 76],
    [87, 93, 109],
    [165, 156, 116],
    [234, 200, 40],
  ];
  const place = at * (stops.length - 1);
  const i = Math.min(Math.floor(place), stops.length - 2);
  return `rgb(${stops[i].map((v, k) => Math.round(v + (place - i) * (stops[i + 1][k] - v)))})`;
}

function drawQuantizers(place, { epochs, rows }, column) {
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
    text: "dark: first layers, bright: last ones",
    xref: "paper",
    yref: "paper",
    x: 0,
    y: 1.02,
  };
  const look = {
    xanchor: "left",
    yanchor: "bottom",
    showarrow: false,
    font: { size: 12, color: "#555" },
  };
  Plotly.newPlot(
    place,
    traces,
    layout({
      xaxis: epochAxis(epochs),
      yaxis:
        column === 3
          ? axis("values beyond the grid (%)", { rangemode: "tozero" })
          : logAxis(
              "alpha or step (logarithmic)",
              traces.flatMap((trace) => trace.y),
            ),
      annotations: own.length > 8 ? [{ ...note, ...look }] : [],
      hovermode: "closest",
      margin: { l: 64, r: 20, t: 30, b: 52 },
    }),
    CONFIG,
  );
}

function drawConfusion(place, matrix) {
  const n = matrix.length;
  const names = matrix.map((_, i) => String(i));
  const written = n <= MOST_COUNTS;
  const traces = [
    {
      type: "heatmap",
      x: names,
      y: names,
      // The root lets a single error be seen; right answers are grey, or they would hide all errors.
      z: matrix.map((line, i) => line.map((value, j) => (i === j ? null : Math.sqrt(value)))),
      text: matrix.map((line, i) =>
        line.map((value, j) => (value && i !== j ? String(value) : "")),
      ),
      texttemplate: written ? "%{text}" : undefined,
      hovertemplate: "class %{y} taken for %{x}: %{text}<extra></extra>",
      hoverongaps: false,
      colorscale: [
        [0, "#fff5eb"],
        [0.5, "#fd8d3c"],
        [1, "#7f2704"],
      ],
      zmin: 0,
      zmax: Math.max(
        1,
        ...matrix.flatMap((line, i) => line.filter((_, j) => i !== j)).map(Math.sqrt),
      ),
      showscale: false,
      xgap: written ? 1 : 0,
      ygap: written ? 1 : 0,
    },
    {
      x: names,
      y: names,
      text: matrix.map((line, i) => String(line[i])),
      mode: written ? "text" : "markers",
      marker: { opacity: 0 },
      hovertemplate: "class %{x} recognized: %{text}<extra></extra>",
      showlegend: false,
    },
  ];
  const look = { type: "category", showgrid: false, nticks: 26, ticks: "" };
  Plotly.newPlot(
    place,
    traces,
    layout({
      xaxis: axis("estimated class", look),
      yaxis: axis("true class", { ...look, autorange: "reversed" }),
      plot_bgcolor: "#e6e6e6",
      hovermode: "closest",
    }),
    CONFIG,
  );
}
