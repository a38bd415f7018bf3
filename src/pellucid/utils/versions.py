"""What scripts import from `transformers.utils.versions`."""

from __future__ import annotations

from importlib import metadata

from pellucid.errors import InputError, MissingDependencyError, strict


@strict
def require_version(requirement: str, hint: str | None = None) -> None:
    """Stop a script that needs a package which is not installed, or another version of it.

    Args:
        requirement: as pip takes it, such as `"datasets>=2.14.0"`; or `"python>=3.11"`.
        hint: what to do, for the message.

    Raises:
        MissingDependencyError: the package is missing or has another version.
        InputError: the requirement cannot be read.
    """
    import platform

    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(requirement)
    except InvalidRequirement as error:
        raise InputError(f"requirement: got {requirement!r}, wanted one such as 'datasets>=2.14.0'") from error
    cure = hint or f"pip install '{requirement}'"
    try:
        found = platform.python_version() if wanted.name == "python" else metadata.version(wanted.name)
    except metadata.PackageNotFoundError as error:
        raise MissingDependencyError(f"{requirement}: {wanted.name} is not installed; {cure}") from error
    if not wanted.specifier.contains(found, prereleases=True):
        raise MissingDependencyError(f"{requirement}: {wanted.name} is there in version {found}; {cure}")
