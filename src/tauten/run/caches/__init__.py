"""The shelf of caches."""
# SPDX-License-Identifier: Apache-2.0
