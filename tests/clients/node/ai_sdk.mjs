// Vercel's AI SDK, with its two clients for such servers: chat completions and responses.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const { OPENAI_BASE_URL: baseURL, OPENAI_API_KEY: apiKey } = process.env;
const openai = createOpenAI({ baseURL, apiKey });
const compatible = createOpenAICompatible({
  baseURL, name: "ours", apiKey, supportsStructuredOutputs: true, includeUsage: true,
});
const providerOptions = { openai: { store: false } };
const schema = z.object({ name: z.string(), capital: z.boolean() });
const weather = tool({
  description: "The weather in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `${city}: sunny`,
});

for (const model of [compatible("llm"), openai.chat("llm"), openai.responses("llm")]) {
  const common = { model, temperature: 0, providerOptions, maxRetries: 0 };
  const { text } = await generateText({ ...common, system: "You recite.", prompt: "Hello!" });
  assert.ok(text);
  let streamed = "";
  for await (const piece of streamText({ ...common, system: "You recite.", prompt: "Hello!" }).textStream) streamed += piece;
  assert.equal(streamed, text);
  const { object } = await generateObject({ ...common, schema, prompt: "A city" });
  assert.equal(typeof object.capital, "boolean");
  const called = await generateText({
    ...common, prompt: "Hello!", tools: { weather }, stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
  });
  assert.equal(called.steps.length, 2);
  assert.ok(called.steps[0].toolResults.length);
}
