// Pictures from one container. In lanes they show what the coordinate means; flat they are a choice.
const BANDS = { top: "strongest", p75: "75th percentile", p50: "median", p10: "10th percentile" };
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "examples";
  root.innerHTML = `<style>
    .examples { width: 100%; font-family: inherit; color: inherit; overflow-x: auto; }
    .examples .lanes { display: grid; gap: 4px; min-width: 520px; }
    .examples .lane-name { font-size: 12px; text-align: center; padding-bottom: 4px; border-bottom: 4px solid var(--c); font-variant-numeric: tabular-nums; }
    .examples .band { font-size: 12px; opacity: .76; align-self: center; line-height: 1.2; }
    .examples .flat { display: grid; grid-template-columns: repeat(auto-fill, minmax(56px, 1fr)); gap: 8px; }
    .examples .pic { position: relative; aspect-ratio: 1; border-radius: 6px; overflow: hidden; background: color-mix(in srgb, currentColor 5%, transparent); min-width: 0; }
    .examples .pic img { width: 100%; height: 100%; object-fit: cover; display: block; }
    .examples .pic canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
    .examples button.pic { all: unset; position: relative; aspect-ratio: 1; border-radius: 6px; overflow: hidden; cursor: pointer; display: block; }
    .examples button.pic.on { outline: 2.5px solid #0f7c86; outline-offset: 2px; } .examples button.pic:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
    .examples .flat { padding: 4px; }
    .examples .wait { font-size: 13px; padding: 32px 16px; text-align: center; border-radius: 8px; background: color-mix(in srgb, currentColor 5%, transparent); }
    .examples .wait span { opacity: .76; }
  </style><div class="host"></div>`;
  const host = root.querySelector(".host");
  function paint(canvas, heat, turn) {
    const h = heat.length, w = heat[0]?.length || 0; if (!w) return;
    canvas.width = w; canvas.height = h;
    const g = canvas.getContext("2d"), image = g.createImageData(w, h);
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      const v = Math.max(0, Math.min(1, heat[y][x])), i = 4 * (y * w + x);
      if (turn && turn.length && model.turn_palette.length) {
        const c = parseInt(model.turn_palette[Math.floor(turn[y][x] * model.turn_palette.length) % model.turn_palette.length].slice(1), 16);
        image.data[i] = c >> 16; image.data[i + 1] = (c >> 8) & 255; image.data[i + 2] = c & 255; image.data[i + 3] = v ? 90 + 150 * v : 0;
        continue;
      }
      image.data[i] = 255; image.data[i + 1] = 200 - 140 * v; image.data[i + 2] = 40; image.data[i + 3] = 215 * v;
    }
    g.putImageData(image, 0, 0);
  }
  function draw() {
    host.replaceChildren();
    const raw = model.frame ? (model.frame instanceof Uint8Array ? model.frame : new Uint8Array(model.frame)) : new Uint8Array();
    if (raw.length < 9 || !model.items.length) {
      if (model.waiting) { const w = document.createElement("div"); w.className = "wait"; w.innerHTML = "<span></span>"; w.firstChild.textContent = model.waiting; host.appendChild(w); }
      return;
    }
    const n = new DataView(raw.buffer, raw.byteOffset, raw.byteLength).getUint32(4, true), body = raw.subarray(8 + n);
    const tile = (item, at, tag) => {
      const pic = document.createElement(tag); pic.className = "pic"; pic.dataset.at = at;
      const url = URL.createObjectURL(new Blob([body.slice(item.offset, item.offset + item.length)])); 
      const img = document.createElement("img"); img.onload = img.onerror = () => URL.revokeObjectURL(url); img.src = url; img.alt = item.title || ""; img.draggable = false; img.decoding = "async"; pic.appendChild(img);
      if (model.heat && item.heat && item.heat.length) { const c = document.createElement("canvas"); paint(c, item.heat, item.turn); pic.appendChild(c); }
      pic.title = item.title || "";
      return pic;
    };
    const grid = document.createElement("div"); host.appendChild(grid);
    if (!model.lanes) {
      grid.className = "flat";
      model.items.forEach((item, at) => {
        const b = tile(item, at, "button"); b.tabIndex = 0; b.setAttribute("aria-label", item.title || `Example ${at + 1}`);
        const go = () => model.send_msg({ type: "pick", at });
        b.addEventListener("click", go);
        b.addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); go(); } });
        grid.appendChild(b);
      });
      mark(); return;
    }
    grid.className = "lanes"; grid.style.gridTemplateColumns = `72px repeat(${model.lanes}, minmax(44px, 1fr))`;
    grid.appendChild(document.createElement("div"));
    for (let l = 0; l < model.lanes; l++) { const d = document.createElement("div"); d.className = "lane-name"; d.style.setProperty("--c", model.lane_colours[l] || "#888"); d.textContent = model.lane_labels[l] ?? ""; grid.appendChild(d); }
    for (const [band, words] of Object.entries(BANDS)) {
      const inside = model.items.map((item, at) => [item, at]).filter(([item]) => item.band === band);
      if (!inside.length) continue;
      const name = document.createElement("div"); name.className = "band"; name.textContent = words; grid.appendChild(name);
      for (let l = 0; l < model.lanes; l++) {
        const found = inside.find(([item]) => Math.min(Math.floor(item.t * model.lanes), model.lanes - 1) === l);
        grid.appendChild(found ? tile(found[0], found[1], "div") : Object.assign(document.createElement("div"), { className: "pic" }));
      }
    }
  }
  function mark() { host.querySelectorAll("button.pic").forEach((b) => { const on = Number(b.dataset.at) === model.chosen; b.classList.toggle("on", on); b.setAttribute("aria-pressed", on); }); }
  model.on(["frame", "items", "lanes", "lane_labels", "lane_colours", "heat", "turn_palette", "waiting"], draw);
  model.on("chosen", mark);
  draw();
  return root;
}
