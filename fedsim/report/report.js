"use strict";
const narrow = matchMedia("(max-width: 600px)").matches;
const FONT = { family: "system-ui, sans-serif", size: 12, color: "#1d2733" };
const AXIS = { gridcolor: "#e9ecf0", zerolinecolor: "#d6dbe1", automargin: true };
const LOOK = {
  font: FONT, paper_bgcolor: "#fff", plot_bgcolor: "#fff", margin: { l: 52, r: 12, t: 28, b: 44 },
  legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, hoverlabel: { font: FONT, bgcolor: "#fff" },
  dragmode: narrow ? false : "zoom",  // on a phone a finger scrolls the page
};
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false };
const LARGE = narrow ? CONFIG : { ...CONFIG, displayModeBar: true, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]] };
const ROWS = { ...CONFIG, displayModeBar: true, scrollZoom: !narrow,
               modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };

const held = node => JSON.parse(node.parentElement.querySelector("script").textContent);
const layoutOf = own => ({ ...LOOK, ...own, xaxis: { ...AXIS, ...own.xaxis }, yaxis: { ...AXIS, ...own.yaxis } });
const open = node => !node.parentElement.closest("details:not([open])");

// Charts ------------------------------------------------------------------------------------------------------------

function drawChart(node) {
  const { data, layout } = held(node);
  return Plotly.newPlot(node, data, layoutOf(layout), node.closest(".wide") ? LARGE : CONFIG);
}

// Clients in time ---------------------------------------------------------------------------------------------------

function unpack(text, kind) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  return new kind(bytes.buffer);
}

function numbersOf(text) {  // "3, 17, 20-40" -> a test; null: no number at all
  const parts = [...text.matchAll(/(\d+)(?:\s*-\s*(\d+))?/g)].map(([, low, high]) => [+low, +(high ?? low)]);
  return parts.length ? number => parts.some(([low, high]) => low <= number && number <= high) : null;
}

function timeline(node) {
  const told = held(node.querySelector(".chart"));
  const spans = { begin: unpack(told.begin, Float64Array), end: unpack(told.end, Float64Array) };
  for (const name of ["client", "phase", "version", "peer"]) spans[name] = unpack(told[name], Int32Array);
  const known = [...new Set(spans.client)].sort((one, other) => one - other);
  const draw = () => {
    const chosen = numbersOf(node.querySelector("input").value);
    const shown = known.filter(chosen ?? (client => told.first.includes(client)));
    node.querySelector(".count").textContent = `${shown.length} of ${told.clients} clients` +
      (told.kept < told.clients ? `; this page holds what ${told.kept} of them did, --client N adds others` : "");
    drawTimeline(node.querySelector(".chart"), told, spans, shown);
  };
  node.querySelector("input").addEventListener("input", draw);
  draw();
}

const nameOf = (told, client) => client < told.own ? String(client) : `edge ${client - told.own}`;

function drawTimeline(node, told, spans, shown) {
  const row = new Map(shown.map((client, place) => [client, place]));
  const tall = Math.max(220, Math.min(760, 110 + 17 * shown.length));
  const width = Math.max(1, Math.min(11, 0.7 * (tall - 90) / Math.max(1, shown.length)));
  const traces = told.phases.map((name, phase) => ({
    type: "scattergl", mode: "lines", name, x: [], y: [], text: [], hoverinfo: "text",
    line: { color: told.colours[phase], width }, connectgaps: false,
  }));
  for (let i = 0; i < spans.client.length; i++) {
    const y = row.get(spans.client[i]);
    if (y === undefined) continue;
    const trace = traces[spans.phase[i]], [begin, end] = [spans.begin[i], spans.end[i]];
    const to = spans.peer[i] < 0 ? "" : ` to ${spans.peer[i]}`;
    const text = `${spans.client[i] < told.own ? "client " : ""}${nameOf(told, spans.client[i])}: ${trace.name}${to}, ${+(end - begin).toPrecision(4)} ${told.unit}, ` +
      `from version ${spans.version[i]}`;
    trace.x.push(begin, end, null); trace.y.push(y, y, null); trace.text.push(text, text, null);
  }
  const names = shown.length <= 45 ? { tickvals: shown.map((_, place) => place), ticktext: shown.map(client => nameOf(told, client)) }
    : { tickvals: shown.map((_, place) => place).filter(place => place % Math.ceil(shown.length / 30) === 0) };
  names.ticktext ??= names.tickvals.map(place => nameOf(told, shown[place]));
  const layout = layoutOf({
    height: tall, hovermode: "closest",
    xaxis: { title: { text: `virtual time (${told.unit})` }, range: [0, told.seconds] },
    yaxis: { title: { text: "client" }, ...names, range: [shown.length - 0.4, -0.6], zeroline: false },
  });
  Plotly.react(node, traces, layout, ROWS);
}

