"""Run directories in a bucket of Google Cloud Storage, `gs://BUCKET/RUN`: what differs there from a disk.

An object is put whole or not at all, and is seen by all at once; there are no directories, no appending and no atomic
renaming. What a run needs beyond etils.epath (which reads and writes through gcsfs) is here:

    lease         an object is written only over the very generation that its writer has read (`write_over`), so that of
                  two that want a run one gets it, whatever their clocks say
    listing       is never taken from a cache: other hosts write too
    rate          one object takes about one write a second and answers 429 beyond it. gcsfs waits 1, 2, 4, … s, six
                  tries in all; what grows line by line is put together for `SECONDS` (see `record`)

Orbax and TensorStore have drivers of their own for such paths, and Orbax writes a file last that commits a checkpoint.
Other object stores are refused: nothing here has been tried on them.
"""

import errno
import importlib.util
import json
from typing import Any
from urllib.parse import urlsplit

from etils import epath

from jaxalign.errors import BUCKET_LIBRARIES, ConfigError, first_line

SECONDS = 1.5
"""Between two writes of one object that grows."""
ABSENT = "0"
"""The generation of what is not there."""


def check(path: epath.Path) -> None:
    """Raises ConfigError for a place in no bucket that a run can lie in, or without the package that reaches it."""
    parts = urlsplit(str(path))
    if parts.scheme != "gs":
        raise ConfigError(f"{path}: a run directory lies on a file system, or in a bucket as gs://BUCKET/RUN; not here")
    if not parts.netloc or not parts.path.strip("/"):
        raise ConfigError(f"{path}: names no directory in a bucket; write gs://BUCKET/RUN")
    if any(sign in str(path) for sign in "[]\\*?#"):  # patterns to gcsfs, or generations
        raise ConfigError(f"{path}: a run directory's path may hold none of [ ] \\ * ? #")
    reach(path)


def reach(path: epath.Path) -> None:
    """Raises ConfigError where the package that reaches Google's buckets is not here."""
    if str(path).startswith("gs://"):
        if importlib.util.find_spec("gcsfs") is None:
            raise ConfigError(f"{path}: buckets need the package gcsfs: pip install 'etils[epath-gcs]'")
        _files()


def _files() -> Any:
    """The file system that etils uses, told to keep no listings."""
    import fsspec

    fsspec.config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)
    return fsspec.filesystem("gcs", finalize_on_close=True)


def _parts(path: epath.Path) -> tuple[str, str]:
    parts = urlsplit(str(path))
    return parts.netloc, parts.path.lstrip("/")


def read(path: epath.Path) -> tuple[bytes, str]:
    """(content, generation) of an object, which fit one another; (b"", ABSENT) where there is none."""
    files, (bucket, key) = _files(), _parts(path)
    for _ in range(10):
        try:
            generation = str(files.call("GET", "b/{}/o/{}", bucket, key, json_out=True)["generation"])
        except FileNotFoundError:
            return b"", ABSENT
        try:
            _, content = files.call("GET", "b/{}/o/{}", bucket, key, alt="media", generation=generation)
            return bytes(content), generation
        except FileNotFoundError:  # another was written meanwhile
            continue
    raise OSError(errno.EAGAIN, "is written faster than it can be read", str(path))


def write_over(path: epath.Path, content: bytes, generation: str) -> str | None:
    """Writes an object in the place of one `generation`; the new one's, or None where there is another by now."""
    files, (bucket, key) = _files(), _parts(path)
    # both parts in one request: a resumable upload is checked when it begins, and may be overtaken before it ends
    edge = "jaxalign-part"
    head = json.dumps({"name": key}).encode()
    body = b"".join(
        f"--{edge}\r\nContent-Type: {kind}\r\n\r\n".encode() + part + b"\r\n"
        for kind, part in (("application/json; charset=UTF-8", head), ("application/octet-stream", content))
    )
    try:
        found = files.call(
            "POST",
            files.base.replace("/storage/v1/", "/upload/storage/v1/") + f"b/{bucket}/o",
            uploadType="multipart",
            ifGenerationMatch=generation,
            headers={"Content-Type": f'multipart/related; boundary="{edge}"'},
            data=body + f"--{edge}--".encode(),
            json_out=True,
        )
    except FileExistsError:  # how gcsfs says 412
        # the answer to the first of two requests may have been lost: then it is what this one found
        there, now = read(path)
        return now if there == content and now != generation and content else None
    return str(found["generation"])


def is_of_bucket(error: BaseException) -> bool:
    """Whether a library that talks to buckets has raised it, and not as an OSError."""
    return type(error).__module__.partition(".")[0] in BUCKET_LIBRARIES


def as_os_error(error: Exception, path: epath.Path | str) -> OSError:
    """The same as what file systems raise."""
    if isinstance(error, OSError):
        return error
    return OSError(errno.EIO, f"{type(error).__name__}: {first_line(error)}", str(path))
