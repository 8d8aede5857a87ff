// The server's API as this page uses it. Addresses are relative, so that the page works behind a path of a proxy.

export class ApiError extends Error {
  /** `status` is 0 where no answer came. `retryAfter` is in seconds, null where the server does not say. */
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Asks for a path under v1 and returns the response, which is a success. */
async function request(path, { key, body, signal } = {}) {
  const headers = {};
  if (key) headers["X-API-Key"] = key;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    const init = { headers, signal, cache: "no-store", credentials: "same-origin" };
    response = await fetch(`v1/${path}`, body ? { ...init, method: "POST", body: JSON.stringify(body) } : init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof TypeError && /[^\x20-\x7e\xa0-\xff]/.test(key ?? "")) {
      throw new ApiError("The API key has characters that no key can have.", { status: 401 });
    }
    throw new ApiError("The server does not answer. Check that it runs and that you are connected.");
  }
  if (response.ok) return response;
  const wait = Number(response.headers.get("Retry-After"));
  throw new ApiError(await errorText(response), { status: response.status, retryAfter: wait > 0 ? wait : null });
}

async function errorText(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

/** The models that are served: id, max_model_len, and for an adapter its parent. */
export async function listModels(key) {
  return (await (await request("models", { key })).json()).data;
}

/** How many tokens a chat has as a prompt, and how many the model takes. */
export async function countTokens(body, key, signal) {
  const { count, max_model_len: context } = await (await request("tokenize", { key, body, signal })).json();
  return { count, context };
}

/** The chunks of a streamed answer. */
export async function* streamChat(body, key, signal) {
  const options = { include_usage: true, continuous_usage_stats: true };
  const response = await request("chat/completions", { key, signal, body: { ...body, stream: true, stream_options: options } });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, { status: response.status });
    yield chunk;
  }
  throw new ApiError("The connection ended before the answer did.");
}

/** The data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      let part;
      try {
        part = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ApiError("The connection broke before the answer was complete.");
      }
      if (part.done) return;
      const lines = (pending + part.value).split(/\r?\n/);
      pending = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trimStart(); // this server's events have one line
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
