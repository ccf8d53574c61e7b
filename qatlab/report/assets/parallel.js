// Parallel coordinates: an axis for each setting that differs, then costs and accuracy; a line a row.

const MOST_AXES = 10;
const SHADES = 12; // of lines: rows of like accuracy share a trace, as hundreds of traces are slow
const MOST_TICKS = 8;
const [LEFT, RIGHT] = [44, 70]; // pixels beside the outer axes

// Axes as {title, value(row), log}: settings that differ, what they lead to, costs, accuracy. What
// tells rows apart as an earlier setting does, such as bits beside quant.weight.bits, is left out.
function axesOf(rows) {
  const asked = new Map(rows.map((row) => [row, askedFor(row.runs[0])]));
  const partition = ({ value }) => {
    const values = rows.map((row) => value(row) ?? "");
    const kinds = [...new Set(values)];
    return values.map((one) => kinds.indexOf(one)).join();
  };
  const axes = differingKeys(rows).map((key) => ({
    title: key,
    value: (row) => asked.get(row)?.[key] ?? "default",
  }));
  const seen = new Set(["", partition({ value: () => "" }), ...axes.map(partition)]);
  for (const [title, value] of [
    ["method", (row) => methodName(row.method)],
    ["weight bits", (row) => row.weightBits],
    ["activation bits", (row) => row.activationBits],
    ["epochs", (row) => row.epochs],
  ]) {
    const own = partition({ value });
    if (!seen.has(own)) axes.push({ title, value });
    seen.add(own);
  }
  const costs = COSTS.map(([cost, , title]) => ({
    title: title.replace(" per image", ""),
    value: (row) => row[cost], log: true }));
  const top1 = { title: "top-1 (%)", value: (row) => 100 * row.mean };
  const numbers = [...costs.filter((one) => partition(one) !== partition({ value: () => "" })), top1];
  return [...axes.slice(0, MOST_AXES - numbers.length), ...numbers];
}

// Puts values between 0 and 1: few ones, and words, at equal distances; numbers in proportion.
function scaleOf({ value, log }, rows) {
  const own = rows.map(value).filter((one) => one !== null && one !== "");
  const kinds = [...new Set(own)].sort((a, b) => `${a}`.localeCompare(`${b}`, "en", { numeric: true }));
  const numbers = kinds.map(Number);
  const measured = typeof kinds[0] === "number" && kinds.length > 1;
  if (!measured && (kinds.length <= MOST_TICKS || numbers.some(Number.isNaN))) {
    const step = kinds.length > 1 ? 1 / (kinds.length - 1) : 0;
    const every = Math.ceil(kinds.length / MOST_TICKS);
    return {
      at: (one) => (kinds.length > 1 ? kinds.indexOf(one) * step : 0.5),
      ticks: kinds.map((kind, i) => [i * step, String(kind)]).filter((_, i) => i % every === 0),
    };
  }
  const [low, high] = extremes(numbers);
  const on = log && low > 0 ? Math.log : (number) => number;
  const span = on(high) - on(low) || 1;
  const written = (number) => (log ? short(number) : Number(number.toPrecision(4)).toString());
  const count = 4;
  const ticks = Array.from({ length: count + 1 }, (_, i) => {
    const place = on(low) + (span * i) / count;
    return [i / count, written(on === Math.log ? Math.exp(place) : place)];
  });
  return { at: (one) => (on(Number(one)) - on(low)) / span, ticks };
}

let titles = []; // of the axes that are drawn

