# SPDX-License-Identifier: Apache-2.0
"""Where the delivery service keeps its records: in memory, in SQLite, or in PostgreSQL."""
