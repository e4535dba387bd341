#!/usr/bin/env python3
"""Record and check the HTTP wire behaviour of an Ollama-compatible server.

  wire.py setup  URL --gguf FILE [--embed-gguf FILE]     create the test models
  wire.py record URL OUTDIR [--cases DIR] [--only GROUP] record answers
  wire.py check  URL [--cases DIR] [--golden DIR] [--only GROUP] [--id ID] [--json]
  wire.py selftest [--golden DIR]        mutate goldens, comparer must notice

Only the standard library is used.
"""
import argparse, base64, copy, glob, hashlib, http.client, json, math, os, re, struct, sys, time
from urllib.parse import urlsplit

HERE = os.path.dirname(os.path.abspath(__file__))
KEEP_HEADERS = ("content-type", "allow", "location", "access-control-allow-origin",
                "access-control-allow-methods", "access-control-allow-headers",
                "access-control-max-age", "access-control-allow-credentials", "content-length")

# ---------------------------------------------------------------- test models
LICENSE = "vLLama wire-test licence.\nThis text only exists to be shown by /api/show.\n"
T_TOOLY = """{{- if or .System .Tools }}<|im_start|>system
{{ if .System }}{{ .System }}
{{ end }}{{ if .Tools }}Functions you may call:
{{ range .Tools }}* {{ json .Function }}
{{ end }}{{ end }}<|im_end|>
{{ end }}{{ range $n, $m := .Messages }}{{ if eq $m.Role "user" }}<|im_start|>user
{{ $m.Content }}<|im_end|>
{{ else if eq $m.Role "assistant" }}<|im_start|>assistant
{{ $m.Content }}{{ range $m.ToolCalls }}
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}<|im_end|>
{{ else if eq $m.Role "tool" }}<|im_start|>tool{{ with $m.ToolName }} {{ . }}{{ end }}
{{ $m.Content }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
"""
T_TOOLTAG = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "system" }}<|im_start|>system
{{ .Content }}{{ if $.Tools }}

