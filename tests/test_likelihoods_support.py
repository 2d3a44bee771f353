"""Which images a likelihood accepts, and what it says about the others."""

import pytest
import torch

from latentcomp.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, Gaussian, Laplace
from tests.test_likelihoods import MADE, B, decoded, images, likelihood

WRONG = {
    "bytes": (Bernoulli(), torch.zeros(1, 1, 2, 2, dtype=torch.uint8), TypeError, r"uint8: convert them, e\.g\. x\.float\(\) / 255"),
    "nan": (Gaussian(), torch.full((1, 1, 2, 2), torch.nan), ValueError, "not finite .*: clean the data"),
    "inf": (Laplace(), torch.full((1, 1, 2, 2), torch.inf), ValueError, "not finite .*: clean the data"),
    "grey": (Bernoulli(), torch.full((1, 1, 2, 2), 0.25), ValueError, r"0\.25 to 0\.25: binarise them, .* or choose Gaussian"),
    "unscaled": (DiscretisedLogistic(), torch.full((1, 1, 2, 2), 255.0), ValueError, r"k/255 in \[0, 1\]; got values from 255 to 255: rescale"),
    "off the grid": (DiscretisedLogistic(5), torch.full((1, 1, 2, 2), 0.3), ValueError, "k/4 .*as many levels as they have"),
    "one-hot": (Categorical(3), torch.zeros(1, 3, 2, 2), ValueError, r"one channel .* \(1, 3, 2, 2\).*argmax"),
    "too many": (Categorical(3), torch.full((1, 1, 2, 2), 3), ValueError, r"in 0\.\.2; got values from 3 to 3: renumber"),
    "negative": (Categorical(3), torch.full((1, 1, 2, 2), -1), ValueError, r"in 0\.\.2; got values from -1 to -1: renumber"),
    "fractions": (Categorical(3), torch.full((1, 1, 2, 2), 0.5), ValueError, "whole numbers"),
    "nan labels": (Categorical(3), torch.full((1, 1, 2, 2), torch.nan), ValueError, "whole numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_check_refuses_what_has_no_probability_and_names_the_remedy(case):
    refusing, x, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        refusing.check(x)


@pytest.mark.parametrize("name", MADE)
def test_check_accepts_the_support(name):
    likelihood(name).check(images(name))
    likelihood(name).check(likelihood(name)(decoded(name, B)).sample().to(images(name).dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.long, torch.float32])
def test_label_maps_may_have_any_type_that_holds_whole_numbers(dtype):
    x = torch.tensor([0, 1]).view(1, 1, 1, 2).to(dtype)
    Categorical(3).check(x)
    assert Categorical(3)(torch.zeros(1, 3, 1, 2)).log_prob(x).isfinite()


def test_a_decoder_with_other_channels_than_classes_is_refused():
    with pytest.raises(ValueError, match="gives 2 channels, but there are 3 classes"):
        Categorical(3)(torch.zeros(1, 2, 4, 4))


def test_a_decoder_without_a_scale_for_each_location_is_refused():
    with pytest.raises(ValueError, match=r"gives 1 channel.* two for each of the image's"):
        DiscretisedLogistic()(torch.zeros(1, 1, 4, 4))
