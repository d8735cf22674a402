"""What requests took of others and of this machine: calls to providers, what they cost, and who may spend how much."""
# SPDX-License-Identifier: Apache-2.0
