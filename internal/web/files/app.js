// The live page. It polls the switch once a second and draws the answers. The page of a port also streams the port's frames.

// The address has the token when the page is opened. It moves to the storage of this tab.
function takeToken() {
  const token = /^#token=([\w-]+)/.exec(location.hash);
  if (!token) return;
  sessionStorage.setItem("token", token[1]);
  history.replaceState(null, "", location.pathname);
}
takeToken();

const ask = (path, opt = {}) => fetch("v1" + path, { ...opt, headers: { ...opt.headers, Authorization: "Bearer " + (sessionStorage.getItem("token") || "") } });
const api = (path, opt) => ask(path, opt).then(async r => {
  const v = await r.json();
  if (!r.ok) throw new Error(v.error || r.statusText);
  return v;
});
// lines asks for a list that has one value of JSON in each line.
const lines = async path => {
  const r = await ask(path);
  if (!r.ok) throw new Error((await r.json()).error);
  return (await r.text()).split("\n").filter(Boolean).map(l => JSON.parse(l));
};
// link is a path with those words that are not empty.
const link = (path, words) => {
  const some = Object.entries(words).filter(([, v]) => v !== "" && v !== undefined);
  return some.length ? path + "?" + new URLSearchParams(some) : path;
};
const $ = id => document.getElementById(id);

// el creates an element. Text is added as text, never as markup.
function el(tag, props = {}, ...kids) {
  const svg = ["svg", "g", "path", "rect", "text", "line", "title", "circle"].includes(tag) || props.svg;
  const e = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [k, v] of Object.entries(props)) {
    if (k === "svg" || v === undefined || v === false) continue;
    if (k.startsWith("on")) e[k] = v;
    else if (k === "width%") e.style.width = v + "%";
    else e.setAttribute(k, v);
  }
  e.append(...kids.filter(k => k !== null && k !== undefined));
  return e;
}

