"""Pages that are written from the code: `python -m hjepa.docs` writes them anew, a test holds them true."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from hjepa.catalog import FOLDERS, REPLACED, ROOT, Entry, entries
from hjepa.config import RunConfig
from hjepa.schema import allowed, annotated_yaml, has_effect, leaves

FOLDER_TITLES = {
    "core": "Baselines.",
    "quick": "Small and short, to see that things work.",
    "m1_max": "For Apple's GPUs.",
    "foundation": "Several data sets at once.",
    "features": "The baseline with one thing changed.",
    "archive": "Variants and older experiments; they run like the others.",
}


def pages() -> dict[Path, str]:
    """Every page by its path from the checkout."""
    found = list(entries())
    return {
        Path("configs/canonical.yaml"): annotated_yaml(RunConfig()),
        Path("configs/README.md"): _index(found),
        Path("docs/parameters.md"): _parameters(found),
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
    return f"{name}, {levels}"


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
        "place cannot change a result, and a sweep refuses to vary it."
    )
    section = None
    for key, field in leaves(RunConfig):
        above, _, name = key.rpartition(".")
        if above != section:
            section = above
            yield ""
            yield f"## {above or 'top level'}"
            yield ""
            yield "| key | meaning | allowed | default | set by |"
            yield "| --- | --- | --- | --- | --- |"
        meaning = " ".join((field.description or "").split())
        meaning += "" if has_effect(field) else " *Speed or place only.*"
        default = yaml.safe_dump(_default(key), default_flow_style=True, width=1000)
        cells = (
            f"`{name}`",
            meaning,
            allowed(field),
            f"`{default.removesuffix('...' + chr(10)).strip()}`",
            ", ".join(entry.name for entry in found if key in entry.own),
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(key: str) -> object:
    value: object = RunConfig().model_dump(mode="json")
    for part in key.split("."):
        assert isinstance(value, dict)
        value = value[part]
    return value


if __name__ == "__main__":
    main()
