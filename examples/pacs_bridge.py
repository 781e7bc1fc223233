"""Watch a folder of NIfTI files, have each segmented, and write the result beside it.

A PACS or a scanner's export drops `brain.nii.gz` into the folder; a little later `brain_seg.nii.gz` lies
next to it, in the same geometry. What cannot be segmented gets `brain_seg.error.txt` with the reason.
Kill it whenever you like: what is done is skipped, what was half done is picked up again.

    python examples/pacs_bridge.py FOLDER --model MODEL_ID [--service http://127.0.0.1:8000] [--api-key KEY]
"""

import argparse
import hashlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

ENDINGS = (".nii.gz", ".nii")
RESULT = "_seg"
"""Added to the name of an image; files that bear it are not images."""

QUIET_SECONDS = 5.0
"""A file that has not changed for so long is complete."""

LOOK_SECONDS = 2.0
"""How often the folder is looked at."""

WAIT_SECONDS = 30
"""For so long one request waits for its result before the job is polled instead."""

LONGEST_PAUSE_SECONDS = 60.0
"""Between attempts while the service is away."""

TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
"""Status codes that may go away by themselves."""

NOT_OURS = frozenset({401, 403, 404})
"""Status codes that say that key, address or model are wrong: no image is to blame."""

OK = 200

log = logging.getLogger("pacs_bridge")


class RefusedError(Exception):
    """The service will not segment this file; the sentence is its own."""


def main() -> None:
    """Watch until interrupted, or go through the folder once."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    headers = {"Authorization": f"Bearer {arguments.api_key}"} if arguments.api_key else {}
    with httpx.Client(base_url=arguments.service, headers=headers, timeout=WAIT_SECONDS + 60) as http:
        while True:
            try:
                for image in waiting_images(arguments.folder):
                    serve(http, arguments.model, image)
            except FileNotFoundError as gone:
                log.info("%s went away", gone.filename)
            if arguments.once:
                return
            time.sleep(LOOK_SECONDS)


def waiting_images(folder: Path) -> Iterator[Path]:
    """Yield the images that are complete and have neither a result nor an error yet, oldest first."""
    found = []
    for path in folder.iterdir():
        stem, ending = _split(path)
        is_image = ending and not stem.endswith(RESULT) and not path.name.startswith(".")
        if is_image and not _result_path(path).exists() and not _error_path(path).exists():
            found.append((path.stat(), path))
    for state, path in sorted(found, key=lambda entry: entry[0].st_mtime):
        if state.st_size > 0 and time.time() - state.st_mtime >= QUIET_SECONDS:
            yield path


def serve(http: httpx.Client, model: str, image: Path) -> None:
    """Segment one image, and leave either its result or the reason why there is none."""
    began = time.monotonic()
    try:
        segmentation = segment(http, model, image)
    except RefusedError as reason:
        _write_atomically(_error_path(image), f"{reason}\n".encode())
        log.warning("refused %s: %s", image.name, reason)
        return
    _write_atomically(_result_path(image), segmentation)
    log.info("segmented %s in %.1f s", image.name, time.monotonic() - began)


def segment(http: httpx.Client, model: str, image: Path) -> bytes:
    """Send an image and return its segmentation, however long it takes.

    Raises:
        RefusedError: The service has said why it will never come.
    """
    content = image.read_bytes()
    _, ending = _split(image)
    # The same key finds the same job again, should the answer or this program get lost on the way.
    # Touch the image, and remove the error beside it, to have it done anew.
    key = hashlib.sha256(f"{model} {image.stat().st_mtime_ns} ".encode() + content).hexdigest()
    answer = _insist(
        http,
        http.build_request(
            "POST",
            "/predict",
            data={"model": model},
            files={"image": (f"image{ending}", content)},  # The real name may name the patient.
            headers={
                "Prefer": f"wait={WAIT_SECONDS}",
                "Accept": "application/octet-stream",
                "Idempotency-Key": key,
            },
        ),
    )
    if answer.status_code == OK and "json" not in answer.headers["content-type"]:
        return answer.content
    links = answer.json()["links"]
    _wait_for(http, links["job"])
    return _insist(http, http.build_request("GET", links["segmentation"])).content


def _wait_for(http: httpx.Client, job_url: str) -> None:
    """Poll a job until it succeeds.

    Raises:
        RefusedError: It failed or was canceled.
    """
    while True:
        answer = _insist(http, http.build_request("GET", job_url))
        job = answer.json()
        if job["state"] == "succeeded":
            return
        if job["state"] in ("failed", "canceled"):
            raise RefusedError((job["error"] or {}).get("detail", f"the job was {job['state']}"))
        time.sleep(float(answer.headers.get("Retry-After", LOOK_SECONDS)))


def _insist(http: httpx.Client, request: httpx.Request) -> httpx.Response:
    """Send a request until it gets an answer that counts.

    Raises:
        RefusedError: The image itself is at fault.
        SystemExit: Key, address or model are wrong.
    """
    pause = 1.0
    while True:
        try:
            answer = http.send(request)
        except httpx.TransportError as error:
            reason = f"the service cannot be reached ({error})"
        else:
            if answer.is_success:
                return answer
            reason = _sentence(answer)
            if answer.status_code in NOT_OURS:
                raise SystemExit(f"{request.url}: {reason}")
            if answer.status_code not in TRY_AGAIN:
                raise RefusedError(reason)
            pause = max(pause, float(answer.headers.get("Retry-After", 0)))
        log.info("%s; trying again in %.0f s", reason, pause)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _sentence(answer: httpx.Response) -> str:
    """Return the reason that a problem document gives."""
    is_json = "json" in answer.headers.get("content-type", "")
    return str(answer.json().get("detail", "")) if is_json else f"{answer.status_code} {answer.reason_phrase}"


def _split(path: Path) -> tuple[str, str]:
    """Return name and ending; the ending is empty for what is no NIfTI file."""
    ending = next((one for one in ENDINGS if path.name.lower().endswith(one)), "")
    return (path.name[: -len(ending)], ending) if ending else (path.name, "")


def _result_path(image: Path) -> Path:
    stem, ending = _split(image)
    return image.with_name(f"{stem}{RESULT}{ending}")


def _error_path(image: Path) -> Path:
    stem, _ = _split(image)
    return image.with_name(f"{stem}{RESULT}.error.txt")


def _write_atomically(path: Path, content: bytes) -> None:
    """Write under a hidden name, then rename, so that nobody reads half a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True, help="id of a model, name:version, or name@alias")
    parser.add_argument("--service", default="http://127.0.0.1:8000", help="address of the service")
    parser.add_argument("--api-key", help="if the service asks for one")
    parser.add_argument("--once", action="store_true", help="go through the folder once, then end")
    return parser.parse_args()


if __name__ == "__main__":
    main()
