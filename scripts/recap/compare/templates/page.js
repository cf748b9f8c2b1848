"use strict";
// Sorting, searching and reading values off curves. Without it the page only stands still.

const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Sort a table by the column whose heading is pressed.
function cellValue(row, column) {
  const cell = row.cells[column];
  const text = (cell.dataset.value ?? cell.textContent).trim().replace(/[\u202f,]/g, "").replace("−", "-");
  const number = parseFloat(text);
  return Number.isNaN(number) || !/^[-+<]?\d/.test(text) ? text : number;
}

function sortTable(table, column, heading) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  const rows = all("tbody tr", table).map((row) => [cellValue(row, column), row]);
  rows.sort(([a], [b]) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b))));
  if (descending) rows.reverse();
  one("tbody", table).append(...rows.map(([, row]) => row));
  all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const table of all("table")) {
  if (all("tbody tr", table).length < 2) continue;
  all("thead th", table).forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortTable(table, column, heading));
    heading.append(button);
  });
}

// Show the entries of a list that hold every word searched for and match each choice.
for (const finder of all(".finder")) {
  const entries = all("li", document.getElementById(finder.dataset.list));
  const search = () => {
    const words = one("input", finder).value.toLowerCase().split(/\s+/);
    const choices = all("select", finder).filter((select) => select.value !== "");
    let shown = 0;
    for (const entry of entries) {
      const text = entry.textContent.toLowerCase();
      entry.hidden = !(words.every((word) => text.includes(word))
        && choices.every((select) => entry.getAttribute(`data-${select.name}`) === select.value));
      shown += entry.hidden ? 0 : 1;
    }
    one("output", finder).textContent = `${shown} of ${entries.length} shown`;
  };
  finder.addEventListener("input", search);
  finder.addEventListener("submit", (event) => event.preventDefault());
  finder.hidden = false;
  search();
}

// Read values off a figure of curves with pointer or arrow keys.
function nearest(values, wanted) {
  let best = 0;
  values.forEach((value, index) => {
    if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = index;
  });
  return best;
}

function hoverCurves(figure) {
  const { box: [left, top, right, bottom], x, y, log, series } = JSON.parse(figure.dataset.hover);
  const svg = one("svg", figure);
  const steps = [...new Set(series.flatMap((line) => line.x))].sort((a, b) => a - b);
  const scale = (value, [low, high], start, end) => start + (end - start) * (value - low) / (high - low);
  const level = (value) => (log ? Math.log10(value) : value);
  const group = svg.appendChild(document.createElementNS(svg.namespaceURI, "g"));
  const readout = one(".readout", figure);
  const mark = (name, values) => {
    const shape = group.appendChild(document.createElementNS(svg.namespaceURI, name));
    Object.entries(values).forEach(([key, value]) => shape.setAttribute(key, value));
  };
  let place = -1;
  const show = (index) => {
    place = Math.max(0, Math.min(steps.length - 1, index));
    const position = scale(steps[place], x, left, right);
    group.replaceChildren();
    mark("line", { x1: position, x2: position, y1: top, y2: bottom, class: "cursor" });
    const lines = series.map((line) => {
      const at = nearest(line.x, steps[place]);
      mark("circle", {
        cx: scale(line.x[at], x, left, right), cy: scale(level(line.y[at]), y.map(level), bottom, top), r: 3.5, fill: line.color,
      });
      return `${line.label}: ${line.y[at]}`;
    });
    readout.textContent = `update ${steps[place]} · ${lines.join(" · ")}`;
  };
  svg.addEventListener("pointermove", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    show(nearest(steps, scale(point.x, [left, right], x[0], x[1])));
  });
  svg.addEventListener("pointerleave", () => { group.replaceChildren(); readout.textContent = readout.dataset.hint; });
  figure.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move === undefined || event.target !== figure) return;
    event.preventDefault();
    show(place + move);
  });
  figure.tabIndex = 0;
  readout.textContent = readout.dataset.hint;
}

all("figure[data-hover]").forEach(hoverCurves);

// Paper shows everything: open what is folded, close it again afterwards.
let opened = [];
addEventListener("beforeprint", () => {
  opened = all("details:not([open])");
  opened.forEach((part) => { part.open = true; });
});
addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));
