"""The shelf of exporters: our traces for other people's tools."""
# SPDX-License-Identifier: Apache-2.0
