"""The subcommands of hjepa-train, whose own parser cannot be had without torch; a test compares the two."""

from orchestrator.cli.completion.commands import ANY, FILE, FLAG, FOLDER, KEY, YAML, Command

TRAIN = {
    "train": Command(
        "Train by a YAML config, and evaluate after every epoch",
        {"-h": FLAG, "--help": FLAG, "--set": KEY, "--test": FLAG},
        YAML,
    ),
    "check": Command(
        "Check configs without training: what they resolve to, how large the model is, what is unwise",
        {"-h": FLAG, "--help": FLAG, "--set": KEY, "--brief": FLAG},
        YAML,
    ),
    "migrate": Command(
        "Convert a config of the old H-JEPA code to the present keys",
        {"-h": FLAG, "--help": FLAG, "-o": FILE, "--output": FILE, "--force": FLAG},
        YAML,
    ),
    "fetch": Command(
        "Download a public data set, verify its checksum, and unpack it",
        {"-h": FLAG, "--help": FLAG, "--to": FOLDER, "--from": FILE, "--url": ANY, "--checksum": ANY},
        "cifar10 cifar100 imagenette stl10",
    ),
}
