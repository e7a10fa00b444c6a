"use strict";
// Everything that comes from the job is written by textContent, never as HTML.
//
// A panel is built anew from the data D and laid over what is shown (morph), which therefore keeps its focus, what is
// selected in it, what is folded open and where it is scrolled to. What a person has chosen is not in the elements but
// in `current`, `sorts` and `view`.
(() => {
const GIVEN = JSON.parse(document.getElementById("data").textContent);
const LIVE = GIVEN.live === true;
const PAGES = GIVEN.pages;  // of several jobs
const PLANNED = GIVEN.status === "planned";  // nothing of it has happened
let D = LIVE ? null : PAGES ? PAGES[PAGES.length - 1] : GIVEN;
const $ = id => document.getElementById(id);
const el = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
};

// --- numbers

const digits = (value, n = 3) => Number(value.toPrecision(n)).toLocaleString("en", {maximumFractionDigits: 9});
const seconds = s => s === null || s === undefined ? "not known"
  : s >= 1 || s === 0 ? `${digits(s)} s` : s >= 1e-3 ? `${digits(s * 1e3)} ms` : `${digits(s * 1e6)} µs`;
const bytes = b => {
  if (b === null || b === undefined) return "not known";
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(b) < 1000) return `${digits(b)} ${unit}`;
    b /= 1000;
  }
  return `${digits(b)} TB`;
};
const count = n => n === null || n === undefined ? "not known" : n.toLocaleString("en");
const money = usd => usd === null || usd === undefined ? "" : `$${digits(usd)}`;
const shown = (value, unit) => value === null || value === undefined ? "not known" : unit === "s" ? seconds(value)
  : unit === "B" ? bytes(value) : unit === "$" ? money(value)
  : typeof value === "number" ? (Number.isInteger(value) ? count(value) : `${digits(value)} ${unit}`.trim()) : String(value);

// --- colours: Okabe and Ito's, which the colour-blind can tell apart, and a pattern where they repeat

const PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"];
const KIND_COLOUR = {open: "#6e7781", look: "#8c959f", import: "#a371f7", page: "#b8c0c8", get: "#2ea3a3", put: "#7a5195",
  arrive: "#bc8f5a", "hand over": "#c2185b", wait: "#d0d7de", end: "#8c959f", start: "#444c56", "tasks, not told which": "#7b93ab"};
const layerColour = layer => PALETTE[layer % PALETTE.length];
const pattern = layer => Math.floor(layer / PALETTE.length);

// --- laying what is new over what is shown

function morph(old, made) {
  if (old.nodeName !== made.nodeName || (old.id || "") !== (made.id || "")) { old.replaceWith(made); return; }
  if (old.nodeType === Node.TEXT_NODE) { if (old.data !== made.data) old.data = made.data; return; }
  const ours = ["open", ...(old.id === "canvas" ? ["style", "width", "height"] : [])];
  for (const {name, value} of made.attributes) if (!ours.includes(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const {name} of [...old.attributes]) if (!ours.includes(name) && !made.hasAttribute(name)) old.removeAttribute(name);
  let at = old.firstChild;
  for (const child of [...made.childNodes]) {
    let match = child.id ? [...old.children].find(each => each.id === child.id) : null;
    if (!match && !child.id && at && !at.id && at.nodeName === child.nodeName) match = at;
    if (!match) { old.insertBefore(child, at); continue; }
    if (match === at) at = at.nextSibling; else old.insertBefore(match, at);
    morph(match, child);
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}

// --- tables

const sorts = new Map();
function table(name, columns, rows, start) {
  // columns: [title, value of a row, text of that value, is a number]
  if (!sorts.has(name)) sorts.set(name, {by: start ?? null, down: start !== undefined});
  const {by, down} = sorts.get(name), order = [...rows];
  if (by !== null) {
    const value = columns[by][1];
    order.sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === y) return 0;
      if (x === null || x === undefined) return 1;
      if (y === null || y === undefined) return -1;
      return (x < y ? -1 : 1) * (down ? -1 : 1);
    });
  }
  const sort = i => {
    const now = sorts.get(name);
    sorts.set(name, {by: i, down: now.by === i ? !now.down : !!columns[i][3]});
    refresh();
  };
  const head = el("tr", {}, ...columns.map(([title, , , n], i) => el("th",
    {scope: "col", class: n ? "n" : null, "aria-sort": i !== by ? "none" : down ? "descending" : "ascending"},
    el("button", {type: "button", title: "sort", onclick: () => sort(i)}, title))));
  const body = el("tbody", {}, ...order.slice(0, 2000).map(row => el("tr", {}, ...columns.map(([, value, text, n]) =>
    el("td", n ? {class: "n"} : {}, text ? text(value(row), row) : String(value(row) ?? ""))))));
  return el("div", {class: "wide", id: `table-${name}`}, el("table", {}, el("thead", {}, head), body));
}
const share = value => {
  const bar = el("span", {class: "bar"});
  bar.style.width = `${Math.round(160 * value)}px`;
  return el("span", {}, bar, ` ${digits(100 * value)} %`);
};