// show makes the children of an element equal to others. Elements that stay the same are kept: with the focus, the selection, and what the user has typed.
// Children with data-key are found again by it.
function show(parent, ...next) {
  const keyed = new Map([...parent.childNodes].filter(c => c.dataset?.key).map(c => [c.dataset.key, c]));
  let at = parent.firstChild;
  for (const n of next) {
    if (n === null || n === undefined) continue;
    const node = n instanceof Node ? n : document.createTextNode(n), key = node.dataset?.key;
    const old = key ? keyed.get(key) : at && !at.dataset?.key && at.nodeName === node.nodeName ? at : undefined;
    if (!old) {
      parent.insertBefore(node, at);
      continue;
    }
    if (old === at) at = at.nextSibling;
    else parent.insertBefore(old, at);
    if (old !== node) update(old, node);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

const handlers = ["onclick", "onchange", "oninput", "onsubmit", "onpointermove", "onpointerleave"];

function update(old, next) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const a of [...old.attributes]) if (a.name !== "style" && !next.hasAttribute(a.name)) old.removeAttribute(a.name);
  for (const a of next.attributes) if (a.name !== "style" && old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
  if (old.style.cssText !== next.style.cssText) old.style.cssText = next.style.cssText;
  for (const h of handlers) old[h] = next[h];
  show(old, ...next.childNodes);
}

// Numbers in human-readable form.
const scaled = (v, unit) => {
  const s = ["", "k", "M", "G", "T"];
  let i = 0;
  while (v >= 1000 && i < s.length - 1) { v /= 1000; i++; }
  return (v >= 100 || Number.isInteger(v) ? v.toFixed(0) : v.toFixed(1)) + " " + s[i] + unit;
};
const bits = b => scaled(b * 8, "bit/s");
const pps = n => scaled(n, "pkt/s");
const count = n => n.toLocaleString("en");
const span = s => s < 60 ? s.toFixed(0) + " s" : s < 3600 ? (s / 60).toFixed(0) + " min" : s < 86400 ? (s / 3600).toFixed(1) + " h" : (s / 86400).toFixed(1) + " days";

// The last answers of the switch, and the rates between the last two polls.
const state = { status: null, ports: [], stats: null, publish: [], problems: [], reasons: Object.create(null), rates: Object.create(null), dropRates: {}, at: 0 };
const allFlows = tables => tables.flows.used + tables.flows6.used; // of both families
const zero = { rx_bytes: 0, tx_bytes: 0, rx_packets: 0, tx_packets: 0 };

async function poll() {
  const [status, ports, stats, publish, problems] = await Promise.all([api("/status"), api("/ports"), api("/stats"), api("/publish"), api("/problems").catch(e => e)]);
  const now = performance.now(), dt = (now - state.at) / 1000, old = state.stats;
  if (old && dt > 0 && stats.conservation.received >= old.conservation.received) {
    for (const [name, p] of Object.entries(stats.ports)) {
      const q = old.ports[name] || p, r = {};
      for (const k of Object.keys(zero)) r[k] = Math.max(0, p[k] - q[k]) / dt;
      const bad = x => x.rx_dropped + x.tx_dropped - (x.drops.ack_superseded || 0); // superseded ACKs are saved work, not losses
      r.drops = Math.max(0, bad(p) - bad(q)) / dt;
      state.rates[name] = r;
    }
    state.dropRates = {};
    for (const [k, n] of Object.entries(stats.drops)) state.dropRates[k] = Math.max(0, n - (old.drops[k] || 0)) / dt;
    const used = key => (stats.io || []).reduce((n, w, i) => n + w[key] - (old.io?.[i]?.[key] || 0), 0) / dt;
    state.workers = { cpu: used("cpu_seconds"), sleeps: used("sleeps") };
  }
  Object.assign(state, { status, ports, stats, publish, problems, at: now });
}

const rateOf = name => state.rates[name] || { ...zero, drops: 0 };

function head() {
  const s = state.status, c = state.stats.conservation;
  $("version").textContent = `${s.version}, up ${span(s.uptime)}, ${s.backend}, ${s.workers} worker${s.workers > 1 ? "s" : ""}`;
  let b = 0, p = 0;
  for (const r of Object.values(state.rates)) { b += r.rx_bytes; p += r.rx_packets; }
  $("rate").textContent = `${bits(b)} · ${pps(p)}`;
  const w = state.workers;
  $("workers").textContent = w ? `workers: ${(100 * w.cpu).toFixed(0)} % of a CPU, ${scaled(w.sleeps, "sleeps/s")}` : "";
  $("balance").textContent = c.balanced ? "all frames accounted for" : "frames in transit";
  $("balance").className = "pill " + (c.balanced ? "good" : "");
  $("promise").textContent = s.uplink.promise ? s.uplink.promise[0].toUpperCase() + s.uplink.promise.slice(1) + "." : "";
  $("live").textContent = "live";
  $("live").className = "pill good";
}

// interfacePart is the end of an IPv6 address, of which the prefix stands beside the network's name.
function interfacePart(address) {
  const a = address.split("/")[0];
  return a.length <= 20 ? a : "…" + a.slice(a.indexOf(":", a.length - 20));
}

// topology draws the outside, the uplink, the router, and each network as a band with a bus and its ports. An edge's width
// shows its rate. Of a network with many ports, each is a small cell without an edge.
function topology() {
  const nets = state.status.networks || [];
  const W = 940, mid = W / 2, many = 24;
  let y = 226;
  const bands = nets.map(n => {
    const list = state.ports.filter(p => p.network === n.name), small = list.length > many;
    const perRow = small ? 15 : 6, cell = small ? 60 : 146, rowH = small ? 28 : 88, rows = Math.max(1, Math.ceil(list.length / perRow)), h = 52 + rows * rowH;
    const band = { n, list, y, h, perRow, cell, rowH, small, bus: y + 42 };
    y += h + 14;
    return band;
  });
  const svg = el("svg", { class: "topo", viewBox: `0 0 ${W} ${y}`, role: "img", "aria-label": "topology: ports, networks, uplink and outside" });
  const width = bytes => bytes <= 0 ? 1.5 : Math.min(13, 1.5 + Math.max(0, Math.log10(bytes * 8) - 2) * 1.35);
  // edge draws both directions side by side; at(o) returns the path of one, displaced by o.
  const edge = (r, at) => {
    for (const [k, o, verb] of [["rx", -7, "sends"], ["tx", 7, "receives"]]) {
      const bytes = r[k + "_bytes"];
      svg.append(el("path", { class: `edge ${k}` + (bytes > 0 ? " on" : ""), d: at(o), "stroke-width": width(bytes) }, el("title", {}, `${verb} ${bits(bytes)}, ${pps(r[k + "_packets"])}`)));
    }
  };
  // straight returns a vertical path between y1 (above) and y2 (below). "rx" flows up, from the lower end.
  const straight = (x, y1, y2) => o => `M${x + o} ${y2} L${x + o} ${y1}`;
  const node = (x, y, w, h, cls, lines, href, title) => {
    const g = el("g", {}, el("rect", { class: "node " + cls, x: x - w / 2, y: y - h / 2, width: w, height: h, rx: 10 }));
    if (title) g.append(el("title", {}, title));
    lines.forEach(([text, c], i) => g.append(el("text", { class: c || "", x, y: y + 4 + (i - (lines.length - 1) / 2) * 16 }, text)));
    if (!href) return svg.append(g);
    svg.append(el("a", { svg: true, href, "data-port": decodeURIComponent(href.slice(6)) }, g));
  };
  const up = state.ports.find(p => p.kind === "uplink"), u = state.status.uplink;
  bands.forEach((b, i) => {
    svg.append(el("rect", { class: "band", x: 8, y: b.y, width: W - 16, height: b.h, rx: 14 }));
    svg.append(el("text", { class: "left", x: 26, y: b.y + 25 }, b.n.name));
    const more = [b.n.internal && "internal", b.n.isolated && "isolated"].filter(Boolean).join(", ");
    svg.append(el("text", { class: "small left", x: 36 + b.n.name.length * 8, y: b.y + 25 }, `${b.n.subnet}${b.n.subnet6 ? " and " + b.n.subnet6 : ""}, gateway ${b.n.gateway}, MTU ${b.n.mtu}${more ? ", " + more : ""}`));
    const sum = { ...zero };
    for (const p of b.list) for (const k of Object.keys(zero)) sum[k] += rateOf(p.name)[k];
    const half = Math.max(70, (Math.min(b.perRow, b.list.length) - 1) * b.cell / 2 + 40);
    const right = W - 40 - 22 * ((i - 1) % 8);
    svg.append(el("path", { class: "bus", d: `M${mid - half} ${b.bus} L${i ? right : mid + half} ${b.bus}` }));
    if (i === 0) edge(sum, straight(mid, 192, b.bus));
    else edge(sum, o => `M${right + o} ${b.bus} C${right + o} ${b.bus - 70}, ${right - 40 + o} ${172 - o / 2}, ${mid + 125} ${172 - o / 2}`);
  });
  if (up) {
    const r = rateOf(up.name), turned = { rx_bytes: r.tx_bytes, tx_bytes: r.rx_bytes, rx_packets: r.tx_packets, tx_packets: r.rx_packets };
    edge(turned, straight(mid, 46, 152));
  }
  node(mid, 26, 250, 42, "", up ? [["outside", ""], [`via ${u.device || "?"}, ${[u.address || "no address", u.state6 === "up" && u.address6].filter(Boolean).join(", ")} (${u.kind})`, "small"]] : [["no uplink", "small"]]);
  if (up) node(mid, 98, 128, 34, up.state === "forwarding" && u.state === "up" ? "" : "down", [["uplink", ""]], "#port/uplink");
  node(mid, 172, 250, 42, "core", [["switch · router · NAT", "inv"]]);
  svg.append(el("text", { class: "small left", x: mid + 136, y: 198 }, `${count(allFlows(state.stats.tables))} flow${allFlows(state.stats.tables) === 1 ? "" : "s"}`));
  if (up) svg.append(el("text", { class: "small left", x: mid + 80, y: 102 }, `${bits(rateOf("uplink").tx_bytes)} out, ${bits(rateOf("uplink").rx_bytes)} in`));
  for (const b of bands) b.list.forEach((p, i) => {
    const row = Math.floor(i / b.perRow), inRow = b.small ? b.perRow : Math.min(b.perRow, b.list.length - row * b.perRow);
    const x = mid + ((i % b.perRow) - (inRow - 1) / 2) * b.cell, cy = b.bus + (b.small ? 24 : 52) + row * b.rowH, r = rateOf(p.name);
    if (b.small) {
      const cls = p.state !== "forwarding" ? "down" : r.drops >= 0.5 ? "drops" : r.rx_bytes + r.tx_bytes > 0 ? "busy" : "";
      return node(x, cy, b.cell - 6, 22, cls, [[p.name.length > 8 ? p.name.slice(0, 7) + "…" : p.name, "small"]], "#port/" + encodeURIComponent(p.name),
        `${p.name}: ${p.addresses.join(", ") || p.kind}; sends ${bits(r.rx_bytes)}, receives ${bits(r.tx_bytes)}${r.drops >= 0.5 ? ", " + scaled(r.drops, "drops/s") : ""}`);
    }
    edge(r, straight(x, row ? cy - 44 : b.bus, cy - 20));
    const six = p.addresses.find(a => a.includes(":")), lines = [[p.name.length > 15 ? p.name.slice(0, 14) + "…" : p.name, ""], [(p.addresses[0] || p.mac || p.kind).split("/")[0], "small"]];
    if (six && six !== p.addresses[0]) lines.push([interfacePart(six), "small"]);
    node(x, cy, 130, lines.length > 2 ? 54 : 42, p.state === "forwarding" ? "" : "down", lines, "#port/" + encodeURIComponent(p.name), p.addresses.join(", "));
    if (r.drops >= 0.5) svg.append(el("text", { class: "drop", x, y: cy + 35 }, scaled(r.drops, "drops/s")));
  });
  return svg;
}

function meter(name, t) {
  const share = t.limit ? 100 * t.used / t.limit : 0;
  return el("div", { class: "meter" }, el("span", {}, name.replace("_", " ")),
    el("div", { class: "track" }, el("div", { class: "fill" + (share > 90 ? " bad" : share > 70 ? " warn" : ""), "width%": Math.max(share, t.used ? 1 : 0) })),
    el("span", { class: "mono" }, `${count(t.used)} / ${count(t.limit)}`));
}

function dropList(long) {
  const list = Object.entries(state.stats.drops).filter(([k]) => long || k !== "ack_superseded").sort((a, b) => b[1] - a[1]);
  const top = list.length ? list[0][1] : 1;
  if (!list.length) return [el("p", { class: "muted" }, "No frame was dropped.")];
  return list.slice(0, long ? 99 : 7).map(([k, n]) => el("div", { class: "reason", "data-reason": k },
    el("div", { class: "head" }, el("code", {}, k), el("span", { class: "mono" }, count(n) + (state.dropRates[k] > 0 ? ` (${scaled(state.dropRates[k], "/s")})` : ""))),
    el("div", { class: "track" }, el("div", { class: "fill bad", "width%": Math.max(1, 100 * n / top) })),
    el("p", {}, (state.reasons[k] || {}).meaning || ""), long && state.reasons[k] ? el("p", {}, "To do: ", ...remedy(state.reasons[k].remedy)) : null));
}

// remedy is a text in which commands stand in backquotes, with a button for each.
const remedy = text => text.split("`").map((part, i) => i % 2 ? copied(part) : part);

// problemCard lists problems, if there are any.
function problemCard(list) {
  if (list instanceof Error) return card("Problems", "", el("p", { class: "muted" }, list.message)); // without the token
  if (!list.length) return null;
  return card("Problems", count(list.length), ...list.map(p => el("div", { class: "problem" }, el("p", {}, el("b", {}, p.kind), " ", ...(p.text.startsWith(p.port + " ") ? [portLink(p.port), p.text.slice(p.port.length)] : [p.text]), ".",
    p.count > 1 ? el("span", { class: "muted" }, ` ${count(p.count)} in the last minute, or more.`) : ""), el("p", {}, "To do: ", ...remedy(p.remedy)),
    p.reason ? el("p", {}, el("a", { href: "#" + link("drops", { port: p.port, reason: p.reason }) }, "the packets, one by one, with a trace of each")) : null)));
}

const card = (title, small, ...kids) => el("section", { class: "card", "data-key": "card " + title }, el("h2", {}, title, small ? el("small", {}, small) : ""), ...kids);
const legend = () => el("div", { class: "legend" }, el("span", {}, el("i", { class: "rx" }), "from the port"), el("span", {}, el("i", { class: "tx" }), "to the port"));

function table(heads, rows) {
  return el("table", {}, el("thead", {}, el("tr", {}, ...heads.map(h => el("th", { class: h[1] || "", scope: "col" }, h[0])))),
    el("tbody", {}, ...rows.map(r => el("tr", {}, ...r.map((c, i) => el("td", { class: heads[i][1] || "", "data-label": typeof heads[i][0] === "string" ? heads[i][0] : heads[i][0].textContent }, c))))));
}

// literal is an address before a port: an IPv6 address is in brackets.
const literal = a => a.includes(":") ? `[${a}]` : a;
const portLink = name => el("a", { href: "#port/" + encodeURIComponent(name) }, name);
const dot = p => el("span", { class: "dot" + (p.state === "forwarding" ? "" : " down"), title: p.state });

// tailing is a live capture: the part of a page that shows the frames of a port, those that pass filter, and the headers of the one that is chosen.
const tailing = {
  stream: null, lines: [], paused: false, filter: "", chosen: null,
  begin() {
    this.leave();
    Object.assign(this, { lines: [], paused: false, chosen: null });
    this.box = el("div", { class: "tail", "data-key": "tail", tabindex: "0", "aria-label": "live capture" });
    this.detail = el("div", { "data-key": "detail" });
  },
  leave() { this.stream?.abort(); this.stream = null; },
  async follow(name) {
    const stop = this.stream = new AbortController();
    try {
      const r = await ask(link("/monitor", { port: name, filter: this.filter, bytes: 1 }), { signal: stop.signal });
      if (!r.ok) throw new Error((await r.json()).error);
      const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n");
        rest = parts.pop();
        for (const p of parts.slice(-200)) if (p && !this.paused) this.lines.push(JSON.parse(p));
        if (this.lines.length > 200) this.lines.splice(0, this.lines.length - 200);
        if (!this.drawing) { this.drawing = true; requestAnimationFrame(() => { this.drawing = false; this.tail(); }); }
      }
    } catch (e) {
      if (!stop.signal.aborted) this.box.replaceChildren("The live capture failed: " + e.message);
    }
    if (this.stream === stop) this.stream = null; // the next draw tries again
  },
  tail() {
    const down = this.box.scrollTop + this.box.clientHeight >= this.box.scrollHeight - 20;
    this.box.replaceChildren(...this.lines.map(v => el("div", { class: v.verdict + (v === this.chosen ? " chosen" : ""), onclick: () => this.choose(v) },
      `${v.time.slice(11, 23)} ${(v.in || "–").padEnd(9)} ${v.packet}  ${v.verdict}${v.reason ? ": " + v.reason : ""}${v.why ? " (" + v.why + ")" : ""}${v.verdict !== "consumed" && v.out ? " → " + v.out : ""}${v.becomes ? ", as " + v.becomes : ""}`)));
    if (down) this.box.scrollTop = this.box.scrollHeight;
  },
  // cardOf is the card of the capture; command shows the same frames in a terminal.
  cardOf(command) {
    const pause = el("button", { type: "button", onclick: e => { this.paused = !this.paused; e.target.textContent = this.paused ? "Resume" : "Pause"; } }, this.paused ? "Resume" : "Pause");
    return card("Live capture", "frames with their verdicts; a click on one shows its headers", el("div", { class: "bar" }, pause, copied(command)), this.box, this.detail);
  },
  async choose(v) {
    this.chosen = v;
    this.tail();
    const list = await api("/layers", { method: "POST", body: JSON.stringify({ hex: v.bytes || "" }) }).catch(e => e);
    if (this.chosen !== v) return;
    this.detail.replaceChildren(el("h3", {}, v.packet), ...(list instanceof Error ? [el("p", { class: "error" }, list.message)] : list.map(l =>
      el("details", { open: "" }, el("summary", {}, el("b", {}, l.name), el("span", { class: "muted" }, ` ${l.length} bytes`)),
        el("dl", { class: "facts" }, ...(l.fields || []).map(f => el("div", {}, el("dt", {}, f.name), el("dd", {}, f.value))))))));
  },
};

