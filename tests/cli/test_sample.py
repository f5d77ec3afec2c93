"""`sample` writes the embedded files, keeps equal ones, and never overwrites others."""

import pytest

from cgrefine.cli import sample
from cgrefine.cli.sample import copy_sample
from cgrefine.errors import InputError


@pytest.fixture(autouse=True)
def embedded(tmp_path, monkeypatch):
    """Two small files instead of the real ones: the copying is tested here, not their content."""
    folder = tmp_path / "embedded"
    folder.mkdir()
    (folder / "a.h5").write_bytes(b"one")
    (folder / "b.h5").write_bytes(b"two")
    monkeypatch.setattr(sample, "sample_folder", lambda: folder)
    return folder


def test_files_are_written_and_a_second_call_keeps_them(tmp_path):
    target = tmp_path / "new" / "sample"
    assert [path.name for path in copy_sample(target)] == ["a.h5", "b.h5"]
    before = (target / "a.h5").stat().st_mtime_ns
    copy_sample(target)
    assert (target / "b.h5").read_bytes() == b"two" and (target / "a.h5").stat().st_mtime_ns == before
    assert {path.name for path in target.iterdir()} == {"a.h5", "b.h5"}


def test_other_content_is_not_overwritten(tmp_path):
    target = tmp_path / "sample"
    target.mkdir()
    (target / "b.h5").write_bytes(b"my own work")
    with pytest.raises(InputError, match=r"b\.h5: exists with other content"):
        copy_sample(target)
    assert (target / "b.h5").read_bytes() == b"my own work" and not (target / "a.h5").exists()


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "sample").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        copy_sample(tmp_path / "sample")