// --- tabs

function bill() {
  const figures = el("table", {}, el("tbody", {}, ...D.figures.map(([name, value, unit]) =>
    el("tr", {}, el("th", {scope: "row"}, name), el("td", {class: "n"}, shown(value, unit))))));
  return [el("h2", {}, PLANNED ? "What it should do and cost" : "What it did and cost"), figures,
    el("h2", {}, "Where the time went, and the money"),
    el("p", {class: "note"}, "Seconds of all executors together. The price of the functions is divided by time."),
    table("money", [
      ["what", row => row.what],
      ["time", row => row.s, seconds, true],
      ["share", row => row.share, share],
      ["dollars", row => row.usd, money, true],
    ], D.money, 1)];
}

function layers() {
  const needs = new Map();
  for (const [start, end, n] of D.edges) {
    if (start === end) continue;
    if (!needs.has(end)) needs.set(end, []);
    needs.get(end).push(`${D.layers[start]} (${count(n)})`);
  }
  const index = new Map(D.layers.map((name, i) => [name, i]));
  return [el("h2", {}, "Layers of the graph"),
    el("p", {class: "note"}, "Tasks whose keys begin alike. A leaf, a task without inputs, begins a static schedule, which an executor " +
      "follows. An input stayed if the task that needs it ran in the executor that had computed it: task clustering has it so " +
      "for large values, and nothing of it passed the store. Sizes are known of tasks that took longer than 0.2 ms, memory (of the " +
      "process, after the task) of those longer than 2 ms."),
    D.picture ? el("img", {class: "picture", alt: "The graph by layers; the table says the same in words.",
      src: "data:image/svg+xml," + encodeURIComponent(D.picture)}) : null,
    D.running ? el("p", {class: "note"}, "The job runs: times and sizes are of the tasks of executors that " +
      "have ended; of the others, heartbeats tell how many tasks they have run.") : null,
    table("layers", [
      ["layer", row => row.layer],
      ["needs (edges)", row => (needs.get(index.get(row.layer)) || []).slice(0, 12).join(", ")],
      ["tasks", row => row.tasks, count, true],
      ["leaves", row => row.leaves, n => n ? count(n) : "", true],
      ["inputs stayed", row => row.stayed, part => part === null ? "" : `${digits(100 * part, 2)} %`, true],
      ["runs", row => row.runs + row.told, count, true],
      ["time", row => row.total_s, seconds, true],
      ["median", row => row.median_s, seconds, true],
      ["longest", row => row.max_s, seconds, true],
      ["got", row => row.got_bytes, bytes, true],
      ["stored", row => row.put_bytes, bytes, true],
      ["largest value", row => row.value_bytes, bytes, true],
      ["peak memory", row => row.memory_bytes, bytes, true],
    ], D.rows, 6)];
}

