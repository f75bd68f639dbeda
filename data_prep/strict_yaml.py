"""YAML without its traps: nothing is given twice, and a number is what it looks like."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

DECIMAL = re.compile(r"-?(0|[1-9]\d*)")


class _Loader(yaml.SafeLoader):
    """Safe YAML; keys given twice are errors, and numbers that are not plainly decimal (010, 0x1f, 1_0) stay text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, str] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # what it brings in may be given again, that is its use
            key = self.construct_object(key_node, deep=True)
            what = value_node.value if isinstance(value_node, yaml.ScalarNode) else "a list or mapping"
            here = f"{what} in line {key_node.start_mark.line + 1}"
            if isinstance(key, Hashable) and key in seen:
                raise yaml.YAMLError(f"{key!r} is given twice ({seen[key]}, {here})")
            if isinstance(key, Hashable):
                seen[key] = here
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> int | str:
        text = self.construct_scalar(node)
        return int(text) if DECIMAL.fullmatch(text) else text


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)


def parse(text: str) -> Any:
    """The content of a YAML (or JSON) text; raises yaml.YAMLError, also where a key is given twice."""
    try:
        return yaml.load(text, _Loader)
    except (ValueError, RecursionError) as error:  # of dates that are none, and of endless nesting
        raise yaml.YAMLError(str(error)) from error
