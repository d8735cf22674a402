"""What a plan would do: the very engine on a virtual clock, over models that only take their measured time."""
# SPDX-License-Identifier: Apache-2.0
