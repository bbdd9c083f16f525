"""YAML in C where there is that; a stranger's refused where it is nested deeper or has more values than it can mean."""

from __future__ import annotations

from typing import Any

_MOST = 400_000  # values of a document: of 65,536 classes a manifest's header has half of these


def check_nesting(text: str, depth: int, most: int = _MOST) -> None:
    """Look at a document without building it. Raises ValueError for deeper nesting, more values or an alias; yaml.YAMLError for no YAML."""
    import yaml

    reached = 0
    for count, event in enumerate(yaml.parse(text, yaml_loader())):
        reached += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if reached > depth or isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it is nested deeper than {depth}, or has aliases")
        if count > most:
            raise ValueError(f"it has more than {most} values")


def read_yaml(text: str, depth: int) -> Any:
    """Plain values. Raises ValueError for what is no YAML, or is nested deeper, or has aliases."""
    import yaml

    try:
        check_nesting(text, depth)
        return yaml.load(text, yaml_loader())  # noqa: S506 the C twin of the safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML ({str(error).splitlines()[0]})") from None
    except (TypeError, AttributeError, OverflowError) as error:  # a key that is a list; a date that is none
        raise ValueError(f"it is not plain YAML ({error})") from None


def yaml_loader() -> Any:
    """The safe loader, in C where there is one."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def yaml_dumper() -> Any:
    """The safe dumper, in C where there is one: ten times as fast."""
    import yaml

    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)
