"""Writes the PyTorch files of this directory, and what PyTorch itself computes with them: `python make_torch_files.py`.

Needs torch and numpy (made with torch 2.13 on a CPU); the tests need neither this script nor torch. The networks are
tiny and their weights coarse, so that the files are small. The `*.npz` hold inputs and outputs in float32.
"""

import collections
import gzip
import io
import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

WIDTH, CLASSES = 2, 3


class Bottleneck(nn.Module):
    """Of a dilated ResNet under torchvision's names; `first` and `second` are the strides of the 1x1 and the 3x3."""

    def __init__(self, inputs: int, width: int, first: int, second: int, dilation: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if project:
            shortcut = nn.Conv2d(inputs, 4 * width, 1, first * second, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Branches(nn.Module):
    """A head that lists four dilated convolutions and sums the first two."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        rates = (6, 12, 18, 24)
        self.conv2d_list = nn.ModuleList(nn.Conv2d(inputs, CLASSES, 3, 1, rate, rate) for rate in rates)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2d_list[0](x) + self.conv2d_list[1](x)


class ResNet50(nn.Module):
    """Of output stride 8; with a classifier that `forward` leaves alone, or with the heads of DeepLab-v2."""

    def __init__(self, stride_in_1x1: bool, heads: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        inputs, before = WIDTH, 1
        for stage, (blocks, stride, dilation) in enumerate(((3, 1, 1), (4, 2, 1), (6, 1, 2), (3, 1, 4))):
            width = WIDTH * 2**stage
            layers = []
            for i in range(blocks):
                s = stride if i == 0 else 1
                first, second = (s, 1) if stride_in_1x1 else (1, s)
                # As with torchvision's replace_stride_with_dilation: the 3x3 that lost its stride is not dilated yet.
                rate = before if i == 0 and not stride_in_1x1 else dilation
                layers.append(Bottleneck(inputs, width, first, second, rate, i == 0))
                inputs = 4 * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
            before = dilation
        if heads:
            self.layer5, self.layer6 = Branches(16 * WIDTH), Branches(32 * WIDTH)
        else:
            self.fc = nn.Linear(32 * WIDTH, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1, ceil_mode=True)
        for stage in range(1, 5):
            found[f"layer{stage}"] = x = getattr(self, f"layer{stage}")(x)
        if hasattr(self, "layer6"):
            found["aux"], found["main"] = self.layer5(found["layer3"]), self.layer6(x)
        return found


def randomise(module: nn.Module, seed: int) -> None:
    """Every value a multiple of 1/16, of a size that keeps activations near one."""
    rng = np.random.default_rng(seed)
    for name, value in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        n = rng.standard_normal(tuple(value.shape))
        if name.endswith("running_var"):
            n = 1 + 0.2 * np.abs(n)
        elif value.ndim > 1:
            n = n * np.sqrt(2 / np.prod(value.shape[1:]))
        elif name.endswith("weight"):
            n = (1 + 0.1 * n) * (0.5 if name.endswith("bn3.weight") else 1)
        else:
            n = 0.2 * n
        value.copy_(torch.as_tensor(np.round(n * 16) / 16))


def save(path: Path, value: object, legacy: bool) -> None:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))


def numpy_of(found: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in found.items()}


@torch.no_grad()
def make(directory: Path) -> None:
    """Writes all files."""
    image = np.random.default_rng(0).integers(0, 256, (1, 33, 49, 3)).astype(np.uint8)
    rgb = torch.from_numpy(image).permute(0, 3, 1, 2).float()

    network = ResNet50(stride_in_1x1=False, heads=False).eval()
    randomise(network, 1)
    save(directory / "torchvision_resnet50.pth.gz", network.state_dict(), legacy=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found = network((rgb / 255 - mean[:, None, None]) / std[:, None, None])
    np.savez_compressed(directory / "torchvision_resnet50.npz", image=image, **numpy_of(found))

    network = ResNet50(stride_in_1x1=True, heads=True).eval()
    randomise(network, 2)
    network.conv1.weight.div_(64)
    save(directory / "adaptsegnet_multi.pth.gz", network.state_dict(), legacy=True)
    found = network(rgb.flip(1) - torch.tensor([104.00698793, 116.66876762, 122.67891434])[:, None, None])
    np.savez_compressed(directory / "adaptsegnet_multi.npz", image=image, **numpy_of(found))

    widths = [CLASSES, 2, 4, 8, 16, 1]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)]
    discriminator = nn.Sequential(*layers[:-1])
    randomise(discriminator, 3)
    save(directory / "advent_discriminator.pth.gz", discriminator.state_dict(), legacy=False)
    maps = torch.rand(1, CLASSES, 32, 64, generator=torch.Generator().manual_seed(0))
    np.savez_compressed(directory / "advent_discriminator.npz", maps=maps, out=discriminator(maps))

    grid = torch.arange(24.0).reshape(4, 6)
    kinds = {
        "half": grid.half(),
        "bfloat16": grid.bfloat16() / 3,
        "double": grid.double() / 3,
        "long": torch.tensor(-7),
        "transposed": grid.T,
        "part": grid[1:3, 2:5],  # shares the storage of the one before
        "parameter": nn.Parameter(torch.tensor([1.5, -2.5])),
        "empty": torch.zeros(0, 3),
    }
    for legacy in (False, True):
        value = {"epoch": 3, "state_dict": collections.OrderedDict(kinds), "note": "nothing"}
        save(directory / f"kinds_{'legacy' if legacy else 'zip'}.pth.gz", value, legacy)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent)
