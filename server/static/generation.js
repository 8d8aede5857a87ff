// One answer: what is asked for, and what comes.

import { ApiError, countTokens, streamChat } from "./api.js";
import { SAMPLING } from "./preferences.js";

/**
 * Streams an answer into a message, after the messages before it. A message that has text already is continued.
 *
 * The message gets `content`, `finish`, `usage`, `rate` (tokens per second behind the first one) and `firstToken`
 * (seconds). `onGrowth` is called with each piece. Throws an ApiError, or an AbortError when `signal` says so.
 */
export async function generate(message, before, { settings, model, key, signal, onGrowth }) {
  const body = requestBody(message, before, settings, model);
  body.max_tokens = await tokenLimit(body, settings, key, signal);
  const begin = performance.now();
  let first = null;
  let counted = 0; // tokens at `first`
  for await (const chunk of streamChat(body, key, signal)) {
    const choice = chunk.choices[0];
    const now = performance.now();
    if (choice?.delta.content) {
      message.content += choice.delta.content;
      if (first === null) [first, counted] = [now, chunk.usage.completion_tokens];
    }
    if (choice?.finish_reason) message.finish = choice.finish_reason;
    if (chunk.usage) {
      message.usage = chunk.usage;
      const tokens = chunk.usage.completion_tokens - counted;
      if (first !== null && tokens > 0 && choice) message.rate = tokens / ((now - first) / 1000);
    }
    if (first !== null) message.firstToken = (first - begin) / 1000;
    onGrowth();
  }
}

function requestBody(message, before, settings, model) {
  const messages = before.map(({ role, content }) => ({ role, content }));
  if (settings.system?.trim()) messages.unshift({ role: "system", content: settings.system });
  const sampling = Object.fromEntries(
    SAMPLING.map(({ name }) => [name, settings.sampling[name]]).filter(([, value]) => Number.isFinite(value)),
  );
  const body = { model, messages, ...sampling };
  if (!message.content) return body;
  return { ...body, messages: [...messages, { role: "assistant", content: message.content }], continue_final_message: true };
}

/** As many tokens as are wanted and the context still takes. */
async function tokenLimit(body, settings, key, signal) {
  const { count, context } = await countTokens({ ...body, max_tokens: undefined }, key, signal);
  if (count >= context) {
    throw new ApiError(
      `The conversation has ${count} tokens, and the model takes ${context}. Edit an earlier message, or begin a new chat.`,
      { status: 400 },
    );
  }
  return Math.min(settings.sampling.max_tokens ?? Infinity, context - count);
}
