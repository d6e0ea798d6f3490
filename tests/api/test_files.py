"""Files: forms as clients write them, what is refused and in which words, lists, downloads, expiry."""

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pytest

from orchestrator import files, projects, resources
from orchestrator.tables import File, now
from tests.api.checks import Json
from tests.api.http import Http
from tests.stack import API_KEY, Stack

ALLOWED = "['fine-tune', 'assistants', 'batch', 'user_data', 'vision', 'evals']"
DAY = 24 * 3600


def send(http: Http, content: bytes = b"hello", filename: str = "notes.txt", **fields: str) -> httpx2.Response:
    """POST /files; `purpose` is assistants unless it is given."""
    fields = {"purpose": "assistants", **fields}
    return http.client.post("/files", files={"file": (filename, content)}, data=fields)


def sent(http: Http, content: bytes = b"hello", filename: str = "notes.txt", **fields: str) -> Json:
    response = send(http, content, filename, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def error(response: httpx2.Response, status: int = 400) -> Json:
    assert response.status_code == status, response.text
    return response.json()["error"]


def form(*parts: str, boundary: str = "xyz") -> bytes:
    """A form of raw parts, each with its headers."""
    return "".join(f"--{boundary}\r\nContent-Disposition: form-data; {part}\r\n" for part in parts).encode() + (
        f"--{boundary}--\r\n".encode()
    )


def post_raw(http: Http, body: bytes | Iterator[bytes], kind: str = "multipart/form-data; boundary=xyz") -> Any:
    return http.client.post("/files", content=body, headers={"Content-Type": kind})


PURPOSE = 'name="purpose"\r\n\r\nassistants'
FILE = 'name="file"; filename="a.txt"\r\n\r\nhello'


def content_of(http: Http, file: Json) -> bytes:
    response = http.client.get(f"/files/{file['id']}/content")
    assert response.status_code == 200, response.text
    return response.content


def set_expiry(stack: Stack, file_id: str, expires_at: int) -> None:
    """Let a file's time be over without waiting for it."""

    async def change() -> None:
        async with resources.opened(stack.settings) as opened, opened.database.transaction() as session:
            file = await session.get(File, file_id)
            assert file is not None
            file.expires_at = expires_at

    asyncio.run(change())


def test_case_22_an_unknown_file_is_named(http: Http) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        for file_id in ("file-none", "asst_x", "%00"):
            error = http.refused(method, f"/files/{file_id}{path}", status=404)
            shown = file_id.replace("%00", "\\x00")
            assert error["message"] == f"No such File object: {shown}"
            assert (error["param"], error["code"]) == ("id", None)


def test_case_26_the_official_client_uploads_with_the_purpose_before_the_file(client: openai.OpenAI) -> None:
    file = client.files.create(file=("notes.md", b"# Hello"), purpose="assistants")

    assert file.id.startswith("file-")
    assert len(file.id) == len("file-") + 22
    assert (file.object, file.purpose, file.filename, file.bytes) == ("file", "assistants", "notes.md", 7)
    assert abs(file.created_at - time.time()) < 60
    assert (file.expires_at, file.status, file.status_details) == (None, "processed", None)
    assert client.files.retrieve(file.id) == file


def test_case_26_a_body_in_chunks_needs_no_length(http: Http) -> None:
    body = form(PURPOSE, FILE.replace("hello", "x" * 200_000))

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 777):
            yield body[start : start + 777]

    response = post_raw(http, chunks())

    assert response.status_code == 200, response.text
    assert "content-length" not in response.request.headers
    assert response.json()["bytes"] == 200_000


def test_fields_may_come_behind_the_file(http: Http) -> None:
    seconds = 'name="expires_after[seconds]"\r\n\r\n3600'
    anchor = 'name="expires_after[anchor]"\r\n\r\ncreated_at'

    response = post_raw(http, form(anchor, FILE, PURPOSE, seconds))

    assert response.status_code == 200, response.text
    assert response.json()["expires_at"] == response.json()["created_at"] + 3600


def test_bytes_that_look_like_a_boundary_are_kept(http: Http) -> None:
    content = b"\r\n--xyz\r\n\r\r\n--\n--xyz--".replace(b"xyz", b"xy") * 5000

    body = form(PURPOSE, FILE).replace(b"hello", content)
    file = sent(http, content, "a.bin", purpose="vision")

    assert post_raw(http, body).json()["bytes"] == len(content)
    assert content_of(http, file) == content


