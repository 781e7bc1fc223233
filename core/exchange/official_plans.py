"""plans.json and dataset.json in words that the official tools understand."""

import re
from collections.abc import Iterable
from typing import Any, Final

from core.domain.names import (
    ACTIVATION_NAMES,
    NAME_SEPARATOR,
    NETWORK_NAMES,
    NORMALIZATION_NAMES,
    READER_FORMATS,
    RESAMPLING_NAMES,
    last_part,
    plans_name_mistake,
)
from core.domain.old_plans import OPERATORS, UNETS, fixed_arguments
from core.domain.plan import Configuration
from core.errors import DomainError, ModelError
from core.exchange.model_files import Described

DATASET_NAME: Final = re.compile(r"Dataset\d{3}_[A-Za-z0-9_.-]{1,100}")
"""What the official tools take for a dataset's name; Engine specification A 1.1."""

OTHER_DATASET: Final = "Dataset999_"
"""Begins the name of a dataset that has another one here."""

OWN_LABEL_RULE, LABEL_RULE = "resample_labels_by_threshold", "resample_data_or_seg_to_shape"
"""A function of ours for label maps, with the rule of older releases, and the one of the official tools that takes the
same arguments."""

OFFICIAL_RESAMPLINGS: Final = RESAMPLING_NAMES - {OWN_LABEL_RULE}

DOTTED: Final = {
    "Conv2d": "torch.nn.modules.conv.Conv2d",
    "Conv3d": "torch.nn.modules.conv.Conv3d",
    "InstanceNorm2d": "torch.nn.modules.instancenorm.InstanceNorm2d",
    "InstanceNorm3d": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "BatchNorm2d": "torch.nn.modules.batchnorm.BatchNorm2d",
    "BatchNorm3d": "torch.nn.modules.batchnorm.BatchNorm3d",
    **{name: f"torch.nn.{name}" for name in ACTIVATION_NAMES},
}
"""Operators under the names by which the official tools import them; Engine specification A 0.5."""


def official_dataset_name(name: str) -> str:
    """Return a name that the official tools take for that of a dataset."""
    if DATASET_NAME.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:100]
    return f"{OTHER_DATASET}{plain or 'Model'}"


def official_plans_name(name: str) -> str:
    """Return a name that can be a part of that of a model's folder."""
    return name if plans_name_mistake(name) is None else "nnUNetPlans"


def official_plans(described: Described) -> dict[str, Any]:
    """Return plans.json with the model's configuration, and others as far as they can be described.

    Raises:
        ModelError: The model needs what only a package of this software's knows.

    Source:
        Engine specification A 1.6, 1.7.
    """
    plan = described.plan
    _require_known("the reader", [plan.image_reader_writer], READER_FORMATS)
    values = plan.to_json() | {
        "dataset_name": official_dataset_name(plan.dataset_name),
        "plans_name": official_plans_name(plan.plans_name),
        "label_manager": "LabelManager",
    }
    needed = {described.name, described.configuration.previous_stage}
    configurations = {}
    for name in plan.configurations:
        try:
            configurations[name] = _official_configuration(plan.configuration(name))
        except DomainError:
            if name in needed:
                raise
    return values | {"configurations": configurations}


def _official_configuration(configuration: Configuration) -> dict[str, Any]:
    """Return a configuration with all that it inherits.

    Raises:
        ModelError: It names what only a package knows.
    """
    architecture = configuration.architecture
    _require_known("the network", [last_part(architecture.network_class_name)], NETWORK_NAMES)
    _require_known("the normalization", configuration.normalization_schemes, NORMALIZATION_NAMES)
    values = configuration.to_json()
    if configuration.resampling_fn_seg == OWN_LABEL_RULE:
        values["resampling_fn_seg"] = LABEL_RULE
    for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        _require_known("the resampling", [values[key]], OFFICIAL_RESAMPLINGS)
    arguments = architecture.unet
    operators = {
        key: None if getattr(arguments, key) is None else DOTTED[last_part(getattr(arguments, key))]
        for key in OPERATORS
    }
    fixed = fixed_arguments(len(configuration.patch_size))
    values["architecture"] = {
        "network_class_name": f"{UNETS}.{last_part(architecture.network_class_name)}",
        "arch_kwargs": fixed | arguments.to_json() | operators,
        "_kw_requires_import": list(OPERATORS),
    }
    return values


def _require_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse what a package adds.

    Raises:
        ModelError: It does.
    """
    strange = [name for name in names if name not in known]
    if strange:
        raise ModelError(
            f"{what} {strange[0]} is known to this software only, so the official tools cannot predict with the "
            "model; export it with --format ours",
            name=strange[0],
        )


def official_description(described: Described) -> dict[str, Any]:
    """Return dataset.json without the paths of the training cases, which lie on this machine.

    Raises:
        ModelError: It insists on a reader that a package adds.
    """
    reader = described.description.reader
    _require_known("the reader", [] if reader is None else [reader], READER_FORMATS)
    return {key: value for key, value in described.description.to_json().items() if key != "dataset"}


def official_model_name(described: Described, mirror_axes: tuple[int, ...]) -> str:
    """Return the name of the model's folder: trainer, plans and configuration.

    Source:
        Engine specification A 1.11, 1.15.
    """
    return NAME_SEPARATOR.join(
        (official_trainer(mirror_axes), official_plans_name(described.plan.plans_name), described.name)
    )


def official_trainer(mirror_axes: tuple[int, ...]) -> str:
    """Return the trainer that comes closest; the checkpoint says along which axes it mirrored."""
    return "nnUNetTrainer" if mirror_axes else "nnUNetTrainerNoMirroring"
