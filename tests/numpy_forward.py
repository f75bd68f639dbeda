"""An exported DeepLab-v2 on a ResNet in NumPy alone: what the names, layouts and metadata of a weights file mean."""

from typing import Any

import numpy as np


def predict(arrays: dict[str, np.ndarray], model: dict[str, Any], image: np.ndarray) -> np.ndarray:
    """Main logits [classes, H, W] of an RGB image, uint8 [H, W, 3]; `model` is the metadata's."""
    x = (image.astype(np.float32) - np.float32(model["mean"])) / np.float32(model["std"])
    x = (x[..., ::-1] if model["bgr"] else x).transpose(2, 0, 1).astype(arrays["conv1.weight"].dtype)

    def conv(x: np.ndarray, name: str, stride: int = 1, dilation: int = 1) -> np.ndarray:
        weight = arrays[f"{name}.weight"]  # [O, I, k, k]
        k, y = weight.shape[-1], 0.0
        pad = dilation * (k // 2)
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        h, w = (n - dilation * (k - 1) for n in x.shape[1:])
        for i, j in np.ndindex(k, k):
            tap = x[:, i * dilation :, j * dilation :][:, :h:stride, :w:stride]
            y = y + np.tensordot(weight[..., i, j], tap, 1)
        return y

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        scale, bias, mean, var = (arrays[f"{name}.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
        return (x.T - mean).T * (scale / np.sqrt(var + 1e-5))[:, None, None] + bias[:, None, None]

    def pool(x: np.ndarray) -> np.ndarray:  # 3x3, stride 2, padding 1, ceil mode
        h, w = (n // 2 + 1 for n in x.shape[1:])
        x = np.pad(x, ((0, 0), (1, 2), (1, 2)), constant_values=-np.inf)
        return np.max([x[:, i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2] for i in range(3) for j in range(3)], 0)

    def block(x: np.ndarray, name: str, stride: int, dilation: int) -> np.ndarray:
        plan = [(stride, dilation), (1, dilation)]
        if f"{name}.conv3.weight" in arrays:
            first, second = (stride, 1) if model["stride_in_1x1"] else (1, stride)
            plan = [(first, 1), (second, dilation), (1, 1)]
        y = x
        for i, (s, d) in enumerate(plan, 1):
            y = norm(conv(np.maximum(y, 0), f"{name}.conv{i}", s, d), f"{name}.bn{i}")
        if f"{name}.downsample.0.weight" in arrays:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return np.maximum(x + y, 0)

    def resize(size: int, new: int) -> np.ndarray:  # [new, size], corners aligned
        return np.array([np.interp(np.linspace(0, size - 1, new), np.arange(size), row) for row in np.eye(size)]).T

    for i in ("0", "1"):
        if f"conv{i}.weight" in arrays:
            x = np.maximum(norm(conv(x, f"conv{i}", 2), f"bn{i}"), 0)
    x = pool(x) if model["stem"] == "imagenet" else x
    late = "layer1.0.conv3.weight" in arrays and not model["stride_in_1x1"]  # a stage's first 3x3 is dilated later
    for stage, (stride, dilation, before) in enumerate(((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 4, 2)), 1):
        x = block(x, f"layer{stage}.0", stride, before if late else dilation)
        for i in range(1, sum(name.startswith(f"layer{stage}.") and name.endswith(".conv1.weight") for name in arrays)):
            x = block(x, f"layer{stage}.{i}", 1, dilation)
    heads = [(f"head.{i}", rate) for i, rate in enumerate(model["dilations"])]
    x = sum(conv(x, name, 1, rate) + arrays[f"{name}.bias"][:, None, None] for name, rate in heads)
    return np.einsum("Hh,chw,Ww->cHW", resize(x.shape[1], image.shape[0]), x, resize(x.shape[2], image.shape[1]))
