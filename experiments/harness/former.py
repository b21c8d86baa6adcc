"""Names that keys of a config had before; the tables of a project are its own.

Command lines and the ``config.json`` of earlier runs are read through such tables.
They know names only; what the keys do is said where their sections are declared.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Unless(NamedTuple):
    """A value that is implied where the config does not say another."""

    value: Any


class Names(NamedTuple):
    """What keys and values were called before, and what became of them.

    >>> names = Names({"a.rate": "b.speed"}, values={"b.speed": {"quick": "fast"}})
    >>> names.override_today("a.rate", "quick"), names.upgraded({"a.rate": "quick"})
    ({'b.speed': 'fast'}, {'b.speed': 'fast'})

    Attributes:
      keys: former key or section to its name today; the longest that fits is taken.
      gone: former keys without a successor: accepted, and without effect.
      values: key of today to its former values and those of today.
      implied: former key to its values and what each implies of other keys of today.
      unused: value of the key ``algorithm`` to keys it had and did not use.
      together: end of a key to what the keys beside it were where they are not said.
    """

    keys: Mapping[str, str] = {}
    gone: frozenset[str] = frozenset()
    values: Mapping[str, Mapping[Any, Any]] = {}
    implied: Mapping[str, Mapping[str, Mapping[str, Any]]] = {}
    unused: Mapping[str, tuple[str, ...]] = {}
    together: Mapping[str, Mapping[str, Any]] = {}

    def key_today(self, key: str) -> str:
        """The name of a key today; a key that never changed is returned as it is."""
        for length in range(key.count("."), -1, -1):
            prefix = ".".join(key.split(".")[: length + 1])
            if prefix in self.keys:
                return self.keys[prefix] + key[len(prefix) :]
        return key

    def value_today(self, key: str, value: Any) -> Any:
        """A value of a key of today, which may have had another name."""
        known = self.values.get(key, {})
        if isinstance(value, (list, tuple)):
            return type(value)(self.value_today(key, item) for item in value)
        return known.get(value, value) if isinstance(value, str) else value

    def override_today(self, key: str, value: str) -> dict[str, str]:
        """What one override of a command line says today, as keys and texts."""
        if key in self.gone:
            return {}
        today = self.key_today(key)
        told = {
            name: str(item.value if isinstance(item, Unless) else item)
            for name, item in self.implied.get(key, {}).get(value, {}).items()
        }
        known = self.values.get(today, {})
        text = known.get(value, value)
        for old, new in known.items():
            # A tuple of names, as Python writes it.
            text = text.replace(f"'{old}'", f"'{new}'").replace(f'"{old}"', f'"{new}"')
        return {today: text} | told

    def upgraded(
        self, flat: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A flat config as a run of today would write it.

        Args:
          flat: dotted keys, perhaps with former names.
          defaults: of today's config of the same method; keys that are new since get
            these, where the config was written before they existed.

        Returns:
          A new dict; equal to `flat` where that was of today already.
        """
        if not self.is_former(flat):
            return dict(flat)
        unused = self.unused.get(str(flat.get("algorithm")), ())
        found: dict[str, Any] = {}
        for key, value in flat.items():
            if any(key == name or key.startswith(f"{name}.") for name in unused):
                continue
            if key not in self.gone:
                today = self.key_today(key)
                found[today] = self.value_today(today, value)
        for key, known in self.implied.items():
            for name, item in known.get(str(flat.get(key)), {}).items():
                if isinstance(item, Unless):
                    found.setdefault(name, item.value)
                else:
                    found[name] = item
        found = self._beside(found) | found
        new = {
            key: value
            for key, value in (defaults or {}).items()
            if not _is_said(key, found)
        }
        return new | found

    def _beside(self, flat: Mapping[str, Any]) -> dict[str, Any]:
        """What keys that stand together were before a config named them all."""
        found: dict[str, Any] = {}
        for end, beside in self.together.items():
            for key in [key for key in flat if key.endswith(end)]:
                prefix = key.removesuffix(end.rpartition(".")[2])
                found |= {f"{prefix}{k}": v for k, v in beside.items()}
        return found

    def is_former(self, flat: Mapping[str, Any]) -> bool:
        """Whether a flat config was written before the names of today."""
        values = any(
            str(flat.get(key)) in former
            for key, former in self.values.items()
            if key in flat
        )
        unused = self.unused.get(str(flat.get("algorithm")), ())
        if not self._beside(flat).keys() <= flat.keys():
            return True
        return values or any(
            key in self.gone or key in unused or self.key_today(key) != key
            for key in flat
        )


def _is_said(key: str, found: Mapping[str, Any]) -> bool:
    """Whether a config says by other keys what a key of the defaults would add."""
    call, keywords, _ = key.partition(".kwargs.")
    named = bool(keywords) and f"{call}.name" in found
    return named or any(name.startswith(f"{key}.") for name in found)
