"""Files that messages name: images that the model gets to see, and attachments."""

import base64
import zlib

import openai
import pytest

from tests.api.checks import Json
from tests.api.http import Http
from tests.fakes.model_control import RemoteModelServer


def png(shade: int = 0) -> bytes:
    """A picture of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (1).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes([0, shade]))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def upload(http: Http, name: str, content: bytes, purpose: str = "vision") -> str:
    response = http.client.post("/files", data={"purpose": purpose}, files={"file": (name, content)})
    assert response.status_code == 200, response.text
    file_id: str = response.json()["id"]
    return file_id


def shows(file_id: str, **fields: str) -> Json:
    return {"type": "image_file", "image_file": {"file_id": file_id, **fields}}


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def run_on(http: Http, thread: Json) -> Json:
    body = {"assistant_id": http.assistant()["id"]}
    return http.wait(http.post(f"/threads/{thread['id']}/runs", body), "completed")


def last_prompt(model: RemoteModelServer) -> list[Json]:
    messages: list[Json] = model.requests()[-1]["body"]["messages"]
    return messages


def test_case_112_an_uploaded_image_is_read_back_with_its_default(http: Http) -> None:
    file_id = upload(http, "pixel.png", png())
    thread = http.thread()

    message = http.post(
        f"/threads/{thread['id']}/messages",
        {"role": "user", "content": [text("Look:"), shows(file_id), shows(file_id, detail="low")]},
    )

    assert message["content"][1:] == [shows(file_id, detail="auto"), shows(file_id, detail="low")]


def test_an_uploaded_image_reaches_the_model_as_data(http: Http, model: RemoteModelServer) -> None:
    first, second = upload(http, "one.PNG", png(1)), upload(http, "two.jpeg", b"\xff\xd8\xff", "assistants")
    content = [text("Look:"), shows(first), shows(second, detail="high")]

    run_on(http, http.post("/threads", {"messages": [{"role": "user", "content": content}]}))

    (message,) = last_prompt(model)
    assert message["content"] == [
        text("Look:"),
        {"type": "image_url", "image_url": {"url": data_url(png(1)), "detail": "auto"}},
        {"type": "image_url", "image_url": {"url": data_url(b"\xff\xd8\xff", "image/jpeg"), "detail": "high"}},
    ]


def test_an_image_of_the_assistant_is_shown_by_the_user(http: Http, model: RemoteModelServer) -> None:
    """Models take images from users only."""
    file_id = upload(http, "pixel.png", png())
    said = [
        {"role": "assistant", "content": [text("Here:"), shows(file_id), text("Nice?")]},
        {"role": "user", "content": "Yes."},
    ]

    run_on(http, http.post("/threads", {"messages": said}))

    image = {"type": "image_url", "image_url": {"url": data_url(png()), "detail": "auto"}}
    assert last_prompt(model) == [
        {"role": "assistant", "content": "Here:\nNice?"},
        {"role": "user", "content": [image]},
        {"role": "user", "content": "Yes."},
    ]


def test_an_image_that_was_deleted_does_not_fail_the_run(http: Http, model: RemoteModelServer) -> None:
    file_id = upload(http, "pixel.png", png())
    thread = http.post("/threads", {"messages": [{"role": "user", "content": [text("Look:"), shows(file_id)]}]})
    http.delete(f"/files/{file_id}")

    run_on(http, thread)

    (message,) = last_prompt(model)
    assert message["content"] == [text("Look:"), text(f"[The image {file_id} is not available.]")]


@pytest.mark.parametrize("door", ["message", "thread", "run", "waiting run"])
def test_a_message_cannot_name_a_file_that_is_not_there(http: Http, door: str) -> None:
    thread, assistant = http.thread(), http.assistant()["id"]
    message = {"role": "user", "content": [shows("file-missing1")], "attachments": [{"file_id": "file-missing2"}]}
    path, body = {
        "message": (f"/threads/{thread['id']}/messages", message),
        "thread": ("/threads", {"messages": [message]}),
        "run": (f"/threads/{thread['id']}/runs", {"assistant_id": assistant, "additional_messages": [message]}),
        "waiting run": (
            f"/threads/{thread['id']}/runs",
            {"assistant_id": assistant, "additional_messages": [message], "on_active_run": "enqueue"},
        ),
    }[door]
    if door == "waiting run":
        busy = {"assistant_id": assistant, "additional_messages": [{"role": "user", "content": "[[text=x hang=1]]"}]}
        active = http.post(path, busy)

    error = http.refused("POST", path, body)

    assert error["message"] == "Files [ 'file-missing1', 'file-missing2' ] were not found"
    if door == "waiting run":
        http.post(f"{path}/{active['id']}/cancel")
    else:
        assert http.messages(thread["id"]) == []


def test_an_image_must_be_of_a_type_that_models_read(http: Http) -> None:
    path = f"/threads/{http.thread()['id']}/messages"
    texts = []
    for name in ("table.csv", "image"):
        body = {"role": "user", "content": [shows(upload(http, name, b"x", "assistants"))]}
        texts.append(http.refused("POST", path, body)["message"])

    expected = "Invalid message content: Expected file type to be a supported format: .jpeg, .jpg, .png, .gif, .webp"
    assert texts == [f"{expected} but got .csv.", f"{expected} but got none."]


@pytest.mark.parametrize("url", ["https://example.com/drawing.svg", "https://example.com/a.pdf?size=1"])
def test_an_image_url_must_not_end_in_another_format(http: Http, url: str) -> None:
    body = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}

    error = http.refused("POST", f"/threads/{http.thread()['id']}/messages", body)

    assert error["message"].startswith("Invalid 'content[0].image_url.url'. Expected url to end in a supported format")


def test_case_114_a_message_has_at_most_ten_attachments(http: Http) -> None:
    attachment = {"file_id": upload(http, "notes.txt", b"hello", "assistants")}
    path = f"/threads/{http.thread()['id']}/messages"

    kept = http.post(path, {"role": "user", "content": "x", "attachments": [attachment] * 10})
    error = http.refused("POST", path, {"role": "user", "content": "x", "attachments": [attachment] * 11})

    assert kept["attachments"] == [{**attachment, "tools": []}] * 10
    assert (error["param"], error["code"]) == ("attachments", "array_above_max_length")


def test_an_attachment_for_a_tool_that_is_not_there_is_refused(http: Http) -> None:
    attachment = {"file_id": "file-x", "tools": [{"type": "code_interpreter"}]}
    body = {"role": "user", "content": "x", "attachments": [attachment]}

    error = http.refused("POST", f"/threads/{http.thread()['id']}/messages", body)

    assert (error["param"], error["code"]) == ("attachments[0].tools[0].type", "unsupported_tool")


def test_images_through_the_official_client(client: openai.OpenAI, model: RemoteModelServer) -> None:
    file = client.files.create(file=("pixel.png", png()), purpose="vision")
    assistant = client.beta.assistants.create(model="gpt-4o")

    run = client.beta.threads.create_and_run_poll(
        assistant_id=assistant.id,
        thread={
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Look:"},
                        {"type": "image_file", "image_file": {"file_id": file.id, "detail": "low"}},
                    ],
                    "attachments": [{"file_id": file.id}],
                }
            ]
        },
        poll_interval_ms=50,
    )

    assert run.status == "completed"
    (message,) = last_prompt(model)
    assert message["content"][1]["image_url"] == {"url": data_url(png()), "detail": "low"}
