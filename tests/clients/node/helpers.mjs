// Calls every method that the client's resources have. What a release adds and nothing here calls is `unknown`.

const CALL = 'Weather? [[tool=get_weather:{"city":"Paris"}]] [[text="It rains."]]';
const POLL = { pollIntervalMs: 20 };
const LATER = ["vectorStores"];

// All methods of a resource and of those below it, as "runs.steps.list".
const methodsOf = (resource, name) => {
  const own = Object.getOwnPropertyNames(Object.getPrototypeOf(resource)).filter((key) => key !== "constructor");
  const below = Object.entries(resource).filter(([key, value]) => key[0] !== "_" && typeof value === "object");
  return [...own.map((key) => `${name}.${key}`), ...below.flatMap(([key, value]) => methodsOf(value, `${name}.${key}`))];
};

export const callAll = async (client, major) => {
  const { assistants, threads } = client.beta;
  const { runs, messages } = threads;
  const tools = [{ type: "function", function: { name: "get_weather" } }];
  const said = (content) => ({ messages: [{ role: "user", content }] });
  const remove = major < 5 ? "del" : "delete";
  // Since 5.0, what stands above in the path is a named parameter.
  const below = (thread, id, body) => (major < 5 ? [thread, id, body] : [id, { thread_id: thread, ...body }]);
  const read = (thread, id) => (major < 5 ? [thread, id] : [id, { thread_id: thread }]);
  const all = async (pages) => {
    const found = [];
    for await (const one of pages) if (found.push(one.id) > 2) break;
    return found;
  };

  const assistant = (await assistants.create({ model: "gpt-4o", tools })).id;
  const thread = async (content = "Hi") => (await threads.create(said(content))).id;
  const upload = (bytes) => client.uploads.create({ bytes, filename: "a.txt", mime_type: "text/plain", purpose: "assistants" });
  const part = (id) => client.uploads.parts.create(id, { data: new File(["abc"], "part") });
  const file = () => client.files.create({ file: new File(["abc"], "a.png"), purpose: "vision" });
  const done = await runs.createAndPoll(await thread(), { assistant_id: assistant }, POLL);
  const waiting = async () => runs.createAndPoll(await thread(CALL), { assistant_id: assistant }, POLL);
  const outputs = (run) => ({
    tool_outputs: run.required_action.submit_tool_outputs.tool_calls.map((call) => ({ tool_call_id: call.id, output: "x" })),
  });
  const submit = async (method, ...rest) => {
    const run = await waiting();
    return method.call(runs, ...below(run.thread_id, run.id, outputs(run)), ...rest);
  };
  const message = (await messages.list(done.thread_id)).data[0].id;

  const calls = {
    "assistants.create": () => assistants.create({ model: "gpt-4o" }),
    "assistants.retrieve": () => assistants.retrieve(assistant),
    "assistants.update": () => assistants.update(assistant, { name: "Ann" }),
    "assistants.list": () => all(assistants.list({ limit: 1, order: "asc" })), // other releases delete the newest meanwhile
    [`assistants.${remove}`]: async () => assistants[remove]((await assistants.create({ model: "gpt-4o" })).id),
    "threads.create": () => threads.create(),
    "threads.retrieve": () => threads.retrieve(done.thread_id),
    "threads.update": () => threads.update(done.thread_id, { metadata: { k: "v" } }),
    [`threads.${remove}`]: async () => threads[remove](await thread()),
    "threads.createAndRun": () => threads.createAndRun({ assistant_id: assistant, thread: said("Hi") }),
    "threads.createAndRunPoll": () => threads.createAndRunPoll({ assistant_id: assistant, thread: said("Hi") }, POLL),
    "threads.createAndRunStream": () =>
      threads.createAndRunStream({ assistant_id: assistant, thread: said("Hi") }).finalRun(),
    "threads.messages.create": async () => messages.create(await thread(), { role: "user", content: "Hi" }),
    "threads.messages.retrieve": () => messages.retrieve(...read(done.thread_id, message)),
    "threads.messages.update": () => messages.update(...below(done.thread_id, message, { metadata: { k: "v" } })),
    "threads.messages.list": () => all(messages.list(done.thread_id, { limit: 1 })),
    [`threads.messages.${remove}`]: async () => {
      const id = await thread();
      return messages[remove](...read(id, (await messages.list(id)).data[0].id));
    },
    "threads.runs.create": async () => runs.create(await thread(), { assistant_id: assistant }),
    "threads.runs.retrieve": () => runs.retrieve(...read(done.thread_id, done.id)),
    "threads.runs.update": () => runs.update(...below(done.thread_id, done.id, { metadata: { k: "v" } })),
    "threads.runs.list": () => all(runs.list(done.thread_id)),
    "threads.runs.cancel": async () => {
      const run = await waiting();
      return runs.cancel(...read(run.thread_id, run.id));
    },
    "threads.runs.createAndPoll": async () => runs.createAndPoll(await thread(), { assistant_id: assistant }, POLL),
    "threads.runs.createAndStream": async () => runs.createAndStream(await thread(), { assistant_id: assistant }).finalRun(),
    "threads.runs.stream": async () => runs.stream(await thread(), { assistant_id: assistant }).finalRun(),
    "threads.runs.poll": () =>
      major < 5 ? runs.poll(done.thread_id, done.id, POLL) : runs.poll(done.id, { thread_id: done.thread_id }, POLL),
    "threads.runs.submitToolOutputs": () => submit(runs.submitToolOutputs),
    "threads.runs.submitToolOutputsAndPoll": () => submit(runs.submitToolOutputsAndPoll, POLL),
    "threads.runs.submitToolOutputsStream": async () => (await submit(runs.submitToolOutputsStream)).finalRun(),
    "threads.runs.steps.list": async () =>
      all(major < 5 ? runs.steps.list(done.thread_id, done.id) : runs.steps.list(done.id, { thread_id: done.thread_id })),
    "threads.runs.steps.retrieve": async () => {
      const above = { thread_id: done.thread_id };
      const step = (await (major < 5 ? runs.steps.list(done.thread_id, done.id) : runs.steps.list(done.id, above))).data[0].id;
      if (major < 5) return runs.steps.retrieve(done.thread_id, done.id, step);
      return runs.steps.retrieve(step, { ...above, run_id: done.id });
    },
    "files.create": () => file(),
    "files.retrieve": async () => client.files.retrieve((await file()).id),
    "files.list": async () => (await file()) && all(client.files.list({ limit: 1, order: "asc" })),
    [`files.${remove}`]: async () => client.files[remove]((await file()).id),
    "files.content": async () => (await client.files.content((await file()).id)).text(),
    "files.retrieveContent": async () => client.files.retrieveContent((await file()).id),
    "files.waitForProcessing": async () => client.files.waitForProcessing((await file()).id, { pollInterval: 20 }),
    "uploads.create": () => upload(3),
    "uploads.cancel": async () => client.uploads.cancel((await upload(3)).id),
    "uploads.complete": async () => {
      const { id } = await upload(3);
      return client.uploads.complete(id, { part_ids: [(await part(id)).id] });
    },
    "uploads.parts.create": async () => part((await upload(3)).id),
    "models.list": () => all(client.models.list()),
    "models.retrieve": () => client.models.retrieve("gpt-4o"),
    // Nobody can delete a model here: what the method does is raise as it did there.
    [`models.${remove}`]: () => client.models[remove]("gpt-4o").catch((error) => ({ id: error.status })),
  };

  const roots = { assistants, threads, files: client.files, uploads: client.uploads, models: client.models };
  const methods = Object.entries(roots).flatMap(([name, resource]) => methodsOf(resource, name));
  const raised = {};
  for (const name of methods.filter((method) => method in calls)) {
    try {
      const answer = await calls[name]();
      if (!answer || answer.length === 0) raised[name] = "answered nothing";
    } catch (error) {
      raised[name] = error.stack;
    }
  }
  return {
    unknown: methods.filter((method) => !(method in calls)),
    raised,
    later: LATER.filter((name) => name in client),
  };
};
