"""Document chat in real time: handbooks come in as PDF, scans, pictures and text, and are answered from at once."""
# SPDX-License-Identifier: Apache-2.0
