import pytest

from thbench.data.files import list_videos
from thbench.errors import UserError
from thbench.pairing import find_videos


def test_videos_are_listed_in_order_without_what_is_hidden(tmp_path):
    for name in ("b.mp4", "a/c.FLV", "a/d.txt", ".e.mp4", ".prepare/f.mp4", "a/.g/h.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    assert list_videos(tmp_path) == [tmp_path / "a/c.FLV", tmp_path / "b.mp4"]
    assert list(find_videos(tmp_path)) == ["a/c", "b"]
    with pytest.raises(UserError, match="no folder"):
        list_videos(tmp_path / "b.mp4")


def test_a_folder_that_is_itself_hidden_can_be_listed(tmp_path):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.mp4").touch()
    assert len(list_videos(tmp_path / ".hidden")) == 1
