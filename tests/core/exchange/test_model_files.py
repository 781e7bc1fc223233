import pickle
from pathlib import Path

import numpy as np
import pytest

from core.domain.labels import label_set
from core.errors import ModelError
from core.exchange.model_files import read_postprocessing
from core.network.official_postprocessing import KEEPING_LARGEST

LABELS = label_set({"background": 0, "one": 1, "two": 2}, None)


def pickled(labels: object) -> bytes:
    """As the official tools write it: a pair of functions and of their arguments."""
    module, _, function = KEEPING_LARGEST.rpartition(".")
    arguments = pickle.dumps([{"labels_or_regions": labels}], protocol=3)
    return b"((lc" + module.encode() + b"\n" + function.encode() + b"\na" + arguments[2:-1] + b"t."


@pytest.mark.parametrize(
    ("labels", "group"), [(2, (2,)), (np.int64(2), (2,)), ([np.int64(1), 2], (1, 2)), (((1, 2),), (1, 2))]
)
def test_a_pickled_postprocessing_is_read_whatever_its_numbers_are(
    tmp_path: Path, labels: object, group: tuple[int, ...]
) -> None:
    (tmp_path / "postprocessing.pkl").write_bytes(pickled(labels))

    found = read_postprocessing(tmp_path, LABELS)

    assert found is not None
    assert found.keep_largest == (group,)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"cos\nsystem\n(Vtouch ran\ntR.", "names os.system, which could run code and is never loaded"),
        (b"(lI1\na.", "holds no pair of functions and arguments"),
        (pickled({}), "postprocessing"),
        (pickled(7), "label 7, which dataset.json does not have"),
    ],
)
def test_any_other_pickle_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "postprocessing.pkl").write_bytes(content)

    with pytest.raises(ModelError, match=sentence):
        read_postprocessing(tmp_path, LABELS)
