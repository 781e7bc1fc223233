"""What clients may ask for: names, plans, trainings and models, each request with what is allowed in it."""

import re
from collections import Counter
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
    model_validator,
)

from core.domain.exchange import CheckpointChoice, ImportOptions
from core.domain.model import PrecisionName, PredictionOptions
from core.domain.record import Record
from core.domain.training import Fold, TrainingChoices, TrainingSettings
from core.errors import UnknownNameError
from core.planning.presets import PRESETS

T = TypeVar("T")

CROSS_VALIDATION_FOLDS = 5
"""A numbered fold needs at least as many cases (Engine specification B 4.1)."""

DEFAULT_PRESET = "default"
"""The planner that a request gets which names none."""


def _once_each(values: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse an entry that is named twice."""
    twice = {str(value) for value, count in Counter(values).items() if count > 1}
    if twice:
        raise ValueError(f"names {', '.join(sorted(twice))} more than once")
    return values


def _known_preset(name: str) -> str:
    """Refuse a name that no planner has."""
    try:
        PRESETS.get(name)
    except UnknownNameError as error:
        raise ValueError(error.message) from error
    return name


Preset = Annotated[str, AfterValidator(_known_preset), Field(json_schema_extra={"enum": sorted(PRESETS)})]
"""Name of a planner."""

PLAN_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

NAME_PATTERN = r"^[^\x00-\x1f\x7f]*$"

PlanName = Annotated[str, StringConstraints(max_length=100, pattern=PLAN_NAME_PATTERN)]
"""What a plan is called; part of addresses, and of folder names of the nnU-Net family."""

Millimetres = Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=NAME_PATTERN),
]
"""What a person calls a thing; never part of a path or key."""

LONGEST_PATTERN = 200
"""Characters of a regular expression."""

MOST_VERSIONS = 999_999_999
"""Of models of a name."""

FoldNumber = Annotated[StrictInt, Field(ge=0, lt=1000)]


class PlannerChoices(Record):
    """What a client may decide about planning; all of it has a default."""

    preset: Preset | None = None
    """None: `DEFAULT_PRESET`."""
    gpu_memory_gb: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    """What a patch may cost; None: what the preset says."""
    target_spacing: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Instead of the one that the rules find: (z, y, x), in the axis order of the files."""
    suppress_transpose: StrictBool = False
    """Whether to keep the axis order of the files."""

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of what differs from the defaults."""
        return tuple(
            name
            for name, field in PlannerChoices.model_fields.items()
            if getattr(self, name) != field.default
        )


class PlanSource(Record):
    """A plan of some dataset."""

    dataset_id: UUID
    plan: PlanName


class PlanningRequest(PlannerChoices):
    """What a client asks for with POST /datasets/{id}/plans: to plan, or to take the plan of another dataset."""

    model_config = ConfigDict(populate_by_name=False)

    name: PlanName | None = None
    """None: the preset's, or that of the other dataset's plan."""
    source: PlanSource | None = Field(default=None, alias="from")

    @model_validator(mode="after")
    def _plan_or_take(self) -> Self:
        if self.source is not None and self.chosen:
            raise ValueError(
                f"a plan that comes `from` another dataset is taken as it is; leave out {', '.join(self.chosen)}"
            )
        return self


def _with_a_group(pattern: str) -> str:
    """Refuse what is no regular expression, or cannot say which patient a case shows."""
    try:
        groups = re.compile(pattern).groups
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    if groups == 0:
        raise ValueError(
            f"{pattern!r} has no group; put what names the patient in parentheses, such as '^([^_]+)_'"
        )
    return pattern


CaseName = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=1000)]

CaseNames = Annotated[tuple[CaseName, ...], Field(max_length=1_000_000), AfterValidator(_once_each)]


class SplitChoice(Record):
    """One fold of a client's own: which cases train and which validate, as in splits_final.json."""

    train: Annotated[CaseNames, Field(min_length=1)]
    val: CaseNames


class PretrainedChoice(Record):
    """A trained model whose weights a network begins with."""

    model_id: UUID
    fold: FoldNumber | Literal["all"] | None = None
    """None: the model's first."""
    member: Name | None = None
    """Of an ensemble, as GET /models/{id} names its `members`."""


class TrainingRequest(PlannerChoices):
    """What a client asks for with POST /train; all but the dataset has a default."""

    dataset_id: UUID
    plan: PlanName | None = None
    """One of the dataset's plans; None: one that is made for this training, as the choices say."""
    configurations: (
        Annotated[tuple[Name, ...], Field(min_length=1, max_length=100), AfterValidator(_once_each)] | None
    ) = None
    """None: 3d_fullres where the plan has it, else 2d."""
    folds: Annotated[
        tuple[FoldNumber | Literal["all"], ...],
        Field(min_length=1, max_length=100),
        AfterValidator(_once_each),
    ] = tuple(range(CROSS_VALIDATION_FOLDS))
    epochs: StrictInt = Field(default=1000, ge=1, le=1_000_000)
    iterations_per_epoch: StrictInt = Field(default=250, ge=1, le=1_000_000)
    validation_iterations_per_epoch: StrictInt | None = Field(default=None, ge=1, le=1_000_000)
    """None: in proportion to `iterations_per_epoch`, as the engine does."""
    seed: StrictInt = Field(default=0, ge=0, lt=2**63)
    settings: TrainingChoices = TrainingChoices()
    """How to train, see docs/training.md."""
    ensembling: StrictBool = True
    """Whether two of several configurations may be chosen together, where their mean segments best."""
    splits: Annotated[tuple[SplitChoice, ...], Field(min_length=1, max_length=100)] | None = None
    """Instead of the dataset's own or the default cross-validation; fold k is the k-th of them."""
    group_by: (
        Annotated[
            str,
            StringConstraints(strict=True, min_length=1, max_length=LONGEST_PATTERN),
            AfterValidator(_with_a_group),
        ]
        | None
    ) = None
    """Regular expression whose first group is the patient in a case identifier; cases of a patient stay on one
    side of each fold."""
    pretrained: PretrainedChoice | None = None
    """None: the weights are drawn."""
    name: Name | None = None
    """Of the training and its model; None: the dataset's."""

    @model_validator(mode="after")
    def _plan_or_choose(self) -> Self:
        if self.plan is not None and self.chosen:
            raise ValueError(
                f"the plan {self.plan} says how to plan already; leave out {', '.join(self.chosen)}, "
                "or leave out plan"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _every_split(cls, values: Any) -> Any:
        """Train all splits where a client sends some and names no folds."""
        if isinstance(values, dict) and isinstance(values.get("splits"), list) and "folds" not in values:
            return {**values, "folds": [*range(len(values["splits"]))] or [0]}
        return values

    @model_validator(mode="after")
    def _splits_or_groups(self) -> Self:
        if self.splits is not None and self.group_by is not None:
            raise ValueError("splits and group_by contradict each other; leave one of them out")
        if self.splits is None and self.group_by is None:
            return self
        if "all" in self.folds:
            what = "splits" if self.group_by is None else "group_by"
            raise ValueError(f"fold all trains on every case, whatever {what} says; leave {what} out, or all")
        beyond = [fold for fold in self.folds if self.splits and int(fold) >= len(self.splits)]
        if beyond:
            raise ValueError(
                f"there is no fold {beyond[0]} among {len(self.splits or ())} splits, which count from 0; send "
                "another split, or leave folds out to train all that there are"
            )
        return self

    @property
    def numbered_folds(self) -> int:
        """How many folds the cross-validation has."""
        return CROSS_VALIDATION_FOLDS if self.splits is None else len(self.splits)

    @property
    def all_settings(self) -> TrainingSettings:
        """What the engine needs of it."""
        lengths: dict[str, int] = {
            "epochs": self.epochs,
            "iterations_per_epoch": self.iterations_per_epoch,
            "seed": self.seed,
        }
        if self.validation_iterations_per_epoch is not None:
            lengths["validation_iterations_per_epoch"] = self.validation_iterations_per_epoch
        return TrainingSettings.model_validate({**lengths, **self.settings.model_dump()})


class FurtherRequest(Record):
    """What a client asks for with POST /trainings/{id}/continue."""

    epochs: StrictInt = Field(ge=1, le=1_000_000)
    """In all, those that are done included."""
    name: Name | None = None
    """Of the new training and its model; None: as that of the training before."""


ALIAS_PATTERN = r"^[A-Za-z][A-Za-z0-9._-]*$"

AliasName = Annotated[str, StringConstraints(max_length=100, pattern=ALIAS_PATTERN)]
"""What an alias is called; it begins with a letter, which no version number does."""

FOLDS_PATTERN = r"^(all|\d{1,3})(,(all|\d{1,3}))*$"

FoldList = Annotated[str, StringConstraints(max_length=200, pattern=FOLDS_PATTERN)]
"""Folds in an address: `0,1,4` or `all`."""

PrecisionChoice = PrecisionName | Literal["auto"]
"""Number format in which networks compute; `auto`: whichever suits the machine."""

StepSize = Annotated[float, Field(ge=0.05, le=1, allow_inf_nan=False)]
"""Distance of neighbouring tiles as a share of the patch; half of it costs up to eight times as much in a volume."""

ExportTarget = Literal["official", "native"]
"""For whom a model is exported: the official tools, or an import by another installation of this service."""


def folds_in(text: FoldList) -> tuple[Fold, ...]:
    """Return the folds that a list names, each once."""
    return tuple(dict.fromkeys("all" if one == "all" else int(one) for one in text.split(",")))


class PredictionChoices(Record):
    """What a client may decide about a prediction with POST /predict, beside image, model and urgency."""

    folds: tuple[Fold, ...] | None = Field(default=None, min_length=1)
    """Whose logits are averaged, of an ensemble in every member; None: every numbered one, or else that of all cases.
    Stages before the last of a cascade always use every fold."""
    mirroring: bool = True
    step_size: StepSize = 0.5
    postprocessing: bool = True
    """Whether to remove what the model's postprocessing.json says."""
    precision: PrecisionChoice = "auto"
    probabilities: bool = False
    """Whether to keep them, as CASE.npz and CASE.pkl of nnU-Net."""
    uncertainty: bool = False
    """Whether to map where folds and mirrorings are unsure or disagree."""

    @property
    def options(self) -> PredictionOptions:
        """What the engine needs of it."""
        return PredictionOptions(
            folds=self.folds,
            step_size=self.step_size,
            mirroring=self.mirroring,
            postprocessing=self.postprocessing,
            precision=self.precision,
        )


class ImportRequest(Record):
    """What a client asks for with POST /models, beside the zip."""

    name: Name | None = None
    """Of the model; None: as the dataset was called that it learnt from."""
    configuration: Name | None = None
    """Which of several models: its configuration, or its folder. None: the only one, or what was chosen there."""
    folds: FoldList | None = None
    """None: all there are."""
    checkpoint: CheckpointChoice = "final"

    @property
    def options(self) -> ImportOptions:
        """What the engine needs of it."""
        folds = None if self.folds is None else folds_in(self.folds)
        return ImportOptions(configuration=self.configuration, folds=folds, checkpoint=self.checkpoint)


class ExportRequest(Record):
    """What a client asks for with POST /models/{id}/exports."""

    format: ExportTarget = "official"


class AliasRequest(Record):
    """What a client asks for with PUT /models/aliases/{name}@{alias}: the model that it points at from now on."""

    version: StrictInt | None = Field(default=None, ge=1, le=MOST_VERSIONS)
    model_id: UUID | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.version is None) == (self.model_id is None):
            raise ValueError("send either a version or a model_id, to which the alias points from now on")
        return self
