// A rotatable space drawn on a 2-D canvas; no library. Drag or arrow keys rotate, the wheel zooms.
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "space";
  root.innerHTML = `<style>
    .space { width: 100%; position: relative; color: inherit; }
    .space canvas { width: 100%; display: block; touch-action: none; cursor: grab; outline: none; border-radius: 8px; }
    .space canvas:focus-visible { box-shadow: inset 0 0 0 2px currentColor; }
  </style>`;
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0; canvas.setAttribute("role", "img"); root.appendChild(canvas);
  let fresh = false, yaw = .5, pitch = 1.0, zoom = 1, xyz = new Float32Array(), index = new Uint8Array(), centre = [0, 0, 0], scale = 1, pending = false;

  const floats = (b) => { if (!b) return new Float32Array(); const u = b instanceof Uint8Array ? b : new Uint8Array(b); return new Float32Array(u.slice().buffer, 0, u.length >> 2); };
  let sums = new Float32Array(), pixels = null, layer = null, tones = [];
  function load() {
    xyz = floats(model.points); fresh = true;
    const b = model.colour_index; index = b ? (b instanceof Uint8Array ? b : new Uint8Array(b)) : new Uint8Array();
    frame(); draw();
  }
  function frame() {
    const lo = [Infinity, Infinity, Infinity], hi = [-Infinity, -Infinity, -Infinity];
    const see = (p) => { for (let a = 0; a < 3; a++) { lo[a] = Math.min(lo[a], p[a]); hi[a] = Math.max(hi[a], p[a]); } };
    for (const c of model.curves) c.points.forEach(see);
    for (const a of model.arrows) { see(a.from); see(a.to); }
    const step = Math.max(1, Math.floor(xyz.length / 3 / 4000));
    if (xyz.length / 3 > 3000) {
      // A few strays of a large cloud must not make it small: all but one in a hundred set the frame.
      for (let a = 0; a < 3; a++) {
        const some = new Float32Array(Math.floor(xyz.length / 3 / step)).map((_, i) => xyz[3 * i * step + a]).sort(), cut = Math.floor(some.length / 200);
        lo[a] = Math.min(lo[a], some[cut]); hi[a] = Math.max(hi[a], some[some.length - 1 - cut]);
      }
    } else for (let i = 0; i < xyz.length / 3; i += step) see([xyz[3 * i], xyz[3 * i + 1], xyz[3 * i + 2]]);
    if (lo[0] === Infinity) return;
    centre = lo.map((v, a) => (v + hi[a]) / 2);
    scale = Math.max(...lo.map((v, a) => hi[a] - v), 1e-9);
  }
  // Palette as numbers, read once.
  const rgb = (c) => { const v = parseInt(c.slice(1, 7), 16); return [v >> 16, (v >> 8) & 255, v & 255]; };
  function splat(g, w, h, dpr, k, cy, sy, cp, sp) {
    const W = Math.round(w * dpr), H = Math.round(h * dpr), n = xyz.length / 3, dot = n > 60000 ? dpr : dpr + 1, edge = Math.max(1, Math.round(dot));
    if (!layer || layer.width !== W || layer.height !== H) { layer = document.createElement("canvas"); layer.width = W; layer.height = H; sums = new Float32Array(4 * W * H); pixels = layer.getContext("2d").createImageData(W, H); }
    sums.fill(0);
    const p = tones.length ? tones : [[128, 128, 128]], m = p.length, R = Float32Array.from(p, (c) => c[0]), G = Float32Array.from(p, (c) => c[1]), B = Float32Array.from(p, (c) => c[2]);
    const [ox, oy, oz] = centre, s = k * dpr, mx = W / 2 - (edge - 1) / 2, my = H / 2 - (edge - 1) / 2, many = index.length === n;
    for (let i = 0, j = 0; i < n; i++, j += 3) {
      const x = xyz[j] - ox, y = xyz[j + 1] - oy, z = xyz[j + 2] - oz;
      const u = (mx + s * (cy * x - sy * y)) | 0, v = (my - s * (cp * z - sp * (sy * x + cy * y))) | 0;
      if (u < 0 || v < 0 || u + edge > W || v + edge > H) continue;
      const c = many ? index[i] % m : 0, r = R[c], gg = G[c], b = B[c];
      for (let q = 0; q < edge; q++) for (let o = 4 * ((v + q) * W + u), e = o + 4 * edge; o < e; o += 4) { sums[o] += r; sums[o + 1] += gg; sums[o + 2] += b; sums[o + 3]++; }
    }
    const data = pixels.data, each = n > 60000 ? .35 : .5, opacity = new Uint8Array(64);
    for (let c = 1; c < 64; c++) opacity[c] = 255 * (1 - Math.pow(1 - each, c));
    for (let o = 0, e = sums.length; o < e; o += 4) {
      const c = sums[o + 3];
      if (c) { data[o] = sums[o] / c; data[o + 1] = sums[o + 1] / c; data[o + 2] = sums[o + 2] / c; data[o + 3] = opacity[c > 63 ? 63 : c]; }
      else data[o + 3] = 0;
    }
    layer.getContext("2d").putImageData(pixels, 0, 0);
    g.globalAlpha = 1; g.drawImage(layer, 0, 0, w, h);
  }
  function draw() { if (!pending) { pending = true; requestAnimationFrame(now); } }
  function now() {
    pending = false;
    const start = performance.now();
    const w = canvas.clientWidth || 320, h = model.height_px, dpr = Math.min(window.devicePixelRatio || 1, 2);
    if (canvas.width !== Math.round(w * dpr) || canvas.height !== Math.round(h * dpr)) { canvas.width = w * dpr; canvas.height = h * dpr; canvas.style.height = h + "px"; }
    const g = canvas.getContext("2d"), look = getComputedStyle(root), ink = look.color, family = look.fontFamily || "sans-serif";
    g.setTransform(dpr, 0, 0, dpr, 0, 0); g.clearRect(0, 0, w, h);
    const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch), k = Math.min(w, h) * .84 * zoom / scale;
    const project = (x, y, z) => {
      x -= centre[0]; y -= centre[1]; z -= centre[2];
      const u = cy * x - sy * y, v = sy * x + cy * y;
      return [w / 2 + k * u, h / 2 - k * (cp * z - sp * v) , cp * v + sp * z];
    };
    const half = scale * .5;
    g.strokeStyle = ink; g.fillStyle = ink; g.globalAlpha = .35; g.lineWidth = 1; g.font = `11px ${family}`; g.textAlign = "center";
    for (let a = 0; a < 3; a++) {
      const end = [...centre]; end[a] += half * 1.2; const start = [...centre]; start[a] -= half * 1.1;
      const p = project(...start), q = project(...end);
      g.globalAlpha = .16; g.beginPath(); g.moveTo(p[0], p[1]); g.lineTo(q[0], q[1]); g.stroke();
      if (Math.hypot(q[0] - p[0], q[1] - p[1]) > 1.5 * half * k) { g.globalAlpha = .72; g.fillText(model.axes[a] || "", q[0], q[1] + (q[1] > p[1] ? 12 : -5)); }
    }
    const n = xyz.length / 3;
    if (n > 3000) splat(g, w, h, dpr, k, cy, sy, cp, sp);
    else if (n) {
      const order = model.palette.length ? model.palette : [ink], size = 3;
      g.globalAlpha = .6;
      let last = null;
      for (let i = 0; i < n; i++) {
        const p = project(xyz[3 * i], xyz[3 * i + 1], xyz[3 * i + 2]);
        const c = order[index[i] % order.length] || ink;
        if (c !== last) { g.fillStyle = c; last = c; }
        g.fillRect(p[0] - size / 2, p[1] - size / 2, size, size);
      }
    }
    g.globalAlpha = 1;
    for (const c of model.curves) {
      const pts = c.points.map((p) => project(...p)), m = pts.length;
      g.lineWidth = c.width || 3; g.setLineDash(c.dash || []); g.lineCap = "round";
      const last = c.closed ? m : m - 1;
      for (let i = 0; i < last; i++) {
        g.strokeStyle = c.colours ? c.colours[Math.floor(i * c.colours.length / last)] : c.colour || ink;
        g.beginPath(); g.moveTo(pts[i][0], pts[i][1]); g.lineTo(pts[(i + 1) % m][0], pts[(i + 1) % m][1]); g.stroke();
      }
    }
    g.setLineDash([]);
    for (const a of model.arrows) {
      const p = project(...a.from), q = project(...a.to), turn = Math.atan2(q[1] - p[1], q[0] - p[0]), long = Math.hypot(q[0] - p[0], q[1] - p[1]), tip = Math.min(9, long * .5);
      g.strokeStyle = g.fillStyle = a.colour || ink; g.lineWidth = 2.2; g.beginPath(); g.moveTo(p[0], p[1]); g.lineTo(q[0] - tip * .8 * Math.cos(turn), q[1] - tip * .8 * Math.sin(turn)); g.stroke();
      g.beginPath(); for (const s of [0, 2.7, -2.7]) { const r = s ? tip : 0; g[s ? "lineTo" : "moveTo"](q[0] + r * Math.cos(turn + s), q[1] + r * Math.sin(turn + s)); } g.closePath(); g.fill();
      if (a.name && long > 12) { g.font = `11px ${family}`; g.fillStyle = ink; g.fillText(a.name, q[0] + 10 * Math.cos(turn), q[1] + 10 * Math.sin(turn) + 4); }
    }
    g.font = `12px ${family}`;
    for (const [x, y, z, text] of model.labels) {
      const p = project(x, y, z);
      g.fillStyle = ink; g.beginPath(); g.arc(p[0], p[1], 3.5, 0, 7); g.fill(); g.fillText(text, p[0], p[1] - 9);
    }
    for (const c of model.cursors) {
      if (!c.xyz) continue;
      const p = project(...c.xyz);
      g.fillStyle = c.colour; g.strokeStyle = "white"; g.lineWidth = 2.5; g.beginPath(); g.arc(p[0], p[1], 8, 0, 7); g.fill(); g.stroke();
    }
    canvas.setAttribute("aria-label", model.caption);
    root.dataset.points = n; root.dataset.ms = (performance.now() - start).toFixed(2);
    if (fresh) { fresh = false; root.dataset.key = model.caption; }
  }
  let held = null;
  canvas.addEventListener("pointerdown", (e) => { held = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointermove", (e) => { if (!held) return; yaw += (e.clientX - held[0]) * .01; pitch = Math.max(-1.5, Math.min(1.5, pitch + (e.clientY - held[1]) * .01)); held = [e.clientX, e.clientY]; draw(); });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
  canvas.addEventListener("wheel", (e) => { if (document.activeElement !== canvas) return; zoom = Math.max(.4, Math.min(4, zoom * Math.exp(-e.deltaY * .001))); e.preventDefault(); draw(); }, { passive: false });
  canvas.addEventListener("keydown", (e) => {
    const closer = { "+": 1.2, "=": 1.2, "-": 1 / 1.2 }[e.key];
    if (closer) { zoom = Math.max(.4, Math.min(4, zoom * closer)); e.preventDefault(); draw(); }
    const by = { ArrowLeft: [-.12, 0], ArrowRight: [.12, 0], ArrowUp: [0, -.12], ArrowDown: [0, .12] }[e.key];
    if (by) { yaw += by[0]; pitch = Math.max(-1.5, Math.min(1.5, pitch + by[1])); e.preventDefault(); draw(); }
  });
  new ResizeObserver(draw).observe(root);
  const tint = () => { tones = model.palette.map(rgb); };
  model.on(["points", "colour_index"], load);
  model.on(["curves", "palette"], () => { tint(); frame(); draw(); });
  model.on(["labels", "arrows", "cursors", "axes", "caption", "height_px"], draw);
  new MutationObserver(draw).observe(document.documentElement, { attributes: true });
  tint(); load();
  return root;
}
