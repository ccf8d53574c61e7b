// One run, when its point or its row is clicked.

function showRow(parent, row, index) {
  const run = data.runs[index];
  const details = detailsOf(index);
  const back = node("a", { href: "#table", class: "back" }, "↑ table");
  parent.replaceChildren(back, node("h2", {}, ...breakable(row.label)));
  parent.hidden = false;
  if (row.runs.length > 1) parent.append(seedButtons(parent, row, index));
  parent.append(factsOf(run));
  if (run.files.length) parent.append(linksOf(run));
  if (run.reason) {
    const heading = run.state === "damaged" ? "What is damaged" : "Why it failed";
    parent.append(node("h3", {}, heading), node("pre", { class: "reason" }, run.reason));
  }
  if (run.command) {
    parent.append(node("h3", {}, "Run it again"), node("pre", { class: "command" }, run.command));
  }
  if (run.overrides?.length) {
    const items = run.overrides.map((word) => node("li", {}, node("code", {}, word)));
    parent.append(node("h3", {}, "Overrides"), node("ul", { class: "overrides" }, ...items));
  }
  if (details.config) {
    const pre = node("pre", { class: "config" }, details.config);
    parent.append(node("details", {}, node("summary", {}, "Configuration"), pre));
  }
  const charts = node("div", { class: "charts" });
  parent.append(charts);
  const absent = drawRun(charts, details);
  if (!run.command) absent.unshift("overrides");
  if (!details.config) absent.unshift("configuration");
  if (absent.length)
    parent.append(node("p", { class: "note" }, `Not recorded by this run: ${absent.join(", ")}.`));
}

function seedButtons(parent, row, chosen) {
  const buttons = row.runs.map((index) => {
    const button = node("button", { type: "button" }, `seed ${data.runs[index].seed ?? "?"}`);
    button.setAttribute("aria-pressed", String(index === chosen));
    button.addEventListener("click", () => showRow(parent, row, index));
    return button;
  });
  return node("p", { class: "seeds" }, `${accuracyText(row)} % over `, ...buttons);
}

// Where the page was written, its folders lie beside it; served, the same names lead to them.
function linksOf(run) {
  const links = run.files.map((file) =>
    node("a", { href: linkTo(run, file), target: "_blank", rel: "noopener" }, file),
  );
  return node("p", { class: "files" }, "Files: ", ...links);
}

function factsOf(run) {
  const shown = (commit) =>
    commit.replace("+", "") +
    (commit.endsWith("+") ? ", with changes that were not committed" : "");
  const facts = [
    ["folder", run.folder],
    ["state", run.state],
    ["top-1", run.top1 === null ? "" : `${percent(run.top1)} %`],
    ["loss", run.loss === null ? "" : run.loss.toPrecision(4)],
    ["tested in phase", run.phase],
    ["epochs", run.epochs],
    ["seed", run.seed === null ? "" : String(run.seed)],
    ["method", run.method],
    ["weight bits, inner layers", run.weightBits],
    ["activation bits", run.activationBits],
    ["bytes", count(run.bytes)],
    ["bit operations", count(run.operations)],
    ["multiply-accumulates", count(run.macs)],
    ["time", duration(run.seconds)],
    ["device", run.device],
    ["commit", shown(run.commit)],
    ["your commit", shown(run.projectCommit)],
  ].filter(([, value]) => value);
  const items = facts.map(([name, value]) =>
    node("div", { class: name }, node("dt", {}, name), node("dd", {}, value)),
  );
  return node("dl", { class: "facts" }, ...items);
}

// Makes places for what the run has recorded, draws there, and returns what it has not.
function drawRun(parent, details) {
  const absent = [];
  const draws = [];
  const chart = (id, title, draw, ...facts) =>
    draws.push([chartPlace(parent, id, title), draw, facts]);
  const { curves, quantizers, layers, confusion, classes, classNames } = details;
  if (curves.epochs) chart("run-curves", "Learning curves", learningOf, curves);
  else absent.push("learning curves");
  if (layers.length) chart("run-layers", "Bits of layers and sites", bitsOfLayers, layers);
  else absent.push("layers");
  if (quantizers.epochs.length) {
    chart("run-learned", "Clip values (alpha) and steps", quantizersOf, quantizers, 2);
    if (quantizers.rows.some((row) => row[3].length)) {
      chart("run-clipped", "Clipped values", quantizersOf, quantizers, 3);
    }
  } else absent.push("alphas and steps");
  if (confusion.length) {
    const names = namesOf(classNames, confusion.length);
    const most = mostErrors(confusion);
    chart("run-confusion", "Confusion matrix", confusionOf, confusion, names, most);
    chart("run-classes", "Accuracy by class (recall)", recallOf, confusion, names);
  } else
    absent.push(
      classes ? `a confusion matrix that fits here (${classes} classes)` : "confusion matrix",
    );
  closeGaps(parent);
  paintEach(draws);
  return absent;
}

// Paints charts one by one, so that the page can be used meanwhile.
async function paintEach(draws) {
  await libraryStarted;
  for (const [place, make, facts] of draws) {
    await pause();
    // Or another run has been opened meanwhile.
    if (place.isConnected) paint(place, () => make(place, ...facts));
  }
}
