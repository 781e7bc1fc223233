import json

import pytest

from core.domain.postprocessing import Postprocessing
from core.errors import ModelError

NAME = "remove_all_but_largest_component_from_segmentation"


def test_steps_keep_their_order_in_a_file() -> None:
    postprocessing = Postprocessing(keep_largest=((1, 2, 3), (2,)))

    text = json.dumps(postprocessing.to_json())

    assert json.loads(text) == {"version": 1, "keep_largest": [[1, 2, 3], [2]]}
    assert Postprocessing.parse(text) == postprocessing


@pytest.mark.parametrize(
    ("given", "group"), [(1, (1,)), ([1, 2], (1, 2)), ([[1, 2], [2, 3]], (1, 2, 3)), ([[2]], (2,))]
)
def test_the_file_of_the_reference_is_understood(given: object, group: tuple[int, ...]) -> None:
    text = json.dumps(
        {
            "input_folder": {},
            "postprocessed": {},
            "postprocessing_fns": [NAME],
            "postprocessing_kwargs": [{"labels_or_regions": given}],
        }
    )

    assert Postprocessing.parse(text).keep_largest == (group,)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"version": 2}, "version 2.*update"),
        ({"version": 1, "keep_largest": [[]]}, "keep_largest.0"),
        ({"version": 1, "keep_largest": [[0]]}, "keep_largest.0.0"),
        ({"keep": 1}, "keep"),
        ({"postprocessing_fns": ["system"], "postprocessing_kwargs": [{}]}, "system.*not known"),
        ({"postprocessing_fns": [NAME]}, "as many names"),
        ({"postprocessing_fns": [NAME], "postprocessing_kwargs": [{"size": 3}]}, "arguments.*size"),
        (
            {"postprocessing_fns": [NAME], "postprocessing_kwargs": [{"labels_or_regions": "a"}]},
            "keep_largest",
        ),
        (
            {"postprocessing_fns": [NAME], "postprocessing_kwargs": [{"labels_or_regions": []}]},
            "keep_largest",
        ),
        ({"labels": {}, "numTraining": 1}, "dataset.json"),
    ],
)
def test_what_is_no_postprocessing_is_refused(values: object, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        Postprocessing.parse(json.dumps(values))
