// The charts of all visible rows: accuracy against costs, bits, learning curves.

const COSTS = [
  ["bytes", "Accuracy against size", "size (bytes)"],
  ["operations", "Accuracy against bit operations", "bit operations per image"],
];

function hoverText(row) {
  const lines = [
    `<b>${plain(row.label)}</b>`,
    `top-1 ${accuracyText(row)} %, seed ${plain(row.seeds)}`,
  ];
  if (row.bytes !== null) lines.push(`${count(row.bytes)} bytes`);
  if (row.operations !== null) lines.push(`${count(row.operations)} bit operations`);
  if (row.weightBits) {
    lines.push(
      `${plain(row.method)}, weights ${row.weightBits}, activations ${row.activationBits}`,
    );
  }
  return lines.join("<br>");
}

// Which rows no other one beats, by rising cost; the same rule as pareto_front in settings.py.
function paretoFront(rows, cost) {
  const known = rows.filter((row) => row.mean !== null && row[cost] !== null);
  known.sort((a, b) => a[cost] - b[cost] || b.mean - a.mean);
  const front = [];
  for (const row of known) if (!front.length || row.mean > front.at(-1).mean) front.push(row);
  return front;
}

function drawFront(place, rows, cost, title) {
  const known = rows.filter((row) => row.mean !== null && row[cost] !== null);
  const front = paretoFront(rows, cost);
  const traces = [
    {
      x: front.map((row) => row[cost]),
      y: front.map((row) => 100 * row.mean),
      mode: "lines",
      line: { shape: "hv", color: "#555", width: 1.5 },
      name: "Pareto front",
      showlegend: false,
      hoverinfo: "skip",
    },
  ];
  for (const method of [...new Set(known.map((row) => row.method))].sort()) {
    const chosen = known.filter((row) => row.method === method);
    traces.push({
      x: chosen.map((row) => row[cost]),
      y: chosen.map((row) => 100 * row.mean),
      error_y: {
        array: chosen.map((row) => row.deviation && 100 * row.deviation),
        visible: chosen.some((row) => row.deviation !== null),
        ...{ thickness: 1, width: 3 },
      },
      customdata: chosen.map((row) => row.id),
      text: chosen.map(hoverText),
      hoverinfo: "text",
      mode: "markers",
      marker: { ...data.marks[method], size: 10, opacity: 0.85 },
      name: plain(method ? method : "method not recorded"),
    });
  }
  const x = logAxis(
    title,
    known.map((row) => row[cost]),
    { tickformat: "~s" },
  );
  const y = axis("top-1 test accuracy (%)");
  Plotly.react(place, traces, layout({ xaxis: x, yaxis: y, hovermode: "closest" }), CONFIG);
}

// The best setting for each pair of weight bits and activation bits.
function drawBits(place, rows) {
  const best = new Map();
  for (const row of rows.filter((r) => r.mean !== null && r.weightBits && r.activationBits)) {
    const key = `${row.weightBits} ${row.activationBits}`;
    if (!best.has(key) || best.get(key).mean < row.mean) best.set(key, row);
  }
  const bitsOf = (name) =>
    [...new Set([...best.values()].map((row) => row[name]))].sort(
      (a, b) => orderOfBits(a) - orderOfBits(b),
    );
  const weights = bitsOf("weightBits");
  const activations = bitsOf("activationBits");
  const cells = weights.map((w) => activations.map((a) => best.get(`${w} ${a}`) ?? null));
  const each = (f, absent = null) =>
    cells.map((line) => line.map((row) => (row ? f(row) : absent)));
  const trace = {
    type: "heatmap",
    x: activations,
    y: weights,
    z: each((row) => 100 * row.mean),
    text: each((row) => percent(row.mean), ""),
    texttemplate: "%{text}",
    hovertext: each(hoverText, ""),
    hoverinfo: "text",
    hoverongaps: false,
    customdata: each((row) => row.id),
    colorscale: "Cividis",
    xgap: 2,
    ygap: 2,
    colorbar: { thickness: 14 },
  };
  const x = axis("activation bits", { type: "category", showgrid: false });
  const y = axis("weight bits", { type: "category", showgrid: false });
  Plotly.react(place, [trace], layout({ xaxis: x, yaxis: y }), CONFIG);
}

// A run's curve as [epoch, accuracy, phase] of each epoch that has one.
function curveOf({ epochs, phases, series }) {
  const values = series && (series["val/acc"] ?? series["train/acc"]);
  if (!values) return [];
  const byEpoch = new Map();
  epochs.forEach((epoch, at) => {
    if (values[at] === null) return;
    byEpoch.set(epoch, [...(byEpoch.get(epoch) ?? []), values[at]]);
  });
  const phaseAt = (epoch) =>
    phases.find(([, first, last]) => first <= epoch && epoch <= last)?.[0] ?? "";
  const known = [...byEpoch.keys()].sort((a, b) => a - b);
  return known.map((epoch) => [epoch, meanOf(byEpoch.get(epoch)), phaseAt(epoch)]);
}

