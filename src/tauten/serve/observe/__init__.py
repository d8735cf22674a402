"""Who watches exchanges: metrics, OpenTelemetry, logs."""
# SPDX-License-Identifier: Apache-2.0
