// Unwraps a webhook with one release of the Node client and prints what came of it as one JSON object.
// `node webhooks.mjs PACKAGE`; reads {body, headers, old, secret, other} from its standard input.

import { readFileSync } from "node:fs";

const { default: OpenAI } = await import(process.argv[2]);
const client = new OpenAI({ apiKey: "sk-none" });
const { body, headers, old, secret, other } = JSON.parse(readFileSync(0, "utf8"));

const refused = async (...given) => {
  try {
    await client.webhooks.unwrap(...given);
    return null;
  } catch (error) {
    return error.constructor.name;
  }
};

const event = await client.webhooks.unwrap(body, headers, secret);
const results = {
  event,
  wrongSecret: await refused(body, headers, other),
  changedBody: await refused(body.replace("completed", "failed"), headers, secret),
  tooOld: await refused(body, old, secret),
};
console.log(JSON.stringify(results));
