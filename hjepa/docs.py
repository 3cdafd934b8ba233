"""Pages that are written from the code: `python -m hjepa.docs` writes them anew, a test holds them true."""

from collections.abc import Iterator
from pathlib import Path

from hjepa.catalog import FOLDERS, REPLACED, ROOT, Entry, entries
from hjepa.config import RunConfig
from hjepa.legacy.rules import RENAMED, UNREAD
from hjepa.schema import annotated_yaml, flow_yaml, key_tables, leaves

FOLDER_TITLES = {
    "core": "Baselines.",
    "quick": "Small and short, to see that things work.",
    "m1_max": "For Apple's GPUs.",
    "foundation": "Several data sets at once.",
    "features": "One feature each, shown on the baseline or on digits.",
    "archive": "Variants and older experiments; they run like the others.",
}


def pages() -> dict[Path, str]:
    """Every page by its path from the checkout."""
    found = list(entries())
    return {
        Path("configs/canonical.yaml"): annotated_yaml(RunConfig()),
        Path("configs/README.md"): _index(found),
        Path("docs/parameters.md"): _parameters(found),
        Path("docs/migration.md"): _migration((ROOT / "docs/migration.md").read_text(encoding="utf-8")),
    }


def main() -> None:
    """Write the pages that are not as they should be."""
    for path, text in pages().items():
        file = ROOT / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(f"written: {path}")


def _index(found: list[Entry]) -> str:
    return "\n".join(_index_lines(found)) + "\n"


def _index_lines(found: list[Entry]) -> Iterator[str]:
    yield "# Configs"
    yield ""
    yield "Written by `make docs` from the files; their heads say more."
    yield ""
    yield "    hjepa-train configs/quick/digits.yaml"
    yield "    hjepa-train m1_max_quick_val --set data.data_path=DIR"
    yield ""
    yield (
        "A bare name is looked for in these folders. Each file holds what differs from the one that it\n"
        "extends; `canonical.yaml` has every key with its meaning. Paths are relative to the folder where\n"
        "the command is given. `imagenet100_classes.txt` lists the classes of ImageNet-100."
    )
    for folder in FOLDERS:
        yield ""
        yield f"## {folder}"
        yield ""
        yield FOLDER_TITLES[folder]
        yield ""
        yield "| config | purpose | model | data | epochs | device | extends |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for entry in found:
            if entry.path.parts[0] == folder:
                yield _index_row(entry)


def _index_row(entry: Entry) -> str:
    config = entry.config
    purpose = entry.head["Purpose"]
    if REPLACED in entry.head:
        purpose = f"Replaced by {_link(entry.head[REPLACED])}. {purpose}"
    cells = (
        _link(entry.path.as_posix()),
        purpose,
        _model(config),
        f"{_data(config)}, {config.data.image_size} px",
        str(config.training.epochs),
        config.device,
        _link(entry.extends) if entry.extends else "",
    )
    return f"| {' | '.join(cells)} |"


def _link(path: str) -> str:
    return f"[{Path(path).stem}]({path})"


def _model(config: RunConfig) -> str:
    model, shape = config.model, config.model.shape
    name = model.encoder_type
    if name == "vit":
        name = f"{shape.depth} blocks, width {shape.embed_dim}, patches of {shape.patch_size}"
    levels = "1 level" if model.num_hierarchies == 1 else f"{model.num_hierarchies} levels"
    return f"{name}, {levels if config.loss.predicts else 'nothing predicted'}"


def _data(config: RunConfig) -> str:
    return config.data.title


def _parameters(found: list[Entry]) -> str:
    return "\n".join(_parameter_lines(found)) + "\n"


def _parameter_lines(found: list[Entry]) -> Iterator[str]:
    yield "# Parameters"
    yield ""
    yield (
        "Every key that a run's config may hold, written by `make docs` from the schema. *Set by* names the\n"
        "configs of `configs/` that set it themselves; what extends those has it too. A key of speed or\n"
        "place changes no result but by rounding, or by which damaged images are left out; a sweep\n"
        "refuses to vary it."
    )
    yield from key_tables(
        leaves(RunConfig),
        _default,
        more={"set by": lambda key: ", ".join(entry.name for entry in found if key in entry.own)},
    )


def _migration(page: str) -> str:
    """The page with the table of renamed keys as it should be between its two marks."""
    before, _, rest = page.partition("<!-- table -->")
    after = rest.partition("<!-- end -->")[2]
    rows = ["| old key | new key | read by the old code |", "| --- | --- | --- |"]
    for old, new in sorted(RENAMED.items()):
        rows.append(f"| `{old}` | `{new}` | {'no' if old in UNREAD else 'yes'} |")
    return "\n".join([f"{before}<!-- table -->", *rows, f"<!-- end -->{after}"])


def _default(key: str) -> str:
    value: object = RunConfig().model_dump(mode="json")
    for part in key.split("."):
        assert isinstance(value, dict)
        value = value[part]
    return f"`{flow_yaml(value)}`"


if __name__ == "__main__":
    main()
