"""Serves blobs over HTTP (docs/spec/rpc.md, section 6)."""

import asyncio
import os
import re
from collections.abc import AsyncGenerator
from typing import BinaryIO, Final

from chain.crypto import CHUNK_BYTES
from chain.hexadecimal import to_hex
from chain.primitives import Hash32
from node.ipc.turns import SharedTurns
from node.rpc.http import HttpError, Request, Response, json_response
from node.rpc.read_places import ReadPlace, ReadPlaces
from node.rpc.uploads import Uploads
from node.storage.blobs import BlobDamagedError, BlobStore

CONCURRENT_TRANSFERS: Final = 64
"""Limit of blobs that are sent at the same time; each holds one chunk in memory."""

MANIFESTS: Final = 2
"""Limit of lists of chunks that are read at the same time; the longest has 65 536 hashes."""

_BLOB_PATH = re.compile(r"/v1/blobs/(?:0x)?([0-9a-f]{64})(/chunks)?\Z")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")


class BlobReads:
    """GET and HEAD of blobs by content id."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._places = ReadPlaces(CONCURRENT_TRANSFERS)
        self._manifest_turns = SharedTurns(MANIFESTS)

    async def answer(self, request: Request, content_id: Hash32, *, chunks: bool) -> Response:
        """The response with a blob, a range of it, or the hashes of its chunks.

        Raises:
            HttpError: 404: This node does not hold the blob. 416: The blob has no such range. 503:
                Too many blobs are being sent.
        """
        if chunks:
            return await self._answer_chunks(content_id)
        try:
            file = self._store.open(content_id)
        except KeyError as error:
            raise _not_here(content_id) from error
        try:
            size = os.fstat(file.fileno()).st_size
            selected = _parse_range(request.headers.get("range"), size)
            is_head = request.method == "HEAD"
            place = None if is_head else self._places.take(request.client)
        except BaseException:
            file.close()
            raise
        first, last = selected or (0, size - 1)
        headers = {
            "etag": f'"{content_id.hex()}"',
            "accept-ranges": "bytes",
            "cache-control": "public, max-age=31536000, immutable",
        }
        if selected is not None:
            headers["content-range"] = f"bytes {first}-{last}/{size}"
        if place is None:
            file.close()
        return Response(
            200 if selected is None else 206,
            b"" if place is None else self._stream(file, first, last + 1 - first, place),
            "application/octet-stream",
            headers,
            length_bytes=last + 1 - first,
            on_start=None if place is None else place.begin,
        )

    async def _answer_chunks(self, content_id: Hash32) -> Response:
        try:
            return await self._manifest_turns.run(self._describe_chunks, content_id)
        except (KeyError, BlobDamagedError) as error:
            raise _not_here(content_id) from error

    def _describe_chunks(self, content_id: Hash32) -> Response:
        manifest = self._store.manifest(content_id)
        return json_response(
            {
                "contentId": to_hex(content_id),
                "bytes": manifest.size_bytes,
                "chunkBytes": CHUNK_BYTES,
                "chunks": [to_hex(leaf) for leaf in manifest.leaves],
            }
        )

    async def _stream(
        self, file: BinaryIO, start: int, length: int, place: ReadPlace
    ) -> AsyncGenerator[bytes, None]:
        try:
            with file:
                file.seek(start)
                while length:
                    part = await asyncio.to_thread(file.read, min(length, CHUNK_BYTES))
                    if not part:
                        return  # the file was truncated; the client notices the missing bytes
                    length -= len(part)
                    place.sent_bytes += len(part)
                    yield part
        finally:
            self._places.release(place)


class BlobService:
    """Answers all requests below /v1."""

    def __init__(self, reads: BlobReads, uploads: Uploads) -> None:
        self._reads = reads
        self._uploads = uploads

    async def __call__(self, request: Request) -> Response:
        """The response to `request`.

        Raises:
            HttpError: The request is refused.
        """
        if (request.method, request.path) == ("POST", "/v1/reveals"):
            return await self._uploads.post_reveal(request)
        match = _BLOB_PATH.match(request.path)
        if match is None:
            raise HttpError(404, "not_found", f"there is no resource {request.path[:200]}")
        content_id, chunks = Hash32(bytes.fromhex(match[1])), match[2] is not None
        if request.method in ("GET", "HEAD"):
            return await self._reads.answer(request, content_id, chunks=chunks)
        if request.method == "PUT" and not chunks:
            return await self._uploads.put_blob(request, content_id)
        raise HttpError(405, "method_not_allowed", "use GET or HEAD to read a blob, PUT to send it")


def _not_here(content_id: Hash32) -> HttpError:
    return HttpError(404, "not_found", f"this node does not hold {to_hex(content_id)}")


def _parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first and the last byte of the requested range; None if the whole blob is requested.

    As HTTP demands, a header that does not hold exactly one range of bytes is ignored.
    """
    match = None if header is None else _RANGE.match(header.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        first, last = max(0, size - int(match[2])), size - 1
    else:
        first, last = int(match[1]), min(size - 1, int(match[2]) if match[2] else size - 1)
    if first >= size or first > last:
        raise HttpError(416, "range", f"the blob has {size} bytes")
    return first, last
