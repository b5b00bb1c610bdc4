# SPDX-License-Identifier: Apache-2.0
"""The execution of jobs in a worker.

- ``job_runner``: runs a job: acquires its lease, begins attempts, finishes the record, cleans up
- ``bulk_embedding``: runs the shards of an embedding job together with other workers
- ``step_supervisor``: runs one step in a child process within limits, until it ends or is unwanted
- ``child_process``: a child process: started, sent messages, received from, killed
- ``slots``: the places for jobs of this worker, each with its own child process
- ``cleanup``: deletion of the files and points of jobs that did not succeed
- ``context``: builds the stores from the settings
"""
