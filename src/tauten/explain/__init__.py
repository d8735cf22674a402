"""SEEING: where the time of a request went."""
# SPDX-License-Identifier: Apache-2.0
