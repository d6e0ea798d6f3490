// Writes down what a stream tells its listeners: each event's name when it first comes, and what the deltas add up to.

const EVENTS = [
  "connect", "run", "event", "end", "error", "abort", "runStepCreated", "runStepDelta", "runStepDone", "messageCreated",
  "messageDelta", "messageDone", "textCreated", "textDelta", "textDone", "imageFileDone", "toolCallCreated",
  "toolCallDelta", "toolCallDone",
];

export const listen = (stream) => {
  const told = { called: [], events: [], text: "", arguments: {}, contents: [], images: [], heard: [] };
  const note = (names, name) => names.includes(name) || names.push(name);
  const also = {
    event: ({ event }) => note(told.events, event),
    textDelta: (delta) => (told.text += delta.value ?? ""),
    messageDelta: (delta) => told.heard.push(...structuredClone(delta.content)),
    messageDone: (message) => told.contents.push(message.content),
    imageFileDone: (image) => told.images.push(image.file_id),
    toolCallDone: (call) => call.type === "function" && (told.arguments[call.id] = call.function.arguments),
  };
  for (const name of EVENTS) {
    stream.on(name, (...values) => {
      note(told.called, name);
      also[name]?.(...values);
    });
  }
  return told;
};
