"""plans.json of nnU-Net v2: how images are preprocessed and which network sees which patch."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Self

from pydantic import (
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from core.domain.fingerprint import IntensityProperties
from core.domain.geometry import COARSEST_MM, FINEST_MM, MOST_VOXELS, Axes, Spacing
from core.domain.inheritance import resolved, with_inherited
from core.domain.names import NETWORK_NAMES, last_part
from core.domain.old_plans import OLD_KEYS, with_architecture
from core.domain.record import SharedRecord, faults, parse_json
from core.errors import PlanError

INTENSITIES = "foreground_intensity_properties_per_channel"
OLD_INTENSITIES = "foreground_intensity_properties_by_modality"
"""What the foreground intensities are called, and were called at first."""

ConfigurationName = str
"""2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres, or a name that a user gave."""


Count = Annotated[StrictInt, Field(ge=1)]
Samples = Annotated[StrictInt, Field(ge=1, le=100_000)]
"""In a batch; planners come to some thousand small slices."""
Voxels = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
"""Along an axis of a patch or kernel."""
Features = Annotated[StrictInt, Field(ge=1, le=65_536)]
Repeats = Annotated[StrictInt, Field(ge=1, le=1000)]
"""Of stages, and of blocks in one; all of these limits are far beyond what a machine can train."""
Millimetres = Annotated[float, Field(ge=FINEST_MM, le=COARSEST_MM, allow_inf_nan=False)]
Extent = Annotated[float, Field(gt=0, le=MOST_VOXELS, allow_inf_nan=False)]
"""A median count of voxels, which may have a half."""


class PlanMistake(NamedTuple):
    """One thing that is wrong with a plan."""

    where: str
    """Dotted path of the entry; empty for the whole."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class ArchitectureArguments(SharedRecord):
    """What a U-Net is built from; one entry per stage, highest resolution first.

    Source:
        Engine specification A 1.7 and A 7.
    """

    n_stages: Repeats
    features_per_stage: tuple[Features, ...]
    conv_op: str
    kernel_sizes: tuple[tuple[Voxels, ...], ...]
    strides: tuple[tuple[Voxels, ...], ...]
    n_conv_per_stage: tuple[Repeats, ...] | None = None
    """Convolutions per encoder stage of the plain network."""
    n_blocks_per_stage: tuple[Repeats, ...] | None = None
    """Residual blocks per encoder stage of the residual network."""
    n_conv_per_stage_decoder: tuple[Repeats, ...]
    conv_bias: StrictBool = True
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    dropout_op: str | None = None
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None


class FreeArguments(SharedRecord):
    """What a network is built from that a package adds: whatever that takes."""

    strides: tuple[tuple[Voxels, ...], ...] = ()
    """Of the encoder's stages, if there is an output per stage to be supervised; as those of a U-Net."""


class Architecture(SharedRecord):
    """A network by name, with its arguments; names are looked up in a registry, never imported."""

    network_class_name: str
    arch_kwargs: ArchitectureArguments | FreeArguments
    kw_requires_import: tuple[str, ...] = Field(default=(), alias="_kw_requires_import")

    @field_validator("arch_kwargs", mode="before")
    @classmethod
    def _as_the_network_takes_them(cls, values: Any, given: ValidationInfo) -> Any:
        """Check the arguments of our networks; what those of a package take is known where it is loaded."""
        if not isinstance(values, Mapping):
            return values
        is_ours = last_part(given.data.get("network_class_name", "")) in NETWORK_NAMES
        return (ArchitectureArguments if is_ours else FreeArguments).model_validate(values)

    @property
    def is_unet(self) -> bool:
        """Whether the network is one of ours, whose arguments tell everything about it."""
        return isinstance(self.arch_kwargs, ArchitectureArguments)

    @property
    def unet(self) -> ArchitectureArguments:
        """The arguments of one of our networks.

        Raises:
            PlanError: A package adds the network.
        """
        if isinstance(self.arch_kwargs, ArchitectureArguments):
            return self.arch_kwargs
        raise PlanError(f"what the network {self.network_class_name} is made of is known to its package only")


class Configuration(SharedRecord):
    """One entry of `configurations`, with what it inherits filled in.

    Source:
        Engine specification A 1.7.
    """

    data_identifier: str = ""
    preprocessor_name: str = "DefaultPreprocessor"
    batch_size: Samples = 2
    patch_size: tuple[Voxels, ...] = Field(min_length=2, max_length=3)
    """Voxels that the network sees, two for a 2D network, in transposed order."""
    median_image_size_in_voxels: tuple[Count, ...] | tuple[Extent, ...] = ()
    spacing: tuple[Millimetres, ...] = Field(min_length=2, max_length=3)
    """Millimetres, after transposition; two for a 2D network."""
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[StrictBool, ...]
    resampling_fn_data: str
    resampling_fn_seg: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_seg_kwargs: dict[str, Any]
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any]
    architecture: Architecture
    batch_dice: StrictBool = False
    previous_stage: str | None = None
    next_stage: str | tuple[str, ...] | None = None

    @property
    def is_2d(self) -> bool:
        """Whether the network sees slices."""
        return len(self.patch_size) == 2  # noqa: PLR2004 - the two of 2D

    def target_spacing(self, spacing: Spacing) -> Spacing:
        """Return the full target spacing of an image of the given (transposed) spacing.

        A 2D configuration never resamples across slices.

        Source:
            Engine specification A 6.1 (5).
        """
        z, y, x = (spacing[0], *self.spacing) if self.is_2d else self.spacing
        return (float(z), float(y), float(x))


