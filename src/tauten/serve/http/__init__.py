"""The HTTP servers: our thin one and the seam behind which uvicorn and granian stand."""
# SPDX-License-Identifier: Apache-2.0
