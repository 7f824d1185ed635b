"""Engine, unit of work, tenant scoping and migrations on PostgreSQL."""

from kairos_persistence.database import Database
from kairos_persistence.engine import create_engine
from kairos_persistence.errors import DatabaseUnavailable
from kairos_persistence.unit_of_work import UnitOfWork

__all__ = ["Database", "DatabaseUnavailable", "UnitOfWork", "create_engine"]
