// Class probabilities of each arm. Plain elements: they resize, wrap and can be read aloud.
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "bars";
  root.innerHTML = `<style>
    .bars { width: 100%; font: inherit; color: inherit; }
    .bars .arms { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 16px; }
    .bars h4 { margin: 0 0 8px; font-size: 13px; font-weight: 600; display: flex; gap: 6px; align-items: center; }
    .bars h4 i { width: 10px; height: 10px; border-radius: 5px; }
    .bars .plot { display: flex; align-items: flex-end; height: 128px; gap: 2px; border-bottom: 1px solid color-mix(in srgb, currentColor 35%, transparent); }
    .bars .col { flex: 1; min-width: 0; display: flex; flex-direction: column; justify-content: flex-end; align-items: center; height: 100%; }
    .bars .bar { width: 100%; border-radius: 3px 3px 0 0; min-height: 1px; }
    .bars .value { font-size: 11px; font-variant-numeric: tabular-nums; opacity: .85; white-space: nowrap; }
    .bars .names { display: flex; gap: 2px; } .bars .names span { flex: 1; min-width: 0; text-align: center; font-size: 11px; overflow: hidden; white-space: nowrap; } .bars .many .names { gap: 0; } .bars .many .plot { gap: 0; } .bars .many .names span { overflow: visible; width: 0; display: flex; justify-content: center; }
    .bars .note { font-size: 12px; opacity: .74; margin-top: 4px; }
    .bars .wait { font-size: 13px; opacity: .74; padding: 48px 0; text-align: center; }
    @media (prefers-reduced-motion: no-preference) { .bars .bar { transition: height .1s linear; } }
  </style><div class="arms"></div>`;
  const grid = root.querySelector(".arms"), kept = new Map();
  function draw() {
    if (!model.arms.length) { kept.clear(); grid.innerHTML = ""; const w = document.createElement("div"); w.className = "wait"; w.textContent = model.waiting; grid.appendChild(w); return; }
    grid.querySelector(".wait")?.remove();
    const names = [...model.labels, "other"], many = names.length > 26;
    for (const [arm, node] of kept) if (!model.arms.some((a) => a.arm === arm) || node.dataset.n !== String(names.length)) { node.remove(); kept.delete(arm); }
    for (const a of model.arms) {
      let node = kept.get(a.arm);
      if (!node) {
        node = document.createElement("div"); node.classList.toggle("many", many); node.dataset.arm = a.arm; node.dataset.n = names.length;
        node.innerHTML = `<h4><i></i><span></span></h4><div class="plot"></div><div class="names"></div><div class="note"></div>`;
        const plot = node.querySelector(".plot"), line = node.querySelector(".names");
        names.forEach((name, i) => {
          const col = document.createElement("div"); col.className = "col";
          col.innerHTML = `<div class="value"></div><div class="bar"></div>`; plot.appendChild(col);
          const s = document.createElement("span"); s.textContent = many && (i % 10 || i > names.length - 6) ? "" : i === names.length - 1 ? name : name.trim().slice(0, many ? 5 : 3); s.title = name; line.appendChild(s);
        });
        kept.set(a.arm, node);
      }
      grid.appendChild(node);
      node.querySelector("h4 i").style.background = a.colour; node.querySelector("h4 span").textContent = a.title;
      node.querySelector(".note").textContent = a.note || "";
      const p = [...a.classes, a.other];
      node.dataset.top = p.indexOf(Math.max(...p));
      node.querySelectorAll(".col").forEach((col, i) => {
        const bar = col.querySelector(".bar");
        bar.style.height = `${Math.max(0, Math.min(1, p[i])) * 104}px`;
        bar.style.background = i < p.length - 1 ? model.colours[i] || "#888" : "repeating-linear-gradient(45deg, #8a8f98 0 3px, transparent 3px 6px)";
        col.querySelector(".value").textContent = !many && p[i] >= .08 ? (p[i] * 100).toFixed(0) + "%" : "";
        col.title = `${names[i].trim()} ${(p[i] * 100).toFixed(1)} %`;
      });
      node.setAttribute("role", "img");
      node.setAttribute("aria-label", `${a.title}: ` + names.map((n, i) => `${n.trim()} ${(p[i] * 100).toFixed(0)} %`).join(", "));
    }
  }
  model.on(["arms", "labels", "colours", "waiting"], draw);
  draw();
  return root;
}
