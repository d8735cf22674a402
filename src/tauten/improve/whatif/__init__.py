"""What would help, before anything is changed: changes priced in simulation, and confirmed by delays."""
# SPDX-License-Identifier: Apache-2.0