// The pages. draw is called after every poll, enter when the page is opened, leave (to end its stream) when it is left.
const pages = {
  overview: {
    from: 0,
    draw(main) {
      const size = 100, from = Math.min(this.from, Math.max(0, state.ports.length - 1)), turn = (text, to) => el("button", { type: "button", disabled: to < 0 || to >= state.ports.length ? "" : false, onclick: () => { this.from = to; this.draw(main); } }, text);
      const turns = state.ports.length > size ? el("div", { class: "bar" }, turn("previous", from - size), el("span", { class: "muted" }, `${from + 1} to ${Math.min(from + size, state.ports.length)}`), turn("next", from + size)) : null;
      const ports = table([["port"], ["network"], ["kind"], ["address"], ["sends", "n"], ["receives", "n"], ["dropped", "n"]], state.ports.slice(from, from + size).map(p => {
        const r = rateOf(p.name);
        return [el("span", {}, dot(p), portLink(p.name)), p.network || "–", p.kind, el("code", {}, p.addresses.join(" ") || "–"),
          el("span", { class: "rx" }, bits(r.rx_bytes)), el("span", { class: "tx" }, bits(r.tx_bytes)), count(p.rx_dropped + p.tx_dropped)];
      }));
      const published = state.publish.length ? table([["host port"], ["target"], ["allowed sources"], ["flows", "n"]], state.publish.map(r => [
        el("code", {}, (r.host_address === "0.0.0.0" ? "" : literal(r.host_address) + ":") + r.host_port + (r.host_port_end !== r.host_port ? "-" + r.host_port_end : "") + "/" + r.protocol),
        el("span", {}, portLink(r.port), ":" + r.container_port), r.from.join(", ") || "any", count(r.packets)])) : el("p", { class: "muted" }, "No port is published: nobody outside can begin a connection to a container.");
      show(main,
        el("div", { class: "stack" }, card("Topology", "click a port for details", topology(), legend()), card("Ports", count(state.ports.length), turns, ports)),
        el("div", { class: "stack" }, problemCard(state.problems), card("Tables", "used / limit", ...Object.entries(state.stats.tables).map(([k, t]) => meter(k, t))),
          card("Drops", "by reason", ...dropList(false), el("p", {}, el("a", { href: "#drops" }, "all drops, and what to do"))), card("Published ports", "", published, el("p", {}, "To publish one: ", copied("uvswitch publish add HOSTPORT:PORT --port NAME")))));
    },
  },
  drops: {
    wide: true, port: "", reason: "",
    enter(_, words) { Object.assign(this, { port: words.get("port") || "", reason: words.get("reason") || "" }); },
    choose(name, value) {
      this[name] = value;
      history.replaceState(null, "", "#" + link("drops", { port: this.port, reason: this.reason }));
      this.draw($("page"));
    },
    async draw(main) {
      const [past, last] = await Promise.all([api("/history"), lines(link("/monitor", { verdict: "dropped", last: 200, follow: 0, reason: this.reason, port: this.port })).catch(e => e)]);
      if (pages.current !== this) return;
      const choice = (what, values) => el("label", {}, what + " ", el("select", { "aria-label": what, onchange: e => this.choose(what, e.target.value) },
        el("option", { value: "" }, "any"), ...values.map(v => el("option", { value: v, selected: v === this[what] }, v))));
      const reasons = Object.entries(past.drops).filter(([k]) => k !== "ack_superseded").map(([k, n]) => ({ name: k, values: n, sum: n.reduce((a, b) => a + b, 0) })).sort((a, b) => b.sum - a.sum);
      show(main,
        card("Drops over time", "frames in a second, by reason", chart("drops", reasons.slice(0, 5).map((r, i) => ({ ...r, class: "c" + i })), past, n => scaled(n, "/s"))),
        card("The last drops", "the newest first", el("div", { class: "bar" }, choice("port", state.ports.map(p => p.name).sort()), choice("reason", Object.keys(state.stats.drops).sort()),
          copied(`uvswitch monitor --verdict dropped --last 200${this.port ? " --port " + this.port : ""}${this.reason ? " --reason " + this.reason : ""}`)),
          last instanceof Error ? el("p", { class: "muted" }, last.message) : last.length ? dropTable(last.reverse()) : el("p", { class: "muted" }, "None that the switch remembers.")),
        card("Drops by reason", "since the switch started; stats, monitor, trace and dump use the same names", ...dropList(true)));
    },
  },
  names: {
    wide: true,
    async draw(main) {
      const [names, leases] = await Promise.all([api("/names"), api("/leases")]);
      if (pages.current !== this) return;
      show(main,
        card("Names", "what the gateways answer to questions for names", names.length ? table([["network"], ["name"], ["addresses"], ["source"], ["port"]], names.map(n => [
          n.network, el("code", {}, n.fqdn), el("code", {}, n.addresses.join(" ")), n.source, n.port ? portLink(n.port) : "–"])) : el("p", { class: "muted" }, "There are no names.")),
        card("Leases", "addresses that stations have got by DHCP", leases.length ? table([["network"], ["port"], ["address"], ["station"], ["host name"], ["type"], ["left"]], leases.map(l => [
          l.network, portLink(l.port), el("code", {}, l.address), el("code", {}, l.hwaddr), l.hostname || "–", l.type, span(Math.max(0, (new Date(l.expires) - Date.now()) / 1000))])) : el("p", { class: "muted" }, "No station has an address by DHCP.")));
    },
  },
  policies: {
    wide: true,
    async draw(main) {
      const [policies, refused] = await Promise.all([api("/policies"), api("/policy-refusals").catch(e => e)]);
      if (pages.current !== this) return;
      const used = policies.filter(p => !p.builtin || p.ports.length || p.networks.length).sort((a, b) => a.builtin - b.builtin);
      const where = p => [...p.ports.map(portLink), ...p.networks.map(n => "network " + n)].flatMap((x, i) => i ? [", ", x] : [x]);
      show(main,
        ...used.map(p => card("Policy " + p.name, (p.builtin ? "built in; " : "") + "names: " + p.dns, el("p", {}, ...(where(p).length ? ["attached to ", ...where(p)] : ["attached to nothing"])),
          p.rules.length ? table([["number", "n"], ["rule"], ["flows let in", "n"], ["packets refused", "n"]], p.rules.map(r => [r.number, el("code", {}, r.rule + (r.missing ? " (does not exist now)" : "")), count(r.flows), count(r.refused)]))
            : el("p", { class: "muted" }, "No rules: nothing is allowed."),
          Object.keys(p.unallowed).length ? table([["port"], ["packets that no rule allows", "n"]], Object.entries(p.unallowed).sort().map(([name, n]) => [portLink(name), count(n)])) : null)),
        ...(used.length ? [] : [card("Policies", "", el("p", { class: "muted" }, "No port has a policy. To make one: uvswitch policy add --help"))]),
        card("Names that were refused", "the last one first", refused instanceof Error ? el("p", { class: "muted" }, refused.message) : refused.length ? table([["port"], ["name"], ["questions", "n"], ["last", "n"]], refused.map(r => [portLink(r.port), el("code", {}, r.name), count(r.count), r.age])) : el("p", { class: "muted" }, "None.")));
    },
  },
  events: {
    wide: true, kind: "",
    async draw(main) {
      const all = (await lines("/events?follow=0")).reverse();
      if (pages.current !== this) return;
      const kinds = [...new Set(all.map(e => e.event))].sort();
      const choice = el("select", { "aria-label": "kind of event", onchange: e => { this.kind = e.target.value; this.draw(main); } }, el("option", { value: "" }, "all"), ...kinds.map(k => el("option", { value: k, selected: k === this.kind }, k)));
      const list = all.filter(e => !this.kind || e.event === this.kind).slice(0, 300);
      show(main, card("Events", "the last ones first; uvswitch events follows them", el("div", { class: "bar" }, el("label", {}, "kind ", choice)),
        list.length ? table([["time"], ["kind"], ["what has happened"]], list.map(e => [el("span", { class: "mono" }, new Date(e.time).toLocaleString()), e.event, e.text])) : el("p", { class: "muted" }, "Nothing has happened.")));
    },
  },
  flows: {
    wide: true, busy: false, filter: "", sort: "rate", before: new Map(), at: 0,
    enter(_, words) { Object.assign(this, { filter: words.get("filter") || "", sort: words.get("sort") || "rate", before: new Map() }); },
    choose(change) {
      Object.assign(this, change);
      history.replaceState(null, "", "#" + link("flows", { filter: this.filter, sort: this.sort === "rate" ? "" : this.sort }));
      return this.draw($("page"));
    },
    async draw(main) {
      if (!main.querySelector("#flow-filter")) {
        this.box = el("div");
        const input = el("input", { type: "text", id: "flow-filter", "aria-label": "filter", value: this.filter, placeholder: "-p tcp --port web ESTABLISHED 203.0.113.8", spellcheck: "false", oninput: e => this.choose({ filter: e.target.value }) });
        this.command = el("span");
        main.replaceChildren(card("Flows", "the words of `uvswitch flow ls`, and any text of a row", el("div", { class: "bar" }, input, this.command), this.box));
      }
      if (this.busy) return;
      this.busy = true;
      try {
        const { query, texts, args } = flowWords(this.filter);
        const flows = await api(link("/flows", { limit: 2000, ...query })).catch(e => e);
        if (pages.current !== this) return;
        show(this.command, copied(["uvswitch flow ls", ...args].join(" ")));
        if (flows instanceof Error) return show(this.box, el("p", { class: "error" }, flows.message));
        const now = performance.now(), seconds = (now - this.at) / 1000, before = this.before;
        this.before = new Map();
        const rows = flows.map(f => {
          const key = `${f.family} ${f.id} ${f.original.src} ${f.original.sport}`, all = f.original.bytes + f.reply.bytes;
          this.before.set(key, all);
          return { ...seenByContainer(f), rate: before.has(key) ? Math.max(0, all - before.get(key)) / seconds : 0 };
        }).filter(r => texts.every(t => r.text.includes(t)));
        this.at = now;
        const by = { rate: r => -r.rate, bytes: r => -(r.sent + r.received), port: r => r.f.port, protocol: r => r.f.protocol, state: r => r.f.state, peer: r => r.peer, expires: r => r.f.timeout }[this.sort] || (r => -r.rate);
        rows.sort((a, b) => by(a) < by(b) ? -1 : by(a) > by(b) ? 1 : 0);
        const head = (name, by) => el("button", { type: "button", class: "sort" + (this.sort === by ? " on" : ""), onclick: () => this.choose({ sort: by }) }, name);
        show(this.box, el("p", { class: "muted" }, `${count(allFlows(state.stats.tables))} in the table, ${count(rows.length)} match${flows.length === 2000 ? " among the first 2,000" : ""}${rows.length > 300 ? ", 300 are shown" : ""}`),
          flowTable(rows.slice(0, 300), head));
      } finally { this.busy = false; }
    },
  },
  port: {
    name: "",
    enter(name) {
      Object.assign(this, tailing, { name, fdb: [], flows: [] });
      this.begin();
    },
    async draw(main) {
      const p = state.ports.find(p => p.name === this.name);
      if (!p) return show(main, card("Port not found", "", el("p", {}, `Port ${this.name} does not exist, or it was removed. `, el("a", { href: "#" }, "All ports"))));
      const name = this.name;
      if (!this.stream) this.follow(name);
      [this.fdb, this.flows, this.past] = await Promise.all([api("/fdb"), api("/flows?limit=50&port=" + encodeURIComponent(name)).catch(e => e), api(link("/history", { port: name }))]);
      if (pages.current !== this || this.name !== name) return;
      const past = this.past.ports[name] || { rx_bytes: [], tx_bytes: [] };
      const r = rateOf(p.name), facts = { state: p.state, kind: p.kind, network: p.network || "–", device: p.ifname, namespace: p.netns || "that of the switch", address: p.addresses.join(", ") || "–", MAC: p.mac || "–", MTU: p.mtu, offloads: p.offload ? "on" : "off",
        settings: Object.entries(p.flags).filter(([, on]) => on).map(([k]) => k).join(", ") || "–" };
      const stations = this.fdb.filter(e => e.ifname === p.name);
      show(main,
        el("div", { class: "stack" },
          card(p.name, p.kind, el("dl", { class: "facts" }, ...Object.entries(facts).map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, String(v)))))),
          card("Rate", "the last ten minutes", chart(p.name, [{ name: "from the port", values: past.rx_bytes, class: "rx" }, { name: "to the port", values: past.tx_bytes, class: "tx" }], this.past, bits)),
          this.cardOf(`uvswitch dump -i ${p.name} -w - | wireshark -k -i -`),
          this.flows instanceof Error ? card("Flows", "", el("p", { class: "muted" }, this.flows.message))
            : card("Flows", this.flows.length === 50 ? "the first 50" : count(this.flows.length), this.flows.length ? flowTable(this.flows.map(seenByContainer)) : el("p", { class: "muted" }, "No flows."))),
        el("div", { class: "stack" },
          Array.isArray(state.problems) ? problemCard(state.problems.filter(x => x.port === p.name)) : null,
          card("Counters", "", table([[""], ["from the port", "n"], ["to the port", "n"]], [["packets", count(p.rx_packets), count(p.tx_packets)], ["bytes", count(p.rx_bytes), count(p.tx_bytes)],
            ["rate", bits(r.rx_bytes), bits(r.tx_bytes)], ["", pps(r.rx_packets), pps(r.tx_packets)], ["dropped", count(p.rx_dropped), count(p.tx_dropped)]])),
          card("Drops", "at this port", el("p", {}, el("a", { href: "#" + link("drops", { port: p.name }) }, "the last ones, one by one")), ...(Object.keys(p.drops).length ? Object.entries(p.drops).sort((a, b) => b[1] - a[1]).map(([k, n]) => el("div", { class: "reason" },
            el("div", { class: "head" }, el("code", {}, k), el("span", { class: "mono" }, count(n))), el("p", {}, (state.reasons[k] || {}).meaning || ""))) : [el("p", { class: "muted" }, "No drops.")])),
          card("Stations", "from the forwarding database", stations.length ? table([["MAC"], ["state"], ["age", "n"]], stations.map(e => [el("code", {}, e.mac), e.state || "learned", e.state ? "" : e.age.toFixed(0) + " s"])) : el("p", { class: "muted" }, "No station was learned."))));
      if (this.lines.length) this.tail();
    },
  },
  flow: {
    enter(key, words) {
      Object.assign(this, tailing, { key, port: words.get("port") || "", past: [], f: null });
      this.begin();
    },
    async draw(main) {
      const key = this.key, flows = await api(link("/flows", { limit: 2000, port: this.port })).catch(e => e);
      if (pages.current !== this || this.key !== key) return;
      if (flows instanceof Error) return show(main, card("Flow", "", el("p", { class: "error" }, flows.message)));
      const f = flows.find(f => flowKey(f) === key), all = el("a", { href: "#" + link("flows", { filter: this.port && "--port " + this.port }) }, "all flows of the port");
      if (f) this.f = f;
      if (!this.f) return show(main, card("Flow not found", "", el("p", {}, "It has ended, or it is not among the first 2,000 flows of its port: ", all)));
      const row = seenByContainer(this.f), { original: o, reply: r, timeout, protocol, state: tcp, status, network, port } = this.f;
      const now = performance.now() / 1000, sums = { at: now, sent: row.sent, received: row.received }, last = this.past[this.past.length - 1];
      if (f) this.past = [...this.past, { ...sums, rates: last ? [Math.max(0, row.sent - last.sent) / (now - last.at), Math.max(0, row.received - last.received) / (now - last.at)] : [0, 0] }].slice(-600);
      const words = [{ icmpv6: "icmp6" }[protocol] || (["tcp", "udp", "sctp", "icmp"].includes(protocol) ? protocol : ""), ...(row.out ? [o.src, o.dst] : [r.src, o.src]).map(a => "host " + a),
        ...(o.sport ? (row.out ? [o.sport, o.dport] : [r.sport, o.sport]).map(p => "port " + p) : [])].filter(Boolean);
      this.filter = words.join(" and ");
      if (!this.stream && f) this.follow(this.port);
      const end = (a, p) => el("code", {}, p ? `${literal(a)}:${p}` : a), family = this.f.family === "ipv6" ? "-f ipv6 " : "";
      const tuple = ["-p", protocol, "-s", o.src, "-d", o.dst, ...(o.sport ? ["--sport", o.sport, "--dport", o.dport] : [])].join(" ");
      const facts = { port: port ? portLink(port) : "–", network: network || "–", protocol, state: tcp || "–", status: status.join(", ") || "–", "expires in": f ? span(timeout) : "it has ended", id: this.f.id };
      show(main,
        el("div", { class: "stack" },
          card(`${row.inside} ${row.out ? "→" : "←"} ${row.peer}`, protocol, el("dl", { class: "facts" }, ...Object.entries(facts).map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, v instanceof Node ? v : String(v)))))),
          card("Both directions", "as packets have them", table([["direction"], ["from"], ["to"], ["packets", "n"], ["bytes", "n"]], [
            ["original", end(o.src, o.sport), end(o.dst, o.dport), count(o.packets), count(o.bytes)], ["reply", end(r.src, r.sport), end(r.dst, r.dport), count(r.packets), count(r.bytes)]])),
          card("Rate", "since this page was opened", chart("flow " + key, [{ name: "from the container", values: this.past.map(p => p.rates[0]), class: "rx" }, { name: "to the container", values: this.past.map(p => p.rates[1]), class: "tx" }], { interval: 1 }, bits)),
          this.cardOf(`uvswitch dump -i ${this.port || "any"} '${this.filter}'`)),
        el("div", { class: "stack" },
          card("In a terminal", "", el("p", {}, "See it: ", copied(`uvswitch flow ls ${family}${tuple}`)), el("p", {}, "End it: ", copied(`uvswitch flow del ${family}${tuple}`)), el("p", {}, all))));
      if (this.lines.length) this.tail();
    },
  },
  trace: {
    wide: true, words: new URLSearchParams(),
    enter(_, words) { this.words = words; },
    draw(main) {
      if (main.querySelector("#tracer")) return; // keep what the user has typed
      const ports = state.ports;
      const port = el("select", { id: "trace-port", "aria-label": "port" }, ...ports.map(p => el("option", { value: p.name }, p.name)));
      const first = ports.find(p => p.name === this.words.get("in")) || ports.find(p => p.kind !== "uplink" && p.kind !== "host");
      if (first) port.value = first.name;
      const wanted = this.words.get("in"), isGone = wanted && !ports.some(p => p.name === wanted);
      const packet = el("input", { type: "text", id: "trace-packet", "aria-label": "packet description", placeholder: "tcp > 1.1.1.1:443 S", value: this.words.get("packet") || "tcp > 1.1.1.1:443 S", spellcheck: "false" });
      const reverse = el("input", { type: "checkbox", id: "trace-reverse", checked: "" });
      const out = el("div", { id: "way" });
      const form = el("form", { id: "tracer", onsubmit: async e => {
        e.preventDefault();
        history.replaceState(null, "", "#" + link("trace", { in: port.value, packet: packet.value }));
        try {
          const t = await api("/trace", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ in: port.value, packet: packet.value, reverse: reverse.checked }) });
          out.replaceChildren(...drawTrace(t), ...(t.reverse ? [el("h2", {}, "The reply"), ...drawTrace(t.reverse)] : []));
        } catch (err) { out.replaceChildren(el("p", { class: "error" }, err.message)); }
      } }, el("div", { class: "bar" }, el("label", {}, "from port ", port), packet, el("label", {}, reverse, " and the reply"), el("button", { class: "go" }, "Trace")));
      const examples = ["tcp > 1.1.1.1:443 S", "udp > 9.9.9.9:53", "icmp > 1.1.1.1", "dns example.org"].map(words => el("button", { type: "button", onclick: () => { packet.value = words; form.requestSubmit(); } }, words));
      const outside = `tcp 203.0.113.9:4000 > ${literal(state.status.uplink.address || "198.51.100.1")}:8080 S`;
      if (ports.some(p => p.kind === "uplink")) examples.push(el("button", { type: "button", onclick: () => { port.value = "uplink"; packet.value = outside; form.requestSubmit(); } }, "from outside: " + outside));
      main.replaceChildren(card("Trace", "what would happen to a packet, and why; a trace reads the live tables and changes nothing", form, el("div", { class: "bar" }, el("span", { class: "muted" }, "for example"), ...examples), out));
      if (isGone) out.replaceChildren(el("p", { class: "error" }, `Port ${wanted} does not exist, or it was removed. Choose another port.`));
      else if (this.words.get("packet")) form.requestSubmit();
    },
  },
};

