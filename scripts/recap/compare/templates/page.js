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

// Put entries in the order of a number they carry, largest first, "-" in front: smallest first.
function putInOrder(entries, order) {
  const sign = order.startsWith("-") ? 1 : -1;
  const key = order.replace("-", "");
  const value = (entry) => Number(entry.dataset[key] ?? NaN);
  const known = entries.filter((entry) => !Number.isNaN(value(entry)));
  const rest = entries.filter((entry) => Number.isNaN(value(entry)));
  const sorted = key ? [...known.sort((a, b) => sign * (value(a) - value(b))), ...rest] : entries;
  entries[0]?.parentNode.append(...sorted);
}

// Show the entries of a list that hold every word searched for and match each choice.
for (const finder of all(".finder")) {
  const entries = all("li", document.getElementById(finder.dataset.list));
  const search = () => {
    const words = one("input", finder).value.toLowerCase().split(/\s+/);
    const choices = all("select:not([name=order])", finder).filter((select) => select.value !== "");
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
  one("[name=order]", finder)?.addEventListener("input", (event) => putInOrder(entries, event.target.value));
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
  const { box: [left, top, right, bottom], x, y, label, log, series } = JSON.parse(figure.dataset.hover);
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
    readout.textContent = `${label} ${steps[place]} · ${lines.join(" · ")}`;
    readout.style.minHeight = `${readout.offsetHeight}px`; // what follows moves once, not at each visit
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

// Look closer at a figure: buttons, then drag.
function zoomFigure(figure) {
  const svg = one("svg", figure);
  const { x, y, width, height } = svg.viewBox.baseVal;
  const whole = [x, y, width, height];
  const state = { level: 1, x: x + width / 2, y: y + height / 2 };
  const clamp = (value, start, size, part) => Math.min(Math.max(value, start + part / 2), start + size - part / 2);
  const tools = document.createElement("span");
  tools.className = "zoom";
  const draw = (level) => {
    const [left, top, wide, high] = whole;
    state.level = Math.min(8, Math.max(1, level));
    const [w, h] = [wide / state.level, high / state.level];
    state.x = clamp(state.x, left, wide, w);
    state.y = clamp(state.y, top, high, h);
    svg.setAttribute("viewBox", [state.x - w / 2, state.y - h / 2, w, h].join(" "));
    svg.classList.toggle("zoomed", state.level > 1);
    const [closer, farther, reset] = tools.children;
    closer.disabled = state.level === 8;
    farther.disabled = reset.disabled = state.level === 1;
  };
  const name = svg.getAttribute("aria-label");
  for (const [sign, label, step] of [["+", "Zoom in", 2], ["−", "Zoom out", 0.5], ["1:1", "Whole figure", 0]]) {
    const button = tools.appendChild(document.createElement("button"));
    Object.assign(button, { type: "button", textContent: sign, title: label, onclick: () => draw(state.level * step) });
    button.setAttribute("aria-label", `${label}: ${name}`.slice(0, 120));
  }
  svg.addEventListener("pointermove", (event) => {
    if (state.level === 1 || event.buttons !== 1) return;
    const scale = whole[2] / state.level / svg.clientWidth;
    state.x -= event.movementX * scale;
    state.y -= event.movementY * scale;
    draw(state.level);
  });
  addEventListener("beforeprint", () => draw(1));
  one("figcaption", figure).append(" ", tools);
  draw(1);
}

all("figure").filter((figure) => one("svg", figure)).forEach(zoomFigure);

// Paper shows everything: open what is folded, close it again afterwards.
let opened = [];
addEventListener("beforeprint", () => {
  opened = all("details:not([open])");
  opened.forEach((part) => { part.open = true; });
});
addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));
