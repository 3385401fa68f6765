// A list of buttons; arrows walk it.
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "picks";
  root.innerHTML = `<style>
    .picks { width: 100%; font-family: inherit; color: inherit; overflow-y: auto; }
    .picks button { all: unset; box-sizing: border-box; width: 100%; display: grid; grid-template-columns: 12px minmax(0, 1fr) auto 56px; gap: 10px; align-items: center; cursor: pointer; padding: 6px 8px; border-radius: 6px; font-size: 13px; }
    .picks button:hover { background: color-mix(in srgb, currentColor 6%, transparent); } .picks button.on { background: color-mix(in srgb, #0f7c86 18%, transparent); }
    .picks button:focus-visible { outline: 2px solid #0f7c86; outline-offset: -2px; }
    .picks i { width: 9px; height: 9px; border-radius: 50%; } .picks .title { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
    .picks .note { font-size: 12px; opacity: .76; font-variant-numeric: tabular-nums; white-space: nowrap; } .picks .share { height: 5px; border-radius: 3px; background: color-mix(in srgb, currentColor 10%, transparent); overflow: hidden; } .picks .share b { display: block; height: 100%; background: currentColor; opacity: .6; }
    .picks .wait { font-size: 13px; padding: 32px 16px; text-align: center; opacity: .76; }
  </style><div class="host" role="listbox"></div>`;
  const host = root.querySelector(".host");
  function draw() {
    root.style.maxHeight = model.height_px + "px"; host.replaceChildren();
    if (!model.rows.length) { const w = document.createElement("div"); w.className = "wait"; w.textContent = model.waiting; host.appendChild(w); return; }
    for (const r of model.rows) {
      const b = document.createElement("button"); b.dataset.key = r.key; b.tabIndex = 0; b.setAttribute("role", "option");
      b.innerHTML = `<i></i><span class="title"></span><span class="note"></span><span class="share"><b></b></span>`;
      b.querySelector("i").style.background = r.colour; b.querySelector(".title").textContent = r.title; b.querySelector(".note").textContent = r.note;
      b.querySelector(".share b").style.width = `${100 * Math.max(0, Math.min(1, r.share))}%`;
      const go = () => model.send_msg({ type: "pick", key: r.key });
      b.addEventListener("click", go);
      b.addEventListener("keydown", (e) => {
        if (e.key === "Enter" || e.key === " ") { e.preventDefault(); go(); }
        const to = { ArrowDown: b.nextElementSibling, ArrowUp: b.previousElementSibling }[e.key]; if (to) { e.preventDefault(); to.focus(); }
      });
      host.appendChild(b);
    }
    mark();
  }
  function mark() { host.querySelectorAll("button").forEach((b) => { const on = Number(b.dataset.key) === model.chosen; b.classList.toggle("on", on); b.setAttribute("aria-selected", on); }); }
  model.on(["rows", "waiting", "height_px"], draw); model.on("chosen", mark);
  draw();
  return root;
}
