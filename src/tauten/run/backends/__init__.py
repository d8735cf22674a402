"""The shelf of backends: what executes tensors; the file name is the name in a plan."""
# SPDX-License-Identifier: Apache-2.0
