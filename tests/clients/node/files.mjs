// Uploads files with one release of the Node client and prints what came of it as one JSON object.
// `node files.mjs PACKAGE`; reads OPENAI_BASE_URL and OPENAI_API_KEY.

import { createReadStream, writeFileSync } from "node:fs";

const { default: OpenAI, toFile } = await import(process.argv[2]);
const client = new OpenAI({ maxRetries: 0, timeout: 30_000 });
const NAME = "résumé – 日本語.txt";
const CONTENT = "x".repeat(300_000);

const remove = (id) => (client.files.del ?? client.files.delete).call(client.files, id);
const part = async (upload, text) => (await client.uploads.parts.create(upload, { data: await toFile(Buffer.from(text)) })).id;

writeFileSync("stream.txt", CONTENT);
const streamed = await client.files.create({ file: createReadStream("stream.txt"), purpose: "vision" });
const named = await client.files.create({
  file: await toFile(Buffer.from("hello"), NAME),
  purpose: "user_data",
  expires_after: { anchor: "created_at", seconds: 3600 },
});
const content = await (await client.files.content(streamed.id)).text();
const listed = [];
for await (const file of client.files.list({ purpose: "user_data", limit: 1 })) if (listed.push(file.id) > 1) break;

const facts = { filename: "a.png", purpose: "vision", mime_type: "image/png", bytes: 6 };
const upload = await client.uploads.create(facts);
const second = await part(upload.id, "def");
const first = await part(upload.id, "abc");
const completed = await client.uploads.complete(upload.id, { part_ids: [first, second] });
const joined = await (await client.files.content(completed.file.id)).text();

let refused;
try {
  await client.files.create({ file: await toFile(Buffer.from("x"), "x.txt"), purpose: "world_domination" });
} catch (error) {
  refused = [error.constructor.name, error.status, error.param];
}
const deleted = await remove(named.id);

console.log(
  JSON.stringify({
    streamed: [streamed.filename, streamed.bytes, content === CONTENT],
    named: [named.filename === NAME, named.bytes, named.expires_at - named.created_at],
    newest: listed[0] === named.id,
    upload: [upload.status, completed.status, completed.file.created_at === upload.created_at, joined],
    refused,
    deleted: [deleted.deleted, deleted.id === named.id],
  }),
);
