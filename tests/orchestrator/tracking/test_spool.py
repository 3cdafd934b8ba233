import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tracking.spool import CURSOR, SPOOL, Cursor, SpoolWriter, read, undelivered


def spool_with(folder, *records):
    writer = SpoolWriter(folder / SPOOL)
    for record in records:
        writer.append(record)
    writer.close()
    return folder / SPOOL


def test_records_come_back_in_order_from_any_offset(tmp_path):
    path = spool_with(tmp_path, *({"kind": "epoch", "epoch": epoch} for epoch in range(4)))
    all_of_it = list(read(path))
    assert [record["epoch"] for _, record in all_of_it] == [0, 1, 2, 3]
    assert list(read(path, all_of_it[1][0])) == all_of_it[2:]
    assert list(read(path, limit=2)) == all_of_it[:2]


def test_reader_waits_for_a_torn_last_line(tmp_path):
    path = spool_with(tmp_path, {"kind": "epoch", "epoch": 0})
    end = path.stat().st_size
    with path.open("ab") as spool:
        spool.write(b'{"kind":"epoch","ep')
    assert [record["epoch"] for _, record in read(path)] == [0]
    with path.open("ab") as spool:
        spool.write(b'och":1}\n')
    assert [record["epoch"] for _, record in read(path, end)] == [1]


def test_next_writer_cuts_off_a_torn_last_line(tmp_path):
    path = spool_with(tmp_path, {"kind": "epoch", "epoch": 0})
    with path.open("ab") as spool:
        spool.write(b'{"kind":"epoch","ep')
    spool_with(tmp_path, {"kind": "epoch", "epoch": 1})
    assert [record["epoch"] for _, record in read(path)] == [0, 1]


def test_a_damaged_line_hides_no_other(tmp_path):
    path = spool_with(tmp_path, {"kind": "epoch"})
    with path.open("ab") as spool:
        spool.write(b"\0\0\0\xff\n[1]\n")
    spool_with(tmp_path, {"kind": "end"})
    assert [record["kind"] for _, record in read(path)] == ["epoch", "damaged", "damaged", "end"]


@given(value=st.floats() | st.text())
def test_values_survive_exactly(tmp_path_factory, value):
    path = spool_with(tmp_path_factory.mktemp("spool"), {"kind": "epoch", "value": value})
    [(_, record)] = read(path)
    assert repr(record["value"]) == repr(value)


def test_undelivered_counts_what_lies_behind_the_cursor(tmp_path):
    assert undelivered(tmp_path) == 0
    path = spool_with(tmp_path, *({"kind": "epoch"} for _ in range(3)))
    assert undelivered(tmp_path) == 3
    cursor = Cursor("sqlite:////results/mlflow.db")
    cursor.advance(list(read(path, limit=2)))
    cursor.save(tmp_path)
    assert undelivered(tmp_path) == 1


def test_cursor_comes_back_as_saved(tmp_path):
    cursor = Cursor("http://host", 17, "session", {"": "parent", "t1": "run"}, ["t1"], 2)
    cursor.save(tmp_path)
    assert Cursor.load(tmp_path) == cursor
    assert json.loads((tmp_path / CURSOR).read_text())["offset"] == 17


@pytest.mark.parametrize("content", ["", '{"store": "x", "off', '{"store": "x", "of_a_later_version": 1}'])
def test_a_cursor_that_cannot_be_read_counts_as_none(tmp_path, content):
    (tmp_path / CURSOR).write_text(content)
    assert Cursor.load(tmp_path) is None