// Values of a curve at rising epochs, between its own ones on a line: each seed is thinned in its
// own way.
function valuesAt(curve, epochs) {
  let i = 0;
  return epochs.map((epoch) => {
    while (i < curve.length && curve[i][0] < epoch) i++;
    if (i === curve.length || (i === 0 && curve[0][0] > epoch)) return null;
    const [next, after] = curve[i];
    if (next === epoch) return after;
    const [last, before] = curve[i - 1];
    return before + ((after - before) * (epoch - last)) / (next - last);
  });
}

// Mean over the runs of a row: [epoch, accuracy, phase] of each epoch.
function meanCurve(row) {
  const curves = row.runs.map((i) => curveOf(detailsOf(i).curves));
  if (curves.length === 1) return curves[0];
  const phases = new Map(curves.flat().map(([epoch, , phase]) => [epoch, phase]));
  const epochs = [...phases.keys()].sort((a, b) => a - b);
  const values = curves.map((curve) => valuesAt(curve, epochs));
  return epochs.map((epoch, at) => [
    epoch,
    meanOf(values.map((own) => own[at])),
    phases.get(epoch),
  ]);
}

// Without images held out for validation, the curve is that of the training.
function validated(row) {
  return row.runs.some((i) => detailsOf(i).curves.series?.["val/acc"]);
}

// The best settings only: more than eight colours cannot be told apart.
function drawCurves(place, rows) {
  const best = rows.filter((row) => row.mean !== null).sort((a, b) => b.mean - a.mean);
  const traces = [];
  let drawn = 0;
  for (const row of best) {
    if (drawn === COLORS.length) break;
    const points = meanCurve(row);
    if (!points.length) continue;
    const last = points.at(-1)[2];
    const start = points.findIndex(([, , phase]) => phase === last);
    // The first part ends where the second begins, so that the line is not broken.
    for (const [part, dash] of [
      [points.slice(0, start + 1), "dot"],
      [points.slice(start), "solid"],
    ]) {
      if (dash === "dot" && start === 0) continue;
      traces.push({
        x: part.map(([epoch]) => epoch),
        y: part.map(([, accuracy]) => 100 * accuracy),
        mode: points.length > 40 ? "lines" : "lines+markers",
        line: { color: COLORS[drawn], dash, width: 1.8 },
        marker: { size: 5, symbol: data.marks[row.method].symbol },
        name: plain(row.label.replace(/ quant\./g, " ")) + (validated(row) ? "" : " (training)"),
        legendgroup: row.id,
        showlegend: dash === "solid",
        customdata: part.map(() => row.id),
        text: part.map(
          ([epoch, accuracy, phase]) =>
            `<b>${plain(row.label)}</b><br>epoch ${epoch}, ${plain(phase)}: ${percent(accuracy)} %`,
        ),
        hoverinfo: "text",
      });
    }
    drawn += 1;
  }
  const legend = { orientation: "h", x: 0, y: -0.16, yanchor: "top" };
  const x = epochAxis(traces.flatMap((trace) => trace.x));
  const y = axis("accuracy (%)");
  Plotly.react(place, traces, layout({ xaxis: x, yaxis: y, hovermode: "closest", legend }), CONFIG);
}

// Charts of which no run has anything are not made; a sentence says so.
function makeOverview(parent, opened) {
  const rows = joinedRows.filter((row) => row.mean !== null);
  const draws = [];
  const absent = [];
  for (const [cost, title, axisTitle] of COSTS) {
    if (rows.some((row) => row[cost] !== null)) {
      const place = chartPlace(parent, `front-${cost}`, title);
      draws.push([place, (visible) => drawFront(place, visible, cost, axisTitle)]);
    } else absent.push(title);
  }
  if (rows.some((row) => row.weightBits && row.activationBits)) {
    const place = chartPlace(parent, "bits", "Best top-1 accuracy (%) by bits");
    draws.push([place, (visible) => drawBits(place, visible)]);
  } else absent.push("Accuracy by weight bits and activation bits");
  if (rows.some((row) => meanCurve(row).length)) {
    const title = "Validation accuracy of the best settings (dotted: phases before the last one)";
    const place = chartPlace(parent, "curves", title, true);
    draws.push([place, (visible) => drawCurves(place, visible)]);
  } else absent.push("Learning curves");
  if (absent.length) {
    document.getElementById("absent").textContent =
      `Not recorded by any of these runs: ${absent.join("; ")}.`;
  }
  // Each in a task of its own, so that the page can be used meanwhile; the last call wins.
  let wanted = 0;
  return async (visible) => {
    const call = ++wanted;
    await libraryStarted;
    for (const [place, draw] of draws) {
      await pause();
      if (call !== wanted) return;
      const first = !place.on;
      draw(visible);
      if (first) place.on("plotly_click", (event) => opened(event.points[0].customdata));
    }
  };
}
