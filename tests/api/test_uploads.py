"""Uploads: parts in parallel, the order that completing says, checksums, and what an upload that is over takes."""

import asyncio
import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from orchestrator import projects, resources
from orchestrator.tables import Upload, now
from tests.api.checks import Json
from tests.api.http import Http
from tests.api.test_files import content_of, error, sent
from tests.fakes import s3_server
from tests.stack import API_KEY, Stack


def begun(http: Http, size: int, **fields: Any) -> Json:
    """A new upload."""
    facts = {"filename": "film.bin", "purpose": "vision", "mime_type": "image/png"}
    return http.post("/uploads", {**facts, "bytes": size, **fields})


def add(http: Http, upload: Json, data: bytes) -> Json:
    response = http.client.post(f"/uploads/{upload['id']}/parts", files={"data": data})
    assert response.status_code == 200, response.text
    return response.json()


def complete(http: Http, upload: Json, *parts: Json, **fields: Any) -> Json:
    return http.post(f"/uploads/{upload['id']}/complete", {"part_ids": [part["id"] for part in parts], **fields})


def refused(http: Http, upload: Json, *parts: Json, **fields: Any) -> Json:
    body = {"part_ids": [part["id"] for part in parts], **fields}
    return http.refused("POST", f"/uploads/{upload['id']}/complete", body)


def set_expiry(stack: Stack, upload_id: str, expires_at: int) -> None:
    """Let an upload's time be over without waiting for it."""

    async def change() -> None:
        async with resources.opened(stack.settings) as opened, opened.database.transaction() as session:
            upload = await session.get(Upload, upload_id)
            assert upload is not None
            upload.expires_at = expires_at

    asyncio.run(change())


def test_case_136_parts_come_in_parallel_and_follow_each_other_as_completing_says(http: Http) -> None:
    halves = [random.randbytes(3_000_000), random.randbytes(2_000_001)]
    upload = begun(http, 5_000_001)
    assert upload["id"].startswith("upload_")
    assert (upload["status"], upload["file"]) == ("pending", None)
    assert upload["expires_at"] == upload["created_at"] + 3600

    with ThreadPoolExecutor(2) as pool:
        second, first = pool.map(lambda data: add(http, upload, data), reversed(halves))
    done = complete(http, upload, first, second)

    assert first["id"].startswith("part_")
    assert (first["object"], first["upload_id"]) == ("upload.part", upload["id"])
    assert done["status"] == "completed"
    file = done["file"]
    assert (file["object"], file["bytes"], file["filename"]) == ("file", 5_000_001, "film.bin")
    assert file["created_at"] == upload["created_at"]
    assert content_of(http, file) == b"".join(halves)
    assert http.get(f"/files/{file['id']}") == file


def test_case_136_parts_that_completing_does_not_name_are_left_out(http: Http) -> None:
    upload = begun(http, 4)
    wrong, right = add(http, upload, b"wrong!"), add(http, upload, b"good")

    done = complete(http, upload, right)

    assert wrong["id"] != right["id"]
    assert content_of(http, done["file"]) == b"good"


def test_case_137_wrong_sizes_are_refused_and_the_upload_goes_on(http: Http) -> None:
    upload = begun(http, 6)
    first, second = add(http, upload, b"abc"), add(http, upload, b"def")

    assert "3 bytes together" in refused(http, upload, first)["message"]
    assert refused(http, upload, first, first)["param"] == "part_ids[1]"
    assert refused(http, upload, first, {"id": "part_none"})["param"] == "part_ids[1]"
    assert refused(http, upload)["code"] == "empty_array"

    assert complete(http, upload, second, first)["status"] == "completed"


def test_case_137_a_wrong_checksum_is_refused_and_the_upload_goes_on(http: Http) -> None:
    upload = begun(http, 6)
    parts = [add(http, upload, b"abc"), add(http, upload, b"def")]

    assert refused(http, upload, *parts, md5="0" * 32)["param"] == "md5"

    right = hashlib.md5(b"abcdef", usedforsecurity=False).hexdigest()
    assert complete(http, upload, *parts, md5=right.upper())["status"] == "completed"


