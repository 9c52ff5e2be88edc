"""`https://`, with the failures of real servers."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from gcos.artifacts import ArtifactKind
from gcos.errors import (
    CacheFullError,
    DigestMismatchError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    WrongStateError,
)
from site_agent.sources.source import retry_after_s
from testbed.fake_registries import Answer, FakeUpstream, Fault

DATA = ArtifactKind.DATA
BODY = bytes(range(256)) * 4096  # 1 MiB


async def test_a_file_becomes_an_artifact_and_names_its_source(
    site: Any, upstream: FakeUpstream
) -> None:
    url = upstream.put("/text.txt", BODY)
    pulled = await site.pull(url, "text", DATA)
    assert pulled.is_new
    assert site.files(pulled) == {"text.txt": BODY}
    assert pulled.artifact.custodian is None, "it can be fetched again"
    mark = site.marks.of(pulled.artifact.artifact_id)
    assert mark.reference == url
    assert site.last.received_bytes == site.last.size_bytes == len(BODY)


async def test_what_is_here_is_not_fetched_again(site: Any, upstream: FakeUpstream) -> None:
    url = upstream.put("/text.txt", BODY)
    first = await site.pull(url, "text", DATA)
    again = await site.pull(url, "other", DATA)
    assert len(upstream.gets("/text.txt")) == 1
    assert again.artifact.artifact_id == first.artifact.artifact_id
    assert (again.artifact.name, again.is_new) == ("other", True)
    assert not (await site.pull(url, "other", DATA)).is_new


async def test_a_pull_goes_on_where_it_was_cut(site: Any, upstream: FakeUpstream) -> None:
    url = upstream.put("/text.txt", BODY)
    upstream.fail("/text.txt", Fault(cut_after_bytes=600_000), Fault(cut_after_bytes=300_000))
    assert site.files(await site.pull(url, "text", DATA)) == {"text.txt": BODY}
    asked = [each.headers.get("range") for each in upstream.gets("/text.txt")]
    assert asked[0] is None
    firsts = [int(each.removeprefix("bytes=").removesuffix("-")) for each in asked[1:]]
    assert 0 < firsts[0] < firsts[1] < len(BODY)
    assert all(each.headers.get("if-range") for each in upstream.gets("/text.txt")[1:])


async def test_a_server_without_ranges_is_read_from_its_start(
    site: Any, upstream: FakeUpstream
) -> None:
    url = upstream.put("/text.txt", BODY, has_ranges=False)
    upstream.fail("/text.txt", Fault(cut_after_bytes=600_000))
    assert site.files(await site.pull(url, "text", DATA)) == {"text.txt": BODY}


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"Retry-After": "soon"}, 1.0),
        ({}, 1.0),
    ],
)
async def test_a_pull_waits_as_long_as_it_is_asked_to(
    site: Any, upstream: FakeUpstream, headers: dict[str, str], pause_s: float
) -> None:
    url = upstream.put("/text.txt", BODY)
    upstream.fail("/text.txt", Fault(429, headers))
    await site.pull(url, "text", DATA)
    assert site.pauses_s == [pause_s]


def test_a_date_to_wait_for_is_counted_from_the_answers_own() -> None:
    dates = {
        "retry-after": "Mon, 23 Nov 2026 14:06:00 GMT",
        "date": "Mon, 23 Nov 2026 14:05:30 GMT",
    }
    assert retry_after_s(dates) == 30.0


async def test_pauses_double_and_the_patience_ends(site: Any, upstream: FakeUpstream) -> None:
    url = upstream.put("/text.txt", BODY)
    upstream.fail("/text.txt", *[Fault(503)] * 100)
    with pytest.raises(UnavailableError, match=r"503.*given up after 8 failures"):
        await site.pull(url, "text", DATA)
    assert site.pauses_s == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


async def test_a_pause_of_an_hour_is_told_instead_of_made(
    site: Any, upstream: FakeUpstream
) -> None:
    url = upstream.put("/text.txt", BODY)
    upstream.fail("/text.txt", Fault(429, {"Retry-After": "3600"}))
    with pytest.raises(UnavailableError, match="3600 s"):
        await site.pull(url, "text", DATA)
    assert site.pauses_s == []


async def test_a_file_that_makes_progress_is_never_given_up(
    site: Any, upstream: FakeUpstream
) -> None:
    url = upstream.put("/text.txt", BODY)
    upstream.fail("/text.txt", *[Fault(cut_after_bytes=70_000)] * 12)
    assert site.files(await site.pull(url, "text", DATA)) == {"text.txt": BODY}
    assert set(site.pauses_s) == {1.0}


@pytest.mark.parametrize(
    ("status", "error", "word"),
    [
        (401, WrongStateError, "not open to this site"),
        (403, WrongStateError, "credentials"),
        (404, NotFoundError, "not there"),
        (410, NotFoundError, "not there"),
        (451, WrongStateError, "451"),
    ],
)
async def test_a_refusal_says_what_it_is(
    site: Any, upstream: FakeUpstream, status: int, error: type[Exception], word: str
) -> None:
    upstream.answers["/text.txt"] = Answer(status=status)
    with pytest.raises(error, match=word):
        await site.pull(f"{upstream.url}/text.txt", "text", DATA)


async def test_a_corrupt_body_is_fetched_anew_once(site: Any, upstream: FakeUpstream) -> None:
    url = upstream.put("/text.txt", BODY)
    stated = f"{url}#sha256={hashlib.sha256(BODY).hexdigest()}"
    upstream.fail("/text.txt", Fault(is_corrupt=True))
    assert site.files(await site.pull(stated, "text", DATA)) == {"text.txt": BODY}


async def test_a_body_that_is_wrong_twice_is_refused(site: Any, upstream: FakeUpstream) -> None:
    url = upstream.put("/text.txt", BODY)
    stated = f"{url}#sha256={hashlib.sha256(BODY).hexdigest()}"
    upstream.fail("/text.txt", Fault(is_corrupt=True), Fault(is_corrupt=True))
    with pytest.raises(DigestMismatchError, match="does not hash"):
        await site.pull(stated, "text", DATA)


async def test_a_body_shorter_than_listed_is_refused(site: Any, upstream: FakeUpstream) -> None:
    url = upstream.put("/text.txt", BODY)
    upstream.fail("/text.txt", *[Fault(ends_early=True)] * 2)
    with pytest.raises(DigestMismatchError, match="another file"):
        await site.pull(url, "text", DATA)


async def test_a_file_that_changes_meanwhile_is_refused(site: Any, upstream: FakeUpstream) -> None:
    url = upstream.put("/text.txt", BODY)
    upstream.fail("/text.txt", Fault(cut_after_bytes=600_000))
    puller = site.puller(lambda _: upstream.put("/text.txt", BODY[::-1]))
    with pytest.raises(DigestMismatchError, match="another file"):
        await puller.pull(puller.prepared(url, "text", DATA))
    site.check_clean()


async def test_a_file_larger_than_the_cache_is_refused_before_it_comes(
    site: Any, upstream: FakeUpstream
) -> None:
    url = upstream.put("/large", bytes(site.capacity_bytes + 1))
    with pytest.raises(TooLargeError, match="the cache at most"):
        await site.pull(url, "large", DATA)
    assert upstream.gets("/large") == []


async def test_room_is_reserved_before_the_first_byte(site: Any, upstream: FakeUpstream) -> None:
    first = await site.pull(upstream.put("/a", bytes(3_000_000)), "a", DATA)
    site.store.cache.pin(first.artifact.artifact_id, "run")
    url = upstream.put("/b", bytes(2_000_000))
    with pytest.raises(CacheFullError):
        await site.pull(url, "b", DATA)
    assert upstream.gets("/b") == []
    site.store.cache.unpin(first.artifact.artifact_id, "run")
    await site.pull(url, "b", DATA)
    assert not site.store.cache.has(first.artifact.artifact_id)


async def test_a_pull_that_dies_with_its_process_leaves_nothing(site: Any, tmp_path: Path) -> None:
    (tmp_path / "pulls" / "left").mkdir(parents=True)
    (tmp_path / "pulls" / "left" / "0").write_bytes(b"half")
    site.puller()
    site.check_clean()


async def test_the_kind_must_be_said(site: Any, upstream: FakeUpstream) -> None:
    with pytest.raises(InvalidRequestError, match="--kind"):
        await site.pull(upstream.put("/text.txt", BODY))


async def test_a_signature_is_neither_logged_nor_kept(
    site: Any, upstream: FakeUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    url = upstream.put("/text.txt", BODY)
    upstream.fail("/text.txt", Fault(503))
    pulled = await site.pull(f"{url}?X-Amz-Signature=s3cret", "text", DATA)
    assert site.marks.of(pulled.artifact.artifact_id).reference == url
    captured = capsys.readouterr()
    assert "artifact_pulled" in captured.out
    assert "s3cret" not in captured.out + captured.err + (site.path / "marks.json").read_text()
    upstream.fail("/text.txt", *[Fault(503)] * 20)
    with pytest.raises(UnavailableError) as raised:
        await site.pull(f"{url}?X-Amz-Signature=s3cret2", "text", DATA)
    assert "s3cret" not in str(raised.value)
