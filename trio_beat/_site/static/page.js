// The page at "/": two WebSockets, one for this page's own beats, one for a channel that all pages share.

import { TrioBeat } from "/trio-beat.js";

const config = JSON.parse(document.getElementById("config").textContent);
const every = Math.min(config.interval, 2) * 1000;
const shown = 60;
const byId = (id) => document.getElementById(id);

const trips = []; // milliseconds, or null for a beat that was missed
const counts = { beats: 0, serverBeats: 0 };
const links = {};
let openedAt = null;

function address(facility, query) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  return `${scheme}://${location.host}${config.pathPrefix}${facility}?${query}`;
}

function setState(state, text) {
  byId("state").dataset.state = state;
  byId("state").textContent = text;
  byId("form").querySelector("button").disabled = links.lobby?.state !== "open";
}

function showState({ type, detail }) {
  const states = [links.beats.state, links.lobby.state];
  if (type === "close") byId("state").title = detail.reason;
  if (states.includes("closed")) setState("lost", "refused"); // this page closes neither of them
  else if (states.every((state) => state === "open")) setState("open", "open");
  else setState("lost", "reconnecting");
}

function pulse() {
  const state = byId("state");
  state.classList.remove("pulse");
  void state.offsetWidth; // restarts the animation
  state.classList.add("pulse");
}

const milliseconds = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(0)} ms`;

function showBeats() {
  const taken = trips.filter((trip) => trip !== null);
  byId("beats").textContent = counts.beats;
  if (taken.length > 0) {
    const sorted = [...taken].sort((a, b) => a - b);
    byId("last").textContent = milliseconds(taken.at(-1));
    byId("median").textContent = milliseconds(sorted[Math.floor(sorted.length / 2)]);
    byId("slowest").textContent = milliseconds(sorted.at(-1));
  }
  if (openedAt !== null) {
    const seconds = Math.round((performance.now() - openedAt) / 1000);
    const two = (value) => String(value).padStart(2, "0");
    byId("uptime").textContent = `${Math.floor(seconds / 60)}:${two(seconds % 60)}`;
  }
  byId("server-beat").textContent = config.heartbeatMessage === null
    ? `In addition, the server sends a PING every ${config.interval} s, which scripts cannot see.`
    : `In addition, the server has sent ${counts.serverBeats} text heartbeats to this page's two ` +
      `WebSockets, one every ${config.interval} s to each, and each was answered.`;
  draw();
}

function element(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// A round number at or above the largest round trip.
function ceiling(largest) {
  const power = 10 ** Math.floor(Math.log10(largest));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= largest);
}

function draw() {
  const [left, right, top, bottom] = [64, 712, 10, 186];
  const taken = trips.filter((trip) => trip !== null);
  const most = ceiling(Math.max(...taken, 1));
  const x = (index) => right - ((trips.length - 1 - index) * (right - left)) / (shown - 1);
  const y = (trip) => bottom - (trip / most) * (bottom - top);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const level = y(share * most);
    parts.push(element("line", { class: "grid", x1: left, x2: right, y1: level, y2: level }));
    const text = `${share * most} ms`;
    parts.push(element("text", { class: "label", x: left - 8, y: level + 4, "text-anchor": "end" }, text));
  }
  const ago = `${(shown * every) / 1000} s ago`;
  parts.push(element("text", { class: "label", x: left, y: bottom + 22 }, ago));
  parts.push(element("text", { class: "label", x: right, y: bottom + 22, "text-anchor": "end" }, "now"));
  const line = [];
  let gap = true;
  trips.forEach((trip, index) => {
    if (trip === null) {
      parts.push(element("line", { class: "missed", x1: x(index), x2: x(index), y1: bottom - 10, y2: bottom }));
    } else {
      line.push(`${gap ? "M" : "L"}${x(index)} ${y(trip)}`);
      parts.push(element("circle", { class: "dot", cx: x(index), cy: y(trip), r: 3 }));
    }
    gap = trip === null;
  });
  parts.push(element("path", { class: "line", d: line.join("") }));
  byId("chart").replaceChildren(...parts);
}

function record(trip) {
  trips.push(trip);
  if (trips.length > shown) trips.shift();
  showBeats();
}

function link(facility, options) {
  const query = "subscribe-broadcast&publish-broadcast&echo";
  const heartbeat = config.heartbeatMessage;
  // A browser keeps the fragment to itself: no server, and no log of one, sees the token there.
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  const protocols = token === null ? [] : ["bearer", token];
  const shared = { heartbeat, misses: config.misses, protocols };
  const made = new TrioBeat(address(facility, query), { ...shared, ...options });
  for (const type of ["open", "reconnecting", "close"]) made.addEventListener(type, showState);
  made.addEventListener("beat", () => {
    counts.serverBeats += 1;
    pulse();
  });
  return made;
}

// The facility of the beats is this page's secret: what it sends comes back to it alone, and silence
// means that the server is dead.
let sentAt = null;

function beat() {
  if (links.beats.state !== "open") return;
  if (sentAt !== null) record(null);
  const now = performance.now();
  try {
    links.beats.send(String(now));
    sentAt = now;
  } catch {
    // The server is closing the connection: the next beat goes over another one.
  }
}

const secret = [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(36)).join("");
links.beats = link(`page-${secret}`, { interval: every / 1000, watchdog: true });
links.lobby = link("lobby", {});

links.beats.addEventListener("open", () => {
  openedAt = performance.now();
  sentAt = null;
  beat();
});
links.beats.addEventListener("message", ({ data }) => {
  if (data !== String(sentAt)) return;
  counts.beats += 1;
  record(performance.now() - sentAt);
  sentAt = null;
  pulse();
});
links.beats.addEventListener("reconnecting", () => {
  openedAt = null;
  byId("uptime").textContent = "–";
});
links.lobby.addEventListener("message", ({ data }) => {
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  item.append(time, data instanceof ArrayBuffer ? `${data.byteLength} bytes` : data);
  byId("messages").prepend(item);
  while (byId("messages").children.length > 100) byId("messages").lastChild.remove();
});

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  links.lobby.send(byId("text").value);
  byId("text").value = "";
});

byId("every").textContent = `${every / 1000} s`;
byId("version").textContent = `version ${config.version}`;
showBeats();
setInterval(beat, every);