// flowWords reads a filter: the flags of `flow ls` with their values, and other words, which a row must have.
function flowWords(filter) {
  const flags = { "-p": "proto", "--proto": "proto", "-s": "src", "--src": "src", "-d": "dst", "--dst": "dst", "--port": "port", "--sport": "sport", "--dport": "dport", "--state": "state", "-f": "family", "--family": "family" };
  const query = {}, texts = [], args = [], words = filter.split(/\s+/).filter(Boolean);
  for (let i = 0; i < words.length; i++) {
    const [flag, given] = words[i].split("="), key = flags[flag];
    if (!key) texts.push(words[i].toLowerCase());
    else if (given || words[i + 1]) args.push(flag, query[key] = given || words[++i]);
  }
  return { query, texts, args };
}

// flowKey tells a flow from others, also from one that has its number later.
const flowKey = f => [f.family, f.id, f.original.src, f.original.sport || 0].join(",");

// seenByContainer turns a flow to its container's side, whoever has begun it.
function seenByContainer(f) {
  const end = (a, port) => port ? `${literal(a)}:${port}` : a, { original: o, reply: r } = f;
  const own = (state.ports.find(p => p.name === f.port)?.addresses || []).map(a => a.split("/")[0]);
  const out = own.includes(o.src) || !own.includes(r.src);
  const row = out ? { inside: end(o.src, o.sport), peer: end(o.dst, o.dport), outside: end(r.dst, r.dport), sent: o.bytes, received: r.bytes }
    : { inside: end(r.src, r.sport), peer: end(o.src, o.sport), outside: end(o.dst, o.dport), sent: r.bytes, received: o.bytes };
  return { f, out, ...row, text: [f.protocol, f.state, f.port, f.network, ...f.status, row.inside, row.peer, row.outside].join(" ").toLowerCase() };
}

