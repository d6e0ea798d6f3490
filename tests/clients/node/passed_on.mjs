// Asks for completions, embeddings and models with one release of the Node client; prints the facts as one JSON object.
// `node passed_on.mjs PACKAGE`; reads OPENAI_BASE_URL and OPENAI_API_KEY.

const { default: OpenAI } = await import(process.argv[2]);
const { VERSION } = await import(`${process.argv[2]}/version`);
const client = new OpenAI({ maxRetries: 0, timeout: 30_000 });

const SAID = '[[text="Hello from the model."]]';
const BROKEN = '[[fail=429 code=rate_limit_exceeded message="Slow down" retry_after=7]]';
const MODELS = ["text-embedding-3-small", "numbers-only", "base64-only", "no-base64"];
const ask = (content, more) =>
  client.chat.completions.create({ model: "gpt-4o", messages: [{ role: "user", content }], ...more });
const embed = async (model, more) =>
  (await client.embeddings.create({ model, input: "one", ...more })).data[0].embedding;
const codeOf = async (attempt, facts) => {
  try {
    await attempt();
  } catch (error) {
    return facts(error);
  }
};
const header = (error, name) => error.headers.get?.(name) ?? error.headers[name];

const chunks = [];
for await (const chunk of await ask(SAID, { stream: true, stream_options: { include_usage: true } })) {
  chunks.push(chunk);
}
const embedded = {};
for (const model of MODELS) {
  embedded[model] = await embed(model);
}
const models = [];
for await (const { id } of client.models.list()) {
  models.push((await client.models.retrieve(id)).id);
}
const told = {
  text: chunks.flatMap(({ choices }) => choices.map(({ delta }) => delta.content ?? "")).join(""),
  usage: chunks.at(-1).usage.total_tokens > 0,
  last_has_no_choices: chunks.at(-1).choices.length === 0,
  whole: (await ask(SAID)).choices[0].message.content,
  embedded,
  numbers: await embed("base64-only", { encoding_format: "float" }),
  refused: await codeOf(
    () => ask(BROKEN),
    (error) => [error.code, header(error, "retry-after")],
  ),
  models,
  missing: await codeOf(
    () => client.models.retrieve("nothing"),
    (error) => error.code,
  ),
};
process.stdout.write(JSON.stringify({ version: VERSION, awaited: told }));