@pytest.mark.parametrize("how", ["completed", "cancelled", "expired"])
def test_case_137_an_upload_that_is_over_takes_nothing_more(working: Stack, http: Http, how: str) -> None:
    upload = begun(http, 3)
    part = add(http, upload, b"abc")
    if how == "completed":
        complete(http, upload, part)
    elif how == "cancelled":
        assert http.post(f"/uploads/{upload['id']}/cancel")["status"] == "cancelled"
    else:
        set_expiry(working, upload["id"], now())

    late = error(http.client.post(f"/uploads/{upload['id']}/parts", files={"data": b"x"}))
    assert late["message"] == f"Cannot add a part to upload with status '{how}'."
    assert refused(http, upload, part)["message"] == f"Cannot complete upload with status '{how}'."
    md5 = refused(http, upload, part, md5="0" * 32)
    assert md5["message"] == f"Cannot complete upload with status '{how}'."
    cancel = http.refused("POST", f"/uploads/{upload['id']}/cancel")
    assert cancel["message"] == f"Cannot cancel upload with status '{how}'."


def test_case_137_of_many_who_complete_one_wins(http: Http) -> None:
    upload = begun(http, 3)
    part = add(http, upload, b"abc")
    body = {"part_ids": [part["id"]]}

    with ThreadPoolExecutor(8) as pool:
        tried = [pool.submit(http.client.post, f"/uploads/{upload['id']}/complete", json=body) for _ in range(8)]
        statuses = sorted(each.result().status_code for each in tried)

    assert statuses == [200] + [400] * 7
    named = [file for file in http.get("/files", order="desc", limit=8)["data"] if file["bytes"] == 3]
    assert len([file for file in named if file["created_at"] == upload["created_at"]]) >= 1


def test_case_138_the_official_client_uploads_in_three_parts(client: openai.OpenAI, tmp_path: Path) -> None:
    content = random.randbytes(2_500_000)
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)

    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    upload = client.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="fine-tune", part_size=1_000_000, md5=md5
    )

    assert upload.status == "completed"
    assert upload.file is not None
    assert (upload.file.filename, upload.file.purpose) == ("data.jsonl", "fine-tune")
    assert client.files.content(upload.file.id).read() == content


async def test_case_138_the_asynchronous_client_does_too(async_client: openai.AsyncOpenAI) -> None:
    upload = await async_client.uploads.upload_file_chunked(
        file=b"x" * 2500, filename="a.png", bytes=2500, mime_type="image/png", purpose="vision", part_size=1000
    )

    assert upload.file is not None
    assert (await async_client.files.content(upload.file.id)).read() == b"x" * 2500


def test_a_part_of_a_form_needs_no_filename(http: Http) -> None:
    upload = begun(http, 3)
    body = b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\nabc\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}

    response = http.client.post(f"/uploads/{upload['id']}/parts", content=body, headers=headers)

    assert complete(http, upload, response.json())["file"]["bytes"] == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bytes": 8 * 1024**3 + 1}, "bytes"),
        ({"bytes": 0}, "bytes"),
        ({"bytes": "3"}, "bytes"),
        ({"purpose": "world_domination"}, "purpose"),
        ({"purpose": "batch"}, "filename"),
        ({"purpose": "batch", "filename": "a.jsonl", "bytes": 200 * 1024**2 + 1}, "bytes"),
        ({"mime_type": "png"}, "mime_type"),
        ({"mime_type": "text/plain"}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 3599}}, "expires_after.seconds"),
        ({"filename": ""}, "filename"),
        ({"color": "red"}, "color"),
    ],
)
def test_wrong_uploads_are_refused(http: Http, fields: Json, param: str) -> None:
    body = {"filename": "a.png", "purpose": "vision", "mime_type": "image/png", "bytes": 3, **fields}

    assert http.refused("POST", "/uploads", body)["param"] == param


def test_a_file_expires_as_its_upload_said(http: Http) -> None:
    upload = begun(http, 3, expires_after={"anchor": "created_at", "seconds": 7200})

    file = complete(http, upload, add(http, upload, b"abc"))["file"]

    assert file["expires_at"] == upload["created_at"] + 7200


