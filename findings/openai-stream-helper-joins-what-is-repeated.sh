#!/usr/bin/env bash
# openai 3.57.0 (seen 2026-11-29, Python 3.11).
#
# Some servers repeat a message's role, or a tool call's id and name, in every chunk of a stream, and clients that read
# the chunks themselves take no notice. The helper chat.completions.stream() builds the message by joining strings,
# whatever field they are in (index and type alone are not): the role becomes "assistantassistant", the id
# "call_1call_1" and the name "lookuplookup". It does not complain of it. A conversation that goes on with this message
# names a function that is not there.
#
# Seen: just these. A server has to send them in the first chunk only; a client can read create(stream=True) instead.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import http.server
import json
import threading

import openai


def chunk(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(body)}\n\n"


def call(arguments):
    function = {"name": "lookup", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}


stream = chunk(call("")) + chunk(call('{"id":')) + chunk(call(" 7}"), "tool_calls") + "data: [DONE]\n\n"


class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(stream.encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
with client.chat.completions.stream(model="m", messages=[]) as events:
    message = events.get_final_completion().choices[0].message
made = message.tool_calls[0]
print("role:", message.role, "id:", made.id, "name:", made.function.name, "arguments:", made.function.arguments)
assert message.role == "assistant" * 3
assert made.id == "call_1" * 3
assert made.function.name == "lookup" * 3
assert json.loads(made.function.arguments) == {"id": 7}
assert (made.index, made.type) == (0, "function")
PY
