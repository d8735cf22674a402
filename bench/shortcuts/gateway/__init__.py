"""Gateways in front of the stand-in provider: ours with everything on, and others, one core each."""
# SPDX-License-Identifier: Apache-2.0
