// Findings as sentences. Plots come as drawn SVG from Python; buttons, copying and progress live here.
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "findings";
  root.innerHTML = `<style>
    .findings { width: 100%; font-family: inherit; color: inherit; container-type: inline-size; }
    .findings article { padding: 24px 0; border-top: 1px solid color-mix(in srgb, currentColor 12%, transparent); display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 4fr); gap: 8px 40px; scroll-margin-top: 64px; }
    .findings article:first-child { border-top: 0; padding-top: 8px; }
    .findings article:target { box-shadow: inset 3px 0 0 #0f7c86; padding-left: 16px; }
    .findings h3 { margin: 0; font-size: 15px; font-weight: 700; line-height: 1.4; }
    .findings .line { font-size: 13px; line-height: 1.5; opacity: .8; margin-top: 4px; }
    .findings .chips { display: flex; flex-wrap: wrap; gap: 6px; margin: 12px 0 8px; }
    .findings .chip { font-size: 12px; padding: 2px 8px; border-radius: 10px; background: color-mix(in srgb, currentColor 8%, transparent); }
    .findings .chip.status { color: #fff; background: #5f6b76; } .findings .chip.holds { background: #237a3a; } .findings .chip.falls { background: #b35309; } .findings .chip.contradicted { background: #c92a2a; }
    .findings .value { font-size: 22px; font-weight: 700; font-variant-numeric: tabular-nums; } .findings .value small { font-size: 13px; font-weight: 400; opacity: .8; margin-left: 8px; }
    .findings svg { width: 100%; height: auto; display: block; margin-top: 4px; } .findings svg text { fill: currentColor; font-size: 11px; }
    .findings .edges a { color: inherit; } .findings .edges .against { color: #d9480f; }
    .findings .run { grid-column: 1 / -1; display: flex; flex-wrap: wrap; align-items: center; gap: 8px; margin-top: 8px; }
    .findings code { font-size: 12px; padding: 5px 10px; border-radius: 6px; background: color-mix(in srgb, currentColor 6%, transparent); overflow-wrap: anywhere; }
    .findings button { all: unset; box-sizing: border-box; cursor: pointer; font-size: 12px; font-weight: 700; padding: 5px 10px; border-radius: 6px; border: 1px solid color-mix(in srgb, currentColor 26%, transparent); }
    .findings button:hover { background: color-mix(in srgb, currentColor 7%, transparent); } .findings button:focus-visible, .findings a:focus-visible { outline: 2px solid #0f7c86; outline-offset: 2px; }
    .findings .progress { display: flex; align-items: center; gap: 8px; font-size: 12px; flex: 1 1 220px; } .findings .track { height: 5px; border-radius: 3px; width: 140px; background: color-mix(in srgb, currentColor 12%, transparent); overflow: hidden; } .findings .track i { display: block; height: 100%; background: #0f7c86; }
    .findings .wait { font-size: 13px; padding: 48px 16px; text-align: center; border-radius: 8px; background: color-mix(in srgb, currentColor 5%, transparent); } .findings .wait span { opacity: .8; white-space: pre-line; }
    @container (max-width: 720px) { .findings article { grid-template-columns: minmax(0, 1fr); } }
  </style><div class="host"></div>`;
  const host = root.querySelector(".host"), RUNNING = ["queued", "running"];
  const add = (parent, tag, cls, text) => { const n = document.createElement(tag); if (cls) n.className = cls; if (text !== undefined) n.textContent = text; parent.appendChild(n); return n; };
  // A finding that the filters hide is searched for: the link then leads to the page that shows it.
  function to(event, id) {
    const found = root.querySelector(`[data-id="${CSS.escape(id)}"]`), still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (found) { event.preventDefault(); found.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "center" }); }
  }
  function draw() {
    host.replaceChildren();
    if (!model.items.length) { const w = add(host, "div", "wait"); add(w, "span", "", model.waiting); return; }
    for (const f of model.items) {
      const a = add(host, "article"); a.id = f.id; a.dataset.id = f.id;
      const said = add(a, "div");
      add(said, "h3", "", f.claim);
      if (f.question) add(said, "div", "line", f.question);
      const chips = add(said, "div", "chips");
      add(chips, "span", `chip status ${f.status.split(" ")[0]}`, f.status);
      for (const c of f.chips) add(chips, "span", "chip", c);
      for (const l of f.lines) add(said, "div", "line", l);
      if (f.supports.length || f.contradicts.length) {
        const e = add(said, "div", "line edges");
        const link = (id, cls) => { const x = add(e, "a", cls, id); x.href = `/catalogue?query=${encodeURIComponent(id)}#${id}`; x.addEventListener("click", (ev) => to(ev, id)); e.append("  "); };
        if (f.contradicts.length) { e.append("Contradicts "); f.contradicts.forEach((i) => link(i, "against")); }
        if (f.supports.length) { e.append("Supports "); f.supports.forEach((i) => link(i, "")); }
      }
      const num = add(a, "div");
      const v = add(num, "div", f.plot ? "value" : "line", f.value); add(v, "small", "", f.interval);
      const plot = add(num, "div"); plot.innerHTML = f.plot;
      const run = add(a, "div", "run");
      if (f.command) {
        add(run, "code", "", f.command);
        const copy = add(run, "button", "copy", "Copy"); copy.setAttribute("aria-label", `Copy the command of ${f.id}`);
        copy.addEventListener("click", async () => { try { await navigator.clipboard.writeText(f.command); copy.textContent = "Copied"; } catch { window.prompt("The command", f.command); } setTimeout(() => { copy.textContent = "Copy"; }, 1600); });
        const go = add(run, "button", "replay", "Replay"); go.dataset.study = f.study; go.setAttribute("aria-label", `Replay ${f.id}`);
        go.addEventListener("click", () => model.send_msg(RUNNING.includes(model.jobs[f.study]?.state) ? { type: "cancel", study: f.study } : { type: "replay", study: f.study, seed: f.seed, scale: f.scale }));
        const p = add(run, "div", "progress"); p.dataset.study = f.study;
      }
    }
    progress();
    const at = decodeURIComponent(window.location.hash.slice(1));
    if (at) root.querySelector(`[data-id="${CSS.escape(at)}"]`)?.scrollIntoView({ block: "center" });
  }
  function progress() {
    root.querySelectorAll(".progress").forEach((p) => {
      const j = model.jobs[p.dataset.study]; p.replaceChildren();
      if (!j) return;
      if (RUNNING.includes(j.state)) { const t = add(p, "div", "track"); t.setAttribute("role", "progressbar"); t.setAttribute("aria-valuenow", Math.round(100 * j.progress)); add(t, "i").style.width = `${100 * j.progress}%`; }
      add(p, "span", "", `${j.state}${j.message ? ": " + j.message : ""}`);
    });
    root.querySelectorAll("button.replay").forEach((b) => { b.textContent = RUNNING.includes(model.jobs[b.dataset.study]?.state) ? "Cancel" : "Replay"; });
  }
  model.on(["items", "waiting"], draw); model.on("jobs", progress);
  draw();
  return root;
}
