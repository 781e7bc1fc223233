"""The verbs in order: verify, fingerprint, plan, preprocess, train, predict, evaluate; files in, files out."""

from core.pipeline.arrays import ArrayPrediction, predict_arrays
from core.pipeline.cascades import next_stage_folder
from core.pipeline.data import (
    convert,
    default_workers,
    fingerprint,
    is_older,
    preprocess,
    preprocessed_cases,
    preprocessing_digest,
    verify,
)
from core.pipeline.evaluation import evaluate
from core.pipeline.exchange import export_model, import_model
from core.pipeline.folders import FolderOptions, FolderOutcome, predict_folder, segment_folder
from core.pipeline.models import load, networks_of, opened_model
from core.pipeline.plans import PlanRequest, move_plan, plan, plan_dataset, reader_of
from core.pipeline.prediction import (
    PredictionFiles,
    PredictionSummary,
    input_reader,
    predict_files,
)
from core.pipeline.training import (
    TrainOrder,
    find_checkpoint,
    is_first_process,
    start_weights,
    train,
    validate,
)

__all__ = [
    "ArrayPrediction",
    "FolderOptions",
    "FolderOutcome",
    "PlanRequest",
    "PredictionFiles",
    "PredictionSummary",
    "TrainOrder",
    "convert",
    "default_workers",
    "evaluate",
    "export_model",
    "find_checkpoint",
    "fingerprint",
    "import_model",
    "input_reader",
    "is_first_process",
    "is_older",
    "load",
    "move_plan",
    "networks_of",
    "next_stage_folder",
    "opened_model",
    "plan",
    "plan_dataset",
    "predict_arrays",
    "predict_files",
    "predict_folder",
    "preprocess",
    "preprocessed_cases",
    "preprocessing_digest",
    "reader_of",
    "segment_folder",
    "start_weights",
    "train",
    "validate",
    "verify",
]
