// One input. "/" goes there from anywhere that is not an input itself.
export function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "search";
  root.innerHTML = `<style>
    .search { width: 100%; font-family: inherit; color: inherit; position: relative; }
    .search input { all: unset; box-sizing: border-box; width: 100%; height: 36px; padding: 0 112px 0 36px; font-size: 14px; border-radius: 8px; border: 1px solid color-mix(in srgb, currentColor 24%, transparent); }
    .search input:hover { border-color: color-mix(in srgb, currentColor 60%, transparent); }
    .search input:focus { border-color: #0f7c86; box-shadow: inset 0 0 0 1px #0f7c86; }
    .search input::placeholder { color: inherit; opacity: .66; }
    .search svg { position: absolute; left: 11px; top: 10px; width: 16px; height: 16px; opacity: .7; pointer-events: none; }
    .search .found { position: absolute; right: 12px; top: 0; line-height: 36px; font-size: 12px; opacity: .76; pointer-events: none; }
  </style><svg viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round"><circle cx="7" cy="7" r="4.6"/><path d="m10.6 10.6 3.6 3.6"/></svg>
  <input type="search" spellcheck="false" autocomplete="off"><span class="found" role="status"></span>`;
  const input = root.querySelector("input"), found = root.querySelector(".found");
  let timer = null, last = model.value;
  const send = () => { clearTimeout(timer); timer = setTimeout(() => { if (input.value !== last) { last = input.value; model.send_msg({ type: "search", text: last }); } }, 120); };
  input.addEventListener("input", send);
  input.addEventListener("keydown", (e) => { if (e.key === "Escape") { if (input.value) { input.value = ""; send(); } else input.blur(); } });
  const keys = (e) => {
    const at = e.composedPath()[0];
    if (e.key !== "/" || e.ctrlKey || e.metaKey || e.altKey || (at && (/^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName || "") || at.isContentEditable))) return;
    e.preventDefault(); input.focus(); input.select();
  };
  document.addEventListener("keydown", keys);
  model.on("remove", () => document.removeEventListener("keydown", keys));
  const fill = () => { input.placeholder = `${model.placeholder}   /`; input.setAttribute("aria-label", model.placeholder); found.textContent = model.found; if (document.activeElement !== input && el.getRootNode().activeElement !== input && model.value !== last) { input.value = last = model.value; } };
  input.value = model.value;
  model.on(["value", "placeholder", "found"], fill);
  fill();
  return root;
}
