"""What outlives one exchange: results that are shared, answers to be replayed, sessions, traces."""
# SPDX-License-Identifier: Apache-2.0
