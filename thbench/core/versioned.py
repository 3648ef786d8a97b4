"""Stable names and versions of code whose results are kept under a hash."""

from __future__ import annotations

from typing import Any, ClassVar


class Versioned:
    """A class whose results are kept and found again by a hash.

    The hash takes ``fingerprint``, not the import path, so a class can move without orphaning
    what was made with it.

    Attributes:
        stable_name: the name in the hash, unique among all classes and never changed; a class
            without one of its own goes by its import path, ``module:Class``.
        version: raised when the same settings and data give another result: another loss,
            sampler or default. Subclasses follow: their fingerprint holds the versions of the
            classes that they derive from as well.
    """

    stable_name: ClassVar[str] = ""
    version: ClassVar[int] = 1

    @classmethod
    def fingerprint(cls) -> dict[str, Any]:
        """What a hash takes of this class: its name, and each version on the way up to here."""
        name = cls.__dict__.get("stable_name") or f"{cls.__module__}:{cls.__qualname__}"
        versions = [c.__dict__["version"] for c in cls.__mro__ if "version" in c.__dict__]
        return {"name": name, "versions": versions}
