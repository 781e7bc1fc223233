"""From an image to its segmentation: check, preprocess, slide the networks, return to the image's grid."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from torch import Tensor

from core.domain.geometry import Shape
from core.domain.model import PredictionOptions
from core.domain.progress import Observer, Progress
from core.domain.training import Fold
from core.errors import CancelledError
from core.inference.ensemble import TrainedModel, members_of
from core.inference.export import Exported, Wanted, exported, stream, way_back
from core.inference.model import LoadedModel
from core.inference.passes import Run, common_axis, logits_of, run_of, slabs_of
from core.inference.postprocess import postprocessed
from core.inference.requirements import previous_model, require_channels, require_previous
from core.inference.slabs import Slab
from core.inference.sliding_window import OnTiles
from core.io.case_store import CaseProperties, PreprocessedCase
from core.io.image import FloatArray, Geometry, Image, LabelArray, LabelMap
from core.network.device import Precision
from core.preprocessing.pipeline import preprocess_case

STAGE = "predict"
PREVIOUS_STAGE = "previous"
"""What an observer is told of: tiles of the model, and of the earlier stages of a cascade."""

NOTHING_ELSE = Wanted()
"""Than the label map."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A segmentation, and how it came about."""

    segmentation: LabelMap
    """On the grid of the image, in its geometry."""
    seconds: dict[str, float]
    """Per stage: preprocess, network, export; in a cascade also previous."""
    precision: Precision
    folds: tuple[Fold, ...]
    properties: CaseProperties
    """What preprocessing left of the image; of several models, the first one's."""
    uncertainty_zyx: FloatArray | None = None
    """Where wanted, 0 to 1 on the same grid; see `core.inference.decision.entropy`."""
    is_postprocessed: bool = False
    """Whether the model's postprocessing was applied."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as far as it can be brought along without a network."""

    geometry: Geometry
    shape: Shape
    """Voxels of the image, in the axis order of the file."""
    cases: tuple[PreprocessedCase | None, ...]
    """Per member; None where a stage before has to segment the image first."""
    image: Image | None
    """Kept where one has."""
    seconds: float


def predict_image(
    model: TrainedModel,
    image: Image,
    options: PredictionOptions,
    observer: Observer,
    *,
    previous_zyx: LabelArray | None = None,
    stage: str = STAGE,
    wanted: Wanted = NOTHING_ELSE,
) -> Prediction:
    """Segment one image; in a cascade one stage after the other.

    Args:
        model: From `load_model`, or an ensemble.
        image: All channels, in the model's channel order.
        options: Which folds, tiles and mirroring; its precision and device were chosen with the model. Of stages
            before, every fold is taken.
        observer: Told after each tile, and asked before each whether to stop.
        previous_zyx: In a cascade, what the previous stage segmented, on the image's grid; the model's own
            previous stage segments it if not given.
        stage: What the observer is told of.
        wanted: What to keep beside the label map.

    Raises:
        ImageError: The image has other channels than the model was trained on, or `previous_zyx` does not fit it.
        ModelError: A fold is not loaded, a logit is not finite, or the stage before is missing or superfluous.
        CancelledError: The observer asked to stop.
    """
    prepared = prepare(model, image, previous_zyx=previous_zyx)
    return predict_prepared(model, prepared, options, observer, stage=stage, wanted=wanted)


def prepare(model: TrainedModel, image: Image, *, previous_zyx: LabelArray | None = None) -> Prepared:
    """Preprocess an image for every member of a model, as `predict_image` does.

    Raises:
        DomainError: As `predict_image`.
    """
    require_channels(model, image)
    started = perf_counter()
    if previous_zyx is not None:
        require_previous(model, image, previous_zyx)
    cases = [
        None
        if member.configuration.previous_stage is not None and previous_zyx is None
        else _preprocessed(member, image, previous_zyx)
        for member in members_of(model)
    ]
    kept = image if any(case is None for case in cases) else None
    return Prepared(image.geometry, image.shape, tuple(cases), kept, perf_counter() - started)


def predict_prepared(
    model: TrainedModel,
    prepared: Prepared,
    options: PredictionOptions,
    observer: Observer,
    *,
    stage: str = STAGE,
    wanted: Wanted = NOTHING_ELSE,
) -> Prediction:
    """Segment an image that `prepare` preprocessed, as `predict_image` does.

    Raises:
        DomainError: As `predict_image`.
    """
    seconds: dict[str, float] = {}
    cases = []
    for member, case in zip(members_of(model), prepared.cases, strict=True):
        if case is None and prepared.image is not None:
            started = perf_counter()
            previous_zyx = _stage_before(member, prepared.image, options, observer)
            seconds["previous"] = seconds.get("previous", 0) + perf_counter() - started
            cases.append(_preprocessed(member, prepared.image, previous_zyx))
        elif case is not None:
            cases.append(case)
    clock = _Clock()
    runs = [run_of(member, case, options) for member, case in zip(members_of(model), cases, strict=True)]
    found = _segmented(runs, observer, stage, wanted, clock)
    labels_zyx = found.labels_zyx
    is_postprocessed = options.postprocessing and model.postprocessing is not None
    if is_postprocessed and model.postprocessing is not None:
        labels_zyx = postprocessed(labels_zyx, model.postprocessing)
    return Prediction(
        segmentation=LabelMap(labels_zyx, prepared.geometry),
        seconds=seconds
        | {"preprocess": prepared.seconds, "network": clock.network, "export": clock.since() - clock.network},
        precision=model.precision,
        folds=runs[0].folds,
        properties=runs[0].case.properties,
        uncertainty_zyx=found.uncertainty_zyx,
        is_postprocessed=is_postprocessed,
    )


