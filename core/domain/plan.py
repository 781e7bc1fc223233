"""plans.json of nnU-Net v2: how images are preprocessed and which network sees which patch."""

from typing import Any, Self

from pydantic import Field, ValidationError

from core.domain.fingerprint import IntensityProperties
from core.domain.geometry import Axes, Shape, Spacing
from core.domain.record import SharedRecord, describe, parse_json
from core.errors import PlanError

ConfigurationName = str
"""2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres, or a name that a user gave."""


class ResamplingArguments(SharedRecord):
    """Keyword arguments of a resampling function, as the default one takes them."""

    is_seg: bool = False
    order: int = Field(default=3, ge=0, le=5)
    order_z: int = Field(default=0, ge=0, le=5)
    force_separate_z: bool | None = None


class ArchitectureArguments(SharedRecord):
    """What a U-Net is built from; one entry per stage, highest resolution first.

    Source:
        Engine specification A 1.7 and A 7.
    """

    n_stages: int = Field(ge=1)
    features_per_stage: tuple[int, ...]
    conv_op: str
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    n_conv_per_stage: tuple[int, ...] | None = None
    """Convolutions per encoder stage of the plain network."""
    n_blocks_per_stage: tuple[int, ...] | None = None
    """Residual blocks per encoder stage of the residual network."""
    n_conv_per_stage_decoder: tuple[int, ...]
    conv_bias: bool = True
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    dropout_op: str | None = None
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None


class Architecture(SharedRecord):
    """A network by name, with its arguments; names are looked up in a registry, never imported."""

    network_class_name: str
    arch_kwargs: ArchitectureArguments
    kw_requires_import: tuple[str, ...] = Field(default=(), alias="_kw_requires_import")


class Configuration(SharedRecord):
    """One entry of `configurations`, with what it inherits filled in.

    Source:
        Engine specification A 1.7.
    """

    data_identifier: str = ""
    preprocessor_name: str = "DefaultPreprocessor"
    batch_size: int = Field(default=2, ge=1)
    patch_size: tuple[int, ...] = Field(min_length=2, max_length=3)
    """Voxels that the network sees, two for a 2D network, in transposed order."""
    median_image_size_in_voxels: tuple[int, ...] | tuple[float, ...] = ()
    spacing: tuple[float, ...] = Field(min_length=2, max_length=3)
    """Millimetres, after transposition; two for a 2D network."""
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_fn_data: str
    resampling_fn_seg: str
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_seg_kwargs: dict[str, Any]
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any]
    architecture: Architecture
    batch_dice: bool = False
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
    original_median_spacing_after_transp: Spacing | None = None
    original_median_shape_after_transp: Shape | tuple[float, float, float] | None = None
    image_reader_writer: str
    transpose_forward: Axes
    transpose_backward: Axes
    configurations: dict[ConfigurationName, dict[str, Any]]
    """As in the file, inheritance not resolved; `configuration()` resolves it."""
    experiment_planner_used: str | None = None
    label_manager: str | None = None
    foreground_intensity_properties_per_channel: dict[str, IntensityProperties]

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read the text of a plans.json and check every configuration in it.

        Raises:
            PlanError: It cannot be used; every offending key of the first level is named.
        """
        values = parse_json(text, "plans.json", PlanError)
        try:
            plan = cls.model_validate(values)
        except ValidationError as error:
            raise PlanError(f"plans.json cannot be used: {describe(error)}") from error
        for name in plan.configurations:
            plan.configuration(name)
        return plan

    def configuration(self, name: ConfigurationName) -> Configuration:
        """Return one configuration with what it inherits.

        Raises:
            PlanError: It does not exist, inherits in a circle, or lacks something.
        """
        values = self._inherited(name, ())
        try:
            return Configuration.model_validate(values)
        except ValidationError as error:
            raise PlanError(
                f"plans.json, configuration {name}: {describe(error)}", configuration=name
            ) from error

    def _inherited(self, name: ConfigurationName, heirs: tuple[str, ...]) -> dict[str, Any]:
        """Return the parent's entries, overridden by the configuration's own."""
        if name in heirs:
            circle = " → ".join((*heirs, name))
            raise PlanError(f"plans.json: configurations inherit in a circle: {circle}", configuration=name)
        if name not in self.configurations:
            known = ", ".join(self.configurations)
            raise PlanError(f"plans.json has no configuration {name!r}; it has: {known}", configuration=name)
        own = dict(self.configurations[name])
        parent = own.pop("inherits_from", None)
        return own if parent is None else {**self._inherited(parent, (*heirs, name)), **own}
