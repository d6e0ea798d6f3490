// Holds conversations with one release of the Node client and prints what happened as one JSON object.
// `node client.mjs PACKAGE`; reads OPENAI_BASE_URL and OPENAI_API_KEY; and from standard input, as JSON, the `base_url` of a
// server that plays streams, which `requests` they answer, and the `scripts` of random conversations. What the model says
// is written into the user's message; see tests/fakes/directives.py.

import { readFileSync } from "node:fs";

import { callAll } from "./helpers.mjs";
import { listen } from "./listening.mjs";
import { play } from "./replayed.mjs";

const given = JSON.parse(readFileSync(0));
const { default: OpenAI } = await import(process.argv[2]);
const { VERSION } = await import(`${process.argv[2]}/version`);
const major = Number(VERSION.split(".")[0]);
const client = new OpenAI({ maxRetries: 0, timeout: 30_000 });

const CALL =
  'Weather? [[tool=get_weather:{"city":"Paris"} tool2=get_weather:{"city":"Rome"} first=0.4]] [[text="Rain, and sun." first=0.4 delay=0.2]]';
const GREET = '[[text="Hello from the model."]]';
const POLL = { pollIntervalMs: 50 };

const anAssistant = async () => {
  const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const tools = [{ type: "function", function: { name: "get_weather", description: "Weather", parameters } }];
  return (await client.beta.assistants.create({ model: "gpt-4o", instructions: "Help.", tools })).id;
};

const aThread = async (content) => (await client.beta.threads.create({ messages: [{ role: "user", content }] })).id;

const outputs = (run) =>
  run.required_action.submit_tool_outputs.tool_calls.map((call) => ({
    tool_call_id: call.id,
    output: `weather of ${JSON.parse(call.function.arguments).city}`,
  }));

// A run on a thread, and after each of its questions the stream that goes on with the answers; the last run.
const converse = async (assistant, content) => {
  const thread = await aThread(content);
  const { runs } = client.beta.threads;
  let run = await runs.stream(thread, { assistant_id: assistant }).finalRun();
  while (run.status === "requires_action") {
    const body = { tool_outputs: outputs(run) };
    const stream =
      major < 5
        ? runs.submitToolOutputsStream(thread, run.id, body)
        : runs.submitToolOutputsStream(run.id, { thread_id: thread, ...body });
    run = await stream.finalRun();
  }
  return run;
};

const conversations = {
  async defaults() {
    const made = await client.beta.assistants.create({ model: "m" });
    return { made, read: await client.beta.assistants.retrieve(made.id) };
  },

  async streamText() {
    const stream = client.beta.threads.runs.stream(await aThread(GREET), { assistant_id: await anAssistant() });
    const told = listen(stream);
    await stream.done();
    return { text: told.text, contents: told.contents, first: told.heard[0] };
  },

  async streamCalls() {
    const thread = await aThread(CALL);
    const stream = client.beta.threads.runs.stream(thread, { assistant_id: await anAssistant() });
    const before = listen(stream);
    const waiting = await stream.finalRun();
    const body = { tool_outputs: outputs(waiting) };
    const runs = client.beta.threads.runs;
    // Since 5.0 the thread is a named parameter.
    const resumed =
      major < 5
        ? runs.submitToolOutputsStream(thread, waiting.id, body)
        : runs.submitToolOutputsStream(waiting.id, { thread_id: thread, ...body });
    const after = listen(resumed);
    const run = await resumed.finalRun();
    const [message] = await resumed.finalMessages();
    return {
      statuses: [waiting.status, run.status],
      calls: waiting.required_action.submit_tool_outputs.tool_calls.map((call) => [call.id, call.function.arguments]),
      assembled: Object.entries(before.arguments),
      texts: [after.text, message.content[0].text.value],
      called: [before.called, after.called],
      events: [before.events, after.events],
    };
  },

  async createAndPoll() {
    const thread = await aThread(GREET);
    const run = await client.beta.threads.runs.createAndPoll(thread, { assistant_id: await anAssistant() }, POLL);
    const page = await client.beta.threads.messages.list(thread, { limit: 1 });
    const times = [run.started_at >= run.created_at, run.completed_at > 0, run.expires_at];
    return { status: run.status, text: page.data[0].content[0].text.value, usage: run.usage.total_tokens > 0, times };
  },

  async pageThrough() {
    const thread = (await client.beta.threads.create()).id;
    for (let number = 0; number < 25; number++) {
      await client.beta.threads.messages.create(thread, { role: "user", content: String(number) });
    }
    const found = [];
    for await (const message of client.beta.threads.messages.list(thread, { limit: 10, order: "asc" })) {
      found.push(Number(message.content[0].text.value));
    }
    return { found };
  },

  async errors() {
    const stranger = new OpenAI({ maxRetries: 0, apiKey: "sk-wrong" });
    const attempts = {
      unknown: () => client.beta.assistants.retrieve("asst_000000000000000000000000"),
      wrongType: () => client.beta.threads.create({ messages: "hello" }),
      unauthenticated: () => stranger.beta.threads.create(),
    };
    const found = {};
    for (const [name, attempt] of Object.entries(attempts)) {
      try {
        await attempt();
      } catch (error) {
        found[name] = [error.constructor.name, error.status, error.code];
      }
    }
    return found;
  },

  async random() {
    const assistant = await anAssistant();
    const scripts = [...given.scripts];
    const ends = [];
    const worker = async () => {
      while (scripts.length) ends.push((await converse(assistant, scripts.pop())).status);
    };
    await Promise.all([...Array(8)].map(worker));
    return { ends };
  },

  helpers: () => callAll(client, major),
  replayed: () => play(new OpenAI({ maxRetries: 0, baseURL: given.base_url }), major, given.requests),
};

const told = { version: VERSION };
for (const [name, hold] of Object.entries(conversations)) {
  try {
    told[name] = await hold();
  } catch (error) {
    told[name] = { raised: error.stack };
  }
}
process.stdout.write(JSON.stringify(told));