def test_an_empty_file_is_a_file(http: Http) -> None:
    file = sent(http, b"", purpose="vision")

    assert file["bytes"] == 0
    assert content_of(http, file) == b""


def test_case_130_an_unknown_purpose_is_told_the_known_ones(http: Http) -> None:
    refused = error(send(http, purpose="world_domination"))

    assert refused["message"] == f"'world_domination' is not one of {ALLOWED} - 'purpose'"
    assert (refused["param"], refused["code"]) == ("purpose", None)


@pytest.mark.parametrize("purpose", ["assistants", "user_data", "vision", "evals"])
def test_case_130_every_other_purpose_is_taken(http: Http, purpose: str) -> None:
    assert sent(http, purpose=purpose)["purpose"] == purpose


@pytest.mark.parametrize("purpose", ["assistants", "user_data"])
def test_case_131_files_of_the_client_are_not_given_back(client: openai.OpenAI, purpose: Any) -> None:
    file = client.files.create(file=b"mine", purpose=purpose)

    with pytest.raises(openai.BadRequestError, match=f"Not allowed to download files of purpose: {purpose}"):
        client.files.content(file.id)


def test_case_131_files_of_tools_are_given_back(working: Stack, client: openai.OpenAI) -> None:
    made = bytes(range(256)) * 10_000

    async def store() -> File:
        async def chunks() -> Any:
            yield made[:1000]
            yield made[1000:]

        async with resources.opened(working.settings) as opened:
            async with opened.database.transaction() as session:
                project = await projects.authenticate(session, f"Bearer {API_KEY}")
            named = {"filename": "plot.png", "purpose": "assistants_output"}
            return await files.store(opened.database, opened.storage, project, chunks(), lease=60, **named)

    file = asyncio.run(store())

    assert client.files.content(file.id).read() == made
    assert client.files.retrieve(file.id).purpose == "assistants_output"


def test_case_131_a_setting_lifts_the_rule(working: Stack) -> None:
    with working.api(ASSISTANTD_DOWNLOAD_ANY_PURPOSE="true") as base_url, (http := Http(base_url)).client:
        assert content_of(http, sent(http, b"mine")) == b"mine"


def test_a_download_is_never_something_to_be_shown(http: Http) -> None:
    file = sent(http, b"<script>", 'a"\r\nb ü.html', purpose="vision")

    response = http.client.get(f"/files/{file['id']}/content")

    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-length"] == "8"
    assert response.headers["x-content-type-options"] == "nosniff"
    disposition = response.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="a')
    assert disposition.endswith("b%20%C3%BC.html")


def test_case_132_files_are_listed_newest_first_and_by_purpose(working: Stack, client: openai.OpenAI) -> None:
    first, second = (client.files.create(file=(f"{n}.txt", b"x"), purpose="assistants") for n in (1, 2))
    other = client.files.create(file=("3.png", b"x"), purpose="vision")

    assert [file.id for file in client.files.list(limit=3).data] == [other.id, second.id, first.id]
    assert [file.id for file in client.files.list(purpose="assistants", limit=2).data] == [second.id, first.id]
    assert [file.id for file in client.files.list(order="asc", after=first.id, purpose="assistants")] == [second.id]
    assert [file.id for file in client.files.list(order="asc", after=first.id, limit=1)] == [second.id, other.id]
    assert client.files.list(purpose="none").data == []
    assert all(file.purpose == "vision" for file in client.files.list(purpose="vision"))


def test_case_132_ten_thousand_is_the_limit_and_the_default(http: Http) -> None:
    refused = http.refused("GET", "/files", limit=10_001)

    assert "Expected a value <= 10000, but got 10001 instead." in refused["message"]
    assert http.refused("GET", "/files", limit=0)["code"] == "integer_below_min_value"
    assert http.refused("GET", "/files", before="file-x")["code"] == "unknown_parameter"
    assert http.refused("GET", "/files", after="file-x")["code"] == "invalid_value"
    for number in range(25):
        sent(http, filename=f"{number}.txt", purpose="evals")
    assert len(http.get("/files", purpose="evals")["data"]) >= 25


