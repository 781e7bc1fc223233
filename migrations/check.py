"""Whether the migrations, run on an empty database, give exactly the tables of the code."""

import tempfile

from alembic import command

from app.db.migrate import configuration, upgrade


def main() -> None:
    """End with an error that lists the differences, if there are any."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/empty.db"
        upgrade(url)
        command.check(configuration(url))


if __name__ == "__main__":
    main()
