"""A folder is replaced as a whole, or stays as it was, wherever the replacing is broken off."""

from __future__ import annotations

from pathlib import Path

import pytest

from sae_core.foundation.files.whole_folders import whole_folder


@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_a_folder_survives_an_interruption_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    place = tmp_path / "folder"
    place.mkdir()
    (place / "old").touch()
    left, rename = [calls], Path.rename

    def breaking(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", breaking)
    if calls in (1, 2):
        with pytest.raises(KeyboardInterrupt), whole_folder(place) as beside:
            (beside / "new").touch()
    else:
        with whole_folder(place) as beside:
            (beside / "new").touch()
    assert [path.name for path in place.iterdir()] == ["old" if calls in (1, 2) else "new"]
    assert list(tmp_path.iterdir()) == [place]
