"""The stages of a cascade: which configurations refine another one's segmentation, and what their networks see of it."""

from core.domain.labels import LabelSet
from core.domain.plan import Configuration, ConfigurationName, Plan


def input_channels(configuration: Configuration, labels: LabelSet) -> int:
    """Return how many channels a configuration's network sees.

    Those of the image, and in a later stage of a cascade one for each foreground label, regions or not, that
    the stage before may have found.

    Source:
        Engine specification A 7.1, B 4.4.
    """
    image = len(configuration.normalization_schemes)
    return image if configuration.previous_stage is None else image + len(labels.foreground)


def next_stages(plan: Plan, name: ConfigurationName) -> tuple[ConfigurationName, ...]:
    """Return the configurations that refine what one segments, in the order of the plan.

    Either side may say so; plans that a person extended often name the previous stage alone.

    Raises:
        PlanError: A configuration cannot be resolved, or a next stage does not exist.

    Source:
        Engine specification B 1.13 (4), B 4.4.
    """
    declared = plan.configuration(name).next_stage or ()
    wanted = {declared} if isinstance(declared, str) else set(declared)
    for stage in sorted(wanted):
        plan.configuration(stage)
    return tuple(
        other
        for other in plan.configurations
        if other != name and (other in wanted or plan.configuration(other).previous_stage == name)
    )