# Tools
{{ range $.Tools }}{{ . }}
{{ end }}{{ end }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ with .Content }}{{ . }}{{ end }}{{ if .ToolCalls }}<tool_call>{{ range $k, $c := .ToolCalls }}{{ if $k }},{{ end }}{"name": {{ json $c.Function.Name }}, "arguments": {{ $c.Function.Arguments }}}{{ end }}</tool_call>{{ end }}{{ if not $last }}<|im_end|>
{{ end }}{{ else }}<|im_start|>{{ .Role }}
{{ .Content }}{{ if and $last $.Tools }} (tools on){{ end }}<|im_end|>
{{ end }}
{{- if and $last (ne .Role "assistant") }}<|im_start|>assistant
{{ end }}
{{- end }}"""
T_THINKY = """{{- range $i, $_ := .Messages }}<|im_start|>{{ .Role }}
{{ if and .Thinking (eq .Role "assistant") }}<think>{{ .Thinking }}</think>
{{ end }}{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ if and $.IsThinkSet (not $.Think) }}<think></think>
{{ else if $.IsThinkSet }}{{ with $.ThinkLevel }}[{{ . }}]{{ end }}<think>{{ end }}"""
T_FIMMY = "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .System }}|{{ .Prompt }}{{ end }}"
T_LEGACY = "{{ if .System }}SYS: {{ .System }}\n{{ end }}{{ if .Prompt }}USER: {{ .Prompt }}\n{{ end }}BOT: {{ .Response }}<end>\n"
BASE_PARAMS = {"temperature": 0, "num_ctx": 2048, "seed": 7}
MODELS = [
    ("smollm2:135m", {"parameters": dict(BASE_PARAMS, stop=["<|im_end|>", "<|im_start|>"]),
                      "license": LICENSE, "system": "You are a helpful test assistant."}),
    ("tooly:latest", {"parameters": BASE_PARAMS, "template": T_TOOLY}),
    ("tooltag:latest", {"parameters": BASE_PARAMS, "template": T_TOOLTAG}),
    ("thinky:latest", {"parameters": BASE_PARAMS, "template": T_THINKY}),
    ("fimmy:latest", {"parameters": BASE_PARAMS, "template": T_FIMMY, "system": "S"}),
    ("legacy:latest", {"parameters": BASE_PARAMS, "template": T_LEGACY, "system": "Old style."}),
    ("sysmsg:latest", {"parameters": BASE_PARAMS, "system": "Answer in one word.",
                       "messages": [{"role": "user", "content": "Is 2 even?"},
                                    {"role": "assistant", "content": "Yes."}]}),
    ("plain:latest", {"parameters": BASE_PARAMS, "template": "{{ .Prompt }}"}),
]


# ---------------------------------------------------------------- HTTP
TIMEOUT = 300


def request(url, method, path, headers=None, data=None, timeout=None):
    u = urlsplit(url)
    h = {k.lower(): v for k, v in (headers or {}).items()}
    conn = http.client.HTTPConnection(u.hostname, u.port or 80, timeout=timeout or TIMEOUT)
    try:
        conn.putrequest(method, path, skip_host="host" in h, skip_accept_encoding=True)
        for k, v in h.items():
            conn.putheader(k, v)
        if data is not None and "content-length" not in h:
            conn.putheader("content-length", str(len(data)))
        elif data is None and method in ("POST", "PUT", "PATCH") and "content-length" not in h:
            conn.putheader("content-length", "0")
        conn.endheaders(data)
        r = conn.getresponse()
        body = r.read()
        hd = {}
        for k, v in r.getheaders():
            k = k.lower()
            if k in KEEP_HEADERS:
                hd[k] = hd[k] + ", " + v if k in hd else v
        return r.status, hd, body
    finally:
        conn.close()


def lookup(val, path):
    for p in path.split("."):
        val = val[int(p)] if isinstance(val, list) else val[p]
    return val


def subst(x, env):
    if isinstance(x, str):
        m = re.fullmatch(r"\$\{(\w+)\}", x)
        if m:
            return env.get(m.group(1), x)
        return re.sub(r"\$\{(\w+)\}", lambda m: str(env.get(m.group(1), m.group(0))), x)
    if isinstance(x, list):
        return [subst(v, env) for v in x]
    if isinstance(x, dict):
        return {k: subst(v, env) for k, v in x.items()}
    return x


def expand(x):
    """{"$repeat": [text, n]} -> long text, so that cases stay small."""
    if isinstance(x, dict):
        if set(x) == {"$repeat"}:
            return x["$repeat"][0] * x["$repeat"][1]
        return {k: expand(v) for k, v in x.items()}
    if isinstance(x, list):
        return [expand(v) for v in x]
    return x


def send(url, c, env):
    hd = subst(dict(c.get("headers") or {}), env)
    if "raw_b64" in c:
        data = base64.b64decode(c["raw_b64"])
    elif "raw_body" in c:
        data = subst(c["raw_body"], env).encode()
    elif "body" in c:
        data = json.dumps(subst(expand(c["body"]), env)).encode()
        hd.setdefault("content-type", "application/json")
    else:
        data = None
    return request(url, c["method"], subst(c["path"], env), hd, data)


def run_case(url, c, env0):
    env = dict(env0)
    try:
        for s in c.get("setup", []):
            st, hd, body = send(url, s, env)
            for name, path in (s.get("save") or {}).items():
                try:
                    v = json.loads(body.decode().strip().splitlines()[-1])
                    env[name] = lookup(v, path)
                except Exception as e:
                    return {"id": c["id"], "status": 0, "headers": {}, "body": "setup failed: %r" % e}
            if s.get("expect") and st != s["expect"]:
                return {"id": c["id"], "status": 0, "headers": {}, "body": "setup got %s %r" % (st, body[:200])}
        st, hd, body = send(url, c, env)
    except Exception as e:
        return {"id": c["id"], "status": -1, "headers": {}, "body": "transport error: %r" % e}
    finally:
        for s in c.get("teardown", []):
            try:
                send(url, s, env)
            except Exception:
                pass
    rec = {"id": c["id"], "status": st, "headers": hd}
    text = body.decode("utf-8", "replace")
    if env0.get("store"): text = text.replace(env0["store"], "<STORE>")
    ct = hd.get("content-type", "")
    if "x-ndjson" in ct:
        rec["lines"] = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
    elif "event-stream" in ct:
        rec["events"] = text.split("\n\n")[:-1] if text.endswith("\n\n") else text.split("\n\n")
    else:
        rec["body"] = text
        if c.get("cut_arrays"):     # long arrays: keep three elements and the length
            ok, j = parse_json(text)
            if ok: rec["body"] = json.dumps(cut(j))
    return rec


def cut(x):
    if isinstance(x, dict): return {k: cut(v) for k, v in x.items()}
    if isinstance(x, list): return x if len(x) <= 12 else [cut(v) for v in x[:3]] + [{"$len": len(x)}]
    return x


def load_jsonl(d):
    out = []
    for f in sorted(glob.glob(os.path.join(d, "*.jsonl"))) if os.path.isdir(d) else [d]:
        for line in open(f, encoding="utf-8"):
            if line.strip():
                out.append(json.loads(line))
    return out


# ---------------------------------------------------------------- comparer
DUR = {"total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}
LAX = False
# text that a model invented: only its type is compared
FREE = {"response", "content", "thinking", "text", "reasoning", "delta", "partial_json", "token",
        "bytes", "summary_text", "reasoning_content"}
RFC3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")
RFC3339UTC = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
EMPTY_MATTERS = {"response", "content", "thinking", "reasoning"}


def jtype(v):
    if v is None: return "null"
    if isinstance(v, bool): return "bool"
    if isinstance(v, (int, float)): return "number"
    if isinstance(v, str): return "string"
    if isinstance(v, list): return "array"
    return "object"


def normid(s):
    """call_ab12cd34 -> call_*  (ids are random; the prefix is the contract)"""
    return re.sub(r"^([a-z]+(?:_[a-z]+)*[_-]).*$", r"\1*", s)


class Cmp:
    """Structural comparison of a golden and a got JSON value."""

    def __init__(self, case, bound):
        self.errs = []
        self.ignore = set((case.get("compare") or {}).get("ignore", []))
        self.exact = set((case.get("compare") or {}).get("exact", []))
        self.subset = (case.get("compare") or {}).get("models")
        self.bound = bound           # True when the number of generated tokens is forced

    def e(self, path, msg):
        self.errs.append("%s: %s" % (path or "$", msg))

    def value(self, g, v, path="", key=""):
        if key in self.ignore or path in self.ignore:
            return
        if key in self.exact or path in self.exact:
            if g != v:
                self.e(path, "%s != %s" % (short(g), short(v)))
            return
        if jtype(g) != jtype(v):
            self.e(path, "type %s, expected %s (%s)" % (jtype(v), jtype(g), short(g)))
            return
        if isinstance(g, dict):
            return self.obj(g, v, path, key)
        if isinstance(g, list):
            return self.arr(g, v, path, key)
        if isinstance(g, bool) or g is None:
            if g != v: self.e(path, "%s != %s" % (g, v))
            return
        if isinstance(g, str):
            return self.string(g, v, path, key)
        return self.number(g, v, path, key)

    def obj(self, g, v, path, key):
        miss = [k for k in g if k not in v and k not in self.ignore]
        extra = [k for k in v if k not in g and k not in self.ignore]
        if miss: self.e(path, "missing keys %s" % ",".join(sorted(miss)))
        if extra: self.e(path, "extra keys %s" % ",".join(sorted(extra)))
        for k in g:
            if k in v:
                self.value(g[k], v[k], path + "/" + k, k)
        # context = prompt tokens + answer tokens; the prompt part is deterministic
        a, b, n = g.get("context"), v.get("context"), g.get("prompt_eval_count")
        if isinstance(a, list) and isinstance(b, list) and isinstance(n, int) and not {"prompt_eval_count", "context"} & self.ignore:
            if a[:n] != b[:n]: self.e(path + "/context", "prompt tokens %s, expected %s" % (short(b[:n]), short(a[:n])))
            if isinstance(v.get("eval_count"), int) and abs((len(b) - v["eval_count"]) - (len(a) - g.get("eval_count", 0))) > 3:
                self.e(path + "/context", "length %d does not fit eval_count %d" % (len(b), v["eval_count"]))

    def arr(self, g, v, path, key):
        if g and v and isinstance(g[-1], dict) and "$len" in g[-1] and isinstance(v[-1], dict) and "$len" in v[-1]:
            if g[-1] != v[-1]: self.e(path, "length %s, expected %s" % (v[-1]["$len"], g[-1]["$len"]))
            for i, (a, b) in enumerate(zip(g[:-1], v[:-1])): self.value(a, b, path + "/%d" % i, "")
            return
        if key == "models" or (key == "data" and g and isinstance(g[0], dict) and g[0].get("object") == "model"):
            return self.modellist(g, v, path)
        if key == "context":
            if not all(isinstance(x, int) for x in v): self.e(path, "not all ints")
            elif (len(g) > 0) != (len(v) > 0): self.e(path, "emptiness differs")
            return
        if key == "embedding" or (g and all(jtype(x) == "number" for x in g) and len(g) > 8 and isinstance(g[0], float)):
            return self.vector(g, v, path)
        if key == "logprobs" or (key == "content" and g and isinstance(g[0], dict) and "logprob" in g[0]) or key == "top_logprobs":
            if self.bound and len(g) != len(v): self.e(path, "length %d != %d" % (len(v), len(g)))
            if (len(g) > 0) != (len(v) > 0): self.e(path, "emptiness differs")
            if g and v:
                for i, x in enumerate(v[:3]):
                    if not isinstance(x, dict): self.e(path, "not objects"); break
                    y = dict(g[0]) if "bytes" in x else {k: w for k, w in g[0].items() if k != "bytes"}
                    if "bytes" in x and "bytes" not in y: x = {k: w for k, w in x.items() if k != "bytes"}
                    self.value(y, x, path + "/%d" % i, key)     # special tokens have no bytes
            return
        if key in FREE:      # e.g. "bytes": token bytes
            if not all(jtype(x) == jtype(g[0]) if g else True for x in v): self.e(path, "element types")
            if key == "bytes": return
        if len(g) != len(v):
            self.e(path, "length %d, expected %d" % (len(v), len(g)))
            return
        for i, (a, b) in enumerate(zip(g, v)):
            self.value(a, b, path + "/%d" % i, key)

    def vector(self, g, v, path):
        if len(g) != len(v):
            return self.e(path, "vector length %d, expected %d" % (len(v), len(g)))
        if not all(jtype(x) == "number" for x in v):
            return self.e(path, "vector has non-numbers")
        na, nb = math.sqrt(sum(x * x for x in g)), math.sqrt(sum(x * x for x in v))
        if na == 0 or nb == 0:
            if na != nb: self.e(path, "zero vector")
            return
        cos = sum(a * b for a, b in zip(g, v)) / na / nb
        if cos < 0.99: self.e(path, "cosine %.4f" % cos)
        if abs(na - nb) > 0.02 * na: self.e(path, "norm %.4f, expected %.4f" % (nb, na))

    def modellist(self, g, v, path):
        key = lambda m: m.get("name") or m.get("id") or m.get("model")
        gm = {key(m): m for m in g}
        vm = {key(m): m for m in v if isinstance(m, dict)}
        for k, m in gm.items():
            if k not in vm: self.e(path, "model %s missing" % k)
            else: self.value(m, vm[k], path + "/" + str(k), "")
        t = [str(m.get("modified_at", ""))[:19] for m in v if isinstance(m, dict)]
        if all(t) and t != sorted(t, reverse=True): self.e(path, "not sorted, newest first")
        if self.subset == "exact" and set(vm) - set(gm):
            self.e(path, "unexpected models %s" % sorted(set(vm) - set(gm)))

    def string(self, g, v, path, key):
        if key in ("created_at", "modified_at", "expires_at"):
            rx = RFC3339UTC if key == "created_at" and g.endswith("Z") else RFC3339
            if not rx.match(v): self.e(path, "bad timestamp %s" % short(v))
            elif key == "expires_at" and (g[:4] >= "2200") != (v[:4] >= "2200") : self.e(path, "expires_at %s, expected like %s" % (v, g))
            return
        if key == "embedding":   # base64 of little endian float32
            try:
                a = struct.unpack("<%df" % (len(base64.b64decode(g)) // 4), base64.b64decode(g))
                b = struct.unpack("<%df" % (len(base64.b64decode(v)) // 4), base64.b64decode(v))
            except Exception as ex:
                return self.e(path, "bad base64 vector %r" % ex)
            return self.vector(a, b, path)
        if key == "version":
            if not re.match(r"^\d+\.\d+\.\d+", v): self.e(path, "bad version %s" % short(v))
            return
        if key == "modelfile":
            # PARAMETER lines come in Go map order, that is at random
            f = lambda s: re.sub(r"(?m)^FROM .*$", "FROM *", s)
            sp = lambda s: ([l for l in f(s).split("\n") if not l.startswith("PARAMETER ")], sorted(l for l in s.split("\n") if l.startswith("PARAMETER ")))
            a, b = ["\n".join(x) for x in sp(g)], ["\n".join(x) for x in sp(v)]
            if a != b: self.e(path, diff1(a[0], b[0]) if a[0] != b[0] else diff1(a[1], b[1]))
            return
        if key == "parameters":
            a, b = sorted(g.split("\n")), sorted(v.split("\n"))
            if a != b: self.e(path, "%s, expected %s" % (short([x for x in b if x not in a]), short([x for x in a if x not in b])))
            return
        if key in ("id", "item_id", "call_id", "request_id", "tool_call_id", "response_id") and normid(g) != g:
            if normid(g) != normid(v): self.e(path, "id form %s, expected like %s" % (short(v), short(g)))
            return
        if key == "digest" and not g.startswith("sha256:"):   # digest of a manifest file
            if not re.fullmatch(r"[0-9a-f]{64}", v): self.e(path, "bad manifest digest %s" % short(v))
            return
        if key in ("arguments",):
            try:
                a, b = json.loads(g), json.loads(v)
                if a != b: self.e(path, "%s != %s" % (short(g), short(v)))
            except ValueError:
                if g != v: self.e(path, "%s != %s" % (short(g), short(v)))
            return
        if key in FREE:
            if key in EMPTY_MATTERS and (g == "") != (v == "") and self.bound is not None:
                self.e(path, "%s, expected %s" % (short(v), short(g)))
            return
        if g != v:
            self.e(path, diff1(g, v) if len(g) + len(v) > 160 else "%s != %s" % (short(v), short(g)))

    def number(self, g, v, path, key):
        isint = lambda x: isinstance(x, int)
        if key in DUR:
            if not isint(v) or v < 0 or (v == 0) != (g == 0): self.e(path, "duration %r" % v)
        elif key in ("created", "created_at", "completed_at"):
            if not isint(v) or v < 1_500_000_000: self.e(path, "bad unix time %r" % v)
        elif key in ("eval_count", "completion_tokens", "output_tokens", "total_tokens"):
            if not isint(v) or (v != g if self.bound else (v > 0) != (g > 0)): self.e(path, "%r, expected %r" % (v, g))
        elif key == "logprob":
            if v > 0: self.e(path, "logprob %r > 0" % v)
        elif key in ("size", "size_vram"):
            if not isint(v) or (v == 0) != (g == 0): self.e(path, "size %r" % v)
        elif key == "sequence_number":
            if not isint(v): self.e(path, "not an int")
        elif isint(g) and not isint(v):
            self.e(path, "float %r, expected int" % v)
        elif abs(g - v) > 1e-6 * max(1, abs(g)):
            self.e(path, "%r, expected %r" % (v, g))


def short(x, n=100):
    s = x if isinstance(x, str) else json.dumps(x)
    s = repr(s) if isinstance(x, str) else s
    return s if len(s) <= n else s[:n] + "…"


def diff1(g, v):
    i = next((i for i, (a, b) in enumerate(zip(g, v)) if a != b), min(len(g), len(v)))
    return "text differs at %d: got %r, expected %r" % (i, v[max(0, i - 15):i + 45], g[max(0, i - 15):i + 45])


def parse_json(s):
    try:
        return True, json.loads(s)
    except ValueError:
        return False, s


def is_bound(lines):
    """forced token count: golden ended by length, or produced an exact known count"""
    return any('"done_reason":"length"' in l or '"finish_reason":"length"' in l or
               '"stop_reason":"max_tokens"' in l or '"incomplete_details":{' in l for l in lines)


def mask(s):
    """volatile parts of error texts"""
    s = re.sub(r"req_[0-9a-zA-Z]+", "req_*", s)
    s = re.sub(r"connect\?name=[^\"]*", "connect?name=*", s)
    s = re.sub(r"(dial tcp|lookup) [^\"]*", r"\1 *", s)
    s = re.sub(r"(\?ts=)\d+", r"\1*", s)
    s = re.sub(r"/[^ \"']*(/(?:blobs|manifests)/[^ \"']*: no such file)", r"<STORE>\1", s)
    return s


def compare(case, g, v):
    try:
        return compare1(case, g, v)
    except (AttributeError, TypeError, KeyError, IndexError, ValueError) as ex:
        return ["answer has an unexpected shape (%r)" % ex]


def compare1(case, g, v):
    errs = []
    opt = case.get("compare") or {}
    if v["status"] != g["status"] and v["status"] in opt.get("accept", []):
        # Ollama answers 500 to what is the client's mistake; a clean 4xx is as good
        ok, j = parse_json(v.get("body", ""))
        if ok and isinstance(j, dict) and jtype(j.get("error")) in ("string", "object") and j["error"]: return []
        return ["status %s is fine but the body is not an error object: %s" % (v["status"], short(v.get("body", "")))]
    if v["status"] != g["status"]:
        errs.append("status %s, expected %s%s" % (v["status"], g["status"], (" (" + short(v.get("body", ""), 160) + ")") if v["status"] >= 400 or v["status"] < 1 else ""))
        return errs
    if opt.get("mode") == "status":
        return errs
    hdrs = ["content-type", "location", "access-control-allow-origin", "access-control-max-age",
            "access-control-allow-credentials"]
    for h in hdrs:
        a, b = g["headers"].get(h), v["headers"].get(h)
        if LAX and h == "content-type": a, b = (a or "").split(";")[0], (b or "").split(";")[0]
        if a != b:
            errs.append("header %s: %r, expected %r" % (h, b, a))
    for h in ("allow", "access-control-allow-methods", "access-control-allow-headers"):
        s = lambda x: {t.strip().lower() for t in (x or "").split(",") if t.strip()}
        if s(g["headers"].get(h)) != s(v["headers"].get(h)):
            errs.append("header %s: %r, expected %r" % (h, v["headers"].get(h), g["headers"].get(h)))
    kind = lambda r: "lines" if "lines" in r else "events" if "events" in r else "body"
    if kind(g) != kind(v):
        return errs + ["answer is %s, expected %s" % (kind(v), kind(g))]
    if kind(g) == "body":
        return errs + cmp_body(case, g, v)
    if kind(g) == "lines":
        return errs + cmp_lines(case, g["lines"], v["lines"])
    return errs + cmp_events(case, g["events"], v["events"])


def cmp_body(case, g, v):
    gj, gv = parse_json(g["body"])
    vj, vv = parse_json(v["body"])
    if not gj or jtype(gv) not in ("object", "array"):
        return [] if mask(g["body"]) == mask(v["body"]) else ["body %s, expected %s" % (short(v["body"]), short(g["body"]))]
    if not vj:
        return ["body is not JSON: %s" % short(v["body"])]
    if g["status"] >= 400:
        inner = gv.get("error") if isinstance(gv, dict) else None
        if isinstance(inner, dict): inner = inner.get("message")
        if isinstance(inner, str) and (inner.startswith('{"error":') or inner.startswith('{"code":')):
            # text of llama-server, passed through as a string: only the outer shape is a contract
            return [] if keysig(gv) == keysig(vv) and [jtype(x) for x in gv.values()] == [jtype(x) for x in vv.values()] else \
                ["error shape %s, expected like %s" % (short(vv), short(gv))]
        a, b = json.loads(mask(json.dumps(gv))), json.loads(mask(json.dumps(vv)))
        return [] if a == b else ["error body %s, expected %s" % (short(b, 300), short(a, 300))]
    c = Cmp(case, is_bound([g["body"]]))
    c.value(gv, vv)
    return c.errs


def keysig(x):
    if isinstance(x, dict):
        return tuple(sorted((k, keysig(v)) for k, v in x.items() if k not in ("arguments", "logprobs", "args")))
    return 0 if not isinstance(x, list) else ("[]",)


def cmp_lines(case, gl, vl):
    errs = []
    gp, vp = [], []
    for l in gl: gp.append(json.loads(l))
    for n, l in enumerate(vl):
        ok, x = parse_json(l)
        if not ok or not isinstance(x, dict):
            return ["line %d is not a JSON object: %s" % (n, short(l))]
        vp.append(x)
    if not vp: return ["empty stream"]
    if any("status" in x for x in gp):     # progress streams
        def seq(p):
            out = []
            for x in p:
                # a model's layers may be rewritten on create, so their digests are not compared
                k = {k: x[k] for k in x if k in ("status", "error")}
                k = json.loads(re.sub(r"sha256:[0-9a-f]{64}", "sha256:*", mask(json.dumps(k))))
                for f in x:
                    if f not in k: k[f] = jtype(x[f])
                if not out or out[-1] != k: out.append(k)
            return out
        a, b = seq(gp), seq(vp)
        if (case.get("compare") or {}).get("final_only"):
            a, b = a[-1:], b[-1:]
        if a != b:
            i = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            errs.append("status %d: %s, expected %s (%d lines, expected %d)" % (i, short(b[i]) if i < len(b) else "end", short(a[i]) if i < len(a) else "end", len(b), len(a)))
        return errs
    bound = is_bound(gl)
    known = {keysig(x) for x in gp[:-1]}
    for n, x in enumerate(vp[:-1]):
        if keysig(x) not in known and known:
            errs.append("line %d has keys %s, known chunks: %s" % (n, flat(keysig(x)), " | ".join(flat(k) for k in known)))
            break
    for what in ("model", "created_at", "done"):
        if gp and what in gp[0] and any(what not in x for x in vp[:1]): errs.append("first chunk lacks %s" % what)
    c = Cmp(case, bound)
    if gp[:-1] and vp[:-1]:
        seen = set()
        for x in vp[:-1]:
            k = keysig(x)
            if k in seen: continue
            seen.add(k)
            ref = next((y for y in gp[:-1] if keysig(y) == k), None)
            if ref is not None:
                cc = Cmp(case, None)
                cc.value(ref, x, "chunk")
                errs += cc.errs
    for n, x in enumerate(vp[:-1]):
        if x.get("done") is True: errs.append("line %d is done before the last" % n); break
    if (len(gp) > 1) != (len(vp) > 1): errs.append("%d lines, expected %d" % (len(vp), len(gp)))
    tc = lambda p: [(t["function"]["name"], t["function"]["arguments"]) for x in p for t in (x.get("message") or {}).get("tool_calls", [])]
    if tc(gp) != tc(vp): errs.append("tool calls %s, expected %s" % (short(tc(vp)), short(tc(gp))))
    c.value(gp[-1], vp[-1], "last")
    return errs + c.errs


def flat(sig, pre=""):
    if not isinstance(sig, tuple): return pre
    return ",".join(k if not isinstance(s, tuple) or s == ("[]",) else k + "{" + flat(s) + "}" for k, s in (x for x in sig if isinstance(x, tuple)))


def parse_event(e):
    name, data = None, []
    for l in e.split("\n"):
        if l.startswith("event:"): name = l[6:].strip()
        elif l.startswith("data:"): data.append(l[5:].strip())
        elif l: return name, None
    return name, "\n".join(data)


def cmp_events(case, ge, ve):
    def conv(es):
        out = []
        for e in es:
            n, d = parse_event(e)
            if d is None: return None, e
            if d == "[DONE]": out.append((n, "[DONE]", None, e)); continue
            ok, j = parse_json(d)
            if not ok: return None, e
            typ = j.get("type") or j.get("object") or ("error" if "error" in j else "?")
            out.append((n, typ, j, e))
        return out, None
    g, _ = conv(ge)
    v, bad = conv(ve)
    if v is None: return ["unparsable event %s" % short(bad)]
    errs = []
    bound = is_bound(ge)
    def seq(p):
        out = []
        for n, t, j, _ in p:
            k = (n, t)
            if j and t == "chat.completion.chunk" or j and t == "text_completion":
                ch = (j.get("choices") or [None])[0]
                k = (n, t, "usage" if ch is None else "finish:" + str(ch.get("finish_reason")) if ch.get("finish_reason") else
                     "tool" if (ch.get("delta") or {}).get("tool_calls") else "text")
            if not out or out[-1] != k: out.append(k)
        return out
    a, b = seq(g), seq(v)
    if a != b:
        i = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        errs.append("event %d: %s, expected %s" % (i, b[i] if i < len(b) else "end", a[i] if i < len(a) else "end"))
        return errs
    c = Cmp(case, bound)
    # compare the first, and the last, event of every kind
    def kinds(p):
        d = {}
        for (n, t, j, _) in p:
            if j is None: continue
            ch = (j.get("choices") or [{}])[0] if t in ("chat.completion.chunk", "text_completion") else {}
            d.setdefault((n, t, keysig(j)[:0] if not ch else tuple(sorted((ch.get("delta") or {}).keys())) + (str(ch.get("finish_reason")), bool(j.get("choices")))), []).append(j)
        return d
    gk, vk = kinds(g), kinds(v)
    for k in gk:
        if k not in vk:
            if not (len(k[2]) and k[2][-1] is True and k[2][-2] == "None"): errs.append("no event like %s" % (k,))
            continue
        cc = Cmp(case, None if k[1] in ("chat.completion.chunk", "text_completion") and k[2][-1:] == (True,) else bound)
        cc.value(gk[k][0], vk[k][0], k[1])
        cc.value(gk[k][-1], vk[k][-1], k[1])
        c.errs += [x for x in cc.errs if x not in c.errs]
    for k in vk:
        if k not in gk: errs.append("unexpected event like %s" % (k,)); break
    return errs + c.errs


# ---------------------------------------------------------------- commands
def upload(url, f):
    h = hashlib.sha256()
    with open(f, "rb") as fh:
        for b in iter(lambda: fh.read(1 << 20), b""): h.update(b)
    dg = "sha256:" + h.hexdigest()
    st, _, _ = request(url, "HEAD", "/api/blobs/" + dg)
    if st != 200:
        st, _, b = request(url, "POST", "/api/blobs/" + dg, {}, open(f, "rb").read(), 1200)
        if st not in (200, 201): sys.exit("blob upload failed: %s %s" % (st, b))
    return dg


def create(url, name, body):
    st, _, b = request(url, "POST", "/api/create", {"content-type": "application/json"},
                       json.dumps(dict(body, model=name)).encode(), 1200)
    last = b.decode().strip().splitlines()[-1] if b else ""
    print("create %-16s %s %s" % (name, st, last))
    return st == 200 and '"success"' in last


def cmd_setup(a):
    dg = upload(a.url, a.gguf)
    ok = all([create(a.url, n, dict(b, files={"SmolLM2-135M-Instruct.Q4_1.gguf": dg})) for n, b in MODELS])
    if a.embed_gguf:
        ok &= create(a.url, "all-minilm:latest", {"files": {"all-minilm.gguf": upload(a.url, a.embed_gguf)}})
    if not ok: sys.exit(1)


def env_of(a):
    """digests that cases refer to: ${digest} is that of smollm2's GGUF"""
    st, _, b = request(a.url, "POST", "/api/show", {}, b'{"model":"smollm2:135m"}')
    m = re.search(r"(?m)^FROM (.*?)/?(?:blobs/)?sha256[-:]([0-9a-f]{64})", json.loads(b).get("modelfile", "")) if st == 200 else None
    env = {"digest": "sha256:" + (m.group(2) if m else "0" * 64), "store": m.group(1) if m else ""}
    if a.gguf:
        h = hashlib.sha256(open(a.gguf, "rb").read()).hexdigest()
        env["digest"] = "sha256:" + h
    return env


