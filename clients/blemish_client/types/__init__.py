# SPDX-License-Identifier: Apache-2.0
"""Types of the client's own interface: enums, frames of streams, and arrays of results."""
