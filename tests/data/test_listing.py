"""Which pictures a folder holds, and who is held out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentcomp.data.listing import Entry, Parts, listing
from tests.pictures import draw, folder


def entries(names):
    return [Entry(None, name) for name in names]


def names(parts):
    return {part: {entry.name for entry in members} for part, members in parts.items()}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(3, 60), validation=st.floats(0.01, 0.5), test=st.floats(0.01, 0.45), fold=st.integers(0, 5))
def test_three_parts_that_are_all_and_share_nothing(n, validation, test, fold):
    every = [f"{i}.png" for i in range(n)]
    parts = names(Parts(validation, test, fold).split(entries(every)))
    assert set.union(*parts.values()) == set(every)
    assert sum(map(len, parts.values())) == n
    assert all(parts.values())


def test_shares_are_met_and_no_other_file_moves_a_picture():
    """Four standard deviations of a binomial of 4,000."""
    every = [f"holiday/{i}.jpg" for i in range(4000)]
    whole = names(Parts(0.2, 0.1).split(entries(every)))
    assert abs(len(whole["test"]) - 400) < 4 * 19
    assert abs(len(whole["validation"]) - 800) < 4 * 26
    fewer = names(Parts(0.2, 0.1).split(entries(every[::2])))
    assert all(fewer[part] == whole[part] & set(every[::2]) for part in whole)


def test_a_fold_turns_validation_and_leaves_the_test_set():
    every = entries(f"{i}.png" for i in range(200))
    first, second = names(Parts(fold=0).split(every)), names(Parts(fold=1).split(every))
    assert first["test"] == second["test"]
    assert first["validation"] != second["validation"]


def test_folders_may_say_it(tmp_path):
    for part in ("train", "val", "test"):
        folder(tmp_path / part / "cats", 2)
    found, classes = listing(tmp_path, labelled=True, parted=True)
    parts = names(Parts(by="folder").split(found))
    assert parts["validation"] == {"val/cats/00.png", "val/cats/01.png"}
    assert classes == ["cats"]
    with pytest.raises(ValueError, match="in a folder called test or testing; there are train, val"):
        Parts(by="folder").split([entry for entry in found if not entry.name.startswith("test")])


def test_classes_are_folders(tmp_path):
    folder(tmp_path / "cats", 2)
    draw(tmp_path / "dogs" / "small" / "a.png", 0)
    found, classes = listing(tmp_path, labelled=True)
    assert classes == ["cats", "dogs"]
    assert [(entry.name, entry.label) for entry in found] == [("cats/00.png", 0), ("cats/01.png", 0), ("dogs/small/a.png", 1)]
    draw(tmp_path / "loose.png", 0)
    with pytest.raises(ValueError, match=r"1 picture\(s\) lie in no class's folder, such as loose.png"):
        listing(tmp_path, labelled=True)


def test_an_empty_folder_and_one_without_pictures_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder: give the folder that holds the pictures"):
        listing(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no picture \(it is empty\)"):
        listing(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden").mkdir()
    draw(tmp_path / ".hidden" / "a.png", 0)
    with pytest.raises(ValueError, match=r"holds no picture \(1 .txt\)"):
        listing(tmp_path)


def test_a_link_to_nothing_is_listed_and_one_to_a_folder_or_of_another_ending_is_not(tmp_path):
    folder(tmp_path / "pictures", 2)
    links = {"gone.png": "nowhere.png", "round.png": "round.png", "linked.png": "pictures/00.png", "album.png": "pictures", "notes.txt": "nowhere.txt"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    found, _ = listing(tmp_path)
    assert {entry.name for entry in found} == {"gone.png", "linked.png", "pictures/00.png", "pictures/01.png", "round.png"}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", [{"validation": 0.0}, {"validation": 0.6, "test": 0.5}, {"by": "name"}])
def test_shares_that_leave_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="leave something to learn from|by hash or by folder"):
        Parts(**wrong)


def test_too_few_pictures(tmp_path):
    with pytest.raises(ValueError, match=r"2 usable picture\(s\) cannot be parted"):
        Parts().split(entries(["a", "b"]))
