"""Parts of an evaluation on disk: what was changed, copied or left by a kill is never taken in."""

import shutil

import pytest

from relmap.errors import InputError
from relmap.evaluation.rows import Head, Row, part_path, parts, read_head, read_part, write_part
from relmap.files import make_folder, write_whole

ROWS = [
    Row(at, f"name {at}", "genatt", "", "energy", "", "energy", None, at / 7) for at in range(5)
]


@pytest.fixture
def part(tmp_path):
    write_part(tmp_path, 3, ROWS, Head(3, "abc", ("1", "2"), (("genatt", "energy"),)))
    return part_path(tmp_path, 3)


def test_a_part_gives_back_what_was_written(part):
    assert list(read_part(part)) == ROWS
    assert read_head(part) == Head(3, "abc", ("1", "2"), (("genatt", "energy"),))


def test_every_flipped_bit_is_found(part):
    content = part.read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        part.write_bytes(bytes(changed))
        with pytest.raises(InputError, match="remove it to compute it again"):
            list(read_part(part))


@pytest.mark.parametrize("kept", [0, 1, 50, 0.5, -1])
def test_a_part_that_was_cut_is_found(part, kept):
    content = part.read_bytes()
    part.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match="remove it"):
        read_head(part)


def test_a_copy_under_another_number_is_found(part):
    shutil.copy(part, part_path(part.parent, 4))
    with pytest.raises(InputError, match="holds batch 3 and was copied"):
        list(read_part(part_path(part.parent, 4)))


def test_a_table_of_somebody_else_is_no_part(tmp_path):
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"a": [1]}).to_parquet(part_path(tmp_path, 0))
    with pytest.raises(InputError, match="no checksum"):
        read_head(part_path(tmp_path, 0))


def test_what_a_kill_leaves_is_no_part(part, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr("os.replace", _killed)
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        write_part(part.parent, 4, ROWS)
    (left,) = [file for file in part.parent.iterdir() if file != part]
    left.write_bytes(left.read_bytes()[:20])
    assert len(pandas.read_parquet(part.parent)) == len(ROWS)
    assert parts(part.parent) == [part]


def _killed(*_):
    raise KeyboardInterrupt


def test_a_temporary_name_cannot_be_guessed(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr("os.replace", lambda one, _: names.append(one.name))
    for _ in range(20):
        write_whole(tmp_path / "table.csv", b"1")
    assert len(set(names)) == 20
    assert all(len(name) > 16 and name.startswith(".") for name in names)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_into_somebodys_link(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    (tmp_path / ".guessed.part").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="cannot write"):
        write_whole(tmp_path / "table.csv", b"1")
    assert (tmp_path / "secret").read_text() == "mine"


@pytest.mark.parametrize("name", ["a/b.csv", "x" * 300, "a\0b", "/proc/e4"])
def test_what_cannot_be_written_is_a_sentence(tmp_path, name):
    with pytest.raises(InputError, match="cannot write"):
        write_whole(tmp_path / name, b"1")


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300, "a\0b", "/proc/e4", "/dev/full"])
def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path, name):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="cannot write into the folder"):
        make_folder(tmp_path / name)


def test_a_file_is_readable_by_whom_the_session_says(tmp_path):
    (tmp_path / "plain").write_text("1")
    write_whole(tmp_path / "whole", b"1")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode
