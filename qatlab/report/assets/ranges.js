// Ranges that are dragged along the axes of the parallel coordinates; they filter as words do.

const SLIP = 4; // pixels that a click may move
const REACH = 24; // pixels beside an axis that belong to it
const ranges = new Map(); // by the title of an axis: [low, high], as shares of its height
let among = []; // rows that the other filters leave; the axes keep their scale

function withinRanges(rows) {
  among = rows.filter((row) => row.mean !== null);
  if (!ranges.size) return rows;
  const chosen = axesOf(among).filter(({ title }) => ranges.has(title));
  const scales = chosen.map((one) => scaleOf(one, among));
  const inside = (row) =>
    chosen.every(({ title, value }, k) => {
      const one = value(row);
      if (one === null || one === "") return false;
      const [low, high] = ranges.get(title);
      const at = scales[k].at(one);
      return low <= at && at <= high;
    });
  return chosen.length ? rows.filter((row) => row.mean !== null && inside(row)) : rows;
}

// Where a pointer is: the number of the next axis, how far it is in pixels, and the height, 0 to 1.
function onAxes(place, { clientX, clientY }) {
  const box = place.getBoundingClientRect();
  const { xaxis, yaxis, margin } = place.layout;
  const [left, right] = xaxis.range;
  const [bottom, top] = yaxis.range;
  const step = (box.width - margin.l - margin.r) / (right - left); // pixels between two axes
  const x = left + (clientX - box.left - margin.l) / step;
  const share = (clientY - box.top - margin.t) / (box.height - margin.t - margin.b);
  const axis = Math.round(x);
  return {
    axis,
    off: Math.abs(x - axis) * step,
    height: Math.min(1, Math.max(0, top - share * (top - bottom))),
    x: clientX + (axis - x) * step,
    y: clientY,
  };
}

// A drag along an axis marks a range, a click on the axis takes it away, the button all of them.
function watchRanges(place, titlesOf, changed) {
  const all = node("button", { type: "button", hidden: "" }, "show all lines");
  place.previousElementSibling.append(" ", all);
  all.addEventListener("click", () => {
    ranges.clear();
    changed();
  });
  let from = null;
  let mark = null;
  const end = () => {
    mark?.remove();
    [from, mark] = [null, null];
  };
  place.addEventListener("pointerdown", (event) => {
    if (event.button || event.pointerType === "touch") return; // a finger scrolls the page
    const start = onAxes(place, event);
    if (start.off <= REACH && titlesOf()[start.axis] !== undefined) from = start;
  });
  addEventListener("pointermove", (event) => {
    if (!from) return;
    mark ??= document.body.appendChild(node("div", { class: "range" }));
    const [top, bottom] = [from.y, event.clientY].sort((a, b) => a - b);
    Object.assign(mark.style, {
      ...{ left: `${from.x}px`, top: `${top}px`, height: `${bottom - top}px` },
    });
  });
  addEventListener("pointercancel", end);
  addEventListener("pointerup", (event) => {
    if (!from) return;
    const title = titlesOf()[from.axis];
    const { height } = onAxes(place, event);
    const dragged = Math.abs(event.clientY - from.y) > SLIP;
    const heights = [from.height, height].sort((a, b) => a - b);
    end();
    if (dragged) ranges.set(title, heights);
    else if (!ranges.delete(title)) return;
    changed();
  });
  return () => {
    all.hidden = !ranges.size;
  };
}
