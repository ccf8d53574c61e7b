// The table of visible rows: its columns, its order, its filter.

const MOST_PINNED = 4; // more than that cannot be read side by side

// The numbers stand behind the name, so that a phone shows them without scrolling.
const COLUMNS = [
  {
    title: "setting",
    value: (row) => row.label,
    text: (row) => row.label,
    words: true,
    name: "label",
  },
  {
    title: "top-1 (%)",
    hint: "mean ± standard deviation of the seeds",
    value: (row) => row.mean,
    text: accuracyText,
    down: true,
    name: "number top1",
  },
  {
    title: "W",
    hint: "weight bits of most inner layers",
    value: (row) => orderOfBits(row.weightBits),
    text: (row) => row.weightBits,
  },
  {
    title: "A",
    hint: "activation bits of most sites",
    value: (row) => orderOfBits(row.activationBits),
    text: (row) => row.activationBits,
  },
  { title: "bytes", value: (row) => row.bytes, text: (row) => count(row.bytes) },
  {
    title: "bit ops",
    hint: "bit operations per image",
    value: (row) => row.operations,
    text: (row) => short(row.operations),
  },
  { title: "method", value: (row) => row.method, text: (row) => row.method, words: true },
  {
    title: "front",
    hint: "best at its size, at its bit operations",
    value: (row) => (row.front ? row.front : null),
    text: (row) => row.front,
    words: true,
    name: "front",
  },
  { title: "seeds", value: (row) => row.runs.length, text: (row) => row.seeds, words: true },
  { title: "epochs", value: (row) => row.epochs, text: (row) => row.epochs, words: true },
  {
    title: "time",
    hint: "of training, mean of the seeds",
    value: (row) => row.seconds,
    text: (row) => duration(row.seconds),
  },
  {
    title: "state",
    value: (row) => row.state,
    text: (row) => row.state,
    words: true,
    name: "state",
  },
  { title: "commit", value: (row) => row.commits, text: (row) => row.commits, words: true },
];

function isUnknown(value) {
  return value === null || value === "" || value === Infinity;
}

// What is not known stands last, whichever way the rest is sorted.
function sortRows(rows, { column, down }) {
  const { value } = COLUMNS[column];
  const order = (a, b) =>
    typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return [...rows].sort((first, second) => {
    const [a, b] = [value(first), value(second)];
    if (isUnknown(a) || isUnknown(b)) return Number(isUnknown(a)) - Number(isUnknown(b));
    return down ? order(b, a) : order(a, b);
  });
}

// All words have to occur, those behind a minus must not.
function matches(row, words, chosen) {
  return (
    words.every((word) =>
      word.length > 1 && word.startsWith("-")
        ? !row.words.includes(word.slice(1))
        : row.words.includes(word),
    ) && Object.entries(chosen).every(([name, value]) => value === "all" || row[name] === value)
  );
}

function fillSelect(select, values, name = (value) => value) {
  select.replaceChildren(node("option", { value: "all" }, "all"));
  for (const value of values) select.append(node("option", { value }, name(value)));
  select.disabled = values.length < 2;
}

function makeHead(head, sorting, changed) {
  const cells = COLUMNS.map(({ title, hint, down = false, words }, column) => {
    // No button element: Chromium leaves its text out where a printed table goes on.
    const button = node("span", { role: "button", tabindex: "0", title: hint ?? "" }, title);
    const sort = () => {
      sorting.down = sorting.column === column ? !sorting.down : down;
      sorting.column = column;
      changed();
    };
    button.addEventListener("click", sort);
    button.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sort();
    });
    return node("th", { scope: "col", ...(words ? {} : { class: "number" }) }, button);
  });
  const pin = node("td", { class: "pin" });
  head.replaceChildren(node("tr", {}, pin, ...cells));
}

function fillTable(table, rows, sorting, pinned, { opened, pin }) {
  [...table.tHead.querySelectorAll("th")].forEach((cell, column) => {
    if (column !== sorting.column) cell.removeAttribute("aria-sort");
    else cell.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
  });
  const lines = rows.map((row) => {
    const line = node("tr", { class: row.state, "data-row": row.id });
    const box = node("input", { type: "checkbox", "aria-label": `compare ${row.label}` });
    box.checked = pinned.includes(row);
    line.append(node("td", { class: "pin" }, box));
    COLUMNS.forEach(({ text, words, name }, column) => {
      const cell = line.insertCell();
      cell.className = name ?? (words ? "" : "number");
      if (column === 0) cell.append(node("button", { type: "button" }, ...breakable(text(row))));
      else cell.textContent = text(row);
    });
    return line;
  });
  table.tBodies[0].replaceChildren(...lines);
  table.tBodies[0].onclick = (event) => {
    const line = event.target.closest("tr");
    if (event.target.closest(".pin")) {
      if (event.target.matches("input")) pin(Number(line.dataset.row), event.target.checked);
    } else if (line) opened(Number(line.dataset.row));
  };
}

// The rows that are compared already can be taken out, and no further ones put in beyond the most.
function limitPins(table, pinned) {
  const full = pinned.length === MOST_PINNED;
  for (const box of table.tBodies[0].querySelectorAll(".pin input")) {
    box.checked = pinned.some((row) => row.id === Number(box.closest("tr").dataset.row));
    box.disabled = full && !box.checked;
    box.title = box.disabled ? `${MOST_PINNED} rows are compared at most` : "compare";
  }
}
