// Shows the values of each chart below the pointer, or below the arrow keys when the chart has the focus.

const REACH = 12; // units of the drawing: points further from the pointer are not shown
const PLANE = { top: 12, bottom: 182 };

/** Returns the index of the number nearest to x. */
function nearest(numbers, x) {
  return numbers.reduce((best, number, index) => Math.abs(number - x) < Math.abs(numbers[best] - x) ? index : best, 0);
}

/** Makes an SVG element. */
function drawn(name, attributes) {
  const node = document.createElementNS(document.querySelector("svg").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/** Makes a line of the tip: a key in the series' colour, its name and the value. */
function tipRow(series, index) {
  const row = document.createElement("span"), key = document.createElement("i");
  key.className = "key " + series.kind;
  row.append(key, series.name + " " + series.values[index]);
  return row;
}

function makeInteractive(chart) {
  const allSeries = JSON.parse(chart.dataset.series), frame = chart.parentNode;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  frame.append(tip);
  const marks = drawn("g", { class: "marks" });
  chart.append(marks);
  const stops = [...new Set(allSeries.flatMap((series) => series.x))].sort((a, b) => a - b);
  let stop = stops.length;

  const show = (x) => {
    stop = nearest(stops, x);
    const across = stops[stop];
    const shown = allSeries
      .map((series) => [series, nearest(series.x, across)])
      .filter(([series, index]) => Math.abs(series.x[index] - across) <= REACH);
    marks.replaceChildren(
      drawn("line", { class: "cursor", x1: across, x2: across, y1: PLANE.top, y2: PLANE.bottom }),
      ...shown.map(([series, index]) =>
        drawn("circle", { class: "spot " + series.kind, cx: series.x[index], cy: series.y[index], r: 3.6 })),
    );
    const head = document.createElement("b");
    head.textContent = shown[0][0].at[shown[0][1]];
    tip.replaceChildren(head, ...shown.map(([series, index]) => tipRow(series, index)));
    tip.hidden = false;
    const place = across * chart.clientWidth / chart.viewBox.baseVal.width;
    const left = place > frame.clientWidth / 2 ? place - tip.offsetWidth - 10 : place + 10;
    tip.style.left = Math.max(0, Math.min(left, frame.clientWidth - tip.offsetWidth)) + "px";
  };
  const hide = () => {
    tip.hidden = true;
    marks.replaceChildren();
  };
  const follow = (event) => {
    const box = chart.getBoundingClientRect();
    show((event.clientX - box.left) * chart.viewBox.baseVal.width / box.width);
  };
  chart.addEventListener("pointermove", follow);
  chart.addEventListener("pointerdown", follow);
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -stops.length, End: stops.length }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    show(stops[Math.max(0, Math.min(stops.length - 1, stop + by))]);
  });
}

document.querySelectorAll(".chart").forEach(makeInteractive);
