"""TIGHTENING: recordings, measurements, strategies, proof."""
# SPDX-License-Identifier: Apache-2.0
