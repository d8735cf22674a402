"""WHAT: payloads, ports, stages and workflows; nothing here runs a model."""
# SPDX-License-Identifier: Apache-2.0
