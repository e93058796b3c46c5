"""Reading a YAML file of ours: its mistakes are one sentence, and a repeated key is one of them."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

try:  # libyaml reads the claims ten times faster, where PyYAML was built with it
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]


def read_yaml(path: Path, what: str, error: type[ValueError]) -> Any:
    """The content of a file of ours; an error is one sentence, which says what a missing one is."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise error(f"{path} is missing; {what}") from None
    except yaml.YAMLError as found:
        raise error(f"{path} is not valid YAML: {' '.join(str(found).split())}") from None


class _UniqueKeys(_SafeLoader):
    """PyYAML lets a repeated key silently win; here it is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of a node; ConstructorError if a key is repeated."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            mark = node.start_mark
            raise yaml.constructor.ConstructorError(
                None, None, f"repeated key {twice.pop()!r}", mark
            )
        return super().construct_mapping(node, deep=deep)
