// The charts of all visible rows: accuracy against costs, bits, learning curves.

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

function frontOf(place, rows, cost, title) {
  const known = rows.filter((row) => row.mean !== null && row[cost] !== null);
  const front = paretoFront(rows, cost);
  const traces = [
    {
      x: front.map((row) => row[cost]),
      y: front.map((row) => 100 * row.mean),
      mode: "lines",
      line: { shape: "hv", color: themed("muted"), width: 1.5 },
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
      marker: { ...markOf(method), size: printing ? 7 : 10, opacity: 0.85 },
      name: plain(method ? method : "method not recorded"),
    });
  }
  const x = logAxis(
    title,
    known.map((row) => row[cost]),
    { tickformat: "~s" },
  );
  const y = axis("top-1 test accuracy (%)");
  return [traces, { xaxis: x, yaxis: y, hovermode: "closest", showlegend: true }];
}

function markOf(method) {
  const { color, symbol } = data.marks[method];
  return { color: shade(color), symbol };
}

// The best row for each pair of weight bits and activation bits.
function bestByBits(rows) {
  const best = new Map();
  for (const row of rows.filter((r) => r.mean !== null && r.weightBits && r.activationBits)) {
    const key = `${row.weightBits} ${row.activationBits}`;
    if (!best.has(key) || best.get(key).mean < row.mean) best.set(key, row);
  }
  return best;
}

// Cells of a table tell more than their diagonal only where some share their weight bits, or their
// activation bits.
function isTable(best) {
  const quantized = [...best.values()].filter((row) => row.weightBits !== "float");
  return ["weightBits", "activationBits"].some(
    (name) => new Set(quantized.map((row) => row[name])).size < quantized.length,
  );
}

function byBits(place, rows) {
  const best = bestByBits(rows);
  const table = isTable(best);
  setTitle(place, table ? "Best top-1 accuracy (%) by bits" : "Best top-1 accuracy by bits and method");
  return table ? bitsTable(best) : bitsCurves(rows);
}

function bitsTable(best) {
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
    colorbar: { thickness: 12, outlinewidth: 0, nticks: 6 },
  };
  const x = axis("activation bits", { type: "category", showgrid: false });
  const y = axis("weight bits", { type: "category", showgrid: false });
  return [[trace], { xaxis: x, yaxis: y }];
}

