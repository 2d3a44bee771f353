"""Picture files of every kind against the pixels that were written; every way in which one can be wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

from latentcomp.data.listing import Entry
from latentcomp.data.members import Pictures, Report
from latentcomp.data.pictures import BadPicture, labels, picture, size_for, sized
from latentcomp.data.views import View
from tests.pictures import draw, pixels, truncated


def tensor(image: Image.Image) -> torch.Tensor:
    return sized(image, image.size[::-1])


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "bmp", "gif", "jpg"])
def test_whatever_pillow_reads(tmp_path, ending):
    draw(tmp_path / f"a.{ending}", 0)
    read = tensor(picture(tmp_path / f"a.{ending}", 3))
    assert read.shape == (3, 24, 32)
    exact = ending in ("png", "tif", "bmp")
    wrong = (read.float() - torch.as_tensor(pixels(0)).permute(2, 0, 1)).abs().mean()
    assert wrong == 0 if exact else wrong < 12  # lossy, or of 256 colours


def test_grey_becomes_colour_by_repeating_it_and_colour_grey_by_its_luma(tmp_path):
    draw(tmp_path / "grey.png", 0, "L")
    draw(tmp_path / "colour.png", 0)
    colour = tensor(picture(tmp_path / "grey.png", 3))
    assert torch.equal(colour[0], colour[1])
    assert torch.equal(colour[:1], tensor(picture(tmp_path / "grey.png", 1)))
    luma = pixels(0) @ np.array([0.299, 0.587, 0.114])
    assert (tensor(picture(tmp_path / "colour.png", 1))[0] - torch.as_tensor(luma)).abs().max() <= 1


@pytest.mark.parametrize(
    ("mode", "channels", "message"), [("L", 3, "it is grey, and colour was asked for"), ("RGB", 1, "it is colour, and grey was asked for")]
)
def test_strict_refuses_the_other_kind(tmp_path, mode, channels, message):
    draw(tmp_path / "a.png", 0, mode)
    with pytest.raises(BadPicture, match=message):
        picture(tmp_path / "a.png", channels, strict=True)
    assert tensor(picture(tmp_path / "a.png", 4 - channels, strict=True)).shape[0] == 4 - channels


def test_what_is_transparent_shows_white(tmp_path):
    rgba = np.dstack([pixels(0), np.full((24, 32), 255, np.uint8)])
    rgba[:, :16] = (10, 20, 30, 0)  # colours that nobody sees
    Image.fromarray(rgba).save(tmp_path / "a.png")
    read = tensor(picture(tmp_path / "a.png", 3))
    assert (read[:, :, :16] == 255).all()
    assert torch.equal(read[:, :, 16:], torch.as_tensor(pixels(0)[:, 16:]).permute(2, 0, 1))


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    deep = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "depth.png")
    assert np.abs(tensor(picture(tmp_path / "depth.png", 1))[0].numpy() - deep / 65535 * 255).max() <= 0.5
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "odd.tif")
    with pytest.raises(BadPicture, match=r"mode F lie outside 0\.\.1"):
        picture(tmp_path / "odd.tif", 1)


def test_pictures_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it
    Image.fromarray(pixels(0)).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(tensor(picture(tmp_path / "a.png", 3)), torch.as_tensor(np.rot90(pixels(0), -1).copy()).permute(2, 0, 1))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_a_truncated_or_damaged_file_is_one_kind_of_error(tmp_path, ending):
    truncated(draw(tmp_path / f"a.{ending}", 0, height=100, width=100))
    (tmp_path / f"b.{ending}").write_bytes(b"no picture at all")
    for name in "ab":
        with pytest.raises(BadPicture, match="it cannot be read .*: it is truncated, damaged or no picture"):
            picture(tmp_path / f"{name}.{ending}", 3)


def test_label_maps_keep_their_numbers_and_are_never_mixed(tmp_path):
    numbers = np.array([[0, 1, 7], [7, 3, 3]], np.uint8)
    indexed = Image.fromarray(numbers).convert("P")
    indexed.putdata(numbers.flatten().tolist())
    indexed.putpalette([value for i in range(256) for value in (255 - i, i, 0)])
    indexed.save(tmp_path / "palette.png")
    Image.fromarray(numbers).save(tmp_path / "grey.png")
    for name in ("palette", "grey"):
        image = labels(tmp_path / f"{name}.png")
        assert tensor(image)[0].tolist() == numbers.tolist()
        assert set(sized(image, (7, 11), "labels").flatten().tolist()) <= {0, 1, 3, 7}
    draw(tmp_path / "colour.png", 0)
    with pytest.raises(BadPicture, match="mode RGB: number its classes"):
        labels(tmp_path / "colour.png")


def test_the_shorter_side_gets_the_length_and_the_mean_stays():
    image = Image.fromarray(pixels(0, 40, 61))
    assert size_for(image, 20) == (20, 30)
    assert size_for(image.transpose(Image.Transpose.ROTATE_90), 20) == (30, 20)
    small = sized(image, (20, 30))
    assert (small.float().mean((1, 2)) - torch.as_tensor(pixels(0, 40, 61)).float().mean((0, 1))).abs().max() < 1.5


def test_both_filters_are_pillow_s(tmp_path):
    image = Image.fromarray(pixels(0, 40, 61))
    for name in ("bicubic", "bilinear"):
        expected = torch.as_tensor(np.array(image.resize((30, 20), Image.Resampling[name.upper()]))).movedim(-1, 0)
        assert torch.equal(sized(image, (20, 30), by=name), expected)
    assert not torch.equal(sized(image, (20, 30), by="bilinear"), sized(image, (20, 30)))
    image.save(tmp_path / "picture.png")
    for name in ("bicubic", "bilinear"):
        shown, _ = Pictures([Entry(tmp_path / "picture.png", "picture.png")], View(20, filter=name), None, Report(), memory=False)[0]
        assert torch.equal(shown, sized(image, (20, 30), by=name))