def test_parts_are_bounded(working: Stack) -> None:
    limits = {"ASSISTANTD_PART_LIMIT": "1000", "ASSISTANTD_UPLOAD_LIMIT": "1500"}
    with working.api(**limits) as base_url, (small := Http(base_url)).client:
        upload = begun(small, 1500)
        path = f"/uploads/{upload['id']}/parts"
        error(small.client.post(path, files={"data": b"x" * 1001}), 413)
        parts = [add(small, upload, b"x" * 1000)]
        error(small.client.post(path, files={"data": b"x" * 501}))
        parts.append(add(small, upload, b"x" * 500))
        assert complete(small, upload, *parts)["status"] == "completed"


def test_files_and_uploads_may_be_kept_in_s3(working: Stack) -> None:
    with s3_server.serving() as server:
        environment = {**server.environment, "ASSISTANTD_DOWNLOAD_ANY_PURPOSE": "true"}
        with working.api(**environment) as base_url, (http := Http(base_url)).client:
            content = random.randbytes(12_000_000)
            file = sent(http, content)
            assert content_of(http, file) == content
            upload = begun(http, 6_000_003)
            parts = [add(http, upload, piece) for piece in (content[:6_000_000], b"end")]
            md5 = hashlib.md5(content[:6_000_000] + b"end", usedforsecurity=False).hexdigest()
            joined = complete(http, upload, *parts, md5=md5)["file"]
            assert content_of(http, joined) == content[:6_000_000] + b"end"
            assert server.listed().count("<Key>some/prefix/blob_") == 3
            for each in (file, joined):
                http.delete(f"/files/{each['id']}")


def test_a_storage_that_is_away_is_no_fault_of_the_client(working: Stack) -> None:
    away = {"ASSISTANTD_STORAGE_URL": "s3://none", "ASSISTANTD_STORAGE_ENDPOINT": "http://127.0.0.1:1"}
    keys = {"ASSISTANTD_STORAGE_ACCESS_KEY_ID": "test", "ASSISTANTD_STORAGE_SECRET_ACCESS_KEY": "a-secret-of-s3"}
    untapped = replace(working, tapped=False)  # whose answers may be faults of ours

    with untapped.api(**away, **keys, ASSISTANTD_STORAGE_TIMEOUT="1") as address:
        answer = httpx2.post(
            f"{address}/files",
            headers={"Authorization": f"Bearer {API_KEY}"},
            data={"purpose": "vision"},
            files={"file": ("a.txt", b"x" * 100_000)},
            timeout=30,
        )

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["type"] == "server_error"
    said = "".join(path.read_text() for path in working.folder.glob("api-*.log"))
    assert '"event":"storage_failed"' in said.replace('": "', '":"')
    assert "a-secret-of-s3" not in said + answer.text


def test_an_unknown_upload_is_named(http: Http) -> None:
    missing = http.refused("POST", "/uploads/upload_none/cancel", status=404)
    assert missing["message"] == "No upload found with id 'upload_none'."
    assert http.refused("POST", "/uploads/file-x/cancel")["code"] == "invalid_value"
    error(http.client.post("/uploads/upload_none/parts", files={"data": b"x"}), 404)


@pytest.fixture
def stranger(working: Stack) -> Iterator[Http]:
    """A client with another project's key."""
    key = "sk-asst-stranger-0123456789"

    async def register() -> None:
        async with resources.opened(working.settings) as opened, opened.database.transaction() as session:
            await projects.register(session, key, "strangers")

    asyncio.run(register())
    http = Http(working.base_url, key)
    with http.client:
        yield http


def test_case_160_files_and_uploads_of_another_project_are_not_found(http: Http, stranger: Http) -> None:
    upload = begun(http, 3)
    part = add(http, upload, b"abc")
    theirs = begun(stranger, 3)

    for verb in ("complete", "cancel"):
        stranger.refused("POST", f"/uploads/{upload['id']}/{verb}", {"part_ids": [part["id"]]}, status=404)
    error(stranger.client.post(f"/uploads/{upload['id']}/parts", files={"data": b"x"}), 404)
    assert refused(stranger, theirs, part)["param"] == "part_ids[0]"
    file = complete(http, upload, part)["file"]

    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        stranger.refused(method, f"/files/{file['id']}{path}", status=404)
    assert stranger.get("/files")["data"] == []