function path() {
  const p = D.path;
  if (D.running) return [el("h2", {}, "Critical path"), el("p", {}, "It is known when the job has ended.")];
  if (!p.steps.length) return [el("h2", {}, "Critical path"),
    el("p", {}, "It is not known: the graph or the runs of its tasks are not in this record.")];
  const total = Object.values(p.sums).reduce((a, b) => a + b, 0) || 1;
  const names = {run: "inside tasks", client: "the client, until the first invocation", start: "starting executors",
    "other tasks": "waiting for an executor that ran other tasks", store: "getting and putting values",
    rest: "arriving, handing over, and the rest", collect: "collecting the results"};
  return [el("h2", {}, "What would shorten the job"),
    p.advice.length ? el("ul", {}, ...p.advice.map(text => el("li", {}, text))) : el("p", {}, "Nothing stands out."),
    el("p", {class: "note"}, `The longest chain of tasks takes ${seconds(p.bound_s)} by itself, which no schedule can beat; the job ${PLANNED ? "should take" : "took"} ` +
      `${seconds(D.wall_s)}.`),
    el("h2", {}, "The critical path"),
    table("sums", [
      ["spent", row => names[row[0]] || row[0]],
      ["time", row => row[1], seconds, true],
      ["share", row => row[1] / total, share],
    ], Object.entries(p.sums), 1),
    el("p", {class: "note"}, "From the task that ended last back to a leaf, each time to the input that was ready last" +
      (p.left_out ? `; the first ${count(p.left_out)} tasks are not shown.` : ".")),
    table("path", [
      ["begins", row => row.began_s, seconds, true],
      ["task", row => row.key],
      ["layer", row => row.layer],
      ["executor", row => row.executor],
      ["runs", row => row.run_s, seconds, true],
      ["waited for", row => Object.entries(row.waited).filter(([, s]) => s > 1e-6)
        .map(([kind, s]) => `${kind} ${seconds(s)}`).join(", ")],
    ], p.steps)];
}

function plan() {
  if (!D.plan) return [el("h2", {}, "Planned, and happened"),
    el("p", {}, "No plan was made of this job. client.plan(x), before x.compute(), tells what it should take, and here is then what it did take.")];
  const over = D.plan.figures.some(row => row.happened !== null);
  const range = row => row.low === row.high ? "" : `${shown(row.low, row.unit)} to ${shown(row.high, row.unit)}`;
  const ratio = value => value === null ? "" : `${digits(value, 2)}`;
  const by = (happened, expected) => happened === null || !expected ? null : happened / expected;
  return [el("h2", {}, over ? "Planned, and happened" : "Planned"),
    el("p", {class: "note"}, "The range is what the plan gives if all durations and sizes are at their low, and at their high ends."),
    table("figures", [
      ["what", row => row.what],
      ["planned", row => row.expected, (value, row) => shown(value, row.unit), true],
      ["range", range],
      ...over ? [["happened", row => row.happened, (value, row) => shown(value, row.unit), true],
        ["times the plan", row => by(row.happened, row.expected), ratio, true]] : [],
    ], D.plan.figures),
    el("h2", {}, "A task of each layer"),
    el("p", {class: "note"}, "What a task takes is told without its wait for a core, where that is known: the time of the whole job has it."),
    table("planned", [
      ["layer", row => row.name],
      ["tasks", row => row.tasks, count, true],
      ["planned", row => row.seconds, seconds, true],
      ["known", row => row.basis],
      ...over ? [["happened", row => row.happened_s, seconds, true],
        ["times the plan", row => by(row.happened_s, row.seconds), ratio, true]] : [],
      ["value planned", row => row.size_bytes, bytes, true],
      ["known", row => row.size_basis],
      ...over ? [["value", row => row.happened_bytes, bytes, true]] : [],
    ], D.plan.layers),
    D.plan.sizes.length ? el("h2", {}, "On functions of other sizes, with other numbers of lanes") : null,
    D.plan.sizes.length ? table("sizes", [
      ["memory", row => row.memory_bytes, value => `${count(Math.round(value / 2 ** 20))} MB`, true],
      ["vCPUs", row => row.vcpus, value => digits(value, 2), true],
      ["lanes", row => row.lanes || 1, count, true],
      ["time", row => row.time_s, seconds, true],
      ["dollars", row => row.usd, money, true],
      ["", row => [row.best && "best", row.present && "now", !row.fits && "too small"].filter(Boolean).join(", ")],
      ["to have it", row => row.setting || ""],
    ], D.plan.sizes) : null,
    D.plan.sizes.length ? el("p", {class: "note"}, "best: the cheapest of those that take at most a tenth longer than the fastest. " +
      "More than one lane: if the tasks sleep, or let go of the interpreter's lock as NumPy's do.") : null,
    D.plan.stores.length ? el("h2", {}, "With other stores") : null,
    D.plan.stores.length ? table("stores", [
      ["store", row => row.name],
      ["time", row => row.time_s, seconds, true],
      ["the store", row => row.store_usd, money, true],
      ["with the functions", row => row.usd, money, true],
      ["", row => row.best ? "best: the cheapest of those that take at most a tenth longer than the fastest" : ""],
    ], D.plan.stores) : null];
}

