"""What an image should be like that a model segments: as those it learnt from, by its plan and dataset.json."""

from app.payloads import ExpectedImage
from core.domain.dataset import DatasetDescription
from core.domain.plan import ConfigurationName, Plan


def expected_image(
    plan: Plan, description: DatasetDescription, configuration: ConfigurationName
) -> ExpectedImage:
    """Say what the images of a dataset were like, in the axis order of the files.

    Args:
        plan: Made for the dataset.
        description: Its dataset.json.
        configuration: Of the plan; says how each channel is normalized.
    """
    spacing, shape = plan.original_median_spacing_after_transp, plan.original_median_shape_after_transp
    z, y, x = plan.transpose_backward
    median_zyx = None if shape is None else (round(shape[z]), round(shape[y]), round(shape[x]))
    return ExpectedImage(
        file_ending=description.file_ending,
        is_flat=None if median_zyx is None else median_zyx[0] == 1,
        spacing=None if spacing is None else (spacing[z], spacing[y], spacing[x]),
        shape=median_zyx,
        normalization=plan.configuration(configuration).normalization_schemes,
    )
