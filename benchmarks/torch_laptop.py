"""The training step of configs/laptop.py in PyTorch, to race ours with (see torch_process.py).

    python benchmarks/torch_laptop.py --size=320x240 --batch=2 --steps=10
    python -m benchmarks.step --config=configs/laptop.py --against=PYTHON

EfficientNet-Lite0 at output stride 16 under DAFormer's head of 64 channels: forward, backward and AdamW on the same
random pictures every time. Batch norm uses its running statistics in the backbone and the batch's in the head; its
scale and shift are trained in both. Written as people write PyTorch: eager, in float32, with the fused optimizer and
the default memory format, which was faster than channels_last (0.49 s to 0.55 s a step on two cores, PyTorch 2.13).
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_process import Step, serve

# Repeats, kernel, stride, expansion, channels.
GROUPS = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
READ = (1, 2, 4, 6)  # groups whose maps the head reads
OUTPUT_STRIDE = 16


def same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after that TensorFlow's SAME adds."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


class Same(nn.Conv2d):
    """A convolution that pads as TensorFlow does, within itself where both sides get as much."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")  # values of a size as with trained weights

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = map(same, x.shape[2:], self.kernel_size, self.stride, self.dilation)
        if (top, left) == (bottom, right):
            padding = top, left
        else:
            x, padding = functional.pad(x, (left, right, top, bottom)), (0, 0)
        return functional.conv2d(x, self.weight, None, self.stride, padding, self.dilation, self.groups)


def normalised(convolution: nn.Module, channels: int, activation: nn.Module, eps: float) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels, eps=eps), activation)


class Block(nn.Module):
    """An inverted bottleneck."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dilation: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = []
        if expansion > 1:
            layers.append(normalised(Same(inputs, wide, 1), wide, nn.ReLU6(inplace=True), 1e-3))
        depthwise = Same(wide, wide, kernel, stride, dilation, groups=wide)
        layers.append(normalised(depthwise, wide, nn.ReLU6(inplace=True), 1e-3))
        layers.append(normalised(Same(wide, outputs, 1), outputs, nn.Identity(), 1e-3))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class Backbone(nn.Module):
    """EfficientNet-Lite0, from pictures to the maps of `READ`; strides beyond the output's become dilations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = normalised(Same(3, 32, 3, 2), 32, nn.ReLU6(inplace=True), 1e-3)
        self.groups = nn.ModuleList()
        inputs, reached, dilation = 32, 2, 1
        for repeats, kernel, stride, expansion, outputs in GROUPS:
            blocks = []
            for step in [stride] + [1] * (repeats - 1):
                kept = step if reached * step <= OUTPUT_STRIDE else 1
                blocks.append(Block(inputs, outputs, kernel, kept, dilation, expansion))
                inputs, reached, dilation = outputs, reached * kept, dilation * step // kept
            self.groups.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, found = self.stem(x), []
        for group in self.groups:
            x = group(x)
            found.append(x)
        return [found[i] for i in READ]


class Head(nn.Module):
    """DAFormer's: every map to E channels and to the first one's size, four branches, their fusion, classes."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()

        def layer(inputs: int, outputs: int, kernel: int, dilation: int = 1, groups: int = 1) -> nn.Module:
            convolution = Same(inputs, outputs, kernel, 1, dilation, groups)
            return normalised(convolution, outputs, nn.ReLU(inplace=True), 1e-5)

        wide = len(READ) * width
        self.embed = nn.ModuleList(nn.Conv2d(GROUPS[i][-1], width, 1) for i in READ)
        self.branches = nn.ModuleList([layer(wide, width, 1)])
        for rate in (6, 12, 18):
            self.branches.append(nn.Sequential(layer(wide, wide, 3, rate, wide), layer(wide, width, 1)))
        self.fuse = layer(len(self.branches) * width, width, 3)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        first, *rest = [embed(x) for embed, x in zip(self.embed, maps, strict=True)]
        x = torch.cat([first, *(resized(x, size) for x in rest)], 1)
        return self.classify(self.fuse(torch.cat([branch(x) for branch in self.branches], 1)))


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return functional.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class Segmenter(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(), Head(classes)

    def train(self, mode: bool = True) -> "Segmenter":
        super().train(mode)
        self.backbone.eval()  # its statistics stay those of ImageNet
        return self

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> logits [B, classes, H, W]."""
        x = (images.float() - 127) / 128
        return resized(self.head(self.backbone(x)), images.shape[2:])


def prepare(args: argparse.Namespace) -> tuple[nn.Module, Step]:
    assert not args.equal, "its modules have names of their own, so it cannot take weights"
    network = Segmenter(args.classes)
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    network.train().to(memory_format=memory_format)
    groups = [
        {"params": list(network.backbone.parameters())},
        {"params": list(network.head.parameters()), "lr": 2e-3},
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-4, weight_decay=0.01, fused=True)
    images = torch.randint(0, 256, (args.batch, 3, *args.size), dtype=torch.uint8).to(memory_format=memory_format)
    labels = torch.randint(0, args.classes, (args.batch, *args.size))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(images), labels, ignore_index=255)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return network, step


def main(argv: Sequence[str] | None = None) -> None:
    serve(__doc__, "320x240", prepare, argv)


if __name__ == "__main__":
    main()