function failures() {
  const parts = [el("h2", {}, "Failures and what became of them")];
  const lost = D.executors.filter(row => row.state === "no word" || row.state === "not begun");
  if (!D.stories.length && !lost.length) parts.push(el("p", {}, PLANNED ? "A plan knows of none." : D.running ? "Nothing has failed yet." : "Nothing failed."));
  for (const story of D.stories) {
    const where = [story.at_s === null ? "" : `at ${seconds(story.at_s)}`, story.invocation ? `executor ${story.invocation}` : "",
      story.attempt ? `attempt ${story.attempt}` : "", story.then].filter(Boolean).join(", ");
    const id = ["story", story.invocation, story.attempt, story.at_s, story.task].join(" ").replace(/[^\w.]+/g, "-");
    parts.push(el("details", {id, open: D.stories.length < 4},
      el("summary", {}, el("span", {class: "bad"}, story.what.split("\n")[0].slice(0, 300)), story.task ? ` in task ${story.task}` : "", ` (${where})`),
      story.hint ? el("p", {}, story.hint) : null,
      story.traceback ? el("pre", {}, story.traceback) : null));
  }
  if (D.stories_left_out) parts.push(el("p", {class: "note"}, `${count(D.stories_left_out)} more are not shown.`));
  if (lost.length) parts.push(el("h2", {}, "Executors that left no report"),
    el("p", {class: "note"}, "What they did after their last sign of life is not known, nor which tasks they ran."),
    table("lost", [["executor", row => row.invocation], ["state", row => row.state], ["attempt", row => row.attempt, count, true],
      ["last sign", row => row.heard_s, seconds, true], ["tasks it told of", row => row.n_tasks, count, true]], lost));
  if (D.unknown && !D.running) parts.push(el("p", {}, `Of ${count(D.unknown)} of ${count(D.n_tasks)} tasks no run is known: they did not run, or who ran them could not tell.`));
  return parts;
}

function versions() {
  const about = D.about || {};
  const parts = [el("h2", {}, "Versions"), table("versions", [["what", row => row[0]], ["version", row => String(row[1])]],
    Object.entries(about.versions || {}))];
  if (about.settings) parts.push(el("h2", {}, "Settings"), table("settings", [["setting", row => row[0]], ["value", row => String(row[1][0])],
    ["set by", row => String(row[1][1])]], Object.entries(about.settings)));
  if (about.policy) parts.push(el("h2", {}, "What executors followed"), table("policy", [["setting", row => row[0]], ["value", row => String(row[1])]],
    Object.entries(about.policy)));
  return parts;
}

// --- the timeline

const unpacked = pairs => {
  const column = [];
  for (let i = 0; i < pairs.length; i += 2) for (let n = pairs[i + 1]; n > 0; n--) column.push(pairs[i]);
  return column;
};
let boxes = null, rowOf = [], nRows = 0;  // an executor has a row for each of its lanes
function unpack() {
  const b = D.boxes, e = unpacked(b.e), l = unpacked(b.l), w = unpacked(b.w), n = unpacked(b.n);
  let at = 0, next = 0;
  const lanes = D.executors.map(() => 1);
  e.forEach((of, i) => { lanes[of] = Math.max(lanes[of], l[i] + 1); });
  rowOf = lanes.map(wide => (next += wide) - wide);
  nRows = next;
  boxes = b.t.map((t, i) => {
    at += t;
    return {e: e[i], l: l[i], row: rowOf[e[i]] + l[i], at: at / 1e6, took: b.d[i] / 1e6, what: w[i], n: n[i], key: b.k[i] < 0 ? null : b.keys[b.k[i]]};
  });
  D.executors.forEach((row, e) => {
    if (row.invoked_s !== null && row.began_s !== null && row.began_s > row.invoked_s)
      boxes.push({e, l: 0, row: rowOf[e], at: row.invoked_s, took: row.began_s - row.invoked_s, what: null, n: 1, key: null});
  });
  boxes.sort((a, b) => a.row - b.row || a.at - b.at || b.took - a.took);
}
const nameOf = box => box.what === null ? "start" : box.what < 0 ? D.kinds[-1 - box.what] : D.layers[box.what];
const view = {job: null, from: 0, to: 1, end: 1, top: 0, find: "", picked: null};
const ROW = 20, LEFT = 108, AXIS = 24;

