import psycopg
import pytest
from psycopg import errors

from kairos_testkit.databases import Provisioned

pytestmark = pytest.mark.servers


def test_a_module_gets_a_database_of_its_own(provisioned: Provisioned) -> None:
    first, second = provisioned.database("kairos_ops"), provisioned.database("kairos_ops")
    assert first.name != second.name
    with psycopg.connect(first.urls["ops"]) as connection:
        assert connection.execute("select current_user, current_schema()").fetchone() == ("kairos_ops", "ops")


def test_a_service_reaches_no_other_schema(provisioned: Provisioned) -> None:
    url = provisioned.service_database("kairos_ops")
    with psycopg.connect(url) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("create table bots.mine (n int)")


def test_several_services_share_one_database(provisioned: Provisioned) -> None:
    shared = provisioned.database("kairos_bots", "kairos_ops")
    assert set(shared.urls) == {"bots", "ops"}
    assert all(shared.name in url for url in [*shared.urls.values(), shared.owner_url, shared.admin_url])