// flowTable shows what seenByContainer has returned. head makes a column's head of its name and of what sorts by it.
function flowTable(rows, head = name => name) {
  const columns = [["port", "port", "", r => r.f.port ? portLink(r.f.port) : "–"], ["container", "", "", r => el("code", {}, r.inside)], ["", "", "", r => el("a", { href: "#" + link("flow/" + encodeURIComponent(flowKey(r.f)), { port: r.f.port }), title: "this flow" }, r.out ? "→" : "←")], ["peer", "peer", "", r => el("code", {}, r.peer)],
    ["outside", "", "", r => r.outside === r.inside ? "" : el("code", {}, r.outside)], ["protocol", "protocol", "", r => r.f.protocol],
    ["state", "state", "", r => el("span", { class: "pill" + (r.f.state === "ESTABLISHED" ? " good" : "") }, r.f.state || r.f.status.join(" ") || "–")],
    ["rate", "rate", "n", r => bits(r.rate)], ["sent", "", "n", r => count(r.sent)], ["received", "bytes", "n", r => count(r.received)], ["expires in", "expires", "n", r => span(r.f.timeout)]]
    .filter(([name]) => name !== "rate" || rows.some(r => r.rate !== undefined));
  return table(columns.map(([name, by, cls]) => [by ? head(name, by) : name, cls]), rows.map(r => columns.map(c => c[3](r))));
}

