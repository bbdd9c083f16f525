"""YAML in C where there is that; a stranger's refused where it is nested deeper than it can mean, which would take the process down."""

from __future__ import annotations

from typing import Any


def check_nesting(text: str, depth: int) -> None:
    """Look at a document without building it. Raises ValueError for deeper nesting or an alias, yaml.YAMLError for no YAML."""
    import yaml

    reached = 0
    for event in yaml.parse(text, yaml_loader()):
        reached += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if reached > depth or isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it is nested deeper than {depth}, or has aliases")


def yaml_loader() -> Any:
    """The safe loader, in C where there is one."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def yaml_dumper() -> Any:
    """The safe dumper, in C where there is one: ten times as fast."""
    import yaml

    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)
