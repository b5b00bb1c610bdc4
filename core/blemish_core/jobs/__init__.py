# SPDX-License-Identifier: Apache-2.0
"""Background jobs: training, bulk embedding and evaluation.

The server creates jobs and the workers run them. A job's record in Redis is the only source of truth:
Celery only carries job ids.

- ``record``: the record: specification, state, progress, result
- ``store``: the records in Redis, changed by compare-and-set and published as a stream
- ``validation``: checks of a request before it becomes a job
- ``embed_source``: the images that a bulk embedding reads
- ``queues``: task names, queues and priorities that server and workers share
- ``worker_registry``: the running workers and their heartbeats
- ``lease``: a lock that expires with its holder, so that one worker runs a job at a time
- ``attempt``: one attempt at a job, fenced by its number, so that a superseded one has no effect
- ``shards``: the shards of a bulk embedding and their state
- ``context``: the stores and limits that jobs use
- ``reporter``: the interface through which a job reports progress and asks to commit
- ``retry``: retries while Redis or Qdrant is unavailable
- ``messages``: the protocol between a worker and its child process
- ``handlers``: the code that the child process runs for each kind of job
- ``retention``: deletion of old jobs, old versions and leftover files
- ``removal``: deletion of datasets, images and models on request
"""
