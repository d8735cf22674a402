"""One model each: its queue, the batches that leave it, the replicas that run them, and what all that takes."""
# SPDX-License-Identifier: Apache-2.0
