// The map of blocks. Everything that moves (zoom, pan, tip, the way from one arrangement to another) stays here.
const bytes = (b) => (!b ? new Uint8Array() : b instanceof Uint8Array ? b : new Uint8Array(b));
const floats = (b) => { const raw = bytes(b); return new Float32Array(raw.slice().buffer, 0, raw.length >> 2); };
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "map";
  root.innerHTML = `<style>
    .map { position: relative; width: 100%; font-family: inherit; color: inherit; }
    .map canvas { width: 100%; display: block; border-radius: 8px; background: color-mix(in srgb, currentColor 3%, transparent); touch-action: none; outline: none; cursor: crosshair; }
    .map canvas:focus-visible { box-shadow: 0 0 0 2px #0f7c86; }
    .map .tip { position: absolute; pointer-events: none; font-size: 12px; line-height: 1.4; padding: 6px 10px; border-radius: 6px; background: #1d2429; color: #fff; white-space: pre; transform: translate(-50%, -100%); margin-top: -12px; opacity: 0; z-index: 3; }
    .map .tip.on { opacity: 1; } .map .tip.below { transform: translate(-50%, 0); margin-top: 14px; }
    .map .legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 12px; margin-top: 8px; align-items: center; }
    .map .legend i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
    .map .legend .scale { display: inline-flex; align-items: center; gap: 6px; } .map .legend .scale i { width: 96px; border-radius: 4px; margin: 0; }
    .map .wait { position: absolute; inset: 0; display: grid; place-items: center; font-size: 13px; padding: 16px; text-align: center; pointer-events: none; }
    .map .wait span { opacity: .76; }
  </style><canvas tabindex="0" role="application"></canvas><div class="tip"></div><div class="wait"><span></span></div><div class="legend"></div>`;
  const canvas = root.querySelector("canvas"), tip = root.querySelector(".tip"), wait = root.querySelector(".wait");
  let xy = new Float32Array(), old = null, began = 0, size = new Uint8Array(), colour = new Uint8Array(), shown = new Uint8Array();
  let px = new Float32Array(), py = new Float32Array(), edges = new Int32Array(), weights = new Float32Array();
  let box = [0, 0, 1, 1], was = null, zoom = 1, cx = 0, cy = 0, hover = -1, pending = false, drag = null, drawn = 0;
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  function load() {
    const next = floats(model.xy), same = next.length === xy.length && xy.length > 0;
    let x0 = Infinity, y0 = Infinity, x1 = -Infinity, y1 = -Infinity;
    for (let i = 0; i < next.length; i += 2) { x0 = Math.min(x0, next[i]); x1 = Math.max(x1, next[i]); y0 = Math.min(y0, next[i + 1]); y1 = Math.max(y1, next[i + 1]); }
    // Another arrangement of the same blocks: they walk there, so that nobody loses the one they look at.
    old = same && !still.matches && !document.hidden ? xy : null; was = box; began = performance.now();
    xy = next; px = new Float32Array(xy.length >> 1); py = new Float32Array(xy.length >> 1);
    if (xy.length) box = [x0, y0, Math.max(x1 - x0, 1e-6), Math.max(y1 - y0, 1e-6)];
    size = bytes(model.size); colour = bytes(model.colour_index); shown = bytes(model.shown);
    zoom = 1; cx = cy = 0; hover = -1; tip.classList.remove("on");
    wait.style.display = xy.length ? "none" : "";
    root.dataset.points = xy.length / 2;
    draw();
  }
  function join() { const raw = bytes(model.edges); edges = new Int32Array(raw.slice().buffer, 0, raw.length >> 2); weights = floats(model.weights); draw(); }
  const W = () => canvas.clientWidth || 480, H = () => model.height_px;
  const pad = () => (model.axes.length ? [44, 20, 14, 34] : [24, 24, 24, 24]);
  function project() {
    const w = W(), h = H(), n = xy.length >> 1, [l, r, t, b] = pad();
    const f = old ? Math.min(1, (performance.now() - began) / 420) : 1, e = f * f * (3 - 2 * f);
    const sx = (w - l - r) * zoom, sy = (h - t - b) * zoom, mx = l + (w - l - r) / 2 + cx, my = t + (h - t - b) / 2 + cy;
    for (let i = 0; i < n; i++) {
      let u = (xy[2 * i] - box[0]) / box[2] - .5, v = (xy[2 * i + 1] - box[1]) / box[3] - .5;
      if (e < 1) { u = e * u + (1 - e) * ((old[2 * i] - was[0]) / was[2] - .5); v = e * v + (1 - e) * ((old[2 * i + 1] - was[1]) / was[3] - .5); }
      px[i] = mx + sx * u; py[i] = my - sy * v;
    }
    if (f >= 1) old = null; else draw();
  }
  function draw() { if (!pending) { pending = true; requestAnimationFrame(now); } }
  function now() {
    pending = false;
    const start = performance.now();
    const w = W(), h = H(), dpr = Math.min(window.devicePixelRatio || 1, 2), n = xy.length >> 1;
    if (canvas.width !== Math.round(w * dpr) || canvas.height !== Math.round(h * dpr)) { canvas.width = Math.round(w * dpr); canvas.height = Math.round(h * dpr); canvas.style.height = h + "px"; }
    project();
    const g = canvas.getContext("2d"), ink = getComputedStyle(root).color, grow = Math.min(2.2, Math.sqrt(zoom)) * (n > 1500 ? .8 : 1);
    g.setTransform(dpr, 0, 0, dpr, 0, 0); g.clearRect(0, 0, w, h);
    if (model.axes.length) scales(g, ink, w, h);
    const line = (i, j) => { g.moveTo(px[i], py[i]); g.lineTo(px[j], py[j]); };
    // Thousands of see-through lines cost more than all the rest: they wait until the hand is still.
    if (model.joined && edges.length && !(n > 1500 && (old || (drag && drag[4])))) {
      g.strokeStyle = ink; g.lineWidth = .75; g.globalAlpha = n > 1500 ? .07 : .16; g.beginPath();
      for (let e = 0; e < edges.length; e += 2) if (shown[edges[e]] && shown[edges[e + 1]]) line(edges[e], edges[e + 1]);
      g.stroke();
    }
    g.fillStyle = ink; g.globalAlpha = .13; g.beginPath();
    for (let i = 0; i < n; i++) if (!shown[i]) g.rect(px[i] - 1, py[i] - 1, 2, 2);
    g.fill();
    g.globalAlpha = n > 1500 ? .72 : .84;
    // Circles of one colour and size are one picture, stamped: thousands of arcs would cost a frame.
    for (let c = 0; c < model.palette.length; c++) {
      if (n < 1500) {
        g.fillStyle = model.palette[c]; g.beginPath();
        for (let i = 0; i < n; i++) if (shown[i] && colour[i] === c) { const r = size[i] / 4 * grow; g.moveTo(px[i] + r, py[i]); g.arc(px[i], py[i], r, 0, 6.2832); }
        g.fill(); continue;
      }
      for (let i = 0; i < n; i++) {
        if (!shown[i] || colour[i] !== c || px[i] < -20 || py[i] < -20 || px[i] > w + 20 || py[i] > h + 20) continue;
        const s = stamp(model.palette[c], Math.round(size[i] * grow), dpr), d = s.width / dpr;
        g.drawImage(s, px[i] - d / 2, py[i] - d / 2, d, d);
      }
    }
    g.globalAlpha = 1;
    const at = (i) => i >= 0 && i < n;
    if (at(model.chosen)) {
      g.strokeStyle = ink; g.lineCap = "round";
      for (let k = 0; k < model.near.length; k++) if (at(model.near[k])) { g.globalAlpha = .75; g.lineWidth = 1 + 5 * (model.near_weight[k] || 0); g.beginPath(); line(model.chosen, model.near[k]); g.stroke(); }
    }
    if (model.marked.length > 1) {
      g.globalAlpha = .9; g.strokeStyle = "#d9622b"; g.lineWidth = 1.5; g.setLineDash([2, 4]); g.beginPath();
      for (let a = 0; a < model.marked.length; a++) for (let b = a + 1; b < model.marked.length; b++) line(model.marked[a], model.marked[b]);
      g.stroke(); g.setLineDash([]);
    }
    const ring = (i, width, alpha, more, stroke = ink) => { if (!at(i)) return; g.globalAlpha = alpha; g.strokeStyle = stroke; g.lineWidth = width; g.beginPath(); g.arc(px[i], py[i], size[i] / 4 * grow + more, 0, 6.2832); g.stroke(); g.globalAlpha = 1; };
    for (const i of model.near) ring(i, 1, .8, 3);
    for (const i of model.marked) ring(i, 2.5, 1, 4, "#d9622b");
    ring(hover, 1.5, .9, 3); ring(model.chosen, 2.5, 1, 4);
    if (hover >= 0) { const x = px[hover], y = py[hover], low = y < 72; tip.classList.toggle("below", low); tip.style.left = Math.max(90, Math.min(w - 90, x)) + "px"; tip.style.top = y + "px"; }
    root.dataset.drawn = ++drawn; root.dataset.ms = (performance.now() - start).toFixed(2);
  }
  const stamps = new Map();
  function stamp(c, quarters, dpr) {
    const name = `${c} ${quarters} ${dpr}`;
    if (!stamps.has(name)) {
      const r = quarters / 4, edge = Math.ceil((2 * r + 2) * dpr), s = document.createElement("canvas"), g = (s.width = s.height = edge, s.getContext("2d"));
      g.fillStyle = c; g.beginPath(); g.arc(edge / 2, edge / 2, r * dpr, 0, 6.2832); g.fill();
      if (stamps.size > 4000) stamps.clear();
      stamps.set(name, s);
    }
    return stamps.get(name);
  }
  function scales(g, ink, w, h) {
    // Axes: [name, [[value in the data, its words], ...]] across and up.
    const [l, r, t, b] = pad(), across = (v) => l + (w - l - r) / 2 + cx + (w - l - r) * zoom * ((v - box[0]) / box[2] - .5), up = (v) => t + (h - t - b) / 2 + cy - (h - t - b) * zoom * ((v - box[1]) / box[3] - .5);
    g.font = `11px ${getComputedStyle(root).fontFamily}`; g.fillStyle = g.strokeStyle = ink; g.lineWidth = 1;
    const [[xname, xs], [yname, ys]] = model.axes;
    g.textAlign = "center";
    for (const [v, words] of xs) { const x = across(v); if (x < l || x > w - 8) continue; g.globalAlpha = .1; g.beginPath(); g.moveTo(x, t); g.lineTo(x, h - b + 6); g.stroke(); g.globalAlpha = .78; g.fillText(words, x, h - b + 18); }
    g.textAlign = "right";
    for (const [v, words] of ys) { const y = up(v); if (y < t || y > h - b + 4) continue; g.globalAlpha = .1; g.beginPath(); g.moveTo(l - 6, y); g.lineTo(w - r, y); g.stroke(); g.globalAlpha = .78; g.fillText(words, l - 9, y + 4); }
    g.globalAlpha = .78; g.fillText(xname, w - r, h - 4); g.textAlign = "left"; g.fillText(yname, 8, 12); g.globalAlpha = 1;
  }
  function nearest(x, y, within) {
    let best = -1, gap = within * within;
    for (let i = 0; i < px.length; i++) { if (!shown[i]) continue; const d = (px[i] - x) ** 2 + (py[i] - y) ** 2; if (d < gap) { gap = d; best = i; } }
    return best;
  }
  function point(i) {
    if (i === hover) return;
    hover = i; tip.classList.toggle("on", i >= 0); if (i >= 0) tip.textContent = model.labels[i] || ""; draw();
  }
  const at = (e) => { const b = canvas.getBoundingClientRect(); return [e.clientX - b.left, e.clientY - b.top]; };
  canvas.addEventListener("pointerdown", (e) => { drag = [e.clientX, e.clientY, cx, cy, false]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointermove", (e) => {
    if (drag) {
      const dx = e.clientX - drag[0], dy = e.clientY - drag[1];
      if (drag[4] || Math.hypot(dx, dy) > 4) { drag[4] = true; cx = drag[2] + dx; cy = drag[3] + dy; point(-1); draw(); }
    } else point(nearest(...at(e), 14));
  });
  canvas.addEventListener("pointerup", (e) => { const moved = drag && drag[4]; drag = null; if (moved) draw(); else { const i = nearest(...at(e), 16); if (i >= 0) pick(i); } });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("dblclick", () => { zoom = 1; cx = cy = 0; draw(); });
  const closer = (x, y, by) => {
    const before = zoom; zoom = Math.max(1, Math.min(40, zoom * by));
    const k = zoom / before; cx = (x - W() / 2) * (1 - k) + cx * k; cy = (y - H() / 2) * (1 - k) + cy * k;
    if (zoom === 1) cx = cy = 0;
    draw();
  };
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); closer(...at(e), Math.exp(-e.deltaY * .0015)); }, { passive: false });
  function pick(i) { model.send_msg({ type: "pick", at: i }); }
  canvas.addEventListener("keydown", (e) => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    const from = hover >= 0 ? hover : model.chosen;
    if (e.key === "Enter" && hover >= 0) { pick(hover); e.preventDefault(); }
    if (e.key === "+" || e.key === "=" || e.key === "-") { const i = from >= 0 ? from : -1; closer(i < 0 ? W() / 2 : px[i], i < 0 ? H() / 2 : py[i], e.key === "-" ? 1 / 1.4 : 1.4); e.preventDefault(); }
    if (e.key === "0" || e.key === "Home") { zoom = 1; cx = cy = 0; draw(); e.preventDefault(); }
    if (e.key === "Escape") point(-1);
    if (!way) return;
    e.preventDefault();
    if (from < 0) { point(nearest(W() / 2, H() / 2, 1e6)); return; }
    const x = px[from], y = py[from]; let best = -1, cost = Infinity;
    for (let i = 0; i < px.length; i++) {
      if (!shown[i] || i === from) continue;
      const along = (px[i] - x) * way[0] + (py[i] - y) * way[1], off = Math.abs((px[i] - x) * way[1]) + Math.abs((py[i] - y) * way[0]);
      if (along > .5 && along + 2 * off < cost) { cost = along + 2 * off; best = i; }
    }
    if (best >= 0) point(best);
  });
  function legend() {
    const box = root.querySelector(".legend"); box.replaceChildren();
    if (model.scale.length) {
      const [low, high] = model.scale, s = document.createElement("span"), i = document.createElement("i"); s.className = "scale";
      i.style.background = `linear-gradient(90deg, ${model.palette.join(",")})`; s.append(low, i, high); box.appendChild(s); return;
    }
    for (const [name, c] of model.legend) { const s = document.createElement("span"), i = document.createElement("i"); i.style.background = c; s.append(i, name); box.appendChild(s); }
  }
  const words = () => { wait.querySelector("span").textContent = model.waiting; canvas.setAttribute("aria-label", `Map of ${xy.length / 2} blocks. Arrow keys go to the nearest block, Enter opens it, plus and minus zoom, 0 shows all.`); };
  new ResizeObserver(draw).observe(root);
  new MutationObserver(draw).observe(document.documentElement, { attributes: true });
  model.on("xy", () => { load(); words(); });
  model.on(["size", "colour_index", "shown"], () => { size = bytes(model.size); colour = bytes(model.colour_index); shown = bytes(model.shown); draw(); });
  model.on(["edges", "weights"], join);
  model.on(["palette", "chosen", "near", "near_weight", "marked", "labels", "height_px", "joined", "axes"], draw);
  model.on(["legend", "scale", "palette"], legend); model.on("waiting", words);
  load(); join(); legend(); words();
  return root;
}