def segment_case(
    model: LoadedModel,
    case: PreprocessedCase,
    options: PredictionOptions,
    observer: Observer,
    *,
    wanted: Wanted = NOTHING_ELSE,
) -> LabelMap:
    """Segment a preprocessed case as validation does: without postprocessing.

    Raises:
        DomainError: As `predict_image`, channels aside.
    """
    found = _segmented([run_of(model, case, options)], observer, STAGE, wanted, _Clock())
    return LabelMap(found.labels_zyx, case.properties.geometry)


def predict_logits(
    model: LoadedModel,
    case: PreprocessedCase,
    options: PredictionOptions,
    observer: Observer,
    *,
    stage: str = STAGE,
) -> Tensor:
    """Average the logits of the folds over a preprocessed case, for whoever needs all of them side by side.

    Returns:
        logits_kzyx on the grid of the case, on whichever device they fit.

    Raises:
        DomainError: As `predict_image`, channels aside.
    """
    run = run_of(model, case, options)
    return logits_of(run, _reporting(observer, [run.tiles], stage)[0])


def segmentation_of(
    model: LoadedModel, case: PreprocessedCase, logits_kzyx: Tensor, *, wanted: Wanted = NOTHING_ELSE
) -> LabelMap:
    """Bring logits back to the grid of the image, as labels."""
    change = way_back(logits_kzyx.shape, case.properties, model.plan, model.configuration, model.labels)
    one = stream(iter([Slab(0, logits_kzyx)]), 0, change, case.properties, model.plan)
    return LabelMap(exported([one], model.labels, wanted).labels_zyx, case.properties.geometry)


class _Clock:
    """How long networks took of what has passed since it was made."""

    def __init__(self) -> None:
        self.network = 0.0
        self._begun = perf_counter()

    def since(self) -> float:
        """Return the seconds since it was made."""
        return perf_counter() - self._begun

    def timing(self, slabs: Iterator[Slab]) -> Iterator[Slab]:
        """Count the time that slabs take to come."""
        while True:
            begun = perf_counter()
            slab = next(slabs, None)
            self.network += perf_counter() - begun
            if slab is None:
                return
            yield slab


def _segmented(
    runs: Sequence[Run], observer: Observer, stage: str, wanted: Wanted, clock: _Clock
) -> Exported:
    """Slide all networks, and decide on labels while slabs come."""
    axis, labels = common_axis(runs), runs[0].model.labels
    told = _reporting(observer, [run.tiles for run in runs], stage)
    streams = []
    for run, on_tiles in zip(runs, told, strict=True):
        model, properties, along = run.model, run.case.properties, run.axis_of(axis)
        shape = (len(labels.heads), *run.voxels_czyx.shape[1:])
        change = way_back(shape, properties, model.plan, model.configuration, labels)
        slabs = clock.timing(slabs_of(run, along, on_tiles, with_chances=wanted.uncertainty))
        streams.append(stream(slabs, along, change, properties, model.plan))
    return exported(streams, labels, wanted)


def _preprocessed(model: LoadedModel, image: Image, previous_zyx: LabelArray | None) -> PreprocessedCase:
    """Preprocess an image for one model."""
    return preprocess_case(
        image, None, model.plan, model.configuration, model.labels, previous_zyx=previous_zyx
    )


def _stage_before(
    model: LoadedModel, image: Image, options: PredictionOptions, observer: Observer
) -> LabelArray:
    """Let the stage before segment an image, with every fold, as the later stage was trained.

    Raises:
        ModelError: There is none.
    """
    earlier = options.model_copy(update={"folds": None, "postprocessing": False})
    before = predict_image(previous_model(model), image, earlier, observer, stage=PREVIOUS_STAGE)
    return before.segmentation.labels_zyx


def _reporting(observer: Observer, totals: Sequence[int], stage: str) -> list[OnTiles]:
    """Return what the sliding windows of all members call between tiles; they are told of as one."""
    done, total = [0] * len(totals), sum(totals)

    def told(member: int, tiles: int) -> None:
        done[member] = tiles
        observer.report(Progress(stage=stage, done=sum(done), total=total))
        if sum(done) < total and observer.stop_requested():
            raise CancelledError(f"prediction stopped after {sum(done)} of {total} tiles")

    return [partial(told, member) for member in range(len(totals))]
