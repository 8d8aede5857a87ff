#!/usr/bin/env bash
# openai 3.54.0 (seen 2026-11-29, Python 3.11).
#
# A stream of server-sent events closes with "data: [DONE]". The client stops at it, but does not miss it: where a server
# or a proxy between ends the response without it, and without the chunk that says why the answer ended, the iteration
# ends as for a whole answer. An "error" event whose data has no key "error", as some servers send it, comes as a chunk
# whose choices are None, not as an exception.
#
# Seen: the same end of iteration for a whole answer and a broken one. Count an answer as whole only when a chunk had a
# finish_reason, and take a chunk without choices for an error unless it has the usage.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.54.0
"$folder/venv/bin/python" - <<'PY'
import http.server
import json
import threading

import openai


def chunk(text, finish_reason=None):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    body = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(body)}\n\n"


streams = {
    "whole": chunk("one ") + chunk("two", "stop") + "data: [DONE]\n\n",
    "broken": chunk("one "),
    "error": chunk("one ") + 'event: error\ndata: {"message": "overloaded"}\n\n',
    "openai's error": chunk("one ") + 'data: {"error": {"message": "overloaded"}}\n\n',
}


class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(streams[request["model"]].encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)


def read(name):
    """Text, whether a finish_reason came, whether a chunk had no choices, or the error's name."""
    text, finished, bare = "", False, False
    try:
        for part in client.chat.completions.create(model=name, messages=[], stream=True):
            if part.choices:
                text += part.choices[0].delta.content
                finished |= part.choices[0].finish_reason is not None
            else:
                bare = True
    except openai.APIError as error:
        return type(error).__name__
    return text, finished, bare


seen = {name: read(name) for name in streams}
for name, outcome in seen.items():
    print(f"{name}: {outcome}")
assert seen == {
    "whole": ("one two", True, False),
    "broken": ("one ", False, False),
    "error": ("one ", False, True),
    "openai's error": "APIError",
}
PY
