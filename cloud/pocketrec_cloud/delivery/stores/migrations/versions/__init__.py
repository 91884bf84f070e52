# SPDX-License-Identifier: Apache-2.0
"""The revisions; a script that was released is never changed."""