function parallel(visible) {
  const rows = among;
  const within = new Set(visible);
  const axes = axesOf(rows);
  const scales = axes.map((one) => scaleOf(one, rows));
  titles = axes.map(({ title }) => title);
  const [low, high] = extremes(rows.map((row) => row.mean));
  const span = high - low || 1;
  const buckets = Array.from({ length: SHADES }, () => []);
  for (const row of rows.filter((one) => within.has(one))) {
    buckets[Math.min(SHADES - 1, Math.floor(((row.mean - low) / span) * SHADES))].push(row);
  }
  const pointsOf = (own) =>
    own.flatMap((row) => [
      ...axes.map(({ value }, k) => {
        const one = value(row);
        const absent = one === null || one === "";
        return [k, absent ? null : scales[k].at(one), row];
      }),
      [null, null, row], // the line ends
    ]);
  const others = pointsOf(rows.filter((row) => !within.has(row)));
  const faint = {
    x: others.map(([x]) => x),
    y: others.map(([, y]) => y),
    ...{ mode: "lines", hoverinfo: "skip", showlegend: false, opacity: 0.15 },
    line: { color: themed("muted"), width: 1 },
  };
  const traces = buckets.flatMap((own, i) => {
    if (!own.length) return [];
    const points = pointsOf(own);
    return {
      x: points.map(([x]) => x),
      y: points.map(([, y]) => y),
      customdata: points.map(([, , row]) => row.id),
      text: points.map(([, , row]) => hoverText(row)),
      hoverinfo: "text",
      mode: "lines+markers",
      line: { color: accuracyColor(i / (SHADES - 1)), width: 1.6 },
      marker: { size: 6 },
      opacity: 0.35 + (0.6 * i) / (SHADES - 1),
      showlegend: false,
    };
  });
  const style = { showarrow: false, yref: "y", xref: "x" };
  const width = printing ? PRINTED.wide.width : byId("parallel").clientWidth;
  const room = (width - LEFT - RIGHT) / (axes.length - 1); // pixels from one axis to the next
  const letters = Math.max(4, Math.floor(Math.min(room, 220) / (printing ? 5.5 : 7)) - 1);
  const annotations = axes.flatMap(({ title }, k) => [
    {
      ...{ ...style, x: k, y: 1.04, yanchor: "bottom", font: { size: printing ? 9 : 12 } },
      // The outer ones must not leave the chart.
      ...(k === 0 ? { xanchor: "left", xshift: 8 - LEFT } : {}),
      ...(k === axes.length - 1 ? { xanchor: "right", xshift: RIGHT - 8 } : {}),
      text: plain(axisTitle(title, letters)),
      hovertext: plain(title),
    },
    ...scales[k].ticks.map(([y, text]) => ({
      ...{ ...style, x: k, y, xanchor: "left", xshift: 6, bgcolor: themed("panel"), opacity: 0.85 },
      ...{ text: plain(cut(text, letters)), borderpad: 1 },
      font: { size: printing ? 8 : 11, color: themed("muted") },
    })),
  ]);
  const shapes = axes.map((_, k) => ({
    ...{ type: "line", xref: "x", yref: "y", x0: k, x1: k, y0: 0, y1: 1, layer: "below" },
    line: { color: themed("muted"), width: 1 },
  }));
  for (const [k, title] of titles.entries()) {
    if (!ranges.has(title)) continue;
    const [y0, y1] = ranges.get(title);
    shapes.push({
      ...{ type: "rect", xref: "x", yref: "y", x0: k - 8 / room, x1: k + 8 / room, y0, y1 },
      ...{ fillcolor: themed("accent"), opacity: 0.3, line: { width: 0 } },
    });
  }
  const hidden = { visible: false, fixedrange: true };
  return [
    others.length ? [faint, ...traces] : traces,
    {
      xaxis: { ...hidden, range: [-LEFT / room, axes.length - 1 + RIGHT / room] },
      yaxis: { ...hidden, range: [-0.06, 1.16] },
      ...{ annotations, shapes, hovermode: "closest", margin: { l: 0, r: 0, t: 8, b: 8 } },
    },
  ];
}

// The end of a long key says more than its beginning.
function axisTitle(title, letters) {
  return title.length <= letters ? title : `…${title.slice(-(letters - 1))}`;
}

// Blue to yellow; the bright end is readable on white, the dark one on black.
function accuracyColor(at) {
  return mix(
    isDark()
      ? [
          [70, 98, 150],
          [120, 130, 140],
          [210, 180, 90],
          [255, 222, 80],
        ]
      : [
          [20, 52, 110],
          [87, 93, 109],
          [165, 146, 86],
          [224, 168, 0],
        ],
    at,
  );
}
