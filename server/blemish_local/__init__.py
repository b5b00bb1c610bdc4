# SPDX-License-Identifier: Apache-2.0
"""The embedded stack: Redis, Qdrant, a worker and the server, started on one machine by one command.

``options`` combines the arguments with the environment, ``stack`` composes the services, and
``supervision`` runs them. ``qdrant`` is the vector database for machines without a Qdrant server.
"""
