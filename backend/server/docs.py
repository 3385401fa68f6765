"""The page at ``/docs``: it draws ``/openapi.json`` with nothing from outside, so it works without the internet."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Manifold Atlas API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 2.2rem 0 .4rem; font-size: 1.1rem; text-transform: capitalize; }
details { border-top: 1px solid var(--line); padding: .45rem 0; }
summary { cursor: pointer; display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap; }
.verb { font: 600 12px ui-monospace, monospace; width: 4.2rem; }
.path, code, pre { font-family: ui-monospace, monospace; font-size: 13px; }
.what { opacity: .75; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 .9rem; }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); }
pre { overflow: auto; padding: .6rem; border: 1px solid var(--line); border-radius: 6px; }
textarea { width: 100%; min-height: 7rem; font: 13px ui-monospace, monospace; box-sizing: border-box; }
button { font: inherit; padding: .25rem .9rem; margin: .4rem 0; }
a { color: inherit; }
</style></head><body>
<h1>Manifold Atlas API</h1><p id="about">Reading <a href="/openapi.json">/openapi.json</a> …</p><main id="all"></main>
<script>
const make = (tag, text, cls) => { const e = document.createElement(tag); if (text) e.textContent = text;
  if (cls) e.className = cls; return e; };
const last = ref => ref.split('/').pop();
function type(s) {
  if (!s) return 'any';
  if (s.$ref) return last(s.$ref);
  if (s.enum) return s.enum.map(v => JSON.stringify(v)).join(' | ');
  if (s.const !== undefined) return JSON.stringify(s.const);
  if (s.anyOf) return s.anyOf.map(type).join(' | ');
  if (s.type === 'array') return s.prefixItems ? '[' + s.prefixItems.map(type).join(', ') + ']' : type(s.items) + '[]';
  return s.type || 'any';
}
function bounds(s) {
  const parts = [];
  for (const [key, sign] of [['minimum', '≥'], ['exclusiveMinimum', '>'], ['maximum', '≤'], ['exclusiveMaximum', '<'],
                             ['maxLength', 'length ≤']]) if (s[key] !== undefined) parts.push(sign + ' ' + s[key]);
  if (s.default !== undefined) parts.push('default ' + JSON.stringify(s.default));
  return parts.join(', ');
}
function fields(schema, api) {
  const s = schema.$ref ? api.components.schemas[last(schema.$ref)] : schema, table = make('table');
  for (const [name, f] of Object.entries(s.properties || {})) {
    const row = make('tr'), must = (s.required || []).includes(name);
    row.append(make('td', name + (must ? ' *' : ''), 'path'), make('td', type(f), 'path'),
               make('td', [f.description, bounds(f)].filter(Boolean).join('; ').replaceAll('``', '')));
    table.append(row);
  }
  return table;
}
function example(schema, api) {
  const s = schema.$ref ? api.components.schemas[last(schema.$ref)] : schema, out = {};
  for (const [name, f] of Object.entries(s.properties || {}))
    if (f.default !== undefined) out[name] = f.default;
    else if ((s.required || []).includes(name)) out[name] = f.type === 'string' ? '' : f.type === 'array' ? [] : 0;
  return JSON.stringify(out, null, 1);
}
function operation(path, verb, op, api) {
  const box = make('details'), head = make('summary');
  const said = (op.description || op.summary || '').replaceAll('``', '').split('\\n');
  head.append(make('span', verb.toUpperCase(), 'verb'), make('span', path, 'path'),
              make('span', said[0], 'what'));
  box.append(head, make('p', said.slice(1).join('\\n')));
  const inputs = {};
  for (const p of op.parameters || []) {
    const label = make('label', p.name + ' (' + p.in + ') '), input = make('input');
    input.value = p.schema.default ?? ''; inputs[p.name] = [p.in, input]; label.append(input); box.append(label);
  }
  const body = op.requestBody?.content?.['application/json']?.schema;
  let area;
  if (body) { box.append(make('h4', type(body)), fields(body, api)); area = make('textarea');
              area.value = example(body, api); box.append(area); }
  const answers = make('table');
  for (const [code, r] of Object.entries(op.responses || {})) {
    const row = make('tr'), kinds = Object.entries(r.content || {});
    row.append(make('td', code, 'path'), make('td', kinds.map(([k, c]) => k + ' ' + type(c.schema)).join(', '), 'path'),
               make('td', r.description)); answers.append(row);
  }
  box.append(make('h4', 'Answers'), answers);
  const button = make('button', 'Try it'), result = make('pre'); result.hidden = true;
  button.onclick = async () => {
    let url = path; const query = new URLSearchParams(), headers = {};
    for (const [name, [where, input]] of Object.entries(inputs)) {
      if (where === 'path') url = url.replace('{' + name + '}', encodeURIComponent(input.value));
      else if (input.value && where === 'query') query.set(name, input.value);
      else if (input.value) headers[name] = input.value;
    }
    if (area) headers['Content-Type'] = 'application/json';
    result.hidden = false; result.textContent = '…';
    try {
      const began = performance.now();
      const r = await fetch(url + (String(query) ? '?' + query : ''), {method: verb.toUpperCase(), headers,
                            body: area ? area.value : undefined});
      const kind = r.headers.get('content-type') || '', ms = Math.round(performance.now() - began);
      let text;
      if (kind.includes('json')) text = JSON.stringify(await r.json(), null, 1);
      else if (kind.includes('atlas-frame')) { const b = await r.arrayBuffer(), n = new DataView(b).getUint32(4, true);
        text = b.byteLength + ' bytes; header:\\n' +
               JSON.stringify(JSON.parse(new TextDecoder().decode(b.slice(8, 8 + n))), null, 1); }
      else text = await r.text();
      result.textContent = r.status + ' in ' + ms + ' ms\\n' + text.slice(0, 20000);
    } catch (error) { result.textContent = String(error); }
  };
  box.append(button, result);
  return box;
}
fetch('/openapi.json').then(r => r.json()).then(api => {
  document.getElementById('about').textContent = api.info.description + ' Version ' + api.info.version + '.';
  const groups = {};
  for (const [path, verbs] of Object.entries(api.paths))
    for (const [verb, op] of Object.entries(verbs)) (groups[(op.tags || ['other'])[0]] ||= []).push([path, verb, op]);
  const all = document.getElementById('all');
  for (const [tag, list] of Object.entries(groups)) {
    all.append(make('h2', tag)); for (const [p, v, op] of list) all.append(operation(p, v, op, api));
  }
}).catch(error => { document.getElementById('about').textContent = 'The description could not be read: ' + error; });
</script></body></html>
"""


@router.get("/docs", response_class=HTMLResponse)
async def get_docs() -> str:
    """The description of the API, to read and to try."""
    return PAGE


@router.get("/", response_class=HTMLResponse)
async def get_root() -> str:
    """A sign at the door: people who come here by mistake are told where to go."""
    return (
        "<!doctype html><meta charset='utf-8'><title>Manifold Atlas backend</title>"
        "<p>This is the backend of Manifold Atlas. Its description is at <a href='/docs'>/docs</a>; "
        "the pages are served by the app.</p>"
    )
