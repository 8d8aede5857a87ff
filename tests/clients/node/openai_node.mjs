// OpenAI's own client for JavaScript.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI();
const messages = [{ role: "user", content: "Hello!" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", parameters, strict: true } }];

const answer = await client.chat.completions.create({ model: "llm", messages, temperature: 0 });
assert.ok(answer.choices[0].message.content);
let text = "";
for await (const chunk of await client.chat.completions.create({
  model: "llm", messages, temperature: 0, stream: true, stream_options: { include_usage: true },
})) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(text, answer.choices[0].message.content);
const runner = client.chat.completions.stream({ model: "llm", messages, temperature: 0 });
assert.equal((await runner.finalChatCompletion()).choices[0].message.content, text);

const called = await client.chat.completions.create({
  model: "llm", messages, tools, tool_choice: "required", temperature: 0, parallel_tool_calls: false,
});
const [call] = called.choices[0].message.tool_calls;
assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city", "days"]);
const json_schema = { name: "weather", schema: parameters, strict: true };
const parsed = await client.chat.completions.parse({
  model: "llm", messages, temperature: 0, response_format: { type: "json_schema", json_schema },
});
assert.ok(JSON.parse(parsed.choices[0].message.content));

const completion = await client.completions.create({ model: "llm", prompt: "Say", logprobs: 1, max_tokens: 3 });
assert.equal(completion.choices[0].logprobs.tokens.length, 3);
const vectors = await client.embeddings.create({ model: "llm", input: ["one", "two"] });
assert.equal(vectors.data.length, 2);
assert.equal(typeof vectors.data[0].embedding[0], "number");

const response = await client.responses.create({ model: "llm", input: "Hello!", temperature: 0 });
assert.equal(response.output_text, text);
const stream = client.responses.stream({ model: "llm", input: "Hello!", temperature: 0 });
let last;
for await (const event of stream) last = event;
assert.equal(last.type, "response.completed");
assert.equal((await stream.finalResponse()).output_text, text);

await assert.rejects(client.chat.completions.create({ model: "llm", messages: [] }), OpenAI.BadRequestError);
