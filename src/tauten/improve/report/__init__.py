"""What a person sees of an optimisation: the screen, the page, and the line that tells how far it is."""
# SPDX-License-Identifier: Apache-2.0
