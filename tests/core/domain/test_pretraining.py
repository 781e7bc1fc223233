from core.domain.pretraining import PretrainedRecord, TensorLeft, WeightsSource

SOURCE = WeightsSource(name="model/fold_0/weights.safetensors", sha256="0" * 64)


def test_two_lines_say_what_was_taken_and_what_not() -> None:
    left = (
        TensorLeft(name="encoder.a", reason="shape", shape=(4, 2, 3, 3), source_shape=(4, 1, 3, 3)),
        TensorLeft(name="encoder.b", reason="shape", shape=(8,), source_shape=(4,)),
        TensorLeft(name="decoder.c", reason="missing", shape=()),
        TensorLeft(name="decoder.seg_layers.0.bias", reason="head", shape=(3,), source_shape=(3,)),
    )
    record = PretrainedRecord(source=SOURCE, taken=("encoder.c",), left=left, unused=())

    assert record.summary() == (
        "pretrained: 1 of 5 tensors come from model/fold_0/weights.safetensors",
        (
            "not taken: 1 tensor of heads, which belong to the labels; 2 of another shape, such as encoder.a "
            "(4x2x3x3, there 4x1x3x3); 1 missing there, such as decoder.c"
        ),
    )


def test_where_all_was_taken_nothing_is_left_to_say() -> None:
    record = PretrainedRecord(source=SOURCE, taken=("a",), left=(), unused=("b",))

    assert record.summary()[1] == "not taken: none"
    assert PretrainedRecord.model_validate(record.to_json()) == record
