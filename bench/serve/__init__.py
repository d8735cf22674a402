"""Model servers side by side on this machine: ours, the peers and the bare engine, in one interleaved run."""
# SPDX-License-Identifier: Apache-2.0
