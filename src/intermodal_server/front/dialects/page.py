"""`/` and `/openapi.json`: a page to try the model by hand, and the description that machines read.

Takes the signature, hands on HTML that needs nothing else: no other file, no other host, no framework.

Rules, in order: only who accepts HTML gets the page, all others (KServe's V1 client asks `/` whether the server lives)
get `{"status": "alive"}`; script and style are allowed by their hashes alone and may reach this server alone; every
name of the model is escaped; the script is the same for all models and reads what it needs from the page.

Spec: KServe, "V1 Inference Protocol" (liveness); Content Security Policy Level 3.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape

import orjson

from intermodal_server import openapi
from intermodal_server.contract import TensorSpec
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.service import JSON, Answer, Routes, Service, json_answer
from intermodal_server.front.v2 import Headers

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
textarea,pre,input{font:14px/1.4 ui-monospace,monospace;width:100%;box-sizing:border-box}
textarea{min-height:9rem}pre{background:#f3f3f3;padding:.75rem;overflow:auto;white-space:pre-wrap}
table{border-collapse:collapse}td,th{text-align:left;padding:.1rem 1.5rem .1rem 0}
button{font:inherit;padding:.3rem 1rem}
.bad{background:#fdecec}label:not([hidden]){display:block;margin-top:1rem}
"""
SCRIPT = """
const by = id => document.getElementById(id);
by("form").addEventListener("submit", async event => {
  event.preventDefault();
  const out = by("answer"), key = by("key").value, headers = {"content-type": "application/json"};
  if (key) headers["x-api-key"] = key;
  out.textContent = "…"; out.className = "";
  const began = performance.now();
  try {
    const reply = await fetch("predict", {method: "POST", headers, body: by("body").value});
    const text = await reply.text();
    out.className = reply.ok ? "" : "bad";
    out.textContent = text.length > 100000 ? text.slice(0, 100000) + "…" : text;
    by("status").textContent = reply.status + " in " + Math.round(performance.now() - began) + " ms";
  } catch (error) { out.className = "bad"; out.textContent = String(error); by("status").textContent = ""; }
});
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


HTML: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'".encode(),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


def _table(title: str, specs: Sequence[TensorSpec]) -> str:
    rows = "".join(
        f"<tr><td>{escape(spec.name)}</td><td>{spec.datatype}{' (assumed)' if spec.assumed else ''}</td>"
        f"<td>[{', '.join('any' if length < 0 else str(length) for length in spec.shape)}]</td></tr>"
        for spec in specs
    )
    if not rows:
        return f"<h2>{title}</h2><p>Not known before the first answer.</p>"
    return f"<h2>{title}</h2><table><tr><th>name</th><th>type</th><th>shape</th></tr>{rows}</table>"


def render(service: Service) -> bytes:
    """The page."""
    settings = service.settings
    example = openapi.example(settings)
    body = "" if example is None else json.dumps(example, ensure_ascii=False, indent=1)
    name, version = escape(settings.name), escape(settings.version)
    key = "" if settings.serve.api_keys else " hidden"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{name} <small>{version}</small></h1>"
        f"{_table('Inputs', settings.signature.inputs)}{_table('Outputs', service.outputs)}"
        f'<h2>Try it</h2><form id="form"><textarea id="body" spellcheck="false">\n{escape(body)}</textarea>'
        f'<label{key}>API key <input id="key" type="password" autocomplete="off"></label>'
        '<p><button>Predict</button> <span id="status"></span></p></form><pre id="answer"></pre>'
        '<p>The same for machines: <a href="openapi.json">openapi.json</a></p>'
        f"<script>{SCRIPT}</script></body></html>"
    ).encode()


def routes(service: Service) -> Routes:
    """GET / and GET /openapi.json."""

    async def page(exchange: Exchange) -> Answer:
        """The page for browsers, a sign of life for others."""
        if "text/html" in exchange.headers.get(b"accept", ""):
            return 200, HTML, render(service)
        return json_answer(200, {"status": "alive"})

    async def document(_: Exchange) -> Answer:
        """What can be asked here."""
        made = openapi.document(
            service.settings,
            outputs=service.outputs,
            vertex_health=service.vertex.health,
            vertex_predict=service.vertex.predict,
        )
        return 200, JSON, orjson.dumps(made)

    return {"/": {"GET": page}, "/openapi.json": {"GET": document}}
