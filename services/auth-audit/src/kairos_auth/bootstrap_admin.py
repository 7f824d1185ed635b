"""Make an organisation and its first admin, once.

`python -m kairos_auth.bootstrap_admin --organisation NAME --email ADDRESS` prints one JSON object.
`password` is in it only when the admin was made now; it must be changed.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from kairos_auth.application.bootstrap_organisation import Bootstrapped
from kairos_auth.bootstrap import SERVICE, build_bootstrap
from kairos_auth.settings import BootstrapSettings
from kairos_persistence import Database, create_engine


async def bootstrap_admin(postgres_url: str, organisation: str, email: str) -> Bootstrapped:
    database = Database(create_engine(postgres_url, application_name=SERVICE, pool_size=1), service=SERVICE)
    try:
        return await build_bootstrap(database)(organisation, email)
    finally:
        await database.dispose()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kairos_auth.bootstrap_admin", description=__doc__)
    parser.add_argument("--organisation", required=True)
    parser.add_argument("--email", required=True)
    chosen = parser.parse_args(arguments)
    url = BootstrapSettings().postgres_url.get_secret_value()
    made = asyncio.run(bootstrap_admin(url, chosen.organisation, chosen.email))
    answer = {
        "created": made.password is not None,
        "organisation_id": str(made.organisation.id),
        "member_id": str(made.admin.id),
        "email": made.admin.email,
    }
    if made.password is not None:
        answer |= {"password": made.password, "must_change_password": True}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