// Where each width of weights goes with one of activations: a curve for each method.
function bitsCurves(rows) {
  const name = (row) =>
    row.weightBits === row.activationBits
      ? row.weightBits
      : `${row.weightBits} / ${row.activationBits}`;
  const quantized = rows.filter((row) => row.method !== "float");
  const traces = [...new Set(quantized.map((row) => row.method))].sort().map((method) => {
    const best = [...bestByBits(quantized.filter((row) => row.method === method)).values()];
    best.sort((a, b) => orderOfBits(a.weightBits) - orderOfBits(b.weightBits));
    return {
      x: best.map(name),
      y: best.map((row) => 100 * row.mean),
      text: best.map(hoverText),
      hoverinfo: "text",
      customdata: best.map((row) => row.id),
      mode: "lines+markers",
      line: { color: markOf(method).color, width: 1.8 },
      marker: { ...markOf(method), size: 9 },
      name: plain(methodName(method)),
    };
  });
  const all = [...bestByBits(quantized).values()];
  all.sort((a, b) => orderOfBits(a.weightBits) - orderOfBits(b.weightBits));
  const float = [...bestByBits(rows.filter((row) => row.method === "float")).values()][0];
  if (float) {
    traces.push({
      x: all.map(name),
      y: all.map(() => 100 * float.mean),
      text: all.map(() => hoverText(float)),
      hoverinfo: "text",
      customdata: all.map(() => float.id),
      mode: "lines",
      line: { color: markOf("float").color, dash: "dash", width: 1.5 },
      name: "float",
    });
  }
  const order = { type: "category", categoryorder: "array", categoryarray: all.map(name) };
  const title = all.every((row) => row.weightBits === row.activationBits)
    ? "bits of weights and of activations"
    : "weight bits / activation bits";
  const layout = { xaxis: axis(title, order), yaxis: axis("top-1 test accuracy (%)") };
  return [traces.filter((trace) => trace.x.length), { ...layout, showlegend: true }];
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

// Mean over the runs of a row: [epoch, accuracy, phase] of each epoch; computed once.
const meanCurves = new Map();
function meanCurve(row) {
  if (!meanCurves.has(row)) meanCurves.set(row, newMeanCurve(row));
  return meanCurves.get(row);
}

function newMeanCurve(row) {
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

// The curve of a row in one colour: dotted before its last phase.
function curveTraces(row, color) {
  const points = meanCurve(row);
  if (!points.length) return [];
  const last = points.at(-1)[2];
  const start = points.findIndex(([, , phase]) => phase === last);
  // The first part ends where the second begins, so that the line is not broken.
  return [
    [points.slice(0, start + 1), "dot"],
    [points.slice(start), "solid"],
  ]
    .filter(([, dash]) => dash === "solid" || start > 0)
    .map(([part, dash]) => ({
      x: part.map(([epoch]) => epoch),
      y: part.map(([, accuracy]) => 100 * accuracy),
      mode: points.length > 40 ? "lines" : "lines+markers",
      line: { color, dash, width: 1.8 },
      marker: { size: 5, symbol: data.marks[row.method].symbol },
      name: plain(shortLabel(row)),
      legendgroup: row.id,
      showlegend: dash === "solid",
      customdata: part.map(() => row.id),
      text: part.map(
        ([epoch, accuracy, phase]) =>
          `<b>${plain(row.label)}</b><br>epoch ${epoch}, ${plain(phase)}: ${percent(accuracy)} %`,
      ),
      hoverinfo: "text",
    }));
}

function shortLabel(row) {
  return cut(row.label.replace(/ \+?(quant|schedule|solver|data|model)\./g, " "), 60);
}

function titleOfCurves(rows, which) {
  const among = rows.filter(validated).length;
  const kind = among === 0 ? "Training" : among === rows.length ? "Validation" : "";
  const mixed = kind ? "" : ": in validation, or where no images are held out in training";
  return `${kind ? `${kind} accuracy` : "Accuracy"} of ${which}${mixed}`;
}

// The best settings only: more than eight colours cannot be told apart.
function bestCurves(place, rows) {
  const best = rows
    .filter((row) => row.mean !== null && meanCurve(row).length)
    .sort((a, b) => b.mean - a.mean)
    .slice(0, COLORS.length);
  const traces = best.flatMap((row, i) => curveTraces(row, shade(COLORS[i])));
  const dotted = traces.some((trace) => trace.line.dash === "dot");
  const title = titleOfCurves(best, best.length > 1 ? "the best settings" : "this setting");
  setTitle(place, title + (dotted ? " (dotted: phases before the last one)" : ""));
  const legend = { y: printing ? -0.3 : -0.2, yanchor: "top" };
  const x = epochAxis(traces.flatMap((trace) => trace.x));
  const y = axis("accuracy (%)");
  return [traces, { xaxis: x, yaxis: y, hovermode: "closest", legend, showlegend: true }];
}

// The rows that a reader looks for first, as numbers that can be clicked.
const NEAR = 0.01; // of top-1, a fraction

function fillBest(parent, rows, opened) {
  const known = rows.filter((row) => row.mean !== null).sort((a, b) => b.mean - a.mean);
  parent.replaceChildren();
  if (!known.length) return;
  const near = known.filter((row) => row.mean >= known[0].mean - NEAR);
  const cheapest = (cost) => {
    const costly = near.filter((row) => row[cost] !== null);
    return costly.length && near.length > 1
      ? costly.reduce((best, row) => (row[cost] < best[cost] ? row : best))
      : null;
  };
  const tiles = [
    ["best top-1", known[0], `${accuracyText(known[0])} %`],
    ["smallest within 1 point of it", cheapest("bytes"), (row) => bytesText(row.bytes)],
    ["fewest bit operations within 1 point", cheapest("operations"), (row) => short(row.operations)],
  ];
  for (const [what, row, text] of tiles) {
    if (!row) continue;
    const number = typeof text === "string" ? text : text(row);
    const which = row === known[0] ? row.label : `${row.label}: ${accuracyText(row)} %`;
    const tile = node(
      "button",
      { type: "button" },
      node("span", { class: "what" }, what),
      node("span", { class: "number" }, number),
      node("span", { class: "which" }, ...breakable(which)),
    );
    tile.addEventListener("click", () => opened(row.id));
    parent.append(tile);
  }
}

// Charts of which no run has anything are not made; a sentence says so.
function makeOverview(parent, opened, changed) {
  const rows = joinedRows.filter((row) => row.mean !== null);
  const draws = [];
  const absent = [];
  for (const [cost, title, axisTitle] of COSTS) {
    if (rows.some((row) => row[cost] !== null)) {
      const place = chartPlace(parent, `front-${cost}`, title);
      draws.push([place, (visible) => frontOf(place, visible, cost, axisTitle)]);
    } else absent.push(title);
  }
  if (bestByBits(rows).size > 1) {
    const place = chartPlace(parent, "bits", "Best top-1 accuracy by bits");
    draws.push([place, (visible) => byBits(place, visible)]);
  } else if (!bestByBits(rows).size) absent.push("Accuracy by weight bits and activation bits");
  if (rows.some((row) => meanCurve(row).length)) {
    const place = chartPlace(parent, "curves", "Accuracy", true);
    draws.push([place, (visible) => bestCurves(place, visible)]);
  } else absent.push("Learning curves");
  if (axesOf(rows).length > 2) {
    const title = "Settings and what they lead to: a line for each row, bright where top-1 is high";
    const place = chartPlace(parent, "parallel", title, true);
    place.previousElementSibling.append(node("span", { class: "hint" }, "; drag along an axis to filter"));
    const show = watchRanges(place, () => titles, changed);
    draws.push([
      place,
      (visible) => {
        show();
        return parallel(visible);
      },
    ]);
  }
  closeGaps(parent);
  if (absent.length && rows.length) {
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
      paint(place, () => draw(visible));
      if (first) place.on("plotly_click", (event) => opened(event.points[0].customdata));
    }
  };
}
