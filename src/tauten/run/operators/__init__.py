"""The shelf of operators that strategies insert."""
# SPDX-License-Identifier: Apache-2.0
