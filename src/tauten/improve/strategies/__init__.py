"""What can be tried on a plan: one idea a file; none knows another. A strategy knows moves, not their price."""
# SPDX-License-Identifier: Apache-2.0
