// Seven (or any number of) answers on a ring; the area of a disc is its probability.
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "dial";
  root.innerHTML = `<style>
    .dial { position: relative; width: 100%; aspect-ratio: 1; color: inherit; }
    .dial canvas { width: 100%; height: 100%; display: block; touch-action: pan-y; }
    .dial .wait { position: absolute; inset: 0; display: grid; place-items: center; padding: 16px; text-align: center; font-size: 13px; border-radius: 8px; background: color-mix(in srgb, currentColor 6%, transparent); }
    .dial .wait span { opacity: .76; }
    @media (prefers-reduced-motion: no-preference) { .dial .wait.waits { animation: wait 1.4s ease-in-out infinite alternate; } @keyframes wait { from { opacity: 1 } to { opacity: .6 } } }
  </style><canvas role="img"></canvas><div class="wait"><span></span></div>`;
  const canvas = root.querySelector("canvas"), wait = root.querySelector(".wait");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  let phase = .12, held = false, last = 0, alive = true;
  function draw() {
    const w = canvas.clientWidth || 240, dpr = Math.min(window.devicePixelRatio || 1, 2), size = Math.round(w * dpr);
    if (canvas.width !== size) { canvas.width = canvas.height = size; }
    const g = canvas.getContext("2d"), rows = model.rows, n = model.labels.length;
    g.setTransform(dpr, 0, 0, dpr, 0, 0); g.clearRect(0, 0, w, w);
    wait.style.display = rows.length ? "none" : "";
    if (!rows.length || !n) return;
    const ink = getComputedStyle(root).color, c = w / 2, r = w * .31, place = phase * rows.length;
    const a = rows[Math.floor(place) % rows.length], b = rows[(Math.floor(place) + 1) % rows.length], mix = place - Math.floor(place);
    g.strokeStyle = ink; g.globalAlpha = .2; g.lineWidth = 1.5; g.beginPath(); g.arc(c, c, r, 0, 7); g.stroke(); g.globalAlpha = 1;
    g.font = `12px ${getComputedStyle(root).fontFamily}`; g.textAlign = "center"; g.textBaseline = "middle";
    let best = 0, top = 0;
    for (let i = 0; i < n; i++) {
      const p = a[i] * (1 - mix) + b[i] * mix, at = -2 * Math.PI * (model.places[i] ?? i / n), x = c + r * Math.cos(at), y = c + r * Math.sin(at);
      if (p > top) { top = p; best = i; }
      g.fillStyle = model.colours[i] || ink; g.globalAlpha = .92; g.beginPath(); g.arc(x, y, 3 + w * .088 * Math.sqrt(p), 0, 7); g.fill(); g.globalAlpha = 1;
      g.fillStyle = ink; const far = r + w * .125; g.fillText(model.labels[i].trim().slice(0, 3), c + far * Math.cos(at), c + far * Math.sin(at));
    }
    const at = -2 * Math.PI * phase;
    g.strokeStyle = ink; g.lineWidth = 2; g.beginPath(); g.arc(c + r * Math.cos(at), c + r * Math.sin(at), 6, 0, 7); g.stroke();
    g.fillStyle = ink; g.font = `700 15px ${getComputedStyle(root).fontFamily}`; g.fillText(model.labels[best].trim(), c, c - 8);
    g.font = `12px ${getComputedStyle(root).fontFamily}`; g.globalAlpha = .76; g.fillText(`${Math.round(100 * top)} %`, c, c + 11); g.globalAlpha = 1;
  }
  function tick(now) {
    if (!alive) return;
    if (!held && !still && model.rows.length && now - last > 66 && !document.hidden) { phase = (phase + Math.min(now - last, 200) / 1000 / model.period_s) % 1; last = now; draw(); }
    else if (now - last > 200) last = now;
    requestAnimationFrame(tick);
  }
  canvas.addEventListener("pointermove", (e) => {
    if (!model.rows.length) return;
    const b = canvas.getBoundingClientRect();
    held = true; phase = ((Math.atan2(b.top + b.height / 2 - e.clientY, e.clientX - b.left - b.width / 2) / (2 * Math.PI)) % 1 + 1) % 1; draw();
  });
  canvas.addEventListener("pointerleave", () => { held = false; });
  const words = () => { wait.classList.toggle("waits", model.waiting.endsWith("…")); wait.querySelector("span").textContent = model.waiting; canvas.setAttribute("aria-label", model.caption); };
  new ResizeObserver(draw).observe(root);
  model.on(["rows", "labels", "places", "colours"], draw); model.on(["waiting", "caption"], words);
  model.on("remove", () => { alive = false; });
  words(); draw(); requestAnimationFrame(tick);
  return root;
}