class Plan(SharedRecord):
    """plans.json.

    Source:
        Engine specification A 1.6; inheritance between configurations, A 1.7.
    """

    dataset_name: str = ""
    plans_name: str = "nnUNetPlans"
    original_median_spacing_after_transp: tuple[Millimetres, Millimetres, Millimetres] | None = None
    original_median_shape_after_transp: tuple[Count, Count, Count] | tuple[Extent, Extent, Extent] | None = (
        None
    )
    image_reader_writer: str
    transpose_forward: Axes
    transpose_backward: Axes
    configurations: dict[ConfigurationName, dict[str, Any]]
    """As in the file, inheritance not resolved; `configuration()` resolves it."""
    experiment_planner_used: str | None = None
    label_manager: str | None = None
    foreground_intensity_properties_per_channel: dict[str, IntensityProperties]

    @model_validator(mode="before")
    @classmethod
    def _accept_older_name(cls, values: Any) -> Any:
        """Read the intensities under the name that they had at first; Engine specification A 1.5."""
        if isinstance(values, dict) and OLD_INTENSITIES in values and INTENSITIES not in values:
            return {(INTENSITIES if key == OLD_INTENSITIES else key): value for key, value in values.items()}
        return values

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read the text of a plans.json and check every configuration in it.

        Raises:
            PlanError: It cannot be used; every offending entry is named.
        """
        values = parse_json(text, "plans.json", PlanError)
        mistakes = form_mistakes(values)
        if mistakes:
            raise plan_error(mistakes)
        return cls.model_validate(values)

    def configuration(self, name: ConfigurationName) -> Configuration:
        """Return one configuration with what it inherits.

        Raises:
            PlanError: It does not exist, inherits in a circle, or lacks something.
        """
        if name not in self.configurations:
            known = ", ".join(self.configurations)
            raise PlanError(f"plans.json has no configuration {name!r}; it has: {known}", configuration=name)
        try:
            return Configuration.model_validate(with_architecture(with_inherited(self.configurations, name)))
        except ValidationError as error:
            wrong = "; ".join(f"{where}: {what}" for where, what in faults(error))
            raise PlanError(f"plans.json, configuration {name}: {wrong}", configuration=name) from error


def form_mistakes(values: Mapping[str, Any]) -> list[PlanMistake]:
    """Check the form of a whole plans.json: its entries, and each configuration with what it inherits.

    Args:
        values: The JSON object.

    Returns:
        Every entry that is missing or cannot be what it is, in the order of the file.
    """
    mistakes: list[PlanMistake] = []
    try:
        Plan.model_validate(values)
    except ValidationError as error:
        mistakes += [PlanMistake(where, what) for where, what in faults(error)]
    configurations = values.get("configurations")
    if not isinstance(configurations, dict):
        return mistakes
    if not configurations:
        mistakes.append(PlanMistake("configurations", "there is none; plan again"))
    sound = {name: entries for name, entries in configurations.items() if isinstance(entries, dict)}
    for name in sound:
        mistakes += _configuration_mistakes(sound, name)
    return mistakes


def _configuration_mistakes(sound: Mapping[str, Mapping[str, Any]], name: str) -> list[PlanMistake]:
    """Check the form of one configuration; what it inherits is the parent's mistake."""
    own, place = sound[name], f"configurations.{name}"
    given = resolved(sound, name)
    mistakes = [PlanMistake(place, message) for message in given.mistakes]
    is_heir = own.get("inherits_from") is not None
    mine = {*own, "architecture"} if own.keys() & {*OLD_KEYS} else {*own}
    try:
        Configuration.model_validate(given.entries)
    except ValidationError as error:
        mistakes += [
            PlanMistake(f"{place}.{where}", what)
            for where, what in faults(error)
            if (not is_heir or where.partition(".")[0] in mine)
            and not (given.mistakes and where == "architecture")
        ]
    return mistakes


def plan_error(mistakes: list[PlanMistake]) -> PlanError:
    """Return the error that names all mistakes, in its sentence and for programs."""
    return PlanError(
        f"plans.json cannot be used: {'; '.join(map(str, mistakes))}",
        problems=[{"where": mistake.where, "message": mistake.message} for mistake in mistakes],
    )
