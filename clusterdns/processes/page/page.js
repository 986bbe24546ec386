// The page of `status`: asks /status.json and /top every few seconds, and draws what they say.
//
// Whatever the server says is put into the page as text, never as markup: names of queries are
// chosen by strangers. A part of the page is drawn again only if what it shows has changed, and never
// while the keyboard is in it, so that neither a selection nor the focus is lost.
"use strict";

const REFRESH_MS = 5000;
const TAIL_ROWS = 50;
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 420, HEIGHT = 170, LEFT = 52, RIGHT = 8, TOP = 10, BOTTOM = 22;
const shown = new Map();  // what each part of the page shows, by its id
const tail = { since: 0, rows: [], lost: 0 };
let isPaused = false;

const at = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

// Words of numbers and times.

function count(value) {
  return Math.round(value).toLocaleString("en-US");
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1000).toPrecision(3)} ms`;
  return value < 100 ? `${value.toPrecision(3)} s` : span(value);
}

function span(value) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const [unit, size] = units.find(([, each]) => value >= each) || units[3];
  return `${Math.floor(value / size)} ${unit}`;
}

function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString("en-GB");
}

function moment(unix) {
  const time = element("time", { datetime: new Date(unix * 1000).toISOString() });
  time.textContent = clock(unix);
  return time;
}

// Tables. A column is {name, of: row -> text or node, kind}; the first one is the head of its row.

function table(id, caption, columns, rows, empty) {
  renew(id, [caption, rows], () => {
    if (!rows.length) return [element("p", { class: "aside" }, `${caption}: ${empty}`)];
    const head = element("tr");
    for (const column of columns) {
      head.append(element("th", { scope: "col", class: column.kind || "" }, column.name));
    }
    const body = element("tbody");
    for (const row of rows) {
      const line = element("tr");
      columns.forEach((column, i) => {
        const cell = i ? element("td") : element("th", { scope: "row" });
        cell.className = column.kind || "";
        cell.append(column.of(row));
        line.append(cell);
      });
      body.append(line);
    }
    const made = element("table", {}, element("caption", { id: `${id}-name` }, caption), element("thead", {}, head), body);
    return [element("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": `${id}-name` }, made)];
  });
}

function renew(id, value, draw) {
  const text = JSON.stringify(value);
  const place = at(id);
  const isInside = place.contains(document.activeElement) && document.activeElement.tagName === "BUTTON";
  if (shown.get(id) === text || isInside) return;
  const scrolled = place.firstElementChild ? place.firstElementChild.scrollTop : 0;
  shown.set(id, text);
  place.replaceChildren(...draw());
  if (place.firstElementChild) place.firstElementChild.scrollTop = scrolled;
}

function share(part, whole) {
  const picture = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  picture.append(drawn("rect", { class: "bar", x: 0, y: 0, height: 10, width: whole ? (100 * part) / whole : 0 }));
  return picture;
}

function shares(id, caption, counts) {
  const rows = Object.entries(counts || {}).sort((a, b) => b[1] - a[1]);
  const whole = rows.reduce((sum, row) => sum + row[1], 0);
  table(id, caption, [
    { name: caption.replace("Queries by ", ""), of: (row) => row[0] },
    { name: "queries", of: (row) => count(row[1]), kind: "number" },
    { name: "share", of: (row) => `${((100 * row[1]) / whole).toFixed(1)} %`, kind: "number" },
    { name: "", of: (row) => share(row[1], whole), kind: "share" },
  ], rows, "none yet");
}

function explaining(name, type) {
  const button = element("button", { type: "button", class: "link code", title: "explain" }, name);
  button.addEventListener("click", () => {
    at("ask-name").value = name;
    at("ask-type").value = type || "";
    at("explain").scrollIntoView();
    at("ask-name").focus();
    explain();
  });
  return button;
}

// Plots: each a figure with a caption, a picture whose text alternative is its last values, and bounds.

function figure(id, caption, words, value, draw) {
  renew(id, value, () => {
    const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": `${id}-words` });
    picture.append(drawn("title", { id: `${id}-words` }, `${caption}: ${words}`));
    draw(picture);
    return [element("figcaption", {}, caption), picture, element("p", { class: "aside" }, words)];
  });
}

function across(times) {
  const first = times[0], last = times[times.length - 1];
  const room = WIDTH - LEFT - RIGHT;
  return (time) => LEFT + (last > first ? (room * (time - first)) / (last - first) : room);
}

function axes(picture, ticks, up, words, times) {
  for (const tick of ticks) {
    picture.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: up(tick), y2: up(tick) }));
    picture.append(drawn("text", { x: LEFT - 6, y: up(tick) + 4, "text-anchor": "end" }, words(tick)));
  }
  if (!times.length) return;
  picture.append(drawn("text", { x: LEFT, y: HEIGHT - 6 }, clock(times[0])));
  picture.append(drawn("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, clock(times[times.length - 1])));
}

function line(picture, kind, points) {
  const text = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  picture.append(drawn("polyline", { class: kind, points: text }));
}

function rate(history) {
  const points = history.slice(1).map((each, i) => [each[0], each[1] / Math.max(1, each[0] - history[i][0])]);
  const last = points.length ? `${count(points[points.length - 1][1])} a second at last` : "no queries yet";
  figure("plot-rate", "Queries a second", last, points, (picture) => {
    const most = Math.max(1, ...points.map((each) => each[1]));
    const up = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * value) / most;
    const times = points.map((each) => each[0]);
    axes(picture, [0, most / 2, most], up, count, times);
    const x = across(times);
    line(picture, "first", points.map(([time, value]) => [x(time), up(value)]));
  });
}

function latency(history, now) {
  const points = history.filter((each) => each[2] > 0 && each[3] > 0);
  const words = now && now.p50 !== null && now.p50 !== undefined
    ? `p50 ${seconds(now.p50)}, p90 ${seconds(now.p90)}, p99 ${seconds(now.p99)}` : "no queries yet";
  figure("plot-latency", "Latency", words, [points, words], (picture) => {
    const all = points.flatMap((each) => [each[2], each[3]]);
    const low = Math.floor(Math.log10(Math.min(...all, 0.0001)));
    const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...all, 0.001))));
    const up = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (Math.log10(value) - low)) / (high - low);
    const ticks = [];
    for (let power = low; power <= high; power += 1) ticks.push(10 ** power);
    const times = points.map((each) => each[0]);
    axes(picture, ticks, up, seconds, times);
    const x = across(times);
    line(picture, "first", points.map((each) => [x(each[0]), up(each[2])]));
    line(picture, "second", points.map((each) => [x(each[0]), up(each[3])]));
    picture.append(drawn("text", { class: "first-name", x: LEFT + 6, y: TOP + 10 }, "p50 ———"));
    picture.append(drawn("text", { class: "second-name", x: LEFT + 76, y: TOP + 10 }, "p99 – – –"));
  });
}

function buckets(found) {
  const some = (found || []).filter((each) => each[1] > 0);
  const words = some.length ? `from ${bound(some[0])} to ${bound(some[some.length - 1])}` : "no queries yet";
  figure("plot-buckets", "Queries by latency", words, some, (picture) => {
    const most = Math.max(1, ...some.map((each) => each[1]));
    const up = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * value) / most;
    axes(picture, [0, most / 2, most], up, count, []);
    const wide = (WIDTH - LEFT - RIGHT) / Math.max(1, some.length);
    some.forEach((each, i) => {
      const x = LEFT + i * wide;
      picture.append(drawn("rect", { class: "bar", x: x + 1, width: Math.max(1, wide - 2), y: up(each[1]), height: up(0) - up(each[1]) }));
      if (i % Math.ceil(some.length / 6) === 0) picture.append(drawn("text", { x, y: HEIGHT - 6 }, bound(each)));
    });
  });
}

function bound(bucket) {
  return bucket[0] === null ? "more" : seconds(bucket[0]);
}

// What /status.json and /top say.

function drawStatus(found) {
  at("version").textContent = found.version;
  const problems = [];
  if (!found.ready) problems.push(`not ready: ${found.not_ready.join(", ")}`);
  if (found.workers_answering < found.workers) problems.push(`${found.workers_answering} of ${found.workers} workers answer`);
  for (const each of found.upstreams) if (each.down) problems.push(`${each.server} is down`);
  for (const each of found.watch) if (!each.is_known) problems.push(`${each.kind} of ${each.source} are not known`);
  for (const each of found.watch) if (each.stale > 0) problems.push(`${each.kind} of ${each.source} are stale`);
  if (found.former_workers.length) problems.push(`still serving as before the last change: ${found.former_workers.join(", ")}`);
  if (found.reload_failures) problems.push(`${found.reload_failures} failed reloads`);
  health(problems.length ? problems.join("; ") : "Ready", problems.length ? "bad" : "good");
  at("updated").textContent = `${clock(found.now)}, up ${span(found.now - found.began)}`;
  at("listeners").textContent = `Listens at ${found.listeners.join(", ")}`;
  table("table-upstreams", "Upstream servers", [
    { name: "server", of: (row) => row.server, kind: "code" },
    { name: "state", of: (row) => stateOf(row) },
    { name: "queries", of: (row) => count(row.queries), kind: "number" },
    { name: "p50", of: (row) => seconds(row.p50), kind: "number" },
    { name: "p90", of: (row) => seconds(row.p90), kind: "number" },
    { name: "p99", of: (row) => seconds(row.p99), kind: "number" },
    { name: "replies", of: (row) => Object.entries(row.rcodes).map(([word, n]) => `${word} ${count(n)}`).join(", ") },
    { name: "plugin", of: (row) => row.plugin },
  ], found.upstreams, "the configuration names none");
  table("table-watch", "Kinds of objects", [
    { name: "kind", of: (row) => row.kind },
    { name: "source", of: (row) => row.source, kind: "code" },
    { name: "known", of: (row) => word(row.is_known, "yes", "no") },
    { name: "objects", of: (row) => (row.objects === undefined ? "–" : count(row.objects)), kind: "number" },
    { name: "stale", of: (row) => (row.stale ? word(false, "", count(row.stale)) : "0"), kind: "number" },
    { name: "heard from", of: (row) => (row.is_on_disk ? "compared twice a second" : ago(row.heard_s)) },
    { name: "last event", of: (row) => (row.is_on_disk ? "–" : ago(row.event_s)) },
  ], found.watch, "the configuration watches no cluster");
  table("table-errors", "Warnings and errors", [
    { name: "time", of: (row) => moment(row.at), kind: "when" },
    { name: "level", of: (row) => row.level.toLowerCase() },
    { name: "process", of: (row) => row.process, kind: "when" },
    { name: "text", of: (row) => row.text, kind: "code" },
  ], found.errors, "none since the start");
  table("table-configuration", "Lines", [
    { name: "line", of: (row) => (row.line ? `${row.file}:${row.line}` : ""), kind: "code" },
    { name: "text", of: (row) => "    ".repeat(row.depth) + row.text, kind: "code" },
    { name: "what it does", of: (row) => row.meaning },
  ], found.configuration, "none");
}

function health(text, kind) {
  const place = at("health");
  if (place.textContent === text) return;  // it is read aloud only when it changes
  place.className = kind;
  place.textContent = text;
}

function word(isGood, good, bad) {
  return element("span", { class: isGood ? "good" : "bad" }, isGood ? good : bad);
}

function stateOf(row) {
  if (row.state === "up") return word(true, "up", "");
  const where = row.workers > 1 && row.down ? ` in ${row.down} of ${row.workers} workers` : "";
  return word(false, "", `${row.state}${where}, ${row.fails} failed checks`);
}

function ago(value) {
  return value === undefined ? "–" : `${seconds(value)} ago`;
}

function drawTop(found) {
  if (found.error) {
    at("summary").textContent = found.error;
    return;
  }
  at("summary").textContent = `${count(found.queries)} queries in ${span(found.seconds)}`;
  at("sketches").textContent = "Counts are estimates, each at most its error too high.";
  rate(found.history);
  latency(found.history, found.latency);
  buckets(found.latency.buckets);
  shares("table-rcodes", "Queries by RCODE", found.rcodes);
  shares("table-types", "Queries by type", found.types);
  const counted = [
    { name: "queries", of: (row) => count(row.count), kind: "number" },
    { name: "error", of: (row) => count(row.error || 0), kind: "number" },
  ];
  const name = { name: "name", of: (row) => explaining(row.name, row.type) };
  const type = { name: "type", of: (row) => row.type };
  table("table-names", "Names asked most", [name, type, ...counted], found.names, "none yet");
  table("table-denied", "Names that do not exist", [name, ...counted], found.denied, "none yet");
  table("table-clients", "Clients that ask most", [{ name: "client", of: (row) => row.client, kind: "code" }, ...counted], found.clients, "none yet");
  table("table-namespaces", "Namespaces asked for most", [{ name: "namespace", of: (row) => row.name || row.namespace || "", kind: "code" }, ...counted], found.namespaces, "none yet");
  table("table-slow", "Slow names", [
    name, type,
    { name: "took", of: (row) => seconds(row.seconds), kind: "number" },
    { name: "time", of: (row) => moment(row.at), kind: "when" },
  ], found.slow, "none yet");
}

function drawTail(found) {
  if (found.error) {
    table("table-tail", "Last queries", [], [], found.error);
    return;
  }
  tail.since = found.next;
  tail.rows = [...found.queries.slice().reverse(), ...tail.rows].slice(0, TAIL_ROWS);
  table("table-tail", "Last queries, the newest first", [
    { name: "time", of: (row) => moment(row.at), kind: "when" },
    { name: "client", of: (row) => row.client, kind: "code" },
    { name: "name", of: (row) => explaining(row.name, row.type) },
    { name: "type", of: (row) => row.type },
    { name: "rcode", of: (row) => row.rcode },
    { name: "took", of: (row) => seconds(row.seconds), kind: "number" },
    { name: "transport", of: (row) => row.transport },
    { name: "answered by", of: (row) => row.path || "" },
  ], tail.rows, "none yet");
}

// Requests.

async function get(path) {
  const reply = await fetch(path, { cache: "no-store" });
  return reply.json();
}

async function refresh() {
  if (isPaused || document.hidden) return;
  try {
    const isTailed = at("tail").open;
    const [status, top, last] = await Promise.all([
      get("/status.json"), get("/top"),
      isTailed ? get(`/tail?since=${tail.since}&limit=${TAIL_ROWS}`) : null,
    ]);
    drawStatus(status);
    drawTop(top);
    if (last) drawTail(last);
    document.documentElement.dataset.state = "shown";
  } catch (error) {
    health(`The server does not answer: ${error.message}`, "bad");
  }
}

async function explain() {
  const place = at("explained");
  const asked = new URLSearchParams(new FormData(at("ask")));
  place.replaceChildren(element("p", {}, "Asking…"));
  try {
    const found = await get(`/explain?${asked}`);
    if (found.error) {
      place.replaceChildren(element("p", { class: "bad" }, found.error));
      return;
    }
    const kind = found.why ? "bad" : "good";
    const words = found.why ? `Why: ${found.why}` : "A client gets a record.";
    place.replaceChildren(element("p", { class: kind }, words), element("pre", { tabindex: "0" }, found.lines.join("\n")));
  } catch (error) {
    place.replaceChildren(element("p", { class: "bad" }, `The server does not answer: ${error.message}`));
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  explain();
});
at("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  at("pause").setAttribute("aria-pressed", String(isPaused));
  refresh();
});
at("tail").addEventListener("toggle", refresh);
document.addEventListener("visibilitychange", refresh);
refresh();
setInterval(refresh, REFRESH_MS);