function timeline() {
  if (!boxes) unpack();
  const ends = D.executors.map(row => row.ended_s ?? row.heard_s ?? 0);
  const end = [...ends, ...boxes.map(b => b.at + b.took)].reduce((a, b) => Math.max(a, b), D.wall_s) || 1e-6;
  if (view.job !== D.job) Object.assign(view, {job: D.job, from: 0, to: end, top: 0, picked: null});
  else if (view.from === 0 && view.to === view.end) view.to = end;  // all was shown, and is
  view.end = end;
  const used = new Set(boxes.map(nameOf));
  const entries = [...D.layers.map((name, i) => [name, i]), ["start", null], ...D.kinds.map((kind, i) => [kind, -1 - i])]
    .filter(([name]) => used.has(name)).slice(0, 60);
  const canvas = el("canvas", {tabindex: "0", role: "img", id: "canvas",
    "aria-label": `Timeline of ${count(D.executors.length)} executors over ${seconds(view.end)}. Arrow keys move, plus and minus zoom, 0 shows all. The tables say the same in words.`});
  const search = el("input", {type: "search", placeholder: "find tasks by key, layer or executor", "aria-label": "find", id: "find"});
  const found = el("span", {id: "found", "aria-live": "polite"});
  search.value = view.find;
  const hits = view.find ? boxes.filter(matches) : [];
  found.textContent = view.find ? `${count(hits.reduce((n, b) => n + b.n, 0))} found` : "";
  search.addEventListener("input", () => {
    view.find = search.value.trim().toLowerCase();
    const first = view.find ? boxes.find(matches) : null, high = $("canvas").clientHeight - AXIS;
    if (first && (first.row * ROW < view.top || first.row * ROW > view.top + high)) view.top = Math.max(0, first.row * ROW - 60);
    refresh();
  });
  const button = (text, label, action) => el("button", {type: "button", "aria-label": label, onclick: () => { action(); draw($("canvas")); }}, text);
  wire(canvas);
  const resolution = D.boxes.resolution_s;
  requestAnimationFrame(() => { if ($("canvas")) draw($("canvas")); });
  return [el("div", {class: "tools"}, button("+", "zoom in", () => zoom(0.5)), button("−", "zoom out", () => zoom(2)),
      button("all", "show all", all), search, found),
    canvas,
    el("p", {id: "picked", "aria-live": "polite"}, pickedText()),
    el("p", {class: "note"}, "Click a box to keep it in view. Drag to move; wheel with Ctrl or Shift to zoom, wheel to scroll; arrow keys, + and −, 0 for all. " +
      (resolution ? `Runs shorter than ${seconds(resolution)} that follow each other are one box. ` : "") +
      (D.left_out[0] ? `${count(D.left_out[0])} runs were too many to be recorded. ` : "") +
      (D.executors_left_out ? `${count(D.executors_left_out)} executors are not shown. ` : "") +
      (D.running ? "An executor tells which tasks it has run when it ends; until then how many, and which ones it runs. " : "") +
      "A dashed line ends an executor that left no report: what it did is not known."),
    el("div", {class: "legend"}, ...entries.map(([name, what]) => {
      const mark = el("i");
      mark.style.background = colour(what);
      return el("span", {}, mark, (what !== null && what >= 0 ? "" : "· ") + name);
    })),
    el("h2", {}, "Executors"),
    table("executors", [["executor", row => row.invocation], ["state", row => row.state],
      ["called", row => row.invoked_s, seconds, true], ["began", row => row.began_s, seconds, true],
      ["ended", row => row.ended_s, seconds, true], ["start", row => row.cold, cold => cold === null ? "not known" : cold ? "cold" : "warm"],
      ["attempt", row => row.attempt, count, true],
      ["tasks", row => row.n_tasks, count, true], ["inside tasks", row => row.busy_s, seconds, true],
      ["got", row => row.got_bytes, bytes, true], ["put", row => row.put_bytes, bytes, true],
      ["held at most", row => row.peak_held_bytes, bytes, true],
      ["its clock is off by up to", row => row.clock_error_s, seconds, true]], D.executors)];
}
const colour = what => what === null ? KIND_COLOUR.start : what < 0 ? KIND_COLOUR[D.kinds[-1 - what]] : layerColour(what);
const matches = box => (box.key || "").toLowerCase().includes(view.find) || nameOf(box).toLowerCase().includes(view.find)
  || D.executors[box.e].invocation === view.find;
