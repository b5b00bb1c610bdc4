# SPDX-License-Identifier: Apache-2.0
"""One servicer for each service of the contract: translate in, call the core, translate out."""