NAMES = ["présentation – 日本語 🎉.txt", "a b.txt", "../../etc/passwd", "semi;colon=.txt", "%2e%2e.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_case_132_names_round_trip_in_all_ways_to_write_them(http: Http, client: openai.OpenAI, name: str) -> None:
    assert client.files.create(file=(name, b"x"), purpose="vision").filename == name
    plain = FILE.replace("a.txt", name).encode()
    assert post_raw(http, form(PURPOSE, plain.decode())).json()["filename"] == name
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    both = f'name="file"; filename="fallback"; filename*=UTF-8\'\'{quoted}\r\n\r\nx'
    file = post_raw(http, form(PURPOSE, both)).json()
    assert file["filename"] == name
    assert http.get(f"/files/{file['id']}")["filename"] == name


def test_case_133_a_file_expires_when_its_client_said(working: Stack, http: Http, client: openai.OpenAI) -> None:
    file = client.files.create(file=b"x", purpose="vision", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600

    set_expiry(working, file.id, now())

    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        http.refused(method, f"/files/{file.id}{path}", status=404)
    assert file.id not in {each["id"] for each in http.get("/files")["data"]}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"[anchor]": "created_at", "[seconds]": "3599"}, "expires_after.seconds", "integer_below_min_value"),
        ({"[anchor]": "created_at", "[seconds]": "2592001"}, "expires_after.seconds", "integer_above_max_value"),
        ({"[anchor]": "created_at", "[seconds]": "soon"}, "expires_after.seconds", "invalid_type"),
        ({"[anchor]": "now", "[seconds]": "3600"}, "expires_after.anchor", "invalid_value"),
        ({"[anchor]": "created_at"}, "expires_after.seconds", "missing_required_parameter"),
        ({"[seconds]": "3600"}, "expires_after.anchor", "missing_required_parameter"),
        ({"[days]": "3600"}, "expires_after[days]", "unknown_parameter"),
    ],
)
def test_case_133_wrong_expiries_are_refused(http: Http, fields: dict[str, str], param: str, code: str) -> None:
    refused = error(send(http, b"x", "a.txt", **{f"expires_after{name}": value for name, value in fields.items()}))

    assert (refused["param"], refused["code"]) == (param, code)


def test_case_133_batch_files_live_for_thirty_days_unless_told_otherwise(http: Http) -> None:
    month = sent(http, b"{}", "b.jsonl", purpose="batch")
    hour = sent(
        http,
        b"{}",
        "b.jsonl",
        purpose="batch",
        **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"},
    )

    assert month["expires_at"] - month["created_at"] == 30 * DAY
    assert hour["expires_at"] - hour["created_at"] == 3600


@pytest.mark.parametrize("purpose", ["batch", "fine-tune"])
def test_lines_of_json_need_their_extension(http: Http, purpose: str) -> None:
    assert error(send(http, purpose=purpose))["message"].startswith("Invalid extension txt.")
    assert error(send(http, filename="jsonl", purpose=purpose))["message"].startswith("Invalid extension none.")
    assert sent(http, filename="x.JSONL", purpose=purpose)["purpose"] == purpose


def test_case_134_a_deleted_file_is_in_no_list_and_no_request_can_name_it(http: Http) -> None:
    file, other = sent(http), sent(http)

    assert http.delete(f"/files/{file['id']}") == {"object": "file", "deleted": True, "id": file["id"]}

    listed = [found["id"] for found in http.get("/files", purpose=file["purpose"])["data"]]
    assert other["id"] in listed
    assert file["id"] not in listed
    body = {"role": "user", "content": "Look.", "attachments": [{"file_id": file["id"]}]}
    assert file["id"] in http.refused("POST", f"/threads/{http.thread()['id']}/messages", body)["message"]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        http.refused(method, f"/files/{file['id']}{path}", status=404)


def test_case_134_a_deleted_file_is_gone(client: openai.OpenAI) -> None:
    file = client.files.create(file=b"x", purpose="assistants")

    deleted = client.files.delete(file.id)

    assert deleted.to_dict() == {"object": "file", "deleted": True, "id": file.id}
    for gone in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError):
            gone(file.id)


@pytest.fixture(scope="module")
def small(working: Stack) -> Iterator[Http]:
    """An API process with small limits, and no patience."""
    limits = {"ASSISTANTD_FILE_LIMIT": "100000", "ASSISTANTD_UPLOAD_SILENCE": "0.3"}
    with working.api(**limits) as base_url, (http := Http(base_url)).client:
        yield http


