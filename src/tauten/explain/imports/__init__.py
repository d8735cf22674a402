"""The shelf of importers: other people's traces."""
# SPDX-License-Identifier: Apache-2.0
