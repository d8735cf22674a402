"""The fault wall: what goes wrong around our server, caused for real, and what its clients saw of it."""
# SPDX-License-Identifier: Apache-2.0
