"""Old H-JEPA configs, as the audit found them, to the present schema."""

from hjepa.legacy.convert import Migration, Row, migrate, table

__all__ = ["Migration", "Row", "migrate", "table"]