// What was picked is found again in newer data: by its key, or by when it began.
const isPicked = box => view.picked && D.executors[box.e].invocation === view.picked.executor && nameOf(box) === view.picked.name
  && (view.picked.key !== null ? box.key === view.picked.key : Math.abs(box.at - view.picked.at) < 1e-3);
const about = box => [box.n > 1 ? `${count(box.n)} tasks, ${box.what < 0 ? "which ones is not told yet" : `most time in ${nameOf(box)}`}` : nameOf(box),
  box.key, `executor ${D.executors[box.e].invocation}${!box.l ? "" : box.what < 0 ? ", beside its tasks" : `, lane ${box.l}`}`, `at ${seconds(box.at)}, for ${seconds(box.took)}`].filter(Boolean);
const pickedText = () => {
  const box = view.picked ? boxes.find(isPicked) : null;
  return box ? about(box).join(" · ") : "";
};
const all = () => { view.from = 0; view.to = view.end; view.top = 0; };
function zoom(factor, at = (view.from + view.to) / 2) {
  const width = Math.min(view.end, Math.max(view.end / 1e6, (view.to - view.from) * factor));
  const part = (at - view.from) / (view.to - view.from);
  view.from = Math.max(0, Math.min(view.end - width, at - part * width));
  view.to = view.from + width;
}
function pan(part) {
  const width = view.to - view.from;
  view.from = Math.max(0, Math.min(view.end - width, view.from + part * width));
  view.to = view.from + width;
}
const clampTop = canvas => { view.top = Math.max(0, Math.min(view.top, nRows * ROW - (canvas.clientHeight - AXIS))); };

