"""What load can be put on: one file a kind of target; none knows another."""
# SPDX-License-Identifier: Apache-2.0
