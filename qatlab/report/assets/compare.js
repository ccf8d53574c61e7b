// Rows that are pinned, side by side: what differs, curves, bits of layers, confusion matrices.

const PIN_COLORS = [COLORS[0], COLORS[1], COLORS[2], COLORS[3]];

function showPinned(parent, rows, unpin) {
  parent.hidden = rows.length < 2;
  parent.replaceChildren();
  if (parent.hidden) return;
  const clear = node("button", { type: "button" }, "unpin all");
  clear.addEventListener("click", unpin);
  parent.append(node("h2", {}, `${rows.length} settings side by side`), clear);
  parent.append(differences(rows));
  const charts = node("div", { class: "charts" });
  parent.append(charts);
  const draws = [];
  const chart = (id, title, wide, make, ...facts) =>
    draws.push([chartPlace(charts, id, title, wide), make, facts]);
  if (rows.some((row) => meanCurve(row).length)) {
    chart("pinned-curves", titleOfCurves(rows, "these settings"), true, pinnedCurves, rows);
  }
  if (rows.some((row) => layersOf(row).length)) {
    chart("pinned-layers", "Bits of layers and sites", true, pinnedLayers, rows);
  }
  const matrices = rows.map(meanConfusion);
  // One scale for all, so that a colour means the same number of errors.
  const most = Math.max(1, ...matrices.filter(Boolean).map(({ matrix }) => mostErrors(matrix)));
  rows.forEach((row, i) => {
    if (!matrices[i]) return;
    const { matrix, names } = matrices[i];
    const title = `${i + 1}: errors of ${shortLabel(row)}, ${accuracyText(row)} %`;
    chart(`pinned-confusion-${i}`, title, false, confusionOf, matrix, names, most);
  });
  closeGaps(charts);
  paintEach(draws);
}

function swatch(i) {
  const mark = node("span", { class: "swatch" });
  mark.style.background = PIN_COLORS[i];
  return mark;
}

// A line for each fact and each setting that the rows do not share; top-1 and costs always.
function differences(rows) {
  const facts = [
    ["top-1 (%)", accuracyText, true],
    ["bytes", (row) => count(row.bytes), true],
    ["bit operations", (row) => count(row.operations), true],
    ["method", (row) => row.method],
    ["weight bits", (row) => row.weightBits],
    ["activation bits", (row) => row.activationBits],
    ["epochs", (row) => row.epochs],
    ["seeds", (row) => row.seeds],
    ["time", (row) => duration(row.seconds)],
    ["state", (row) => row.state],
    ["commit", (row) => row.commits],
    ...differingKeys(rows).map((key) => [key, (row) => askedFor(row.runs[0])[key] ?? "default"]),
  ];
  const lines = facts.flatMap(([name, text, always]) => {
    const values = rows.map(text);
    if (values.every((value) => !value)) return [];
    if (!always && new Set(values).size === 1) return [];
    const cells = values.map((value) => node("td", {}, String(value || "not recorded")));
    return [node("tr", {}, node("th", { scope: "row" }, name), ...cells)];
  });
  const heads = rows.map((row, i) =>
    node("th", { scope: "col" }, swatch(i), ...breakable(`${i + 1}: ${row.label}`)),
  );
  const head = node("thead", {}, node("tr", {}, node("td"), ...heads));
  return node("div", { class: "scroll" }, node("table", {}, head, node("tbody", {}, ...lines)));
}

function pinnedCurves(place, rows) {
  const traces = rows.flatMap((row, i) =>
    curveTraces(row, shade(PIN_COLORS[i])).map((trace) => ({
      ...trace,
      name: `${i + 1}: ${trace.name}`,
    })),
  );
  const x = epochAxis(traces.flatMap((trace) => trace.x));
  const legend = { y: -0.2, yanchor: "top" };
  const layout = { xaxis: x, yaxis: axis("accuracy (%)"), hovermode: "closest", legend };
  return [traces, { ...layout, showlegend: true }];
}

function layersOf(row) {
  return detailsOf(row.runs[0]).layers;
}

// A line of cells for each setting, a column for each layer or site, the bits written in.
function pinnedLayers(place, rows) {
  const names = [...new Set(rows.flatMap((row) => layersOf(row).map(([name]) => name)))];
  const FLOAT = 32;
  const bits = rows.map((row) => {
    const own = new Map(layersOf(row).map(([name, , , width]) => [name, width ?? FLOAT]));
    return names.map((name) => own.get(name) ?? null);
  });
  const written = (width) => (width === null ? "" : width === FLOAT ? "f" : String(width));
  const trace = {
    type: "heatmap",
    x: names,
    y: rows.map((_, i) => i),
    z: bits.map((line) => line.map((width) => (width === null ? null : Math.log2(width)))),
    text: bits.map((line) => line.map(written)),
    texttemplate: names.length <= 80 ? "%{text}" : undefined,
    hovertext: bits.map((line, i) =>
      line.map((width, k) => {
        const what = width === null ? "none" : width === FLOAT ? "float" : `${width} bits`;
        return `${i + 1}: ${plain(names[k])}, ${what}`;
      }),
    ),
    hoverinfo: "text",
    hoverongaps: false,
    showscale: false,
    colorscale: "Cividis",
    ...{ zmin: 0, zmax: 5, xgap: 1, ygap: 3 },
  };
  const y = axis("", {
    ...{ tickvals: rows.map((_, i) => i), ticktext: rows.map((_, i) => String(i + 1)) },
    ...{ range: [rows.length - 0.5, -0.5], showgrid: false },
  });
  return [[trace], { xaxis: layerAxis(place, names), yaxis: y, margin: { l: 30 } }];
}

// Mean counts of the seeds, as whole numbers, where they have the same classes.
function meanConfusion(row) {
  const own = row.runs.map(detailsOf).filter(({ confusion }) => confusion.length);
  if (!own.length || own.some(({ confusion }) => confusion.length !== own[0].confusion.length)) {
    return null;
  }
  const matrix = own[0].confusion.map((line, i) =>
    line.map((_, j) => Math.round(meanOf(own.map(({ confusion }) => confusion[i][j])))),
  );
  return { matrix, names: namesOf(own[0].classNames, matrix.length) };
}
