// Holds conversations with one release of the Node client and prints what happened as one JSON object.
// `node client.mjs PACKAGE`; reads OPENAI_BASE_URL and OPENAI_API_KEY. What the model says is written into the user's
// message; see tests/fakes/directives.py.

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

// Notes what a stream tells its listeners: each name when it first comes, and what the deltas add up to.
const listen = (stream) => {
  const told = { called: [], events: [], text: "", arguments: {} };
  const note = (names, name) => names.includes(name) || names.push(name);
  const on = (name, also = () => {}) =>
    stream.on(name, (...values) => {
      note(told.called, name);
      also(...values);
    });
  on("runStepCreated");
  on("runStepDelta");
  on("runStepDone");
  on("messageCreated");
  on("messageDelta");
  on("messageDone");
  on("textCreated");
  on("textDelta", (delta) => (told.text += delta.value ?? ""));
  on("textDone");
  on("toolCallCreated");
  on("toolCallDelta");
  on("toolCallDone", (call) => (told.arguments[call.id] = call.function.arguments));
  on("end");
  stream.on("event", ({ event }) => note(told.events, event));
  return told;
};

const outputs = (run) =>
  run.required_action.submit_tool_outputs.tool_calls.map((call) => ({
    tool_call_id: call.id,
    output: `weather of ${JSON.parse(call.function.arguments).city}`,
  }));

const conversations = {
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
    return { status: run.status, text: page.data[0].content[0].text.value, usage: run.usage.total_tokens > 0 };
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
