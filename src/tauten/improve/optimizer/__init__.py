"""Finds the plan that holds an SLO: strategies propose, simulation ranks, measurement and the gate decide."""
# SPDX-License-Identifier: Apache-2.0
