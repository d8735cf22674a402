"""What every comparison of this folder stands on: the machine, its quiet, arithmetic, checks, drawing."""
# SPDX-License-Identifier: Apache-2.0