function dropTable(drops) {
  const known = name => state.ports.some(p => p.name === name);
  return table([["time"], ["reason"], ["port"], ["packet"], ["why, and what to do"], [""]], drops.map(v => {
    const packet = v.trace, r = state.reasons[v.reason] || {};
    return [el("span", { class: "mono" }, new Date(v.time).toLocaleTimeString()), el("code", { class: "badtext" }, v.reason), known(v.in) ? portLink(v.in) : v.in, el("code", {}, v.packet),
      el("span", {}, v.why || r.meaning || "", el("br"), el("span", { class: "muted" }, ...remedy(v.remedy || ""))),
      packet && known(v.in) ? el("a", { href: "#" + link("trace", { in: v.in, packet }) }, "trace") : ""];
  }));
}

// copied is a command, and a button that copies it.
const copied = command => el("span", { class: "command" }, el("code", {}, command), el("button", { type: "button", title: "copy the command", onclick: e => {
  navigator.clipboard.writeText(command).then(() => { e.target.textContent = "copied"; }, () => { getSelection().selectAllChildren(e.target.previousSibling); });
} }, "copy"));

// chart draws lines over the time of a history, with axes. The pointer shows the values of a moment.
function chart(name, lines, past, unit) {
  const W = 700, H = 170, left = 74, bottom = 20, top = 8, n = Math.max(2, 600 / past.interval);
  const svg = el("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": lines.map(l => l.name).join(", ") + " over time" });
  const most = Math.max(1, ...lines.flatMap(l => l.values)) * 1.1;
  const x = back => W - 8 - back * (W - left - 8) / (n - 1), y = v => H - bottom - (H - bottom - top) * v / most;
  for (const part of [0, 0.5, 1]) svg.append(el("line", { x1: left, x2: W - 8, y1: y(most * part), y2: y(most * part) }), el("text", { class: "end", x: left - 6, y: y(most * part) + 4 }, unit(most * part)));
  for (const minutes of [10, 8, 6, 4, 2, 0]) svg.append(el("text", { x: Math.min(x(minutes * 60 / past.interval), W - 30), y: H - 5 }, minutes ? `-${minutes} min` : "now"));
  for (const l of lines) if (l.values.length) svg.append(el("path", { class: l.class, d: "M" + l.values.map((v, i) => `${x(l.values.length - 1 - i).toFixed(1)} ${y(v).toFixed(1)}`).join(" L") }));
  const back = chart.back.get(name);
  if (back !== undefined) svg.append(el("line", { class: "mark", y1: top, y2: H - bottom, x1: x(back), x2: x(back) }));
  svg.onpointermove = e => {
    const box = e.currentTarget.getBoundingClientRect(), to = Math.round((W - 8 - (e.clientX - box.left) * W / box.width) * (n - 1) / (W - left - 8));
    chart.back.set(name, Math.min(n - 1, Math.max(0, to)));
    update(e.currentTarget.parentNode, chart(name, lines, past, unit));
  };
  svg.onpointerleave = e => {
    chart.back.delete(name);
    update(e.currentTarget.parentNode, chart(name, lines, past, unit));
  };
  return el("div", {}, svg, el("div", { class: "legend" }, ...lines.map(l => el("span", {}, el("i", { class: l.class }), l.name)),
    back === undefined ? null : el("span", { class: "at" }, `${span(back * past.interval)} ago: ` + lines.map(l => `${l.name} ${unit(l.values[l.values.length - 1 - back] || 0)}`).join(", "))));
}
chart.back = new Map(); // of each chart: how many intervals ago the pointer is

