# SPDX-License-Identifier: Apache-2.0
"""The wire vocabulary: protobuf messages and the gRPC service, generated from .proto files."""
