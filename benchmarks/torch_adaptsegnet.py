"""AdaptSegNet's two-level training step in PyTorch, to race ours with (see torch_process.py).

    python benchmarks/torch_adaptsegnet.py --size=512x256 --batch=1 --steps=5
    python -m benchmarks.step --config=configs/gta5_to_cityscapes_adaptsegnet.py --size=512x256 --against=PYTHON

DeepLab-v2 on ResNet-101 with batch norm on the batch's statistics and frozen affine parameters, two dilation rates,
two discriminators of five layers on the softmax at full size. The source's pass is forgotten before the target's
begins, which is what takes least memory: source, target with the discriminators frozen, discriminators on what was
said, three optimizers. Eager, in float32, as people write PyTorch. The optimizer lists every parameter once, which is
less work than the published code's repeated lists.

Modules have the names of exported weights: with --equal both steps start from the same numbers, on the same images, and
their first losses must agree.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_process import Step, serve

STAGES = ((3, 1, 1), (4, 2, 1), (23, 1, 2), (3, 1, 4))  # blocks, stride, dilation
RATES = (6, 12)
MEAN = (104.00698793, 116.66876762, 122.67891434)  # blue, green, red
WEIGHTS = {"main": (1.0, 0.001), "aux": (0.1, 0.0002)}  # of cross entropy and adversarial loss


def norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    return layer.requires_grad_(False)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, width, 1, stride), norm(width)
        self.conv2, self.bn2 = convolution(width, width, 3, 1, dilation), norm(width)
        self.conv3, self.bn3 = convolution(width, 4 * width, 1), norm(4 * width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(convolution(inputs, 4 * width, 1, stride), norm(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class Head(nn.ModuleList):
    """The sum of dilated convolutions."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.Conv2d(inputs, classes, 3, padding=rate, dilation=rate) for rate in RATES)

    def forward(self, x: Tensor) -> Tensor:
        return sum((branch(x) for branch in self), torch.zeros(()))


class Segmenter(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), norm(64)
        inputs, width = 64, 64
        for number, (blocks, stride, dilation) in enumerate(STAGES, 1):
            stage = nn.Sequential()
            for i in range(blocks):
                stage.append(Bottleneck(inputs, width, stride if i == 0 else 1, dilation))
                inputs = 4 * width
            self.add_module(f"layer{number}", stage)
            width *= 2
        self.aux_head, self.head = Head(inputs // 2, classes), Head(inputs, classes)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """RGB uint8 [B, H, W, 3] -> level -> logits [B, classes, H, W]."""
        x = (images.flip(-1).float() - torch.tensor(MEAN)).permute(0, 3, 1, 2)
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        third = self.layer3(self.layer2(self.layer1(x)))
        small = {"aux": self.aux_head(third), "main": self.head(self.layer4(third))}
        size = images.shape[1:3]
        return {
            level: functional.interpolate(logits, size, mode="bilinear", align_corners=True)
            for level, logits in small.items()
        }


class Discriminator(nn.ModuleList):
    def __init__(self, classes: int) -> None:
        channels = (classes, 64, 128, 256, 512, 1)
        super().__init__(nn.Conv2d(i, o, 4, 2, 1) for i, o in pairwise(channels))

    def forward(self, x: Tensor) -> Tensor:
        *first, last = self
        for layer in first:
            x = functional.leaky_relu(layer(x), 0.2, inplace=True)
        return last(x)


def domain_loss(logits: Tensor, domain: float) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain))


def prepare(args: argparse.Namespace) -> tuple[nn.Module, Step]:
    network = Segmenter(args.classes).train()
    discriminators = nn.ModuleDict({level: Discriminator(args.classes) for level in WEIGHTS})
    shape = (args.batch, *args.size)
    images = {domain: torch.randint(0, 256, (*shape, 3), dtype=torch.uint8) for domain in ("source", "target")}
    labels = torch.randint(0, args.classes, shape)
    if args.equal:
        given = {name: torch.from_numpy(array) for name, array in np.load(args.equal).items()}
        images = {domain: given.pop(f"batch.{domain}_image") for domain in images}
        labels = given.pop("batch.source_label").long()
        both = nn.ModuleDict({"discriminator": discriminators})
        both.load_state_dict({k: given.pop(k) for k in list(given) if k.startswith("discriminator.")})
        missing, unknown = network.load_state_dict(given, strict=False)
        assert not unknown and all(name.endswith("num_batches_tracked") for name in missing), (missing, unknown)
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    network.to(memory_format=memory_format)
    discriminators.to(memory_format=memory_format)
    trained = [p for name, p in network.named_parameters() if p.requires_grad and "head" not in name]
    heads = [p for name, p in network.named_parameters() if "head" in name]
    groups = [{"params": trained}, {"params": heads, "lr": 2.5e-3}]
    sgd = torch.optim.SGD(groups, lr=2.5e-4, momentum=0.9, weight_decay=5e-4, foreach=True)
    adam = torch.optim.Adam(discriminators.parameters(), lr=1e-4, betas=(0.9, 0.99), foreach=True)

    def step() -> Tensor:
        sgd.zero_grad()
        adam.zero_grad()
        discriminators.requires_grad_(False)
        logits = network(images["source"])
        of_source = sum(
            (weight * functional.cross_entropy(logits[level], labels) for level, (weight, _) in WEIGHTS.items()),
            torch.zeros(()),
        )
        of_source.backward()
        said = {"source": {level: x.detach().softmax(1) for level, x in logits.items()}}
        del logits
        maps = {level: x.softmax(1) for level, x in network(images["target"]).items()}
        of_target = sum(
            (weight * domain_loss(discriminators[level](maps[level]), 0.0) for level, (_, weight) in WEIGHTS.items()),
            torch.zeros(()),
        )
        of_target.backward()
        said["target"] = {level: x.detach() for level, x in maps.items()}
        del maps
        discriminators.requires_grad_(True)
        for truth, domain in enumerate(("source", "target")):
            for level, discriminator in discriminators.items():
                (0.5 * domain_loss(discriminator(said[domain][level]), float(truth))).backward()
        sgd.step()
        adam.step()
        return (of_source + of_target).detach()

    return network, step


def main(argv: Sequence[str] | None = None) -> None:
    serve(__doc__, "512x256", prepare, argv)


if __name__ == "__main__":
    main()
