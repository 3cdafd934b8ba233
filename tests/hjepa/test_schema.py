"""Config classes, layers of files, and what a user is told of a mistake."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from hjepa.schema import (
    NO_EFFECT,
    Config,
    ConfigError,
    Layers,
    allowed,
    annotated_yaml,
    has_effect,
    inert_keys,
    inert_reason,
    leaves,
    nearest_key,
    parse_overrides,
    parse_yaml,
    resolve_key,
    to_yaml,
)


class Circle(Config):
    """Round."""

    kind: Literal["circle"] = "circle"
    radius: float = Field(default=1.0, gt=0)
    """Distance from the middle to the rim, in pixels."""


class Square(Config):
    kind: Literal["square"] = "square"
    side: float = Field(default=1.0, gt=0, le=10)
    """Length of an edge, in pixels."""


class Pen(Config):
    """What draws."""

    width: int | None = Field(default=None, ge=1)
    """Width of a line, in pixels; null: a hair."""
    colour: Literal["red", "blue"] = "red"
    """Ink."""
    dashed: bool | float = Field(default=False, ge=0, le=1)
    """Share of gaps; true means 0.5."""

    def inert(self) -> dict[str, str]:
        return {"dashed": "width is null"} if self.width is None else {}


class Drawing(Config):
    """A picture."""

    shape: Annotated[Circle | Square, Field(discriminator="kind")] = Circle()
    frame: Square | None = None
    pen: Pen = Pen()
    points: tuple[float, ...] = (0.5, 1e-5)
    """Where to begin."""
    labels: dict[str, int] = {}  # noqa: RUF012 (pydantic copies it)
    """Numbers by name."""
    title: str = "drawing"
    """What is written below."""
    speed: int = Field(default=3, json_schema_extra=NO_EFFECT)
    """Lines per second."""

    def inert(self) -> dict[str, str]:
        return {"frame": "there is no wall"}


def build(text: str = "", *overrides: str, path: Path = Path("a.yaml")) -> Drawing:
    layers = Layers()
    layers.add(parse_yaml(text) or {}, str(path))
    for key, value in parse_overrides(overrides).items():
        layers.set(key, value, "--set")
    return layers.build(Drawing, str(path))


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build(text, *overrides)
    return str(caught.value)


# Files that extend files


def written(folder: Path, **files: str) -> Layers:
    """Layers of the first of these files."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    layers = Layers()
    layers.add_file(folder / f"{next(iter(files))}.yaml")
    return layers


def test_extending_merges_maps_and_replaces_lists(tmp_path: Path):
    layers = written(
        tmp_path,
        child="extends: parent.yaml\npen: {colour: blue}\npoints: [3.0]",
        parent="extends: root.yaml\npen: {width: 2}\ntitle: parent",
        root="pen: {width: 1, dashed: true}\npoints: [1.0, 2.0]\ntitle: root\nspeed: 9",
    )
    config = layers.build(Drawing, "child.yaml")
    assert config.pen == Pen(width=2, colour="blue", dashed=True)
    assert config.points == (3.0,)
    assert (config.title, config.speed) == ("parent", 9)


def test_a_parent_is_found_from_the_file_that_names_it(tmp_path: Path):
    (tmp_path / "below").mkdir()
    (tmp_path / "root.yaml").write_text("title: root")
    (tmp_path / "below" / "child.yaml").write_text("extends: ../root.yaml")
    layers = Layers()
    layers.add_file(tmp_path / "below" / "child.yaml")
    assert layers.build(Drawing, "child").title == "root"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "extends: b.yaml", "b": "extends: a.yaml"}, "in a circle: a.yaml -> b.yaml -> a.yaml"),
        ({"a": "extends: a.yaml"}, "in a circle: a.yaml -> a.yaml"),
        ({"a": "extends: nowhere.yaml"}, r"a.yaml: extends: .*nowhere.yaml: no such file"),
        ({"a": "extends: b.yaml", "b": "x: 1\nx: 2"}, r"a.yaml: extends: .*b.yaml: not valid YAML: line 2"),
        ({"a": "extends: [b.yaml, c.yaml]"}, r"a.yaml: extends: \[.*\] is not allowed: must be one path"),
    ],
    ids=["circle", "itself", "missing", "invalid", "list"],
)
def test_a_parent_that_cannot_be_is_named(tmp_path: Path, files: dict[str, str], message: str):
    with pytest.raises(ConfigError, match=message):
        written(tmp_path, **files)


def test_a_wrong_value_is_blamed_on_the_file_that_holds_it(tmp_path: Path):
    layers = written(tmp_path, child="extends: parent.yaml\npen: {colour: red}", parent="pen: {width: 0}")
    with pytest.raises(ConfigError, match=r"^\S*parent.yaml: pen.width: 0 is not allowed: .* equal to 1.$"):
        layers.build(Drawing, "child.yaml")


def test_an_unknown_key_is_blamed_on_the_file_that_holds_it(tmp_path: Path):
    layers = written(tmp_path, child="extends: parent.yaml\npen: {width: 1}", parent="pen: {widht: 1}")
    with pytest.raises(ConfigError, match=r"^\S*parent.yaml: pen.widht: no such config key"):
        layers.build(Drawing, "child.yaml")


