// A first conversation: an assistant that calls a function of yours, and answers as a stream.
//
//   npm install openai                # 5 or newer
//   eval "$(./assistantd env)"        # sets OPENAI_BASE_URL and OPENAI_API_KEY, which the client reads
//   node first_conversation.mjs

import OpenAI from "openai";

// The function that the model may call: look things up here.
const getWeather = ({ city }) => JSON.stringify({ city, celsius: 21, sky: "light rain" });

// Prints the answer while it comes; returns the run at the end of the stream.
const show = (stream) => {
  stream.on("textDelta", (delta) => process.stdout.write(delta.value ?? ""));
  stream.on("toolCallDone", (call) => console.log(`[calls ${call.function.name} with ${call.function.arguments}]`));
  return stream.finalRun();
};

const client = new OpenAI();
const models = await client.models.list();
const assistant = await client.beta.assistants.create({
  model: models.data[0].id,
  instructions: "Look the weather up with get_weather, then answer in one sentence.",
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "The current weather in a city",
        parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
      },
    },
  ],
});
const question = "What is the weather like in Lisbon right now?";
const thread = await client.beta.threads.create({ messages: [{ role: "user", content: question }] });
console.log(question);

let run = await show(client.beta.threads.runs.stream(thread.id, { assistant_id: assistant.id }));

while (run.status === "requires_action") {
  const tool_outputs = run.required_action.submit_tool_outputs.tool_calls.map((call) => ({
    tool_call_id: call.id,
    output: getWeather(JSON.parse(call.function.arguments)),
  }));
  run = await show(client.beta.threads.runs.submitToolOutputsStream(run.id, { thread_id: thread.id, tool_outputs }));
}

if (run.status !== "completed") throw new Error(`The run is ${run.status}: ${JSON.stringify(run.last_error)}`);
console.log(`\n[${run.status}, ${run.usage.total_tokens} tokens]`);