def select(a, cases):
    if a.only: cases = [c for c in cases if any(c["group"] == o or c["group"].startswith(o + ".") for o in a.only.split(","))]
    if a.id: cases = [c for c in cases if any(re.fullmatch(i, c["id"]) for i in a.id.split(","))]
    return cases


def cmd_record(a):
    os.makedirs(a.out, exist_ok=True)
    cases = select(a, load_jsonl(a.cases))
    env, files = env_of(a), {}
    part = bool(a.only or a.id)
    for n, c in enumerate(cases):
        t = time.time()
        r = run_case(a.url, c, env)
        dt = time.time() - t
        if a.verbose or dt > 20: print("%d/%d %s %.1fs" % (n + 1, len(cases), c["id"], dt), file=sys.stderr, flush=True)
        g = c["group"].split(".")[0]
        if g not in files:
            p = os.path.join(a.out, g + ".jsonl")
            todo = {x["id"] for x in cases}
            old = [x for x in load_jsonl(p) if x["id"] not in todo] if part and os.path.exists(p) else []
            files[g] = open(p, "w", encoding="utf-8")
            for x in old: files[g].write(json.dumps(x, ensure_ascii=False, sort_keys=True) + "\n")
        files[g].write(json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n")
        files[g].flush()
    print("recorded %d cases into %s" % (len(cases), a.out))


def cmd_check(a):
    cases = select(a, load_jsonl(a.cases))
    golden = {r["id"]: r for r in load_jsonl(a.golden)}
    env = env_of(a)
    table, fails = {}, []
    for c in cases:
        t = table.setdefault(c["group"], [0, 0])
        t[1] += 1
        g = golden.get(c["id"])
        got = None
        if g is None:
            errs = ["no golden answer"]
        else:
            got = run_case(a.url, c, env)
            errs = compare(c, g, got)
        if errs:
            fails.append({"id": c["id"], "group": c["group"], "differs": errs, "got": got if a.json else None})
            if a.verbose: print("FAIL %s: %s" % (c["id"], "; ".join(errs)), flush=True)
        else:
            t[0] += 1
    p, n = sum(t[0] for t in table.values()), sum(t[1] for t in table.values())
    if a.json:
        print(json.dumps({"pass": p, "total": n, "groups": table, "failures": fails}, ensure_ascii=False, indent=1))
    else:
        for f in fails: print("FAIL %s: %s" % (f["id"], "; ".join(f["differs"])[:600]))
        print("%-24s %s" % ("group", "pass/total"))
        for g in sorted(table): print("%-24s %d/%d" % (g, *table[g]))
        print("%-24s %d/%d = %.1f %%" % ("ALL", p, n, 100.0 * p / max(1, n)))
    sys.exit(0 if p == n else 1)


def mutations(r):
    """yield (what, altered record): each must be noticed"""
    m = copy.deepcopy(r); m["status"] = 418; yield "status", m
    m = copy.deepcopy(r); m["headers"]["content-type"] = "text/odd"; yield "content-type", m
    def put(m, field, i, x):
        if field == "body": m["body"] = json.dumps(x)
        else: m[field][i] = json.dumps(x) if field == "lines" else re.sub(r"data: .*", lambda _: "data: " + json.dumps(x), m[field][i])
    def units():
        if "body" in r:
            ok, x = parse_json(r["body"])
            if ok and isinstance(x, dict): yield "body", 0, x
        for i, l in enumerate(r.get("lines", [])[-1:]): yield "lines", len(r["lines"]) - 1, json.loads(l)
        for i, e in list(enumerate(r.get("events", [])))[:1]:
            _, d = parse_event(e)
            if d and d != "[DONE]": yield "events", i, json.loads(d)
    for field, i, x in units():
        for k in x:
            y = copy.deepcopy(x); del y[k]
            m = copy.deepcopy(r); put(m, field, i, y); yield "drop " + k, m
            y = copy.deepcopy(x); y[k] = {"odd": 1} if not isinstance(x[k], dict) else 3
            m = copy.deepcopy(r); put(m, field, i, y); yield "type " + k, m
        y = dict(x, surprise=1); m = copy.deepcopy(r); put(m, field, i, y); yield "extra key", m
        if "error" in x and isinstance(x["error"], str):
            m = copy.deepcopy(r); put(m, field, i, dict(x, error=x["error"] + ".")); yield "error text", m
        for k in ("done_reason", "model", "prompt_eval_count", "template"):
            if k in x: m = copy.deepcopy(r); put(m, field, i, dict(x, **{k: "zz" if isinstance(x[k], str) else x[k] + 1})); yield "value " + k, m
    if "body" in r and not parse_json(r["body"])[0] and r["body"]:
        m = copy.deepcopy(r); m["body"] += "x"; yield "text", m
    if len(r.get("lines", [])) > 1: m = copy.deepcopy(r); m["lines"].pop(); yield "cut", m
    if len(r.get("events", [])) > 1: m = copy.deepcopy(r); m["events"].pop(); yield "cut", m


def cmd_selftest(a):
    cases = {c["id"]: c for c in load_jsonl(a.cases)}
    n = same = bad = 0
    for r in load_jsonl(a.golden):
        c = cases.get(r["id"])
        if not c or (c.get("compare") or {}).get("mode"): continue
        e = compare(c, r, r)
        same += 1
        if e: bad += 1; print("NOT EQUAL TO ITSELF %s: %s" % (r["id"], e[:2]))
        for what, m in mutations(r):
            if what.split()[-1] in (c.get("compare") or {}).get("ignore", []): continue
            if (c.get("compare") or {}).get("final_only"): continue
            if what == "error text" and '"{' in r.get("body", "")[:12]: continue        # llama-server's text: not compared
            if what == "error text" and "dial tcp" in json.dumps(m): continue         # masked to the end
            n += 1
            if not compare(c, r, m): bad += 1; print("UNNOTICED %s: %s" % (r["id"], what))
    print("%d records equal to themselves, %d mutations, %d problems" % (same, n, bad))
    sys.exit(1 if bad else 0)


def main():
    p = argparse.ArgumentParser()
    sub = p.add_subparsers(dest="cmd", required=True)
    def add(n, f):
        s = sub.add_parser(n); s.set_defaults(f=f)
        if n != "selftest": s.add_argument("url")
        if n == "record": s.add_argument("out")
        s.add_argument("--gguf"); s.add_argument("--embed-gguf")
        s.add_argument("--cases", default=os.path.join(HERE, "cases"))
        s.add_argument("--golden", default=os.path.join(HERE, "golden"))
        s.add_argument("--only", help="groups, comma separated"); s.add_argument("--id", help="case ids (regular expressions, comma separated)")
        s.add_argument("--timeout", type=float, default=300, help="seconds per request")
        s.add_argument("--lax", action="store_true", help="ignore charset= in content types")
        s.add_argument("--json", action="store_true"); s.add_argument("-v", "--verbose", action="store_true")
    for n, f in (("setup", cmd_setup), ("record", cmd_record), ("check", cmd_check), ("selftest", cmd_selftest)): add(n, f)
    a = p.parse_args()
    global LAX, TIMEOUT
    LAX, TIMEOUT = a.lax, a.timeout
    if a.cmd == "setup" and not a.gguf: p.error("--gguf is needed")
    try:
        a.f(a)
    except ConnectionError as e:
        sys.exit("no server at %s: %s" % (a.url, e))


if __name__ == "__main__":
    main()
