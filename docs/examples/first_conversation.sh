#!/bin/sh
# A first conversation with curl: an assistant that calls a function of yours, and answers as a stream of events.
#
#   eval "$(./assistantd env)"        # sets OPENAI_BASE_URL and OPENAI_API_KEY
#   sh docs/examples/first_conversation.sh
set -eu
: "${OPENAI_BASE_URL:?is not set}" "${OPENAI_API_KEY:?is not set}"

request() { # request PATH [JSON]
    curl --fail --silent --show-error --no-buffer --max-time 300 "$OPENAI_BASE_URL/$1" ${2+--data "$2"} \
        --header "Authorization: Bearer $OPENAI_API_KEY" --header "Content-Type: application/json" \
        --header "OpenAI-Beta: assistants=v2"
}

first_id() { # first_id PREFIX: the first id that starts so in what is read
    grep -o "\"id\": *\"$1[^\"]*\"" | head -n 1 | cut -d '"' -f 4 | grep .
}

events=$(mktemp)
trap 'rm -f "$events"' EXIT

model=$(request models | first_id '')
assistant=$(request assistants '{
    "model": "'"$model"'",
    "instructions": "Look the weather up with get_weather, then answer in one sentence.",
    "tools": [{"type": "function", "function": {
        "name": "get_weather",
        "description": "The current weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    }}]
}' | first_id asst_)

request threads/runs '{
    "assistant_id": "'"$assistant"'",
    "thread": {"messages": [{"role": "user", "content": "What is the weather like in Lisbon right now?"}]},
    "stream": true
}' | tee "$events"

# The run now waits for the function's output, unless the model answered without it.
thread=$(first_id thread_ < "$events")
run=$(first_id run_ < "$events")
call=$(first_id call_ < "$events") || exit 0

request "threads/$thread/runs/$run/submit_tool_outputs" '{
    "tool_outputs": [{"tool_call_id": "'"$call"'", "output": "{\"celsius\": 21, \"sky\": \"light rain\"}"}],
    "stream": true
}'
