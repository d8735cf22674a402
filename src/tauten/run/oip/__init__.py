"""The Open Inference Protocol: tensors and messages, which the server shares, and clients of other servers."""
# SPDX-License-Identifier: Apache-2.0
