"""Signs in the log that a run goes wrong, in plain words.

They are judged by what is logged alone, so the report finds the same ones again.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

SETTLED = 200  # steps before which nothing is judged: networks from scratch say one class at first
ONE_CLASS = 0.95  # share of the target's pixels
COMMON, LOST = 0.02, 0.0002  # shares of a class on the source and on the target
STRONG = 0.97  # accuracy of a discriminator
ONE_SIDED = 0.05  # accuracy on one domain, beside STRONG on the other
CERTAIN = 0.002  # entropy of the target's predictions, as a share of log(classes)
STEEP = 50.0  # gradient norm, by the median of those before it
BEFORE = 20  # lines of the log that this median is over

Numbers = Mapping[str, float]
Line = Mapping[str, float | None]  # of the log, where None is what was not finite


def warnings(lines: Sequence[Line]) -> dict[str, str]:
    """Kind -> what is wrong at the last of these lines of metrics.jsonl, and what to do about it.

    Args:
      lines: those of training steps, the newest last; `BEFORE` + 1 of them are enough.
    """
    *before, line = [{name: value for name, value in line.items() if value is not None} for line in lines]
    if line["step"] < SETTLED:
        return {}
    return _of_predictions(line) | _of_discriminators(line) | _of_gradients(before, line)


def of_training(log: Iterable[Line]) -> list[Line]:
    """The lines of a log that are of training steps; the others are of evaluations."""
    return [line for line in log if "loss" in line]


def history(log: Iterable[Line]) -> list[tuple[float, float, str]]:
    """(first step, last step, what was wrong) of every kind of warning in a whole log, by its first step."""
    found: dict[str, tuple[float, float, str]] = {}
    lines = of_training(log)
    for i, line in enumerate(lines):
        for kind, text in warnings(lines[max(0, i - BEFORE) : i + 1]).items():
            step = line["step"] or 0.0
            first, _, said = found.get(kind, (step, step, text))
            found[kind] = first, step, said
    return sorted(found.values())


def _of_predictions(line: Numbers) -> dict[str, str]:
    found = {}
    target, source = _shares(line, "target"), _shares(line, "source")
    for domain, shares in (("target", target), ("source", source)):
        name = max(shares, key=lambda name: shares[name], default="")
        if name and shares[name] > ONE_CLASS and len(shares) > 1:
            found["one class"] = (
                f"{shares[name]:.0%} of the {domain}'s pixels are predicted as {name}: the predictions have collapsed. "
                "Lower the adversarial or entropy weight, or the learning rate"
            )
    lost = [name for name, share in source.items() if share > COMMON and target.get(name, 1.0) < LOST]
    if lost:
        found["lost classes"] = (
            f"predicted on the source and nowhere on the target: {', '.join(lost)}. If the target shows such things, "
            "the adaptation has lost them: lower its weight"
        )
    if line.get("entropy_target", 1.0) < CERTAIN:
        found["certain"] = (
            f"the target's predictions are certain nearly everywhere (entropy {line['entropy_target']:.4f} of 1), "
            "right or wrong: lower the entropy weight"
        )
    return found


def _shares(line: Numbers, domain: str) -> dict[str, float]:
    start = f"share_{domain}/"
    return {name.removeprefix(start): share for name, share in line.items() if name.startswith(start)}


def _of_discriminators(line: Numbers) -> dict[str, str]:
    found = {}
    for name, accuracy in line.items():
        level = name.removeprefix("acc_d_")
        sides = [line[f"{name}_{domain}"] for domain in ("source", "target") if f"{name}_{domain}" in line]
        if not name.startswith("acc_d_") or len(sides) < 2:
            continue
        if accuracy > STRONG:
            found[f"strong {level}"] = (
                f"the discriminator ({level}) is right on {accuracy:.0%} of the places: the segmenter's gradient from "
                "it vanishes. Lower config.optimizer.discriminator_learning_rate, or take gan='least_squares'"
            )
        elif max(sides) > STRONG and min(sides) < ONE_SIDED:
            domain = ("source", "target")[sides[1] > sides[0]]
            found[f"one-sided {level}"] = (
                f"the discriminator ({level}) says {domain} wherever it looks, and teaches nothing. Raise "
                "config.optimizer.discriminator_learning_rate, or train longer"
            )
    return found


def _of_gradients(before: Sequence[Numbers], line: Numbers) -> dict[str, str]:
    norms = [other["grad_norm"] for other in before[-BEFORE:] if "grad_norm" in other]
    if len(norms) < BEFORE or line.get("grad_norm", 0.0) <= STEEP * median(norms):
        return {}
    return {
        "steep": f"the gradient's norm is {line['grad_norm']:.3g}, {STEEP:.0f} times its usual size and more: lower "
        "config.optimizer.learning_rate, or look at the data that these steps read"
    }
