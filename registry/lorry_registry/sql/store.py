"""The Store in a relational database.

Every change to an adapter, its versions or its aliases first locks the adapter's row (`lock_adapter`); on SQLite,
which has no row locks, a writing transaction holds the one write lock from its start. Checking an etag and then
changing the row is therefore safe, and numbers come out without gaps.
"""

from lorry_registry.sql.adapters import AdapterVerbs
from lorry_registry.sql.aliases import AliasVerbs
from lorry_registry.sql.audit import AuditVerbs
from lorry_registry.sql.bases import BaseVerbs
from lorry_registry.sql.events import EventVerbs
from lorry_registry.sql.namespaces import NamespaceVerbs
from lorry_registry.sql.removal import RemovalVerbs
from lorry_registry.sql.tokens import TokenVerbs
from lorry_registry.sql.upkeep import UpkeepVerbs
from lorry_registry.sql.uploads import UploadVerbs
from lorry_registry.sql.version_notes import VersionNoteVerbs
from lorry_registry.sql.versions import VersionVerbs


class SqlStore(
    AdapterVerbs,
    VersionVerbs,
    VersionNoteVerbs,
    AliasVerbs,
    BaseVerbs,
    EventVerbs,
    TokenVerbs,
    NamespaceVerbs,
    AuditVerbs,
    UploadVerbs,
    UpkeepVerbs,
    RemovalVerbs,
):
    """A Store on an engine whose schema is in place."""
