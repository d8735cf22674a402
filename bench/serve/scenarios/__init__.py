"""The second half of `make bench-serve`: our server under overload, departures, deaths, and for a long time."""
# SPDX-License-Identifier: Apache-2.0
