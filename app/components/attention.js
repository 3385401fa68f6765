// Weights over patches or words. Patches are shaded relative to their own largest weight, because a sink outside the
// picture would leave them all pale; tokens relative to the largest of all. The exact value stands in the tip.
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "attention";
  root.innerHTML = `<style>
    .attention { width: 100%; font-family: inherit; color: inherit; }
    .attention .two { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start; }
    .attention .seen { flex: 0 1 auto; min-width: 0; max-width: 100%; }
    .attention .picture { position: relative; width: 320px; max-width: 100%; aspect-ratio: 1; border-radius: 8px; overflow: hidden; }
    .attention .picture img { width: 100%; height: 100%; display: block; filter: grayscale(.55); }
    .attention .cells { position: absolute; inset: 0; display: grid; }
    .attention button { all: unset; box-sizing: border-box; cursor: pointer; }
    .attention .cells button:hover { box-shadow: inset 0 0 0 1.5px #fff; }
    .attention button:focus-visible { outline: 2px solid #0f7c86; outline-offset: -1px; }
    .attention .cells button.query { box-shadow: inset 0 0 0 2.5px #fff, inset 0 0 0 4px #111; }
    .attention .words { display: flex; flex-wrap: wrap; gap: 4px 2px; line-height: 1.2; margin-top: 8px; }
    .attention .words button { font-size: 13px; padding: 4px 5px; border-radius: 4px; white-space: pre; font-variant-numeric: tabular-nums; }
    .attention .words button.query { box-shadow: inset 0 0 0 2px currentColor; } .attention .words button.sink { font-weight: 700; text-decoration: underline; text-underline-offset: 3px; }
    .attention .matrix { flex: 0 0 auto; width: 208px; }
    .attention .matrix canvas { width: 208px; height: 208px; image-rendering: pixelated; border-radius: 4px; display: block; background: color-mix(in srgb, currentColor 4%, transparent); }
    .attention .matrix div { font-size: 12px; opacity: .76; margin-top: 4px; }
    .attention .wait { font-size: 13px; padding: 64px 16px; text-align: center; border-radius: 8px; background: color-mix(in srgb, currentColor 5%, transparent); }
    .attention .wait span { opacity: .76; }
  </style><div class="host"></div>`;
  const host = root.querySelector(".host");
  const shade = (v) => `rgba(${232 + 20 * v}, ${140 - 60 * v}, 30, ${(.86 * v).toFixed(3)})`;
  function draw() {
    host.replaceChildren();
    const w = model.weights;
    if (!w.length) { const d = document.createElement("div"); d.className = "wait"; d.innerHTML = "<span></span>"; d.firstChild.textContent = model.waiting; host.appendChild(d); return; }
    const top = Math.max(...w, 1e-9), two = document.createElement("div"); two.className = "two"; host.appendChild(two);
    const seen = document.createElement("div"); seen.className = "seen"; two.appendChild(seen);
    const among = model.picture && model.grid ? Math.max(...w.slice(model.special), 1e-9) : top;
    const key = (i, text) => {
      const b = document.createElement("button"); b.tabIndex = 0; b.dataset.at = i;
      const words = `${(model.tokens[i] || "").trim() || "␣"}: ${(100 * w[i]).toFixed(1)} %`;
      b.title = words; b.setAttribute("aria-label", words); b.style.background = shade(w[i] / (text === undefined ? among : top));
      if (text !== undefined) b.textContent = text;
      b.classList.toggle("query", i === model.query); b.classList.toggle("sink", i === model.sink);
      const go = () => model.send_msg({ type: "query", at: i === model.query ? -1 : i });
      b.addEventListener("click", go);
      b.addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); go(); } });
      return b;
    };
    const words = document.createElement("div"); words.className = "words";
    if (model.picture && model.grid) {
      const pic = document.createElement("div"); pic.className = "picture";
      const img = document.createElement("img"); img.src = model.picture; img.alt = "The picture that was looked at"; pic.appendChild(img);
      const cells = document.createElement("div"); cells.className = "cells"; cells.style.gridTemplateColumns = `repeat(${model.grid}, 1fr)`;
      for (let i = model.special; i < w.length && i < model.special + model.grid ** 2; i++) cells.appendChild(key(i));
      pic.appendChild(cells); seen.appendChild(pic);
      for (let i = 0; i < model.special; i++) words.appendChild(key(i, model.tokens[i]));
    } else model.tokens.forEach((t, i) => words.appendChild(key(i, t.replace(/\n/g, "⏎") || "␣")));
    seen.appendChild(words);
    if (model.pattern.length) {
      const box = document.createElement("div"); box.className = "matrix"; two.appendChild(box);
      const c = document.createElement("canvas"), n = model.pattern.length, m = model.pattern[0].length; c.width = m; c.height = n; c.setAttribute("role", "img"); c.setAttribute("aria-label", "Attention of every query on every key");
      const g = c.getContext("2d"), image = g.createImageData(m, n), flat = model.pattern.flat().sort((a, b) => a - b), most = Math.max(flat[Math.floor(flat.length * .995)] || 0, 1e-6);
      for (let y = 0; y < n; y++) for (let x = 0; x < m; x++) {
        const v = Math.sqrt(Math.max(0, Math.min(1, model.pattern[y][x] / most))), i = 4 * (y * m + x);
        image.data[i] = 232 + 20 * v; image.data[i + 1] = 140 - 60 * v; image.data[i + 2] = 30; image.data[i + 3] = 255 * v;
      }
      g.putImageData(image, 0, 0); box.appendChild(c);
      const note = document.createElement("div"); note.textContent = "Keys run to the right, queries down."; box.appendChild(note);
    }
  }
  model.on(["weights", "tokens", "picture", "grid", "special", "sink", "query", "pattern", "waiting"], draw);
  draw();
  return root;
}
