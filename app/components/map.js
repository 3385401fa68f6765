// The map of blocks. Everything that moves (zoom, pan, tip) stays in the browser.
const bytes = (b) => (!b ? new Uint8Array() : b instanceof Uint8Array ? b : new Uint8Array(b));
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "map";
  root.innerHTML = `<style>
    .map { position: relative; width: 100%; font-family: inherit; color: inherit; }
    .map canvas { width: 100%; display: block; border-radius: 8px; background: color-mix(in srgb, currentColor 3%, transparent); touch-action: none; outline: none; cursor: crosshair; }
    .map canvas:focus-visible { box-shadow: 0 0 0 2px #0f7c86; }
    .map .tip { position: absolute; pointer-events: none; font-size: 12px; line-height: 1.4; padding: 6px 10px; border-radius: 6px; background: #1d2429; color: #fff; white-space: pre; transform: translate(-50%, -100%); margin-top: -12px; opacity: 0; z-index: 3; }
    .map .tip.on { opacity: 1; }
    .map .legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 12px; margin-top: 8px; }
    .map .legend i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
    .map .wait { position: absolute; inset: 0; display: grid; place-items: center; font-size: 13px; padding: 16px; text-align: center; pointer-events: none; }
    .map .wait span { opacity: .76; }
  </style><canvas tabindex="0" role="application"></canvas><div class="tip"></div><div class="wait"><span></span></div><div class="legend"></div>`;
  const canvas = root.querySelector("canvas"), tip = root.querySelector(".tip"), wait = root.querySelector(".wait");
  let xy = new Float32Array(), size = new Uint8Array(), colour = new Uint8Array(), shown = new Uint8Array();
  let box = [0, 0, 1, 1], zoom = 1, cx = 0, cy = 0, hover = -1, pending = false, drag = null;
  function load() {
    const raw = bytes(model.xy);
    xy = new Float32Array(raw.slice().buffer, 0, raw.length >> 2);
    size = bytes(model.size); colour = bytes(model.colour_index); shown = bytes(model.shown);
    let x0 = Infinity, y0 = Infinity, x1 = -Infinity, y1 = -Infinity;
    for (let i = 0; i < xy.length; i += 2) { x0 = Math.min(x0, xy[i]); x1 = Math.max(x1, xy[i]); y0 = Math.min(y0, xy[i + 1]); y1 = Math.max(y1, xy[i + 1]); }
    if (xy.length) box = [x0, y0, Math.max(x1 - x0, 1e-6), Math.max(y1 - y0, 1e-6)];
    zoom = 1; cx = cy = 0; hover = -1;
    wait.style.display = xy.length ? "none" : "";
    root.dataset.points = xy.length / 2;
    draw();
  }
  const W = () => canvas.clientWidth || 480, H = () => model.height_px;
  const place = (i) => [
    W() / 2 + zoom * (((xy[2 * i] - box[0]) / box[2] - .5) * (W() - 48)) + cx,
    H() / 2 - zoom * (((xy[2 * i + 1] - box[1]) / box[3] - .5) * (H() - 48)) + cy];
  function draw() { if (!pending) { pending = true; requestAnimationFrame(now); } }
  function now() {
    pending = false;
    const w = W(), h = H(), dpr = Math.min(window.devicePixelRatio || 1, 2), n = xy.length / 2;
    if (canvas.width !== Math.round(w * dpr) || canvas.height !== Math.round(h * dpr)) { canvas.width = Math.round(w * dpr); canvas.height = Math.round(h * dpr); canvas.style.height = h + "px"; }
    const g = canvas.getContext("2d"), ink = getComputedStyle(root).color, grow = Math.min(2.2, Math.sqrt(zoom));
    g.setTransform(dpr, 0, 0, dpr, 0, 0); g.clearRect(0, 0, w, h);
    g.fillStyle = ink; g.globalAlpha = .13;
    for (let i = 0; i < n; i++) if (!shown[i]) { const [x, y] = place(i); g.fillRect(x - 1, y - 1, 2, 2); }
    g.globalAlpha = n > 1500 ? .7 : .82;
    for (let c = 0; c < model.palette.length; c++) {
      g.fillStyle = model.palette[c]; g.beginPath();
      for (let i = 0; i < n; i++) if (shown[i] && colour[i] === c) { const [x, y] = place(i), r = size[i] / 4 * grow; g.moveTo(x + r, y); g.arc(x, y, r, 0, 6.2832); }
      g.fill();
    }
    g.globalAlpha = 1;
    const ring = (i, width, alpha, more) => { if (i < 0 || i >= n) return; const [x, y] = place(i); g.globalAlpha = alpha; g.strokeStyle = ink; g.lineWidth = width; g.beginPath(); g.arc(x, y, size[i] / 4 * grow + more, 0, 6.2832); g.stroke(); g.globalAlpha = 1; };
    for (const i of model.near) ring(i, 1, .7, 3);
    ring(hover, 1.5, .9, 3); ring(model.chosen, 2.5, 1, 4);
    if (hover >= 0) { const [x, y] = place(hover); tip.style.left = Math.max(80, Math.min(w - 80, x)) + "px"; tip.style.top = Math.max(48, y) + "px"; }
  }
  function nearest(x, y, within) {
    let best = -1, gap = within * within;
    for (let i = 0; i < xy.length / 2; i++) { if (!shown[i]) continue; const [a, b] = place(i), d = (a - x) ** 2 + (b - y) ** 2; if (d < gap) { gap = d; best = i; } }
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
  canvas.addEventListener("pointerup", (e) => { const moved = drag && drag[4]; drag = null; if (!moved) { const i = nearest(...at(e), 16); if (i >= 0) pick(i); } });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("dblclick", () => { zoom = 1; cx = cy = 0; draw(); });
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    const [x, y] = at(e), was = zoom; zoom = Math.max(1, Math.min(40, zoom * Math.exp(-e.deltaY * .0015)));
    const k = zoom / was; cx = (x - W() / 2) * (1 - k) + cx * k; cy = (y - H() / 2) * (1 - k) + cy * k;
    if (zoom === 1) cx = cy = 0;
    draw();
  }, { passive: false });
  function pick(i) { model.send_msg({ type: "pick", at: i }); }
  canvas.addEventListener("keydown", (e) => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    const from = hover >= 0 ? hover : model.chosen;
    if (e.key === "Enter" && hover >= 0) { pick(hover); e.preventDefault(); }
    if (!way) return;
    e.preventDefault();
    if (from < 0) { point(nearest(W() / 2, H() / 2, 1e6)); return; }
    const [x, y] = place(from); let best = -1, cost = Infinity;
    for (let i = 0; i < xy.length / 2; i++) {
      if (!shown[i] || i === from) continue;
      const [a, b] = place(i), along = (a - x) * way[0] + (b - y) * way[1], off = Math.abs((a - x) * way[1]) + Math.abs((b - y) * way[0]);
      if (along > .5 && along + 2 * off < cost) { cost = along + 2 * off; best = i; }
    }
    if (best >= 0) point(best);
  });
  function legend() {
    const box = root.querySelector(".legend"); box.replaceChildren();
    for (const [name, c] of model.legend) { const s = document.createElement("span"), i = document.createElement("i"); i.style.background = c; s.append(i, name); box.appendChild(s); }
  }
  const words = () => { wait.querySelector("span").textContent = model.waiting; canvas.setAttribute("aria-label", `Map of ${xy.length / 2} blocks. Arrow keys go to the nearest block, Enter opens it.`); };
  new ResizeObserver(draw).observe(root);
  new MutationObserver(draw).observe(document.documentElement, { attributes: true });
  model.on("xy", () => { load(); words(); });
  model.on(["size", "colour_index", "shown"], () => { size = bytes(model.size); colour = bytes(model.colour_index); shown = bytes(model.shown); draw(); });
  model.on(["palette", "chosen", "near", "labels", "height_px"], draw);
  model.on("legend", legend); model.on("waiting", words);
  load(); legend(); words();
  return root;
}
