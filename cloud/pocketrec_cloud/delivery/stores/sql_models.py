# SPDX-License-Identifier: Apache-2.0
"""Published bundles, in SQL."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from pocketrec_cloud.delivery.records import ModelRecord
from pocketrec_cloud.delivery.stores.schema import MODELS, columns_of, record_of, select_records
from pocketrec_cloud.delivery.stores.sql_part import SqlPart, upsert

__all__ = ["SqlModels"]

_RECORD_MODEL = upsert(MODELS, keep=("model_digest", "model_name", "version"))


class SqlModels(SqlPart):
    """The part of a SQL store that is a ``ModelStore``."""

    def record_model(self, model: ModelRecord) -> None:
        """Remember a bundle; recording it twice changes nothing."""
        with self._database.write() as connection:
            self._execute(connection, _RECORD_MODEL, columns_of(model))

    def find_model(self, model_digest: bytes) -> ModelRecord | None:
        """Return the bundle of highest version that carries a frozen model, or None."""
        query = select_records(MODELS, ModelRecord).where(MODELS.c.model_digest == model_digest)
        return self._find_record(query.order_by(MODELS.c.version.desc()).limit(1))

    def find_bundle(self, bundle_digest: bytes) -> ModelRecord | None:
        """Return a bundle that was published, or None."""
        query = select_records(MODELS, ModelRecord)
        return self._find_record(query.where(MODELS.c.bundle_digest == bundle_digest))

    def _find_record(self, query: sa.Select[Any]) -> ModelRecord | None:
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else record_of(ModelRecord, row)
