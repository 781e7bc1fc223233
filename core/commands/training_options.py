"""What `train` can be told on its command line: each option with its help."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Option(help="Model folder; an interrupted training in it goes on.")]
FoldName = Annotated[str, typer.Option(help="0, 1, … or all.")]
Epochs = Annotated[int | None, typer.Option(min=1)]
Iterations = Annotated[int | None, typer.Option(min=1)]
Seed = Annotated[int | None, typer.Option(min=0)]
SettingsFile = Annotated[
    Path | None, typer.Option(help="JSON file of settings, see docs/training.md; options go before it.")
]
GoesFurther = Annotated[
    bool, typer.Option("--continue", help="Go on with more epochs than the training was begun with.")
]
Preprocessed = Annotated[
    Path | None, typer.Option(help="Folder of preprocessed cases; made in the model folder if not given.")
]
SplitsFile = Annotated[
    Path | None, typer.Option(help="JSON list of splits; by default splits_final.json of the dataset.")
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help="Keep the cases of a patient together: an expression whose first group is the patient in a case "
        "identifier, such as '^([^_]+)_', or a .json file of cases, each with its patient."
    ),
]
Pretrained = Annotated[
    Path | None,
    typer.Option(help="Begin with these weights: a model folder, ours or official, or a file of weights."),
]
PretrainedFold = Annotated[
    str | None, typer.Option(help="Which fold of the pretrained model; its first if not given.")
]
PreviousModel = Annotated[
    Path | None,
    typer.Option(
        help="For a later stage of a cascade: model folder of the stage before, of which every fold is trained."
    ),
]
TensorboardFolder = Annotated[
    Path | None, typer.Option(help="Folder for TensorBoard, which shows each epoch in it.")
]
SaveProbabilities = Annotated[
    bool,
    typer.Option(
        "--save-probabilities",
        help="Keep the probabilities of the validation cases, which `select` needs to try ensembles.",
    ),
]
