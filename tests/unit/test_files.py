import io
import struct
import zipfile

import pytest

from raceline.convert.files import Archive, content, inside
from raceline.core.errors import BadModelError
from raceline.ir import Limits


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_members_are_read(tmp_path):
    with Archive(archive(tmp_path / "a.zip", **{"in/x": b"abc", "y": b""}), Limits()) as found:
        assert sorted(found.names()) == ["in/x", "y"]
        assert found.read("in/x") == b"abc"
        with pytest.raises(BadModelError, match="no member 'z'"):
            found.read("z")


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/passwd", "..\\out"])
def test_members_that_climb_are_refused(tmp_path, name):
    with pytest.raises(BadModelError, match="leads outside"):
        Archive(archive(tmp_path / "a.zip", **{name: b"x"}), Limits())


def test_bombs_are_refused_before_they_are_opened(tmp_path):
    path = archive(tmp_path / "bomb.zip", big=bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(BadModelError, match="limit"):
        Archive(path, Limits(max_model_bytes=1_000_000))


def test_a_member_that_lies_about_its_size_is_damaged(tmp_path):
    path = archive(tmp_path / "a.zip", big=bytes(1_000_000))
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")  # the central directory's entry
    data[place + 24 : place + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    with Archive(path, Limits()) as found, pytest.raises(BadModelError, match="damaged"):
        found.read("big")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9])
def test_half_an_archive_is_refused(tmp_path, kept):
    path = archive(tmp_path / "a.zip", x=bytes(range(256)) * 100)
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    with pytest.raises(BadModelError, match=r"a\.zip"):
        Archive(path, Limits())


def test_damaged_members_are_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x", bytes(range(256)) * 100)
    data = bytearray(buffer.getvalue())
    data[40:60] = b"\xff" * 20
    (tmp_path / "a.zip").write_bytes(data)
    with Archive(tmp_path / "a.zip", Limits()) as found, pytest.raises(BadModelError, match="damaged"):
        found.read("x")


def test_files_stay_inside_their_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w").write_bytes(b"1")
    (tmp_path / "secret").write_bytes(b"2")
    (folder / "link").symlink_to(tmp_path / "secret")
    assert inside(folder, "w").read_bytes() == b"1"
    for name in ("../secret", "link", str(tmp_path / "secret"), "a\0b"):
        with pytest.raises(BadModelError):
            inside(folder, name)
    with pytest.raises(BadModelError, match="no file 'absent'"):
        inside(folder, "absent")


def test_plain_files_only(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes(100))
    with pytest.raises(BadModelError, match="empty"):
        content(tmp_path / "empty", Limits())
    with pytest.raises(BadModelError, match="folder"):
        content(tmp_path, Limits())
    with pytest.raises(BadModelError, match="limit"):
        content(tmp_path / "large", Limits(max_model_bytes=10))
