"""A first conversation: an assistant that calls a function of yours, and answers as a stream.

pip install openai
eval "$(./assistantd env)"      # sets OPENAI_BASE_URL and OPENAI_API_KEY, which the client reads
python docs/examples/first_conversation.py
"""

import json
import warnings

from openai import AssistantEventHandler, OpenAI

# OpenAI has retired this interface and says so on every call. Here it lives on.
warnings.filterwarnings("ignore", category=DeprecationWarning)


def get_weather(city: str) -> str:
    """The function that the model may call: look things up here."""
    return json.dumps({"city": city, "celsius": 21, "sky": "light rain"})


class Printer(AssistantEventHandler):
    """Prints the answer while it comes."""

    def on_text_delta(self, delta, snapshot):
        print(delta.value or "", end="", flush=True)

    def on_tool_call_done(self, tool_call):
        print(f"[calls {tool_call.function.name} with {tool_call.function.arguments}]")


client = OpenAI()
assistant = client.beta.assistants.create(
    model=client.models.list().data[0].id,
    instructions="Look the weather up with get_weather, then answer in one sentence.",
    tools=[
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The current weather in a city",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                },
            },
        }
    ],
)
question = "What is the weather like in Lisbon right now?"
thread = client.beta.threads.create(messages=[{"role": "user", "content": question}])
print(question)

with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id, event_handler=Printer()) as stream:
    run = stream.get_final_run()

while run.status == "requires_action":
    outputs = [
        {"tool_call_id": call.id, "output": get_weather(**json.loads(call.function.arguments))}
        for call in run.required_action.submit_tool_outputs.tool_calls
    ]
    with client.beta.threads.runs.submit_tool_outputs_stream(
        thread_id=thread.id, run_id=run.id, tool_outputs=outputs, event_handler=Printer()
    ) as stream:
        run = stream.get_final_run()

if run.status != "completed":
    raise SystemExit(f"The run is {run.status}: {run.last_error}")
print(f"\n[{run.status}, {run.usage.total_tokens} tokens]")
