"""What a client says of a thing that it is about to change, so that nobody overwrites what another one did."""

from dataclasses import dataclass

from app.errors import PreconditionError


@dataclass(frozen=True, slots=True)
class Precondition:
    """What a client says of a thing that it is about to change."""

    tags: frozenset[str] | None = None
    """Entity tags that it may have; None: any."""
    is_there: bool = False
    """Whether there must be one."""
    is_absent: bool = False
    """Whether there must be none."""

    def require(self, tag: str | None, noun: str) -> None:
        """Compare with what there is.

        Args:
            tag: Tells its content from any other; None where there is nothing.
            noun: What it is: `plan`.

        Raises:
            PreconditionError: It is something else.
        """
        if self.is_absent and tag is not None:
            raise PreconditionError(f"the {noun} is there already; leave If-None-Match out to replace it")
        if (self.is_there or self.tags is not None) and tag is None:
            raise PreconditionError(f"the {noun} is not there any more; leave If-Match out to create it")
        if self.tags is not None and tag not in self.tags:
            raise PreconditionError(
                f"the {noun} was changed since you read it; read it again and send the change with its new ETag"
            )