def test_case_135_a_file_that_is_too_large_is_refused(small: Http) -> None:
    assert sent(small, b"x" * 100_000)["bytes"] == 100_000

    refused = error(send(small, b"x" * 100_001), 413)

    assert refused["message"] == "The file is too large. Expected a file of at most 100000 bytes."
    assert refused["param"] == "file"


def test_case_135_an_announced_length_is_refused_before_anything_is_sent(small: Http) -> None:
    address = urlsplit(str(small.client.base_url))
    head = (
        f"POST {address.path}files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n"
        "Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: 9999999999\r\n\r\n"
    )
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 10) as line:
        line.sendall(head.encode() + form(PURPOSE, FILE)[:-9])
        answer = b""
        while not answer.endswith(b"}}"):
            answer += line.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_case_135_nothing_is_left_of_what_was_refused(small: Http, working: Stack) -> None:
    before = {each["id"] for each in small.get("/files")["data"]}

    error(send(small, b"x" * 5_000_000), 413)

    assert {each["id"] for each in small.get("/files")["data"]} == before


def test_a_client_that_falls_silent_is_told_and_left(small: Http) -> None:
    def silent() -> Iterator[bytes]:
        yield form(PURPOSE, FILE)[:-20]
        time.sleep(1)
        yield b""

    address = urlsplit(str(small.client.base_url))
    with socket.create_connection((str(address.hostname), int(address.port or 0)), 10) as line:
        head = f"POST {address.path}files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n"
        head += "Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: 5000\r\n\r\n"
        line.sendall(head.encode() + form(PURPOSE, FILE)[:-20])
        answer = b""
        while piece := line.recv(65536):
            answer += piece

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.3 seconds" in answer


@pytest.mark.parametrize(
    ("parts", "param", "code"),
    [
        ([PURPOSE], "file", "missing_required_parameter"),
        ([FILE], "purpose", "missing_required_parameter"),
        ([PURPOSE, 'name="file"\r\n\r\nhello'], "file", "invalid_type"),
        ([PURPOSE, 'name="file"; filename=""\r\n\r\n'], "file", "invalid_type"),
        ([PURPOSE, FILE, 'name="user"\r\n\r\nme'], "user", "unknown_parameter"),
        ([PURPOSE, PURPOSE, FILE], "purpose", "invalid_value"),
        ([PURPOSE, FILE, FILE], "file", "invalid_value"),
        (["name=purpose\r\n\r\n" + "x" * 20_000, FILE], "purpose", "string_above_max_length"),
        ([PURPOSE, FILE.replace("a.txt", "x" * 513)], "filename", "string_above_max_length"),
        ([PURPOSE, FILE.replace("a.txt", "a\0.txt")], "filename", "invalid_value"),
        ([PURPOSE, FILE.replace("a.txt", "x" * 20_000)], None, None),
    ],
)
def test_forms_that_are_wrong_are_refused(http: Http, parts: list[str], param: str | None, code: str | None) -> None:
    refused = error(post_raw(http, form(*parts)))

    assert (refused["param"], refused["code"]) == (param, code)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "application/json"),
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=xyz"),
        (b"hello", "multipart/form-data; boundary=xyz"),
        (form(PURPOSE, FILE)[:-10], "multipart/form-data; boundary=xyz"),
        (form(PURPOSE, FILE), "multipart/form-data; boundary=abc"),
        (form(PURPOSE, FILE), "multipart/form-data; boundary=" + "x" * 300),
    ],
)
def test_what_is_no_form_is_refused(http: Http, body: bytes, kind: str) -> None:
    error(post_raw(http, body, kind))


def test_what_was_sent_instead_of_a_form_is_named(http: Http) -> None:
    kind = "application/x-www-form-urlencoded"

    assert f"({kind})" in error(post_raw(http, b"purpose=assistants", kind))["message"]


def test_a_download_goes_on_while_its_file_is_deleted(http: Http) -> None:
    content = bytes(range(256)) * 40_000  # more than what is on its way in all buffers
    file = sent(http, content, purpose="vision")

    with http.client.stream("GET", f"/files/{file['id']}/content") as response:
        pieces = response.iter_bytes()
        begin = next(pieces)
        http.delete(f"/files/{file['id']}")
        http.refused("GET", f"/files/{file['id']}/content", status=404)
        whole = begin + b"".join(pieces)

    assert whole == content
