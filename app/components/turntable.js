// Film-strip as a loop: neighbours cross-fade, a mark on the rim says where the light of this picture was sent.
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "turn";
  root.innerHTML = `<style>
    .turn { position: relative; width: 100%; aspect-ratio: 1; color: inherit; }
    .turn canvas { width: 100%; height: 100%; display: block; touch-action: pan-y; }
    .turn .wait { position: absolute; inset: 0; display: grid; place-items: center; padding: 16px; text-align: center; font-size: 13px; border-radius: 8px; background: color-mix(in srgb, currentColor 6%, transparent); }
    .turn .wait span { opacity: .76; }
    @media (prefers-reduced-motion: no-preference) { .turn .wait.waits { animation: wait 1.4s ease-in-out infinite alternate; } @keyframes wait { from { opacity: 1 } to { opacity: .6 } } }
  </style><canvas role="img"></canvas><div class="wait"><span></span></div>`;
  const canvas = root.querySelector("canvas"), wait = root.querySelector(".wait");
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  let pictures = [], phase = 0, held = false, last = 0, alive = true, mark = 0;

  async function load() {
    const raw = model.frame; if (!raw) return;
    const bytes = raw instanceof Uint8Array ? raw : new Uint8Array(raw);
    if (bytes.length < 9) return;
    const n = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(4, true);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + n))), body = bytes.subarray(8 + n), turn = ++mark;
    const made = await Promise.all(header.arms.map((a) => createImageBitmap(new Blob([body.slice(a.offset, a.offset + a.length)], { type: `image/${a.format}` }))));
    if (turn !== mark) return;
    pictures = made; wait.hidden = true; wait.style.display = "none"; root.dataset.stops = made.length; draw();
  }
  function draw() {
    const w = canvas.clientWidth || 240, dpr = Math.min(window.devicePixelRatio || 1, 2), size = Math.round(w * dpr);
    if (canvas.width !== size) { canvas.width = canvas.height = size; }
    const g = canvas.getContext("2d"), n = pictures.length;
    g.setTransform(dpr, 0, 0, dpr, 0, 0); g.clearRect(0, 0, w, w);
    if (!n) return;
    const ringed = n > 1 && model.colours.length, r = w / 2 - 6, inner = ringed ? w * .66 : w, at = (w - inner) / 2;
    const place = phase * n, i = Math.floor(place) % n, mix = place - Math.floor(place);
    g.save(); g.beginPath(); g.roundRect(at, at, inner, inner, 8); g.clip();
    g.imageSmoothingQuality = "high";
    g.drawImage(pictures[i], at, at, inner, inner);
    if (n > 1) { g.globalAlpha = mix; g.drawImage(pictures[(i + 1) % n], at, at, inner, inner); }
    g.restore();
    if (ringed) {
      const c = model.colours, m = c.length;
      g.lineWidth = 6;
      for (let k = 0; k < m; k++) { g.strokeStyle = c[k]; g.beginPath(); g.arc(w / 2, w / 2, r, -2 * Math.PI * (k + 1.1) / m, -2 * Math.PI * k / m); g.stroke(); }
      const a = -2 * Math.PI * phase;
      g.fillStyle = c[Math.floor(phase * m) % m]; g.strokeStyle = "white"; g.lineWidth = 2.5;
      g.beginPath(); g.arc(w / 2 + r * Math.cos(a), w / 2 + r * Math.sin(a), 6 - 1, 0, 7); g.fill(); g.stroke();
    }
  }
  function tick(now) {
    if (!alive) return;
    if (!held && !still && pictures.length > 1 && now - last > 66 && !document.hidden) {
      phase = (phase + Math.min(now - last, 200) / 1000 / model.period_s) % 1; last = now; draw();
    } else if (now - last > 200) last = now;
    requestAnimationFrame(tick);
  }
  canvas.addEventListener("pointermove", (e) => {
    if (pictures.length < 2) return;
    const b = canvas.getBoundingClientRect();
    held = true; phase = ((Math.atan2(b.top + b.height / 2 - e.clientY, e.clientX - b.left - b.width / 2) / (2 * Math.PI)) % 1 + 1) % 1; draw();
  });
  canvas.addEventListener("pointerleave", () => { held = false; });
  const words = () => { wait.classList.toggle("waits", model.waiting.endsWith("…")); wait.querySelector("span").textContent = model.waiting; canvas.setAttribute("aria-label", model.caption); };
  new ResizeObserver(draw).observe(root);
  model.on("frame", load); model.on(["waiting", "caption"], words); model.on("colours", draw);
  model.on("remove", () => { alive = false; });
  words(); load(); requestAnimationFrame(tick);
  return root;
}
