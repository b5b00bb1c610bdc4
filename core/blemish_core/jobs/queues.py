# SPDX-License-Identifier: Apache-2.0
"""What server and workers must agree on to pass a job's id."""

TASK = "blemish.run_job"
"""What the server sends and workers listen for; its one argument is the job's id."""

QUEUES = {"train": "train", "embed": "embed", "evaluate": "embed"}
"""The queue of each kind of job: bulk work never waits behind a training that another worker could do."""