// differences are the words of a packet as it leaves; those that it did not have when it came are marked.
function differences(came, leaves) {
  const before = came.split(" ");
  return leaves.split(" ").flatMap((w, i) => [i ? " " : "", before[i] === w ? w : el("mark", { title: before[i] ? "was " + before[i] : "new" }, w)]);
}

function drawTrace(t) {
  const dropped = t.verdict === "dropped";
  const end = el("li", { class: "end " + t.verdict }, el("div", { class: "stage" }, t.verdict + (t.reason ? ": " + t.reason : "") + (t.ports.length ? " to " + t.ports.join(", ") : "")),
    el("div", { class: "text" }, t.why, ...(t.remedy ? [". To do: ", ...remedy(t.remedy)] : [])), t.out ? el("div", { class: "text mono" }, ...differences(t.packet, t.out)) : null);
  return [el("p", {}, el("code", {}, t.packet), el("span", { class: "muted" }, ` from ${t.in}, ${t.length} bytes`)),
    el("ol", { class: "way" }, ...t.steps.map(s => el("li", {}, el("span", { class: "result" }, s.result), el("div", { class: "stage" }, s.stage), el("div", { class: "text" }, s.text))), end)];
}

// route shows the page that the fragment of the URL names, such as #port/web or #drops?port=web.
function route() {
  const [path, words] = location.hash.slice(1).split("?"), [what, arg] = path.split("/");
  const page = pages[what || "overview"] || pages.overview;
  pages.current?.leave?.();
  pages.current = page;
  const main = $("page");
  main.className = page.wide ? "wide" : "";
  main.replaceChildren();
  document.querySelectorAll("nav a").forEach(a => a.classList.toggle("on", a.dataset.page === ({ port: "", flow: "flows" }[what] ?? what ?? "")));
  page.enter?.(decodeURIComponent(arg || ""), new URLSearchParams(words));
  if (state.stats) page.draw(main);
}

