"use strict";
// Asks the store twice a second whether it has changed, and draws what has; the large figure follows by itself. Texts are set as text, never as markup.
const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let version = "", state = null, drawing = false, again = false;

function made(name, text, kind) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

function drawn(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function spark(values, title) {
  const cell = made("td");
  if (!values || values.length < 2) return cell;
  const low = Math.min(...values), span = Math.max(...values) - low || 1;
  const points = values.map((v, i) => `${(i / (values.length - 1) * 96 + 1).toFixed(1)},${(18 - (v - low) / span * 16).toFixed(1)}`);
  const picture = drawn("svg", {viewBox: "0 0 98 20", role: "img", "aria-label": `${title} from ${values[0]} to ${values[values.length - 1]}`});
  picture.append(drawn("polyline", {points: points.join(" ")}));
  cell.append(picture);
  return cell;
}

function time(seconds) {
  const s = Math.round(seconds);
  return s < 60 ? `${s}s` : s < 3600 ? `${Math.floor(s / 60)}m${String(s % 60).padStart(2, "0")}s`
    : `${Math.floor(s / 3600)}h${String(Math.floor(s % 3600 / 60)).padStart(2, "0")}m`;
}

const chosen = () => state.runs.filter((run) => !at("label").value || run.names.includes(at("label").value));

function rows() {
  at("runs").replaceChildren(...chosen().map((run) => {
    const row = made("tr");
    row.append(made("td", run.id), made("td", run.status, run.status),
      made("td", run.total && run.total !== run.epochs ? `${run.epochs}/${run.total}` : run.epochs),
      spark(run.curves.online_accuracy, "online accuracy"), spark(run.curves.nc1, "nc1"), made("td", run.seed),
      made("td", time(run.seconds)), made("td", run.settings || run.scenario));
    return row;
  }));
}

function options(select, values, first) {
  const before = select.value;
  const wanted = first === undefined ? values : ["", ...values];
  if (wanted.join("\n") === [...select.options].map((o) => o.value).join("\n")) return;
  select.replaceChildren(...wanted.map((value) => {
    const option = made("option", value || first);
    option.value = value;
    return option;
  }));
  select.value = wanted.includes(before) ? before : wanted.includes("nc1") ? "nc1" : wanted[0] ?? "";
}

async function curves() {
  const metric = at("metric").value;
  if (!metric) return;
  const answer = await fetch(`/api/curves?metric=${encodeURIComponent(metric)}&name=${encodeURIComponent(at("label").value)}`);
  const found = await answer.json();
  const groups = (found.groups || []).filter((group) => group.runs.some((run) => run.values.length));
  const all = groups.flatMap((group) => group.runs);
  const xs = all.flatMap((run) => run.epochs), ys = all.flatMap((run) => run.values);
  at("figure").replaceChildren();
  at("legend").replaceChildren();
  at("saying").textContent = found.error || `${metric} over epochs, a thin line a run${groups.length > 8 ? "; the first 8 groups" : ""}.`;
  if (!xs.length) return;
  let x0 = xs[0], x1 = xs[0], y0 = ys[0], y1 = ys[0];
  for (const x of xs) { x0 = Math.min(x0, x); x1 = Math.max(x1, x); }
  for (const y of ys) { y0 = Math.min(y0, y); y1 = Math.max(y1, y); }
  const px = (x) => 60 + (x - x0) / (x1 - x0 || 1) * 645, py = (y) => 270 - (y - y0) / (y1 - y0 || 1) * 255;
  for (const share of [0, 0.5, 1]) {
    const y = y0 + share * (y1 - y0), x = x0 + share * (x1 - x0);
    at("figure").append(drawn("line", {x1: 60, x2: 705, y1: py(y), y2: py(y)}));
    const left = drawn("text", {x: 54, y: py(y) + 4, "text-anchor": "end"}), below = drawn("text", {x: px(x), y: 288, "text-anchor": "middle"});
    left.textContent = Number(y.toPrecision(3));
    below.textContent = Math.round(x);
    at("figure").append(left, below);
  }
  groups.slice(0, 8).forEach((group, i) => {
    for (const run of group.runs) {
      const d = run.epochs.map((x, j) => `${j ? "L" : "M"}${px(x).toFixed(1)} ${py(run.values[j]).toFixed(1)}`).join("");
      at("figure").append(drawn("path", {d, class: `${group.runs.length > 1 ? "thin " : ""}k${i}`}));
    }
    at("legend").append(made("li", `— ${group.group} (${group.runs.length})`, `k${i}`));
  });
}

function show() {
  at("store").textContent = state.store;
  at("counts").textContent = Object.entries(state.counts).map(([status, count]) => `${count} ${status}`).join(", ") || "No run yet.";
  options(at("label"), state.labels, "all runs");
  options(at("metric"), state.metrics);
  at("failures").replaceChildren(...state.failures.map((line) => made("li", line)));
  at("failed").hidden = !state.failures.length;
  at("report").href = at("label").value ? `/report?name=${encodeURIComponent(at("label").value)}` : "/report";
  rows();
  figure();
}

async function figure() {
  again = drawing;
  if (drawing) return;
  drawing = true;
  try { await curves(); } catch { at("saying").textContent = "The curves could not be read."; }
  drawing = false;
  if (again) figure();
}

async function look() {
  try {
    const answer = await fetch(`/api/state?since=${encodeURIComponent(version)}`);
    if (answer.status === 200) {
      const found = await answer.json();
      if (found.error) at("counts").textContent = found.error;
      else { state = found; version = found.version; show(); }
    }
  } catch {
    at("counts").textContent = "ncpl serve does not answer any more.";
  }
  setTimeout(look, 500);
}

at("choice").addEventListener("change", () => { if (state) show(); });
at("choice").addEventListener("submit", (event) => event.preventDefault());
look();
