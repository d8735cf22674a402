"""The shelf of routers."""
# SPDX-License-Identifier: Apache-2.0