// go shows a page at once. A change of location.hash would show it a moment later, and the next key would still go to the page before.
function go(to) {
  history.pushState(null, "", "#" + to);
  route();
}

async function loop() {
  for (;;) {
    try {
      await poll();
      head();
      await pages.current.draw($("page"));
    } catch (e) {
      $("live").textContent = e instanceof TypeError ? "the switch does not answer" : e.message;
      $("live").className = "pill bad";
    }
    await new Promise(r => setTimeout(r, 1000));
  }
}

// The theme is the system's until the button chooses another.
function theme(next) {
  if (next) localStorage.setItem("theme", next);
  const now = localStorage.getItem("theme") || "system";
  document.documentElement.dataset.theme = now;
  $("theme").textContent = now;
}
$("theme").onclick = () => theme({ system: "light", light: "dark", dark: "system" }[localStorage.getItem("theme") || "system"]);
theme();

// matches are the objects that have a text: ports by name, address, MAC and namespace, networks, published ports, and reasons; and the flows with it.
function matches(text) {
  const t = text.trim().toLowerCase(), has = words => words.some(w => w && String(w).toLowerCase().includes(t)), out = [];
  if (!t || !state.stats) return out;
  const add = (kind, name, more, to) => out.push({ kind, name, more, to });
  for (const p of state.ports) if (has([p.name, p.mac, p.netns, p.container, ...p.addresses])) add("port", p.name, p.addresses.map(a => a.split("/")[0]).join(" "), "port/" + encodeURIComponent(p.name));
  for (const p of state.publish) if (has([`${p.host_port}/${p.protocol}`, p.host_address])) add("published port", `${p.host_port}/${p.protocol}`, "leads to " + p.port, "port/" + encodeURIComponent(p.port));
  for (const n of state.status.networks || []) if (has([n.name, n.subnet, n.gateway, n.subnet6])) add("network", n.name, n.subnet, "");
  for (const r of Object.values(state.reasons)) if (has([r.name])) add("reason", r.name, state.stats.drops[r.name] ? count(state.stats.drops[r.name]) + " drops" : "no drops", link("drops", { reason: r.name }));
  const most = out.slice(0, 11);
  return [...most, { kind: "flows", name: text.trim(), more: "in any column", to: link("flows", { filter: text.trim() }) }];
}

// The search in the head. The arrows choose a match, Enter opens it.
const search = { list: [], at: 0 };
function drawSearch() {
  search.list = matches($("search").value);
  search.at = Math.max(0, Math.min(search.at, search.list.length - 1));
  $("found").hidden = !search.list.length;
  show($("found"), ...search.list.map((m, i) => el("a", { href: "#" + m.to, role: "option", "aria-selected": String(i === search.at), class: i === search.at ? "on" : "", onclick: endSearch }, el("small", {}, m.kind), el("b", {}, m.name), el("span", { class: "muted" }, m.more))));
}
function endSearch() {
  $("search").value = "";
  $("search").blur();
  drawSearch();
}
$("search").oninput = () => { search.at = 0; drawSearch(); };
$("search").onblur = () => setTimeout(() => { $("found").hidden = true; }, 200); // a click on a match comes first
$("search").onfocus = drawSearch;
$("search").onkeydown = e => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
  if (step) { search.at += step; drawSearch(); e.preventDefault(); }
  if (e.key === "Enter" && search.list.length) { const to = search.list[search.at].to; endSearch(); go(to); }
  if (e.key === "Escape") endSearch();
};

// Keys: / goes to a page's filter, g and a letter to a page, ? shows them.
const keys = { o: "", d: "drops", f: "flows", n: "names", p: "policies", e: "events", t: "trace" };
let went = 0; // when g was pressed
addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.key === "Escape") document.activeElement?.blur();
  if (["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement?.tagName)) return;
  if (e.timeStamp - went < 1500 && e.key in keys) go(keys[e.key]);
  else if (e.key === "?") $("help").showModal();
  else if (e.key === "/") {
    (document.querySelector("main input[type=text]") || $("search")).focus();
    e.preventDefault();
  }
  went = e.key === "g" ? e.timeStamp : 0;
});

addEventListener("hashchange", () => { takeToken(); route(); });
route();
api("/reasons").then(list => { for (const r of list) state.reasons[r.name] = r; }).catch(() => {});
loop();