// Tables ------------------------------------------------------------------------------------------------------------

const MOST_ROWS = 200;
const short = value => value === 0 ? "0" : Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(2)
  : String(+value.toPrecision(4));
const scaled = units => value => {
  const [name, scale] = units.find(([, scale]) => Math.abs(value) >= scale) ?? units[units.length - 1];
  return `${short(value / scale)} ${name}`;
};
const WRITE = {
  time: scaled([["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]),
  bytes: scaled([["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3], ["B", 1]]),
  energy: scaled([["kWh", 3.6e6], ["kJ", 1e3], ["J", 1]]),
  number: short, money: short, whole: String, id: String, text: String, right: String, mono: String,
};

function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function table(node) {
  const { columns, rows } = held(node.querySelector("table").parentElement);
  const body = node.querySelector("table"), field = node.querySelector("input");
  const written = rows.map(row => row.map((cell, place) => cell === null ? "" : WRITE[columns[place].unit](cell)));
  const told = written.map(cells => cells.join(" ").toLowerCase());
  const id = columns.findIndex(column => column.unit === "id");
  let by = null, down = false;
  const found = () => {
    const wanted = field ? field.value.trim().toLowerCase() : "";
    const numbers = id === 0 && /^[\d\s,-]+$/.test(wanted) ? numbersOf(wanted) : null;
    const fits = place => numbers ? numbers(rows[place][0]) : wanted.split(/\s+/).every(word => told[place].includes(word));
    const places = rows.map((_, place) => place).filter(fits);
    if (by !== null) places.sort((one, other) => {
      const [a, b] = [rows[one][by], rows[other][by]];
      return (a === null) - (b === null) || (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
    });
    return places;
  };
  const draw = () => {
    const head = document.createElement("tr");
    columns.forEach((column, place) => {
      const cell = element("th", column.name, `${column.unit} ${place === by ? (down ? "down" : "up") : ""}`);
      cell.addEventListener("click", () => { down = by === place ? !down : column.unit !== "text"; by = place; draw(); });
      head.append(cell);
    });
    const places = found(), shown = places.slice(0, MOST_ROWS);
    body.replaceChildren(head, ...shown.map(place => {
      const line = document.createElement("tr");
      line.append(...written[place].map((text, column) => element("td", text, columns[column].unit)));
      return line;
    }));
    node.querySelector(".count").textContent = !field ? ""
      : shown.length < places.length ? `the first ${shown.length} of ${places.length} rows` : `${places.length} rows`;
  };
  if (field) field.addEventListener("input", draw);
  draw();
}

// The page ----------------------------------------------------------------------------------------------------------

function fill(root) {
  const fresh = selector => [...root.querySelectorAll(selector)].filter(node => open(node) && !node.dataset.drawn);
  for (const node of fresh("figure > .chart")) { node.dataset.drawn = "yes"; drawChart(node); }
  for (const node of fresh(".timeline")) { node.dataset.drawn = "yes"; timeline(node); }
  for (const node of fresh(".table")) { node.dataset.drawn = "yes"; table(node); }
}

for (const run of document.querySelectorAll("details.run")) run.addEventListener("toggle", () => fill(run));
fill(document);