function draw(canvas) {
  if (!canvas.isConnected) return;
  const wide = canvas.clientWidth, high = Math.min(560, AXIS + Math.max(1, nRows) * ROW + 4);
  canvas.style.height = `${high}px`;
  const scale = window.devicePixelRatio || 1;
  canvas.width = wide * scale;
  canvas.height = high * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const style = getComputedStyle(document.body);
  const text = style.getPropertyValue("--text"), dim = style.getPropertyValue("--dim"), line = style.getPropertyValue("--line"), ground = style.getPropertyValue("--ground");
  pen.clearRect(0, 0, wide, high);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  clampTop(canvas);
  const x = s => LEFT + (s - view.from) / (view.to - view.from) * (wide - LEFT - 4);
  const raw = (view.to - view.from) / Math.max(2, Math.floor((wide - LEFT) / 110)), ten = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * ten).find(s => s >= raw);
  pen.fillStyle = dim;
  pen.strokeStyle = line;
  for (let s = Math.ceil(view.from / step) * step; s <= view.to; s += step) {
    pen.beginPath(); pen.moveTo(x(s), AXIS); pen.lineTo(x(s), high); pen.stroke();
    pen.fillText(seconds(Math.abs(s) < step / 1e3 ? 0 : s), x(s) + 3, AXIS / 2);
  }
  const low = Math.floor(view.top / ROW), most = Math.ceil((view.top + high - AXIS) / ROW);
  pen.save();
  pen.beginPath(); pen.rect(0, AXIS, wide, high - AXIS); pen.clip();
  canvas.hits = [];
  D.executors.forEach((row, e) => {
    if (rowOf[e] < low || rowOf[e] > most) return;
    const y = AXIS + rowOf[e] * ROW - view.top;
    pen.fillStyle = text;
    pen.fillText(row.invocation.length > 13 ? `…${row.invocation.slice(-12)}` : row.invocation, 6, y + ROW / 2);
    const end = row.ended_s ?? row.heard_s;
    if (row.began_s !== null && end !== null) {
      pen.fillStyle = line;
      pen.fillRect(Math.max(LEFT, x(row.began_s)), y + ROW - 4, Math.max(1, x(end) - Math.max(LEFT, x(row.began_s))), 2);
    }
    if ((row.state === "no word" || row.state === "not begun") && end !== null && x(end) >= LEFT) {
      pen.strokeStyle = text; pen.setLineDash([3, 3]);
      pen.beginPath(); pen.moveTo(x(end), y + 1); pen.lineTo(x(end), y + ROW - 1); pen.stroke(); pen.setLineDash([]);
    }
  });
  let last = -1, lastRow = -1;
  for (const box of boxes) {
    if (box.row < low || box.row > most || box.at > view.to || box.at + box.took < view.from) continue;
    const left = Math.max(LEFT, x(box.at)), right = Math.min(wide, Math.max(left + 1, x(box.at + box.took)));
    const hit = (view.find && matches(box)) || isPicked(box);
    if (!hit && box.row === lastRow && right <= last + 0.5) continue;
    last = Math.max(box.row === lastRow ? last : 0, right); lastRow = box.row;
    const task = box.what !== null && box.what >= 0, y = AXIS + box.row * ROW - view.top + (task ? 2 : 4), tall = task ? ROW - 6 : ROW - 10;
    pen.globalAlpha = view.find && !hit ? 0.15 : 1;
    pen.fillStyle = colour(box.what);
    pen.fillRect(left, y, right - left, tall);
    if (right - left > 6) {
      if (task && pattern(box.what) > 0) {
        pen.strokeStyle = ground;
        for (let at = left; at < right; at += 5 + 3 * pattern(box.what)) { pen.beginPath(); pen.moveTo(at, y + tall); pen.lineTo(Math.min(right, at + 5), y); pen.stroke(); }
      }
      pen.strokeStyle = ground; pen.strokeRect(left + 0.25, y + 0.25, right - left - 0.5, tall - 0.5);
    }
    if (hit) { pen.strokeStyle = text; pen.lineWidth = 2; pen.strokeRect(left, y - 1, Math.max(2, right - left), tall + 2); pen.lineWidth = 1; }
    canvas.hits.push([left, right, y, y + tall, box]);
  }
  pen.globalAlpha = 1;
  pen.restore();
}
function wire(canvas) {
  const tip = $("tip");
  let from = null, start = [0, 0];
  const timeAt = event => view.from + (event.offsetX - LEFT) / (canvas.clientWidth - LEFT - 4) * (view.to - view.from);
  canvas.addEventListener("wheel", event => {
    if (event.ctrlKey || event.shiftKey || event.metaKey) zoom((event.deltaY || event.deltaX) > 0 ? 1.25 : 0.8, timeAt(event));
    else {
      const before = view.top;
      view.top += event.deltaY;
      clampTop(canvas);
      if (view.top === before) return;
    }
    event.preventDefault();
    draw(canvas);
  }, {passive: false});
  const under = event => (canvas.hits || []).filter(([l, r, t, b]) =>
    event.offsetX >= l - 1 && event.offsetX <= r + 1 && event.offsetY >= t && event.offsetY <= b).map(hit => hit[4]).pop();
  canvas.addEventListener("pointerdown", event => { from = start = [event.offsetX, event.offsetY]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", event => {
    from = null;
    if (Math.hypot(event.offsetX - start[0], event.offsetY - start[1]) > 3) return;
    const box = under(event);
    view.picked = box ? {executor: D.executors[box.e].invocation, name: nameOf(box), key: box.key, at: box.at} : null;
    refresh();
  });
  canvas.addEventListener("pointermove", event => {
    if (from) {
      pan((from[0] - event.offsetX) / (canvas.clientWidth - LEFT));
      view.top += from[1] - event.offsetY;
      from = [event.offsetX, event.offsetY];
      tip.hidden = true;
      draw(canvas);
      return;
    }
    const box = under(event);
    tip.hidden = !box;
    if (!box) return;
    tip.textContent = about(box).join("\n");
    tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - 320)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("keydown", event => {
    const act = {ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), ArrowUp: () => { view.top -= ROW; }, ArrowDown: () => { view.top += ROW; },
      "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: all}[event.key];
    if (!act) return;
    event.preventDefault();
    act();
    draw(canvas);
  });
}
window.addEventListener("resize", () => { const canvas = $("canvas"); if (canvas) draw(canvas); });
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { const canvas = $("canvas"); if (canvas) draw(canvas); });

// --- the page

const TABS = [["bill", "Bill", bill], ["timeline", "Timeline", timeline], ["layers", "Layers", layers], ["path", "Critical path", path],
  ["plan", "Plan", plan], ["failures", "Failures", failures], ["versions", "Versions and settings", versions]];