# Overrides


def test_overrides_lie_over_files():
    config = build(
        "pen: {width: 1, colour: blue}", "pen.width=4", "points=[1e-3]", "title=a b", "frame.side=2"
    )
    assert config.pen == Pen(width=4, colour="blue")
    assert (config.points, config.title, config.frame) == ((1e-3,), "a b", Square(side=2))


def test_null_overrides_too():
    assert build("pen: {width: 1}", "pen.width=null").pen.width is None


@pytest.mark.parametrize("text", ["pen.width", "=3", " =3"])
def test_an_override_without_key_or_value_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"must read key=value, e.g. training.lr=1e-3"):
        parse_overrides([text])


def test_a_wrong_override_is_blamed_on_set():
    assert refusal("pen: {width: 1}", "pen.width=wide") == (
        "--set: pen.width: 'wide' is not allowed: input should be a valid integer."
    )
    assert refusal("", "title.size=3").startswith("--set: title.size: no such config key.")
    with pytest.raises(ConfigError, match=r"--set a=\[: not valid YAML"):
        parse_overrides(["a=["])


# Types are meant


@pytest.mark.parametrize(
    ("text", "what", "wanted"),
    [
        ("shape: {kind: circle, radius: '1'}", "shape.radius: '1'", "a valid number"),
        ("shape: {kind: circle, radius: true}", "shape.radius: true", "a valid number"),
        ("shape: {kind: circle, radius: .nan}", "shape.radius: NaN", "a finite number"),
        ("pen: {width: true}", "pen.width: true", "a valid integer"),
        ("pen: {width: 1.5}", "pen.width: 1.5", "a valid integer"),
        ("pen: {dashed: some}", "pen.dashed: 'some'", "a valid boolean or a valid number"),
        ("pen: {dashed: 2}", "pen.dashed: 2", "less than or equal to 1"),
        ("title: 3", "title: 3", "a valid string"),
        ("points: 3", "points: 3", "a list, [value, ...]"),
        ("points: [a]", "points: 'a'", "a valid number"),
        ("pen: 3", "pen: 3", "a map, {key: value}"),
        ("pen:", "pen: null", "a map, {key: value}"),
        ("labels: [1]", "labels: [1]", "a map, {key: value}"),
        ("speed: null", "speed: null", "a valid integer"),
    ],
)
def test_a_value_of_another_type_is_refused_on_one_line(text: str, what: str, wanted: str):
    assert refusal(text) == f"a.yaml: {what} is not allowed: input should be {wanted}."


def test_whole_numbers_are_numbers():
    found = build("shape: {kind: circle, radius: 2}\npoints: [1, 2]\npen: {dashed: 1}")
    assert found.shape == Circle(radius=2.0)
    assert found.points == (1.0, 2.0)
    assert found.pen.dashed == 1.0


def test_a_date_is_a_word():
    assert build("title: 2024-01-31").title == "2024-01-31"


# What a user is told


def test_an_unknown_key_is_answered_with_the_nearest_and_its_siblings():
    assert refusal("pen: {widht: 3}") == (
        "a.yaml: pen.widht: no such config key.\nNearest: pen.width. Keys under pen: colour, dashed, width."
    )


def test_a_key_in_the_wrong_section_is_answered_with_the_right_one():
    assert "Nearest: pen.colour. Keys under pen: colour, dashed, width." in refusal("colour: red")


def test_a_key_near_to_nothing_is_answered_with_what_there_is():
    assert refusal("zzzz: 3") == (
        "a.yaml: zzzz: no such config key.\nKeys at the top: frame, labels, pen, points, shape, speed, title."
    )
    assert "Keys under pen: colour, dashed, width." in refusal("pen: {qqqqqqqq: 3}")


def test_a_dotted_key_in_a_file_is_answered_with_its_section():
    assert refusal("pen.width: 3") == (
        "a.yaml: pen.width: a file has its keys in sections; write width below pen."
    )
    assert "Nearest: pen.width." in refusal("pen.widht: 3")
    assert build("labels: {a.b: 1}").labels == {"a.b": 1}


def test_a_slip_in_the_word_extends_is_told_where_a_file_may_hold_it(tmp_path: Path):
    layers = written(tmp_path, child="extnds: parent.yaml")
    with pytest.raises(ConfigError, match=r"child\.yaml: extnds: no such config key\.\nNearest: extends\. "):
        layers.build(Drawing, "child.yaml")
    layers = Layers()
    layers.set("extnds", "parent.yaml", "--set extnds")
    with pytest.raises(ConfigError, match=r"no such config key\.\nNearest: pen\.dashed\. "):
        layers.build(Drawing, "child.yaml")


def test_a_value_out_of_range_is_told_with_file_key_value_and_what_is_allowed():
    assert refusal("shape: {kind: circle, radius: -0.5}") == (
        "a.yaml: shape.radius: -0.5 is not allowed: input should be greater than 0."
    )
    assert refusal("pen: {colour: green}") == (
        "a.yaml: pen.colour: 'green' is not allowed: input should be 'red' or 'blue'."
    )


