"""The command ``edufast``, also as ``python -m edufast``."""

import sys

from edufast.utils.errors import UserError
from edufast.utils.extras import MissingPackageError, needed_for
from edufast.utils.stderr import outlive_readers


def main() -> None:
    """Run a command; exit code 2 if packages of the command line are not installed."""
    try:
        _run()
    except KeyboardInterrupt:  # before the command began, which says more
        sys.exit(130)


def _run() -> None:
    outlive_readers()
    try:
        with needed_for("the command line", "cli"):
            from edufast.cli import app
    except UserError as error:
        missing = isinstance(error, MissingPackageError)
        more = ", or 'edufast[train,export]' to train" if missing else ""
        print(f"edufast: {error}{more}", file=sys.stderr)
        sys.exit(2)
    try:
        app()
    except OSError as error:  # mostly of standard output: others are told by the commands
        where = error.filename or "standard output"
        print(f"edufast: {where}: {error.strerror or error}", file=sys.stderr)
        sys.stdout = None  # it would be tried again at the end
        sys.exit(1)


if __name__ == "__main__":
    main()