let current = "bill";
function show(name, focus) {
  current = TABS.some(([each]) => each === name) ? name : "bill";
  for (const tab of $("tabs").children) {
    const on = tab.id === `tab-${current}`;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
    if (on && focus) tab.focus();
  }
  $("tip").hidden = true;
  $("panel").replaceChildren();
  $("panel").setAttribute("aria-labelledby", `tab-${current}`);
  refresh();
}
function refresh() {
  head();
  if (!D) return;
  const [, , make] = TABS.find(([each]) => each === current), panel = $("panel"), made = panel.cloneNode(false);
  made.append(...make().filter(Boolean));
  morph(panel, made);
}
function head() {
  if (!D) {
    $("title").textContent = `Client ${GIVEN.client}`;
    $("line").textContent = "It has no job yet; what it starts will be here.";
    return;
  }
  const cost = D.figures.find(([name]) => name === "functions"), done = D.tasks_run;
  const title = PLANNED ? `plan of ${count(D.n_tasks)} tasks` : `job ${D.job}: ${D.status}`;
  document.title = title;
  $("title").textContent = title[0].toUpperCase() + title.slice(1);
  $("line").textContent = [D.running ? `${count(done)} of ${count(D.n_tasks)} tasks run` : `${count(D.n_tasks)} tasks`,
    `${count(D.executors.length + D.executors_left_out)} executors`, `${seconds(D.wall_s)}`,
    cost ? money(cost[1]) : null, PLANNED ? D.about.backends : `began ${new Date(D.began_at * 1000).toLocaleString()}`].filter(Boolean).join(" · ");
  const bar = $("done");
  bar.hidden = !D.running;
  bar.max = Math.max(1, D.n_tasks);
  bar.value = Math.min(done || 0, bar.max);
}
TABS.forEach(([name, title], i) => $("tabs").append(el("button", {type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel",
  onclick: () => { location.hash = name; show(name); },
  onkeydown: event => {
    const to = {ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: TABS.length - 1}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = TABS[(to + TABS.length) % TABS.length][0];
    location.hash = next;
    show(next, true);
  }}, title)));
window.addEventListener("hashchange", () => { if (location.hash.slice(1) !== current) show(location.hash.slice(1)); });

// --- newer data, from the client that serves this page

const asked = {job: "", version: ""};
function jobs(listed) {
  const select = $("jobs");
  const line = job => `${job.id.split("-").pop()}: ${job.status}, ${job.status === "running" ? `${count(job.tasks_run)} of ` : ""}${count(job.tasks)} tasks, ` +
    `${seconds(job.wall_s)}${job.usd ? `, ${money(job.usd)}` : ""}`;
  const made = select.cloneNode(false);
  if (LIVE) made.append(el("option", {value: ""}, "the latest job"));
  made.append(...listed.map(job => el("option", {value: job.id, disabled: !job.page && job.status !== "running"}, line(job))));
  morph(select, made);
  select.value = asked.job;
  select.parentElement.hidden = !listed.length;
}
function say(text) {
  if ($("said").textContent !== text) $("said").textContent = text;
  $("said").hidden = !text;
}
const later = ms => new Promise(done => setTimeout(done, ms));
const seen = () => document.hidden ? new Promise(done => document.addEventListener("visibilitychange", done, {once: true})) : null;
async function follow() {
  for (;;) {
    await seen();
    try {
      const query = new URLSearchParams({job: asked.job, seen: asked.version});
      const answer = await fetch(`data?${query}`, {cache: "no-store"});
      if (!answer.ok) throw new Error(answer.status);
      const told = await answer.json();
      if (told.data && (!asked.job || told.shown === asked.job)) {
        asked.version = told.version;
        D = told.data;
        boxes = null;
        refresh();
      }
      jobs(told.jobs);
      say(told.over ? "The client has closed; this is what it told last." : "");
      if (told.over) return;
      await later(200);
    } catch (error) {
      say("The client does not answer: it has ended, or cannot be reached. This is what it told last.");
      await later(5000);
    }
  }
}
show(location.hash.slice(1) || (PLANNED ? "plan" : "bill"));
if (PAGES) {
  asked.job = D.job;
  jobs(GIVEN.jobs.map(job => ({...job, page: true})));
  $("jobs").parentElement.hidden = PAGES.length < 2;
  $("jobs").addEventListener("change", event => {
    asked.job = event.target.value;
    D = PAGES.find(page => page.job === asked.job);
    boxes = null;
    refresh();
  });
}
if (LIVE) {
  $("jobs").addEventListener("change", event => { asked.job = event.target.value; asked.version = ""; });
  follow();
}
})();
