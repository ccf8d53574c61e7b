"""Random distortions of shape and of brightness, one for each image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from qatlab.data.transforms.borders import window
from qatlab.data.transforms.limits import interval, number, whole_number
from qatlab.data.transforms.sampling import sample, turned
from qatlab.data.transforms.transform import Transform
from qatlab.errors import ConfigError, wrong


class Distortion(Transform):
    """Distorts each image like rubber, and rotates and scales it, at random.

    Each pixel is taken from a place that is moved by a random field: uniform in [-1, 1], smoothed
    by a Gaussian of weight 1, times ``elastic_scaling`` pixels.
    Source: Simard et al. 2003, "Best practices for convolutional neural networks applied to visual
    document analysis".
    N2D2's ``DistortionTransformation``: ElasticGaussianSize, ElasticSigma, ElasticScaling, Scaling,
    Rotation, IgnoreMissingData.

    Args:
        elastic_gaussian_size: width of the Gaussian in pixels, odd.
        elastic_sigma: its standard deviation in pixels.
        elastic_scaling: strength of the field in pixels; 0 for none.
        scaling: largest change of the size in percent, up or down.
        rotation: largest angle in degrees, each way.
        ignore_missing_data: places outside the image count as the nearest pixel at its edge; else
            they are black.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self,
        elastic_gaussian_size: int = 15,
        elastic_sigma: float = 6.0,
        elastic_scaling: float = 0.0,
        scaling: float = 0.0,
        rotation: float = 0.0,
        ignore_missing_data: bool = True,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.random = True
        key = self.key_of("elastic_gaussian_size")
        self.gaussian_size = whole_number(key, elastic_gaussian_size, 1)
        if self.gaussian_size % 2 == 0:
            raise wrong(key, elastic_gaussian_size, "an odd number")
        self.sigma = number(self.key_of("elastic_sigma"), elastic_sigma, low=1e-6)
        self.elastic_scaling = number(self.key_of("elastic_scaling"), elastic_scaling, low=0)
        self.scaling = number(self.key_of("scaling"), scaling, low=0, high=99)
        self.rotation = number(self.key_of("rotation"), rotation, low=0, high=180)
        self.border = "replicate" if ignore_missing_data else "constant"

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Distort."""
        n, device = len(images), images.device
        height, width = images.shape[2:]
        degrees = rng.uniform(-self.rotation, self.rotation, n)
        factor = 1 + rng.uniform(-self.scaling, self.scaling, n) / 100
        middle = np.full(n, (height - 1) / 2), np.full(n, (width - 1) / 2)
        described = (
            torch.from_numpy(x.astype(np.float32)).to(device) for x in (*middle, degrees, factor)
        )
        y, x = turned((height, width), *described)
        if self.elastic_scaling > 0:
            field = torch.from_numpy(rng.random((n, 2, height, width), dtype=np.float32)).to(device)
            moved = self.elastic_scaling * self._smooth(2 * field - 1)
            y, x = y + moved[:, 0], x + moved[:, 1]
        return sample(images, y, x, self.border)

    def _smooth(self, field: Tensor) -> Tensor:
        """Convolve with a Gaussian, along one axis after the other."""
        reach = self.gaussian_size // 2
        place = torch.arange(-reach, reach + 1, dtype=torch.float32, device=field.device)
        kernel = torch.exp(-(place**2) / (2 * self.sigma**2))
        kernel /= kernel.sum()
        n, _, height, width = field.shape
        size = height + 2 * reach, width + 2 * reach
        framed = window(field, -reach, -reach, size, "reflect_101").view(2 * n, 1, *size)
        smooth = F.conv2d(F.conv2d(framed, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
        return smooth.view(n, 2, height, width)


class RandomAffine(Transform):
    """Changes contrast, brightness and gamma of each image at random: gain * x**gamma + bias.

    x lies in 0..1: bytes are divided by 255 first, and come out as bytes again, cut to 0..255.
    N2D2's ``RandomAffineTransformation``: GainVarProb, BiasVarProb, GammaVarProb and the ranges
    that belong to them, DisjointGamma, ChannelsMask.

    Args:
        gain: lowest and highest gain.
        bias: lowest and highest bias, in units of the range of the image.
        gamma: lowest and highest gamma, above 0.
        gain_probability: share of images whose gain is drawn; it is 1 for the others.
        bias_probability: likewise; the bias is 0 for the others.
        gamma_probability: likewise; gamma is 1 for the others.
        disjoint_gamma: an image whose gamma is drawn keeps its gain and bias.
        per_channel: draw for each channel by itself.
        channels_mask: one number for each channel: 0 leaves it as it is; None changes all.
        apply_to: see :class:`Transform`.
    """

    def __init__(
        self,
        gain: Sequence[float] = (1.0, 1.0),
        bias: Sequence[float] = (0.0, 0.0),
        gamma: Sequence[float] = (1.0, 1.0),
        gain_probability: float = 1.0,
        bias_probability: float = 1.0,
        gamma_probability: float = 1.0,
        disjoint_gamma: bool = False,
        per_channel: bool = False,
        channels_mask: Sequence[int] | None = None,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.random = True
        self.ranges = {
            "gain": interval(self.key_of("gain"), gain),
            "bias": interval(self.key_of("bias"), bias),
            "gamma": interval(self.key_of("gamma"), gamma, above=0.0),
        }
        given = {"gain": gain_probability, "bias": bias_probability, "gamma": gamma_probability}
        self.probabilities = {
            name: number(self.key_of(f"{name}_probability"), share, 0, 1)
            for name, share in given.items()
        }
        self.disjoint_gamma = disjoint_gamma
        self.by_channel = per_channel
        self.mask = None if channels_mask is None else [bool(x) for x in channels_mask]

    def channels(self, given: int) -> int:
        """Check the mask."""
        if self.mask is not None and len(self.mask) != given:
            raise ConfigError(
                f"{self.key_of('channels_mask')} has {len(self.mask)} numbers for images of "
                f"{given} channels; give one for each."
            )
        return given

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Change."""
        shape = (len(images), images.shape[1] if self.by_channel else 1, 1, 1)
        drawn = {name: rng.uniform(*ends, shape) for name, ends in self.ranges.items()}
        chosen = {name: rng.random(shape) < share for name, share in self.probabilities.items()}
        if self.disjoint_gamma:
            for name in ("gain", "bias"):
                chosen[name] &= ~chosen["gamma"]
        gain, bias, gamma = (
            torch.from_numpy(np.where(chosen[name], drawn[name], otherwise))
            .float()
            .to(images.device)
            for name, otherwise in (("gain", 1.0), ("bias", 0.0), ("gamma", 1.0))
        )
        is_float = images.is_floating_point()
        x = images if is_float else images.float() * (1 / 255)
        y = gain * x.sign() * x.abs() ** gamma + bias
        if not is_float:
            y = (y * 255).round_().clamp_(0, 255).byte()
        if self.mask is not None:
            kept = torch.tensor(self.mask, device=images.device).view(1, -1, 1, 1)
            y = torch.where(kept, y, images)
        return y
