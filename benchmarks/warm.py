"""One small image: the running service with its model loaded, and the reference's command, in turn.

Usage:
    make bench BENCH=warm ARGS="--reference VENV/bin/python --model MODEL.zip --images FOLDER [--pairs 5]"
    PYTHONPATH=examples/demo python -m benchmarks.warm …

Ours is one request, `POST /predict` with `Prefer: wait`, whose answer is the label map: from the first byte sent to
the last one read. The reference has no service; its command loads the model each time, as a bridge to a PACS would
have to. Both segment the same image with the same weights; the service has segmented it twice before.
"""

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import httpx

from benchmarks.figures import machine, print_table
from benchmarks.front_half import Case, Run, measured, run
from benchmarks.predict import PYTHON_CORE, Sides, few_images, sides_of
from benchmarks.rest import serving

WARM_UP = 2
"""Predictions before the first that counts."""


def main() -> None:
    """Measure pairs, and print the median of their ratios."""
    parser = argparse.ArgumentParser(description="Compare the warm service with the reference's command.")
    parser.add_argument(
        "--reference", type=Path, required=True, help="Python of an environment with nnunetv2"
    )
    parser.add_argument("--model", type=Path, required=True, help="an official zip, or one of ours")
    parser.add_argument("--images", type=Path, required=True, help="folder of CASE_0000.nii.gz")
    parser.add_argument("--pairs", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        images = few_images(chosen.images, 1, work / "images")
        own = work / "model"
        run([*PYTHON_CORE, "import-model", chosen.model, "--out", own])
        sides = sides_of(chosen.reference, own, images, work)
        with serving(work / "service", {"SEG_THREADS": "2"}) as (client, http):
            sent = http.post(
                "/models", content=chosen.model.read_bytes(), headers={"Content-Type": "application/zip"}
            )
            sent.raise_for_status()
            client.follow(sent.json()["job_id"], lambda _job: None)
            ours = partial(_asked, http, sent.json()["id"], sides)
            for _ in range(WARM_UP):
                ours()
            row = measured(
                Case("one small image, warm service", ours, sides.theirs, sides.difference), chosen.pairs
            )
            alone = [ours().seconds for _ in range(chosen.pairs)]
    print_table([row])
    print(
        json.dumps({"machine": machine(), "rows": [row], "in a row, s": round(statistics.median(alone), 3)})
    )


def _asked(http: httpx.Client, model_id: str, sides: Sides) -> Run:
    """Have the service segment the image, and keep what it answers."""
    (image,) = sides.images.glob("*.nii.gz")
    target = sides.work / "ours" / image.name.replace("_0000.nii.gz", ".nii.gz")
    target.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    answer = http.post(
        "/predict",
        data={"model": model_id},
        files={"image": (image.name, image.read_bytes())},
        headers={"Prefer": "wait=60", "Accept": "application/gzip"},
    )
    seconds = time.monotonic() - started
    answer.raise_for_status()
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"the service did not answer in time: {answer.text}")
    target.write_bytes(answer.content)
    return Run(seconds, 0, "")


if __name__ == "__main__":
    main()
