"""A public dataset: downloaded once, checked against its published digest, and kept."""

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import httpx

HIPPOCAMPUS_ADDRESS = "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar"
"""Task 4 of the Medical Segmentation Decathlon, CC-BY-SA 4.0, doi:10.1038/s41467-022-30695-9."""

HIPPOCAMPUS_MD5 = "9d24dba78a72977dbd1d2e110310f31b"
"""As those publish it who keep the file there; it tells a download that was cut or has changed."""

LARGEST_BYTES = 2**30
"""The file has 28 MB; what is much longer is something else."""

CHUNK_BYTES = 2**20

CONNECT_SECONDS, SILENCE_SECONDS = 10, 60
"""Longest wait for a connection, and between two pieces of the file."""

Watch = Callable[[int, int | None], None]
"""Told how many bytes have come, of how many."""


class FetchError(Exception):
    """A dataset cannot be had; the sentence says why and what to do."""


def fetch(address: str, md5: str, folder: Path, watch: Watch) -> Path:
    """Return a file that is kept in a folder, downloaded now if it is not there or not what it should be.

    Args:
        address: Where it is.
        md5: Its digest.
        folder: Where it is kept; made if absent.
        watch: Told of progress.

    Raises:
        FetchError: There is no connection, or what came is not the file.
    """
    name = PurePosixPath(address).name
    target = folder / name
    if target.is_file() and _md5_of(target) == md5:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.partial"
    try:
        _download(address, partial, watch)
        if (found := _md5_of(partial)) != md5:
            raise FetchError(
                f"{address} sent another file than expected (MD5 {found} instead of {md5}), so it is not used; try "
                "again later"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _download(address: str, target: Path, watch: Watch) -> None:
    """Write what an address sends into a file."""
    name = PurePosixPath(address).name
    elsewhere = f"download it on another machine and run: make demo DATASET=path/to/{name}"
    patience = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    try:
        with (
            httpx.stream("GET", address, follow_redirects=True, timeout=patience) as response,
            target.open("wb") as file,
        ):
            response.raise_for_status()
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            done = 0
            for chunk in response.iter_bytes(CHUNK_BYTES):
                done += len(chunk)
                if done > LARGEST_BYTES:
                    raise FetchError(f"{address} sends more than {LARGEST_BYTES} bytes; {elsewhere}")
                file.write(chunk)
                watch(done, total)
    except httpx.HTTPStatusError as error:
        raise FetchError(f"{address} answers {error.response.status_code}; {elsewhere}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchError(
            f"{address} cannot be reached ({error or type(error).__name__}); is this machine offline? Then "
            f"{elsewhere}"
        ) from error


def _md5_of(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
