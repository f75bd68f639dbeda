"""A compiled program's text, read for what XLA says nowhere else: its collectives, and what each operation costs.

The TPU compiler writes an estimate of cycles beside every fused operation; other compilers write none.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast")
BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}  # of types whose name does not end in their number of bits
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]\w*?\d+)\[([\d,<=]*)\]")


class Operation(NamedTuple):
    """One operation of the program, which runs `times` in a step.

    Attributes:
      kind: its opcode, of collectives without the "-start" of asynchronous ones.
      size: bytes of its result.
      cycles: as estimated, of all its times together; 0 where there is no estimate.
      source: the traced function and primitive that it comes from.
    """

    name: str
    kind: str
    shape: str
    size: int
    cycles: int
    times: int
    source: str


def operations(text: str) -> list[Operation]:
    """All operations that the program dispatches: of its entry, its loops, and of branches the one that costs most.

    Args:
      text: from `compiled.as_text()`.
    """
    computations, entry = _computations(text)
    return list(_entered(computations, entry, 1))


def collectives(found: list[Operation]) -> dict[str, list[tuple[int, str]]]:
    """Kind -> (bytes of the result, shape) of each time that one is run in a step, the largest first."""
    of_kind: dict[str, list[tuple[int, str]]] = {}
    for operation in found:
        if operation.kind in COLLECTIVES:
            of_kind.setdefault(operation.kind, []).extend([(operation.size, operation.shape)] * operation.times)
    return {kind: sorted(each, reverse=True) for kind, each in of_kind.items()}


def dearest(found: list[Operation], count: int) -> list[tuple[int, str, str]]:
    """(cycles, shape, source) of the `count` dearest sources of cycles; operations of one source and shape together."""
    cycles: Counter[tuple[str, str]] = Counter()
    for operation in found:
        cycles[operation.source or operation.name, operation.shape] += operation.cycles
    return [(total, shape, source) for (source, shape), total in cycles.most_common(count) if total]


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Name -> the lines of its operations, and the entry's name."""
    found: dict[str, list[str]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line == "}":
            current = None
        elif current is not None:
            current.append(line)
    return found, entry


def _entered(computations: dict[str, list[str]], name: str, times: int) -> Iterator[Operation]:
    for line in computations.get(name, ()):
        match = _OPERATION.match(line)
        if not match:
            continue
        operation, shape, opcode = match.groups()
        cycles = re.search(r'"estimated_cycles":"(\d+)"', line)
        source = re.search(r'op_name="([^"]*)"', line)
        kind = opcode.removesuffix("-start")
        if opcode.endswith("-start") and shape.startswith("("):  # (operands, results, ...)
            shape = _results(shape)
        yield Operation(
            operation,
            kind,
            re.sub(r"\{[^{}]*\}|/\*.*?\*/", "", shape),
            _size(shape),
            times * int(cycles[1] if cycles else 0),
            times,
            source[1] if source else "",
        )
        if opcode == "conditional":
            branches = [list(_entered(computations, called, times)) for called in _called(line)]
            yield from max(branches, key=lambda branch: sum(operation.cycles for operation in branch))
        elif opcode in ("while", "call", "async-start"):
            trips = _trips(computations, line) if opcode == "while" else 1
            for called in _called(line):
                yield from _entered(computations, called, times * trips)


def _trips(computations: dict[str, list[str]], line: str) -> int:
    """How often a loop runs; where that isn't beside it, as on TPU, what its condition compares its counter with."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", line)
    text = "\n".join(computations.get(condition[1] if condition else "", ()))
    return max((int(n) for n in re.findall(r" = [su]\d+\[\]\S* constant\((\d+)\)", text)), default=1)


def _called(line: str) -> list[str]:
    """The computations that an operation enters."""
    several = re.search(r"branch_computations=\{([^}]*)\}", line)
    if several:
        return re.findall(r"[\w.\-]+", several[1])
    return re.findall(r"\b(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)", line)


def _results(shape: str) -> str:
    """The results' half of the type of an asynchronous operation."""
    arrays = [match[0] for match in _ARRAY.finditer(shape)]
    return "(" + ", ".join(arrays[len(arrays) // 2 :] or arrays) + ")"


def _size(shape: str) -> int:
    total = 0
    for kind, sides in _ARRAY.findall(shape):
        bits = BITS.get(kind) or int(re.sub(r"^\D+", "", kind.partition("e")[0]) or 8)
        elements = 1
        for side in re.findall(r"\d+", sides):
            elements *= int(side)
        total += elements * max(bits, 8) // 8
    return total
