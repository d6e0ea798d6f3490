// What a client makes of the streams of ../streams.py, through its streaming helpers.

import { listen } from "./listening.mjs";

export const play = async (client, major, requests) => {
  const { threads } = client.beta;
  const open = {
    run: (name) => threads.runs.stream(name, { assistant_id: "asst_A" }),
    create_and_run: (name) => threads.createAndRunStream({ assistant_id: name }),
    submit: (name) =>
      major < 5
        ? threads.runs.submitToolOutputsStream(name, "run_R", { tool_outputs: [] })
        : threads.runs.submitToolOutputsStream("run_R", { thread_id: name, tool_outputs: [] }),
  };
  const found = {};
  for (const [name, request] of Object.entries(requests)) {
    const stream = open[request](name);
    const told = listen(stream);
    if (name === "silence") stream.on("textDelta", () => stream.abort()); // its timeout ends with the answer's head
    let raised = null;
    try {
      await stream.done();
    } catch (error) {
      raised = { class: error.constructor.name, text: error.message };
    }
    found[name] = { ...told, raised, status: stream.currentRun()?.status ?? null };
  }
  return found;
};