def test_every_mistake_is_told():
    told = refusal("pen: {width: 0, colour: green}").splitlines()
    assert [line.split(":")[1].strip() for line in told] == ["pen.width", "pen.colour"]


def test_a_long_value_is_cut_short():
    assert len(refusal(f"pen: {{colour: {'x' * 5000}}}")) < 200


def test_keys_of_a_plain_map_are_data():
    assert build("labels: {one: 1, two: 2}", "labels.three=3").labels == {"one": 1, "two": 2, "three": 3}
    assert "labels.one: 'x' is not allowed" in refusal("labels: {one: x}")
    assert "title.deeper: no such config key" in refusal("title: {deeper: 3}")


# Unions


def test_keys_reach_into_every_member_of_a_union():
    assert build("shape: {kind: square, side: 2}").shape == Square(side=2)
    assert resolve_key(Drawing, "shape.side").description == "Length of an edge, in pixels."
    assert (
        resolve_key(Drawing, "shape.radius").description == "Distance from the middle to the rim, in pixels."
    )
    assert resolve_key(Drawing, "frame.side").description == "Length of an edge, in pixels."
    with pytest.raises(ConfigError, match=r"no such config key\.\nNearest: shape\.side"):
        resolve_key(Drawing, "shape.sid")


def test_a_wrong_value_within_a_union_is_told_by_its_key():
    assert refusal("shape: {kind: square, side: 11}") == (
        "a.yaml: shape.side: 11 is not allowed: input should be less than or equal to 10."
    )
    assert refusal("frame: {side: 0}") == (
        "a.yaml: frame.side: 0 is not allowed: input should be greater than 0."
    )
    assert refusal("shape: {kind: circle, side: 2}").startswith("a.yaml: shape.side: ")


def test_a_union_wants_its_tag():
    assert refusal("shape: {radius: 2}") == "a.yaml: shape.kind: must be given."
    assert refusal("shape: {kind: oval}") == (
        "a.yaml: shape.kind: 'oval' is not allowed: one of 'circle', 'square' is."
    )


def test_leaves_are_the_keys_that_hold_values_each_once():
    assert [key for key, _ in leaves(Drawing)] == [
        "shape.kind", "shape.radius", "shape.side", "frame.kind", "frame.side", "pen.width", "pen.colour",
        "pen.dashed", "points", "labels", "title", "speed",
    ]  # fmt: skip
    assert [key for key, field in leaves(Drawing) if not has_effect(field)] == ["speed"]


@given(st.text("abcdefghijklmnopqrstuvwxyz._", max_size=12))
def test_whatever_the_key_the_answer_names_keys(key: str):
    assert "Keys " in nearest_key(Drawing, key)


# Inert keys


def test_inert_keys_are_found_by_dotted_key_with_the_reason():
    assert inert_keys(Drawing()) == {"frame": "there is no wall", "pen.dashed": "width is null"}
    assert inert_keys(build("pen: {width: 1}")) == {"frame": "there is no wall"}


def test_a_key_below_an_inert_section_is_inert():
    assert inert_reason(Drawing(), "frame.side") == "there is no wall"
    assert inert_reason(Drawing(), "pen.dashed") == "width is null"
    assert inert_reason(Drawing(), "pen.width") is None


# Writing


def test_a_config_written_is_the_config_read():
    config = build(
        "shape: {kind: square, side: 2.5}\npoints: [1e-7, 2]\npen: {width: 3, dashed: 0.25}\ntitle: 'on'"
    )
    for text in (to_yaml(config), annotated_yaml(config)):
        assert build(text) == config


def test_annotations_say_meaning_unit_and_range():
    assert annotated_yaml(Pen(width=2)) == (
        "# What draws. Every key, with its meaning, its unit and what is allowed.\n"
        "\n"
        "# Width of a line, in pixels; null: a hair. Allowed: >= 1 or null.\n"
        "width: 2\n"
        "# Ink. Allowed: one of red, blue.\n"
        "colour: red\n"
        "# Share of gaps; true means 0.5. Allowed: >= 0 and <= 1.\n"
        "dashed: false\n"
    )


def test_sections_stand_apart():
    text = annotated_yaml(Drawing())
    assert "\n\n# Round.\nshape:\n" in text
    assert "\n\n# What draws.\npen:\n" in text
    assert "\n\n# Where to begin.\npoints: [0.5, 1.0e-05]\n" in text
    assert "\n\n\n" not in text
    assert all(len(line) <= 100 and line == line.rstrip() for line in text.splitlines())


def test_what_is_allowed_is_said_in_words():
    found = {key: allowed(field) for key, field in leaves(Drawing)}
    assert found["shape.radius"] == "> 0"
    assert found["shape.side"] == "> 0 and <= 10"
    assert found["pen.width"] == ">= 1 or null"
    assert found["pen.colour"] == "one of red, blue"
    assert found["title"] == ""


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Pen().width = 3  # pyright: ignore
